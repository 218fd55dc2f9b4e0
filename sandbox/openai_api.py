"""A fake OpenAI-compatible endpoint: chat completions and responses, on loopback or inside a client."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import httpx2
from aiohttp import web

from sandbox.behaviors import ToolCall

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer as a compatible server may send it: a JSON value, whatever its shape, and a status."""

    body: Any
    status: int = 200


Plan = Callable[[Body], Sequence[ToolCall] | str | RawAnswer]
"""What the model answers to a request: calls, or a text. No call is a text as well."""

_VIDEO: Final = {"prompt": "a paper boat, one shot", "seconds": 4, "size": "720x1280"}
_CLOSING: Final = "I am done."


def video_calls(calls: int = 1, *, endless: bool = False) -> Plan:
    """Plan `calls` calls of `generate_video` in the first turn; `endless` repeats them in every turn."""

    def plan(body: Body) -> Sequence[ToolCall]:
        has_tool = "generate_video" in json.dumps(body.get("tools", []))
        if not has_tool or (_has_results(body) and not endless):
            return ()
        return [ToolCall("generate_video", json.dumps(_VIDEO))] * calls

    return plan


def _has_results(body: Body) -> bool:
    """Whether a tool's result is part of the conversation."""
    if "messages" in body:
        return any(one["role"] == "tool" for one in body["messages"])
    items = body["input"] if isinstance(body["input"], list) else []
    return any(one.get("type") == "function_call_output" for one in items)


@dataclass
class FakeOpenAI:
    """The endpoint. Enter it to serve it at `base_url`, or give its `transport` to a client.

    Attributes:
        plan: What it answers.
        usage: Whether its answers count tokens (900 in, 40 out).
        seen: The body of every request.
        keys: The `Authorization` headers that it received.
    """

    plan: Plan = field(default_factory=video_calls)
    usage: bool = True
    seen: list[Body] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    base_url: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._ids = itertools.count()

    async def __aenter__(self) -> Self:
        app = web.Application()
        for path in ("/v1/chat/completions", "/v1/responses"):
            app.router.add_post(path, self._serve)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def transport(self) -> httpx2.MockTransport:
        """Answer a client's requests in its own process, without a socket."""

        def answered(request: httpx2.Request) -> httpx2.Response:
            key = request.headers.get("authorization", "")
            answer = self._answer(request.url.path, request.content, key)
            content = json.dumps(answer.body)
            return httpx2.Response(
                answer.status, content=content, headers={"Content-Type": "application/json"}
            )

        return httpx2.MockTransport(answered)

    async def _serve(self, request: web.Request) -> web.Response:
        key = request.headers.get("authorization", "")
        answer = self._answer(request.path, await request.read(), key)
        # ASCII, so that half a surrogate travels as the escape that a careless server writes.
        return web.Response(
            text=json.dumps(answer.body), status=answer.status, content_type="application/json"
        )

    def _answer(self, path: str, content: bytes, key: str) -> RawAnswer:
        body: Body = json.loads(content)
        self.seen.append(body)
        self.keys.add(key)
        planned = self.plan(body)
        if isinstance(planned, RawAnswer):
            return planned
        text = planned if isinstance(planned, str) else "" if planned else _CLOSING
        calls = [] if isinstance(planned, str) else [self._identified(call) for call in planned]
        write = _response if path.endswith("/responses") else _completion
        return RawAnswer(write(calls, text, usage=self.usage))

    def _identified(self, call: ToolCall) -> ToolCall:
        if call.call_id is not None:
            return call
        return ToolCall(call.tool, call.arguments, f"call_{next(self._ids)}")


def _completion(calls: Sequence[ToolCall], text: str, *, usage: bool) -> Body:
    message: Body = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.tool, "arguments": call.arguments},
            }
            for call in calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    whole: Body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake"}
    whole["choices"] = [choice]
    if usage:
        whole["usage"] = {"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 940}
    return whole


def _response(calls: Sequence[ToolCall], text: str, *, usage: bool) -> Body:
    output: list[Body] = [
        {
            "type": "function_call",
            "id": f"fc_{number}",
            "call_id": call.call_id,
            "name": call.tool,
            "arguments": call.arguments,
            "status": "completed",
        }
        for number, call in enumerate(calls)
    ]
    if not calls:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        output = [
            {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content}
        ]
    whole = {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "fake", "output": output, "tools": [],
        "parallel_tool_calls": True, "tool_choice": "auto", "status": "completed",
    }  # fmt: skip
    if usage:
        whole["usage"] = {
            "input_tokens": 900, "output_tokens": 40, "total_tokens": 940,
            "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
    return whole
