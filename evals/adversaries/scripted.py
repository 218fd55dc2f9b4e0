"""Scripted and replayed turns."""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agents.items import TResponseOutputItem
from openai.types.responses import ResponseFunctionToolCall
from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from evals.adversaries.base import Adversary, Moment
from evals.case import AdversarySpec as Asked
from evals.case import Case
from evals.events import CaseModel, EvalError
from evals.evidence import Evidence, Turn
from sandbox.behaviors import ToolCall, video_call_of
from sandbox.model import message

VIDEO: Final = "generate_video"
_TOGETHER_S: Final = 10.0


class ScriptedCall(CaseModel):
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


class ScriptedTurn(CaseModel):
    """One turn: calls, or the run's last words."""

    calls: tuple[ScriptedCall, ...] = ()
    say: str | None = None


_TURNS: Final = TypeAdapter(tuple[ScriptedTurn, ...])


class ScriptedAdversary(Adversary):
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
                async with asyncio.timeout(_TOGETHER_S):
                    await self._all_here.wait()
        return await super().answer(moment)

    def plan(self, moment: Moment) -> Sequence[ToolCall] | str:
        number = moment.scene.turn % len(self._turns) if self._loop else moment.scene.turn
        if number >= len(self._turns):
            return ()
        turn = self._turns[number]
        return turn.say or [ask for one in turn.calls for ask in asks(one, moment)]


def asks(one: ScriptedCall, moment: Moment) -> list[ToolCall]:
    """Write one entry of a script out as calls."""
    shot = video_call_of(moment.scene)
    good: dict[str, Any] = {"prompt": shot.prompt, "seconds": shot.seconds, "size": shot.size}
    said = good | {name: _filled(value, moment) for name, value in one.args.items()}
    if one.tool != VIDEO:
        said = dict(one.args)
    kept: Mapping[str, Any] = {name: value for name, value in said.items() if name not in one.leave_out}
    raw = json.dumps(kept, ensure_ascii=False) if one.raw is None else one.raw
    if one.escaped:
        raw = raw.encode("ascii").decode("unicode_escape")
    return [ToolCall(one.tool, raw, one.id)] * one.times


def _filled(value: Any, moment: Moment) -> Any:
    return value.replace("{idea}", moment.scene.idea) if isinstance(value, str) else value


_CALL: Final = "function_call"


class Recording(CaseModel):
    """One case's turns, in the order in which they were said."""

    case: str
    policy: str
    turns: tuple[Turn, ...]


def record(folder: Path, case: Case, evidence: Evidence, name: str | None = None) -> Path:
    """Write down what the model said in one playing; return the file."""
    made = Recording(case=case.id, policy=case.policy.name, turns=tuple(normalised(evidence.turns)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name or case.id}.json"
    path.write_text(json.dumps(made.model_dump(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


def normalised(turns: Sequence[Turn]) -> list[Turn]:
    """Number call ids in the order of their first use: the same stay the same, and nothing else is kept."""
    numbers: dict[str, str] = {"": ""}

    def told(item: dict[str, Any]) -> dict[str, Any]:
        if item.get("type") != _CALL:
            return item
        number = numbers.setdefault(item["call_id"], f"call_{len(numbers)}")
        return {**item, "call_id": number}

    said = [(turn, [told(item) for item in turn.items if _kept(item)]) for turn in turns]
    return [turn.model_copy(update={"items": items}) for turn, items in said if items]


def _kept(item: dict[str, Any]) -> bool:
    """Words and calls; a model's reasoning is its own."""
    return item.get("type") == _CALL or bool(item.get("text"))


def read_recording(path: Path) -> Recording:
    """Read a recording.

    Raises:
        EvalError: It is none.
    """
    try:
        return Recording.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise EvalError(f"{path} is no recording: {type(error).__name__}") from None


TurnKey = tuple[str, str, int]
"""Agent, idea, and how long the conversation is: where in which run a turn was said."""


class _Options(CaseModel):
    file: str = Field(min_length=1)


class ReplayAdversary(Adversary):
    """Says what was said at this place of the run; with another idea, what came next from this agent."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        try:
            options = _Options.model_validate(asked.options)
        except ValidationError:
            raise EvalError("the policy `replay` needs options: {file: a recording}") from None
        self._by_place: dict[TurnKey, deque[list[dict[str, Any]]]] = defaultdict(deque)
        for turn in read_recording(Path(options.file)).turns:
            self._by_place[turn.agent, turn.idea, turn.position].append(turn.items)
        self._said = 0

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        """Nothing is planned: `answer` plays items back."""
        del moment
        return ()

    async def answer(self, moment: Moment) -> list[TResponseOutputItem]:
        self._said += 1
        items = self._items(moment)
        if not items:
            return [message("The recording ends here.", f"end_{self._said}")]
        return [self._item(item, number) for number, item in enumerate(items)]

    def _items(self, moment: Moment) -> list[dict[str, Any]]:
        agent, position = moment.agent, moment.scene.position
        found = self._by_place.get((agent, moment.scene.idea, position))
        if not found:
            others = (
                turns for (who, _, at), turns in self._by_place.items() if (who, at) == (agent, position)
            )
            found = next((turns for turns in others if turns), None)
        return found.popleft() if found else []

    def _item(self, item: dict[str, Any], number: int) -> TResponseOutputItem:
        mark = f"{self._said}_{number}"
        if item["type"] != "function_call":
            return message(item["text"], mark)
        return ResponseFunctionToolCall(
            type="function_call", id=f"fc_{mark}", call_id=item["call_id"], name=item["name"],
            arguments=item["arguments"], status="completed",
        )  # fmt: skip
