"""`replay`: plays the turns of a recording, see `evals/recording.py`."""

from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.items import TResponseOutputItem
from openai.types.responses import ResponseFunctionToolCall
from pydantic import Field, ValidationError

from evals.base import EvalError, Said
from evals.case import Policy as Asked
from evals.policies.policy import Moment, Policy
from evals.recording import read_recording
from sandbox.behaviors import Ask
from sandbox.model import message

Place = tuple[str, str, int]
"""Agent, idea, and how long the conversation is: where in which run a turn was said."""


class _Options(Said):
    file: str = Field(min_length=1)


class Replaying(Policy):
    """Says what was said at this place of the run; with another idea, what came next from this agent."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        try:
            options = _Options.model_validate(asked.options)
        except ValidationError:
            raise EvalError("the policy `replay` needs options: {file: a recording}") from None
        self._by_place: dict[Place, deque[list[dict[str, Any]]]] = defaultdict(deque)
        for turn in read_recording(Path(options.file)).turns:
            self._by_place[turn.agent, turn.idea, turn.position].append(turn.items)
        self._said = 0

    def plan(self, moment: Moment) -> Sequence[Ask]:
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
