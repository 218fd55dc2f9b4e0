"""An OpenAI-compatible endpoint on loopback: chat completions and responses; decent, endless, uncounted."""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

ORDER = {"prompt": "a paper boat, one shot", "seconds": 4, "size": "720x1280"}


@dataclass
class ModelStub:
    """First `calls` calls of the tool, then words. `endless` never stops calling; `usage` is counted."""

    calls: int = 1
    endless: bool = False
    usage: bool = True
    seen: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    base_url: str = ""

    async def __aenter__(self) -> Self:
        self._ids = itertools.count()
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/responses", self._responses)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _read(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.seen.append(body)
        self.keys.add(request.headers.get("authorization", ""))
        return body

    def _number(self, body: dict[str, Any], *, answered: bool) -> int:
        has_tool = "generate_video" in json.dumps(body.get("tools", []))
        return self.calls if has_tool and (self.endless or not answered) else 0

    async def _chat(self, request: web.Request) -> web.Response:
        body = await self._read(request)
        number = self._number(body, answered=any(one["role"] == "tool" for one in body["messages"]))
        said = {"name": "generate_video", "arguments": json.dumps(ORDER)}
        calls = [{"id": self._id(), "type": "function", "function": said} for _ in range(number)]
        message: dict[str, Any] = {"role": "assistant", "content": None if calls else "It is under way."}
        message |= {"tool_calls": calls} if calls else {}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
        usage = {"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 940}
        whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "stub", "choices": [choice]}
        return web.json_response(whole | ({"usage": usage} if self.usage else {}))

    async def _responses(self, request: web.Request) -> web.Response:
        body = await self._read(request)
        items = body["input"] if isinstance(body["input"], list) else []
        number = self._number(body, answered=any(one.get("type") == "function_call_output" for one in items))
        said = {"type": "function_call", "name": "generate_video", "arguments": json.dumps(ORDER)}
        output: list[dict[str, Any]] = [
            {**said, "id": f"fc_{n}", "call_id": self._id(), "status": "completed"} for n in range(number)
        ]
        words = {"type": "output_text", "text": "It is under way.", "annotations": []}
        if not output:
            spoken = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
            output = [{**spoken, "content": [words]}]
        usage = {
            "input_tokens": 900, "output_tokens": 40, "total_tokens": 940,
            "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        whole = {
            "id": "r", "object": "response", "created_at": 1, "model": "stub", "output": output, "tools": [],
            "parallel_tool_calls": True, "tool_choice": "auto", "status": "completed",
        }  # fmt: skip
        return web.json_response(whole | ({"usage": usage} if self.usage else {}))

    def _id(self) -> str:
        return f"call_{next(self._ids)}"
