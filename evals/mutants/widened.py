"""The test-only ledger under every broken guard: its order key is widened, else the key hides what passed."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, replace
from typing import Any, Final
from unittest.mock import patch

from agents import FunctionTool
from agents.tool_context import ToolContext

from guardrails.admission import Admission
from guardrails.content.verdict import Judge
from guardrails.guard import Terms
from ledger import orders, requests
from ledger.database import Ledger
from ledger.limits import Denied, Limits
from ledger.orders import Order, Placed
from ledger.schema import requests as table
from ledger.words import RequestState

_RUN_S: Final = 600
_call: ContextVar[str] = ContextVar("call", default="")
Arm = Callable[[FunctionTool, Terms, Admission, Judge], FunctionTool]


@contextmanager
def guarded_by(armed: Arm, key: Callable[[], str] = _call.get) -> Iterator[None]:
    """Arm every tool by `armed` in place of `guardrails.guard.arm`, over orders keyed by (request, `key`)."""
    ledger = _Widened(key)

    def both(tool: FunctionTool, terms: Terms, admission: Admission, content: Judge) -> FunctionTool:
        return _telling_its_id(armed(tool, terms, admission, content))

    with patch("tools.agent_factory.arm", both), patch("ledger.orders.place", ledger.place):
        yield


def _telling_its_id(tool: FunctionTool) -> FunctionTool:
    """Let the ledger below know the id of the call, which no shipped part hands down."""
    invoke: Callable[[ToolContext[Any], str], Awaitable[Any]] = tool.on_invoke_tool

    async def told(context: ToolContext[Any], raw: str) -> Any:
        token = _call.set(context.tool_call_id)
        try:
            return await invoke(context, raw)
        finally:
            _call.reset(token)

    return replace(tool, on_invoke_tool=told)


class _Widened:
    """An order table keyed by (request, call): a call that is new gets an order of its own.

    Its order stands under a shadow request `id~call`, which the studio makes and tells like any other.
    """

    def __init__(self, key: Callable[[], str]) -> None:
        self._key = key
        self._first: dict[str, str] = {}
        self._place = orders.place

    async def place(self, ledger: Ledger, order: Order, bounds: Limits) -> Placed | Denied:
        del bounds
        call = self._key()
        if self._first.setdefault(order.request_id, call) == call:
            return await self._place_first(ledger, order)
        request = await requests.find(ledger, order.request_id)
        if request is None:
            raise LookupError(order.request_id)
        shadow = f"{order.request_id}~{call}"
        async with ledger.write() as conn:
            # Nobody is to direct it: as far as the sweep can tell, its run has begun and goes on.
            until = await ledger.now(conn) + _RUN_S * 1000
            row = asdict(request) | {"request_id": shadow, "state": RequestState.OPEN, "run_until": until}
            await conn.execute(
                ledger.insert_new(table).values(**row | {"told": "", "status_message_id": None})
            )
        return await self._place(ledger, replace(order, request_id=shadow), Limits())

    async def _place_first(self, ledger: Ledger, order: Order) -> Placed | Denied:
        """An order that was not written, because its worker died, was no first one."""
        try:
            return await self._place(ledger, order, Limits())
        except BaseException:
            del self._first[order.request_id]
            raise
