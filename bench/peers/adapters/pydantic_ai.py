"""Pydantic AI: `UsageLimits(tool_calls_limit=1)`, in its own agent loop."""

import time
import uuid
from typing import Any

from pydantic_ai import Agent, ModelRetry, UsageLimitExceeded, UsageLimits
from pydantic_ai.messages import ModelResponse, RetryPromptPart, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import FunctionModel

from bench.peers.adapter import NOT_SENT, REFUSED, UNKNOWN, Adapter, Run
from bench.peers.body import Body, NotSentError

_ONE_RUN = "its limits count one run"


class PydanticAi(Adapter):
    """One successful call per run; the host tells of the limit that ends a run."""

    packages = ("pydantic-ai-slim",)
    store = "none"
    outside = {
        "parallel": "a turn with more calls than the limit ends the run before any of them",
        "two_runs": _ONE_RUN,
        "kill": _ONE_RUN,
        "two_processes": _ONE_RUN,
        "redeliveries": _ONE_RUN,
        "emptied": _ONE_RUN,
        "away": _ONE_RUN,
        "two_items": "it counts calls, whatever they are for",
        "cancelled": _ONE_RUN,
        "slow": _ONE_RUN,
        "next_day": _ONE_RUN,
        "restarted": _ONE_RUN,
        "restored": _ONE_RUN,
    }

    async def run(self, run: Run, body: Body) -> None:
        """Play the run with Pydantic AI."""

        async def charge(item: str, note: str) -> str:
            """Charge an item."""
            try:
                return await body.run(run.act, item)
            except NotSentError as error:
                raise ModelRetry(NOT_SENT) from error  # the limit counts successful calls alone
            except Exception:
                return UNKNOWN

        script = _Script(self, run)
        agent = Agent(FunctionModel(script.answer), tools=[charge])
        try:
            await agent.run("Charge it.", usage_limits=UsageLimits(tool_calls_limit=1, request_limit=None))
        except UsageLimitExceeded:
            script.refused()


class _Script:
    """Makes the scripted calls, and notes every answer that comes back."""

    def __init__(self, adapter: Adapter, run: Run) -> None:
        self._adapter, self._run = adapter, run
        self._turn, self._since = 0, time.monotonic()
        self._asked: dict[str, str] = {}

    def answer(self, messages: list[Any], _info: Any) -> ModelResponse:
        """Answer as the model."""
        for part in messages[-1].parts:
            if isinstance(part, ToolReturnPart | RetryPromptPart) and part.tool_call_id in self._asked:
                item = self._asked.pop(part.tool_call_id)
                self._adapter.say(self._run, item, part.content, self._since)
        turn = self._run.turns[self._turn] if self._turn < len(self._run.turns) else []
        self._turn, self._since = self._turn + 1, time.monotonic()
        parts: list[Any] = []
        for item, note in turn:
            call_id = uuid.uuid4().hex
            self._asked[call_id] = item
            parts.append(ToolCallPart("charge", {"item": item, "note": note}, tool_call_id=call_id))
        return ModelResponse(parts=parts or [TextPart("That is all.")])

    def refused(self) -> None:
        """Note what the host says of the calls that the limit kept from running."""
        for item in self._asked.values():
            self._adapter.say(self._run, item, REFUSED, self._since)
