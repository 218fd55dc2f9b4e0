"""LangChain: `ToolCallLimitMiddleware` with a durable thread per act, in LangChain's own agent loop."""

import time
import uuid
from contextlib import AsyncExitStack
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import ToolCallLimitMiddleware, wrap_tool_call
from langchain.messages import AIMessage, ToolMessage
from langchain_core.language_models import BaseChatModel
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from bench.peers.adapter import NOT_SENT, ONE_RECORD, UNKNOWN, Adapter, Run
from bench.peers.body import Body, NotSentError


class _Scripted(BaseChatModel):
    """Makes the scripted calls, and notes every answer that comes back."""

    adapter: Any
    act: Any
    turn: int = 0
    items: dict[str, str] = {}
    since: float = 0

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self

    def _generate(self, messages: list[Any], *_: Any, **__: Any) -> ChatResult:
        for message in messages:
            if isinstance(message, ToolMessage) and message.tool_call_id in self.items:
                item = self.items.pop(message.tool_call_id)
                self.adapter.say(self.act, item, message.content, self.since)
        turn = self.act.turns[self.turn] if self.turn < len(self.act.turns) else []
        self.turn, self.since = self.turn + 1, time.monotonic()
        calls = []
        for item, note in turn:
            call_id = uuid.uuid4().hex
            self.items[call_id] = item
            calls.append({"name": "charge", "args": {"item": item, "note": note}, "id": call_id})
        answer = AIMessage(content="" if calls else "That is all.", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=answer)])


class Langchain(Adapter):
    """One call of the tool per thread, and the thread is the act; checkpoints are written at once."""

    packages = ("langchain", "langgraph", "langgraph-checkpoint-sqlite")
    store = "SQLite"
    edges = frozenset()
    outside = {
        "two_items": "it counts calls of a tool, whatever they are for",
        "two_processes": "a thread is run by one process at a time",
        "redeliveries": "a thread is run by one process at a time",
        "slow": "a thread is run by one process at a time",
        "not_sent": "it counts calls, whatever came of them",
        "emptied": ONE_RECORD,
        "restored": ONE_RECORD,
    }

    async def open(self) -> None:
        """Open the file of the threads."""
        self._opened = AsyncExitStack()
        saver = AsyncSqliteSaver.from_conn_string(self.place.file("threads.db"))
        self.saver = await self._opened.enter_async_context(saver)
        await self.saver.setup()

    async def close(self) -> None:
        """Close it."""
        await self._opened.aclose()

    async def run(self, run: Run, body: Body) -> None:
        """Play the run with LangChain."""

        @tool
        async def charge(item: str, note: str) -> str:
            """Charge an item."""
            return await body.run(run.act, item)

        @wrap_tool_call
        async def explained(request: Any, handler: Any) -> Any:
            try:
                return await handler(request)
            except NotSentError:
                return ToolMessage(NOT_SENT, tool_call_id=request.tool_call["id"])
            except Exception:
                return ToolMessage(UNKNOWN, tool_call_id=request.tool_call["id"])

        limit = ToolCallLimitMiddleware(tool_name="charge", thread_limit=1, exit_behavior="continue")
        model = _Scripted(adapter=self, act=run, items={}, since=time.monotonic())
        agent = create_agent(model, [charge], middleware=[limit, explained], checkpointer=self.saver)
        config: Any = {"configurable": {"thread_id": run.act}, "recursion_limit": 200}
        await agent.ainvoke({"messages": [("user", "Charge it.")]}, config, durability="sync")
