"""Adversaries that play fixed turns: from a case's script, or from a recording of an earlier run."""

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
from evals.case import AdversarySpec, Case
from evals.events import CaseModel, EvalError
from evals.evidence import Evidence, Turn
from sandbox.behaviors import ToolCall, video_call_of
from sandbox.model import message

VIDEO: Final = "generate_video"
_TOGETHER_S: Final = 10.0


class ScriptedCall(CaseModel):
    """One call, or several equal ones."""

    tool: str = VIDEO
    args: dict[str, JsonValue] = Field(default_factory=dict)
    """Changes to the valid arguments for the idea; `{idea}` in a text is replaced by the idea."""
    leave_out: tuple[str, ...] = ()
    """Arguments that are left out."""
    raw: str | None = None
    """The exact argument string, in place of all of the above; it need not be valid JSON."""
    escaped: bool = False
    """`raw` is ASCII with Python's escapes: for what no file can hold, such as a lone surrogate."""
    id: str | None = None
    """The call id; without it each call gets its own."""
    times: int = Field(default=1, ge=1, le=200)


class ScriptedTurn(CaseModel):
    """One turn: calls, or the run's final text."""

    calls: tuple[ScriptedCall, ...] = ()
    say: str | None = None


_TURNS: Final = TypeAdapter(tuple[ScriptedTurn, ...])


class ScriptedAdversary(Adversary):
    """Plays `options.turns` in order in each run; with `options.loop`, starts over after the last.

    `options.gather` holds the first answers back until that many runs wait for theirs, to force a race.
    """

    def __init__(self, spec: AdversarySpec) -> None:
        super().__init__(spec)
        self._turns = _TURNS.validate_python(spec.options.get("turns", ()))
        self._loop = bool(spec.options.get("loop", False))
        self._gather, self._arrived = int(spec.options.get("gather", 0)), 0
        self._all_arrived = asyncio.Event()

    async def answer(self, moment: Moment) -> list[TResponseOutputItem]:
        if self._gather and moment.scene.turn == 0 and moment.agent == "director":
            self._arrived += 1
            if self._arrived >= self._gather:
                self._all_arrived.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(_TOGETHER_S):
                    await self._all_arrived.wait()
        return await super().answer(moment)

    def plan(self, moment: Moment) -> Sequence[ToolCall] | str:
        number = moment.scene.turn % len(self._turns) if self._loop else moment.scene.turn
        if number >= len(self._turns):
            return ()
        turn = self._turns[number]
        return turn.say or [call for one in turn.calls for call in expand(one, moment)]


def expand(one: ScriptedCall, moment: Moment) -> list[ToolCall]:
    """Return the calls that one entry of a script stands for."""
    shot = video_call_of(moment.scene)
    valid: dict[str, Any] = {"prompt": shot.prompt, "seconds": shot.seconds, "size": shot.size}
    arguments = valid | {name: _filled(value, moment) for name, value in one.args.items()}
    if one.tool != VIDEO:
        arguments = dict(one.args)
    kept: Mapping[str, Any] = {name: value for name, value in arguments.items() if name not in one.leave_out}
    raw = json.dumps(kept, ensure_ascii=False) if one.raw is None else one.raw
    if one.escaped:
        raw = raw.encode("ascii").decode("unicode_escape")
    return [ToolCall(one.tool, raw, one.id)] * one.times


def _filled(value: Any, moment: Moment) -> Any:
    return value.replace("{idea}", moment.scene.idea) if isinstance(value, str) else value


_CALL: Final = "function_call"


class Recording(CaseModel):
    """One case's turns, in order."""

    case: str
    policy: str
    turns: tuple[Turn, ...]


def record(folder: Path, case: Case, evidence: Evidence, name: str | None = None) -> Path:
    """Write what the model said in one run of a case to a file; return its path."""
    made = Recording(case=case.id, policy=case.policy.name, turns=tuple(normalised(evidence.turns)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name or case.id}.json"
    path.write_text(json.dumps(made.model_dump(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


def normalised(turns: Sequence[Turn]) -> list[Turn]:
    """Number call ids by first use, so that equal ids stay equal and nothing volatile is kept."""
    numbers: dict[str, str] = {"": ""}

    def renumbered(item: dict[str, Any]) -> dict[str, Any]:
        if item.get("type") != _CALL:
            return item
        number = numbers.setdefault(item["call_id"], f"call_{len(numbers)}")
        return {**item, "call_id": number}

    kept = [(turn, [renumbered(item) for item in turn.items if _kept(item)]) for turn in turns]
    return [turn.model_copy(update={"items": items}) for turn, items in kept if items]


def _kept(item: dict[str, Any]) -> bool:
    """Return whether an item is text or a call; reasoning is not recorded."""
    return item.get("type") == _CALL or bool(item.get("text"))


def read_recording(path: Path) -> Recording:
    """Read a recording.

    Raises:
        EvalError: The file is not a recording.
    """
    try:
        return Recording.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise EvalError(f"{path} is not a recording: {type(error).__name__}") from None


TurnKey = tuple[str, str, int]
"""Agent, idea, and number of items in the conversation: the position of a turn within a run."""


class _Options(CaseModel):
    file: str = Field(min_length=1)


class ReplayAdversary(Adversary):
    """Replays the turn recorded at the same position; for another idea, this agent's next turn there."""

    def __init__(self, spec: AdversarySpec) -> None:
        super().__init__(spec)
        try:
            options = _Options.model_validate(spec.options)
        except ValidationError:
            raise EvalError("the adversary `replay` needs options: {file: a recording}") from None
        self._by_position: dict[TurnKey, deque[list[dict[str, Any]]]] = defaultdict(deque)
        for turn in read_recording(Path(options.file)).turns:
            self._by_position[turn.agent, turn.idea, turn.position].append(turn.items)
        self._answers = 0

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        """Plan nothing: `answer` replays recorded items."""
        del moment
        return ()

    async def answer(self, moment: Moment) -> list[TResponseOutputItem]:
        self._answers += 1
        items = self._items(moment)
        if not items:
            return [message("The recording ends here.", f"end_{self._answers}")]
        return [self._item(item, number) for number, item in enumerate(items)]

    def _items(self, moment: Moment) -> list[dict[str, Any]]:
        agent, position = moment.agent, moment.scene.position
        found = self._by_position.get((agent, moment.scene.idea, position))
        if not found:
            others = (
                turns for (name, _, at), turns in self._by_position.items() if (name, at) == (agent, position)
            )
            found = next((turns for turns in others if turns), None)
        return found.popleft() if found else []

    def _item(self, item: dict[str, Any], number: int) -> TResponseOutputItem:
        mark = f"{self._answers}_{number}"
        if item["type"] != "function_call":
            return message(item["text"], mark)
        return ResponseFunctionToolCall(
            type="function_call", id=f"fc_{mark}", call_id=item["call_id"], name=item["name"],
            arguments=item["arguments"], status="completed",
        )  # fmt: skip
