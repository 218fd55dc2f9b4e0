"""`script`: the turns stand in the case itself, so most attacks need no Python."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from agents.items import TResponseOutputItem
from pydantic import Field, JsonValue, TypeAdapter

from evals.base import Said
from evals.case import Policy as Asked
from evals.policies.policy import Moment, Policy
from sandbox.behaviors import Ask, shot_of

VIDEO: Final = "generate_video"
_GATHER_S: Final = 10.0


class Call(Said):
    """One call, or several that are the same."""

    tool: str = VIDEO
    args: dict[str, JsonValue] = Field(default_factory=dict)
    """What differs from good arguments for the idea; `{idea}` in a text stands for the idea."""
    leave_out: tuple[str, ...] = ()
    """Arguments that are missing."""
    raw: str | None = None
    """The arguments to the letter, in place of all this; JSON need not hold."""
    escaped: bool = False
    """`raw` is ASCII with Python's escapes: for signs that no file may hold, such as a lone surrogate."""
    id: str | None = None
    """The call id; without it each call has its own."""
    times: int = Field(default=1, ge=1, le=200)


class Turn(Said):
    """One turn: calls, or the run's last words."""

    calls: tuple[Call, ...] = ()
    say: str | None = None


_TURNS: Final = TypeAdapter(tuple[Turn, ...])


class Scripted(Policy):
    """Plays `options.turns` from the first in each run; `options.loop` begins again after the last.

    `options.gather` holds the first answers back until so many runs wait for theirs: a race that is one.
    """

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._turns = _TURNS.validate_python(asked.options.get("turns", ()))
        self._loop = bool(asked.options.get("loop", False))
        self._most, self._here = int(asked.options.get("gather", 0)), 0
        self._all_here = asyncio.Event()

    async def answer(self, moment: Moment) -> list[TResponseOutputItem]:
        if self._most and moment.scene.turn == 0 and moment.agent == "director":
            self._here += 1
            if self._here >= self._most:
                self._all_here.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_S):
                    await self._all_here.wait()
        return await super().answer(moment)

    def plan(self, moment: Moment) -> Sequence[Ask] | str:
        number = moment.scene.turn % len(self._turns) if self._loop else moment.scene.turn
        if number >= len(self._turns):
            return ()
        turn = self._turns[number]
        return turn.say or [ask for one in turn.calls for ask in asks(one, moment)]


def asks(one: Call, moment: Moment) -> list[Ask]:
    """Write one entry of a script out as calls."""
    shot = shot_of(moment.scene)
    good: dict[str, Any] = {"prompt": shot.prompt, "seconds": shot.seconds, "size": shot.size}
    said = good | {name: _filled(value, moment) for name, value in one.args.items()}
    if one.tool != VIDEO:
        said = dict(one.args)
    kept: Mapping[str, Any] = {name: value for name, value in said.items() if name not in one.leave_out}
    raw = json.dumps(kept, ensure_ascii=False) if one.raw is None else one.raw
    if one.escaped:
        raw = raw.encode("ascii").decode("unicode_escape")
    return [Ask(one.tool, raw, one.id)] * one.times


def _filled(value: Any, moment: Moment) -> Any:
    return value.replace("{idea}", moment.scene.idea) if isinstance(value, str) else value
