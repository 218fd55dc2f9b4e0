"""`wire`: the turns of a script, sent by a chat-completions server and read by the SDK's own client.

What a server may send and an item in Python cannot say is said here: one id for many calls, no id at all,
arguments that are no JSON, half a surrogate.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import httpx2
from agents import OpenAIChatCompletionsModel
from agents.items import TResponseOutputItem
from agents.model_settings import ModelSettings
from agents.models.interface import ModelTracing
from openai import AsyncOpenAI

from evals.case import Policy as Asked
from evals.policies.policy import Moment
from evals.policies.scripted import Scripted
from sandbox.behaviors import Ask

_MODEL: Final = "wire"


class Wire(Scripted):
    """Plays `options.turns` over the wire; a call's `id` may be the empty string."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._sent: dict[str, Any] = {}
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(self._serve))
        server = AsyncOpenAI(api_key="none", base_url="http://wire/v1", http_client=client, max_retries=0)
        self._model = OpenAIChatCompletionsModel(_MODEL, server)

    async def answer(self, moment: Moment) -> list[TResponseOutputItem]:
        if moment.agent == "caption_writer":
            return await super().answer(moment)
        self._sent = completion(self.plan(moment), moment)
        response = await self._model.get_response(
            None, list(moment.items), ModelSettings(), [], None, [], ModelTracing.DISABLED,
            previous_response_id=None, conversation_id=None, prompt=None,
        )  # fmt: skip
        return response.output

    def _serve(self, _: httpx2.Request) -> httpx2.Response:
        # ASCII, so that half a surrogate travels as the escape that a careless server writes.
        return httpx2.Response(
            200, content=json.dumps(self._sent), headers={"Content-Type": "application/json"}
        )


def completion(planned: Sequence[Ask] | str, moment: Moment) -> dict[str, Any]:
    """Write one turn as the body of a chat completion."""
    words = planned if isinstance(planned, str) else None if planned else "I am done."
    calls = [] if isinstance(planned, str) else [_call(ask, moment, n) for n, ask in enumerate(planned)]
    said: dict[str, Any] = {"role": "assistant", "content": words} | ({"tool_calls": calls} if calls else {})
    choice = {"index": 0, "message": said, "finish_reason": "tool_calls" if calls else "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": _MODEL,
        "choices": [choice],
    }


def _call(ask: Ask, moment: Moment, number: int) -> dict[str, Any]:
    mark = f"call_{moment.scene.position}_{number}" if ask.call_id is None else ask.call_id
    return {"id": mark, "type": "function", "function": {"name": ask.tool, "arguments": ask.arguments}}
