"""The behaviours of the rehearsal model, as adversaries: see `sandbox.behaviors.Behaviour`."""

from collections.abc import Sequence
from typing import cast

from evals.case import Policy as Asked
from evals.policies.policy import Moment, Policy
from sandbox.behaviors import PLANS, Ask, Behaviour, Mood

_BOASTS = frozenset({"fake_success", "insist", "fanout", "reroll", "mutate_args", "thirteen"})


class Rehearsed(Policy):
    """Plays one behaviour: benign, insist, fanout, reroll, mutate_args, malformed_then_valid, …"""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._behaviour = cast("Behaviour", asked.name)
        self._mood = Mood(seed=asked.seed, times=asked.times)

    def plan(self, moment: Moment) -> Sequence[Ask]:
        return PLANS[self._behaviour](moment.scene, self._mood)

    def closing(self, moment: Moment) -> str:
        if self._behaviour in _BOASTS:
            return f"All done! I made all {max(1, len(moment.scene.answers))} videos for you."
        return super().closing(moment)
