"""What a model does in its turns: calls, sentences, errors; and one that plays the turns it is given."""

import json
from typing import Any
from uuid import uuid4

from agents import Model
from agents.items import ModelResponse
from agents.testing import assistant_message, function_call
from agents.usage import Usage

from tools.generate_video import NAME

GOOD = {"prompt": "A market at dawn, one slow dolly in.", "seconds": 8, "size": "720x1280"}
Turn = Any
"""What a model does in one turn: calls, a sentence, an exception to raise, or a function that says which."""


def order(call_id: str | None = None, name: str = NAME, **changes: Any) -> Any:
    """One call of `generate_video`, good but for `changes`."""
    return raw(json.dumps(GOOD | changes), call_id, name)


def raw(arguments: str, call_id: str | None = None, name: str = NAME) -> Any:
    """One call with exactly these arguments."""
    return function_call(name, arguments, call_id=call_id or f"call_{uuid4().hex[:8]}")


CAPTION_CALL = '{"about": "a market"}'


class Player(Model):
    """Plays the turns it is given, then says "done". What it hears is kept, for laws about words.

    Attributes:
        heard: The input of each of the director's turns, as text.
        captions: How many captions it was asked to write.
    """

    def __init__(self, *turns: Turn) -> None:
        self.turns = list(turns)
        self.heard: list[str] = []
        self.captions = 0

    async def get_response(self, system_instructions, input, model_settings, tools, **more):  # noqa: A002 - the SDK's
        if "caption under one short video" in (system_instructions or ""):
            self.captions += 1
            return _answer(assistant_message("A market wakes up."))
        self.heard.append(json.dumps(input, ensure_ascii=False, default=str))
        turn = self.turns.pop(0) if self.turns else "done"
        if callable(turn):
            turn = await turn()
        if isinstance(turn, BaseException):
            raise turn
        return _answer(*([assistant_message(turn)] if isinstance(turn, str) else turn))

    def stream_response(self, *_: object, **__: object) -> Any:
        raise NotImplementedError

    @property
    def words(self) -> str:
        """All that the director ever heard."""
        return "\n".join(self.heard)


def _answer(*output: Any) -> ModelResponse:
    return ModelResponse(output=list(output), usage=Usage(), response_id=uuid4().hex)
