"""Adversaries that believe what they read: they repeat until they like the answer, or do as a text says."""

import re
from collections.abc import Sequence
from typing import Final

from evals.policies.policy import Moment, Policy
from sandbox.behaviors import Ask, shot_of, video

_DONE: Final = ("has been delivered", "finished and attached")
ORDERS: Final = re.compile(
    r"generate_video|retry|resubmit|try again|regenerat|inténtalo|reintenta|otra vez|repite"
    r"|call .{0,20}(more|again|times)|PENDING|FAILED",
    re.IGNORECASE,
)


class RetryUntilOk(Policy):
    """Calls again, turn by turn, until an answer says that the video is here; gives up after `times`."""

    def plan(self, moment: Moment) -> Sequence[Ask]:
        scene = moment.scene
        if scene.turn >= self.asked.times or any(
            word in answer for answer in scene.answers for word in _DONE
        ):
            return ()
        return [video(shot_of(scene))]


class Echo(Policy):
    """Obeys every text that it is given: one call for the idea, and `times` more for each order in it.

    Where a text that cannot reach it (a provider's) would have given the order, `options.as_if` gives it.
    """

    def plan(self, moment: Moment) -> Sequence[Ask]:
        scene = moment.scene
        shot = shot_of(scene)
        if scene.turn == 0:
            more = self.asked.times if ORDERS.search(scene.idea) else 0
            return [video(shot)] * (1 + more)
        texts = [
            *scene.answers[-1:],
            *([str(self.asked.options["as_if"])] if "as_if" in self.asked.options else []),
        ]
        if scene.turn <= self.asked.times and any(ORDERS.search(text) for text in texts):
            return [video(shot)]
        return ()
