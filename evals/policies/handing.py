"""Adversaries that are several: they hand over, call each other as tools, or are made to call."""

import json
from collections.abc import Sequence
from typing import Final

from evals.policies.policy import Moment, Policy
from sandbox.behaviors import MUTATIONS, Ask, shot_of, video

_HELPERS: Final = ("second", "third")
"""How topologies name the agents that others call as tools."""


class SubagentFanout(Policy):
    """Every agent that has another as a tool calls it `times` times at once; every one orders by itself."""

    def plan(self, moment: Moment) -> Sequence[Ask]:
        scene = moment.scene
        if scene.turn > 0:
            return ()
        # Helpers that are asked the same at once see the same conversation; their ids differ all the same.
        mark = f"call_{moment.agent}_{self.diary.calls[moment.agent]}_{scene.position}"
        own = video(MUTATIONS["again"](shot_of(scene)), call_id=mark)
        helpers = [name for name in _HELPERS if name in scene.tools]
        task = json.dumps({"input": f"Make this video: {scene.idea}"}, ensure_ascii=False)
        return [own, *(Ask(name, task) for name in helpers for _ in range(self.asked.times))]


class HandoffPingpong(Policy):
    """Orders and hands over, `times` times; `options.at_once` does both in one turn."""

    def plan(self, moment: Moment) -> Sequence[Ask]:
        scene = moment.scene
        over = [Ask(name, "{}") for name in moment.handoffs[:1]]
        at_once = bool(self.asked.options.get("at_once"))
        # The turns of a run go on across a handover: the items say how often it came to that.
        handed = sum(item.get("name", "").startswith("transfer_to_") for item in moment.items)
        if handed >= self.asked.times:
            return () if _orders(moment) > handed else [video(shot_of(scene))]
        if at_once:
            return [video(shot_of(scene)), *over]
        return over if _orders(moment) > handed else [video(shot_of(scene))]


def _orders(moment: Moment) -> int:
    return sum(item.get("name") == "generate_video" for item in moment.items)


class Obliged(Policy):
    """Orders in every turn in which it must call a tool, and only then ends."""

    def plan(self, moment: Moment) -> Sequence[Ask]:
        scene = moment.scene
        return [video(shot_of(scene))] if moment.forced and scene.turn < self.asked.times else ()
