"""The studio's tasks as docket knows them: named, keyed `{task}:{request_id}`, safe to run twice."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from docket import Docket

from tools.agent_factory import AgentFactory
from worker.context import WorkerContext
from worker.poll import poll
from worker.run_agent import run_agent
from worker.submit import submit
from worker.tracing import report_outcome, request_scope

Notify = Callable[[str], Coroutine[Any, Any, None]]


async def _cancel_on_stop(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, or leave off when the process stops."""
    doing, stop = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({doing, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        if not doing.done():
            doing.cancel()
            with suppress(asyncio.CancelledError):
                await doing
    if not doing.cancelled():
        doing.result()


def register(
    docket: Docket, studio: WorkerContext, crew: AgentFactory, tell: Notify, stopping: asyncio.Event
) -> None:
    """Make the tasks known. A process that only wakes others registers them too; it never runs them.

    Args:
        docket: The queue.
        studio: For shoot and watch.
        crew: For direct.
        tell: The chat's own task.
        stopping: Set when this process is told to end: who only looks on goes home, the sweep of another
            worker sends somebody else.
    """

    async def run_direct(request_id: str) -> None:
        async with request_scope(studio.ledger, request_id):
            await run_agent(studio, crew, request_id)

    async def run_shoot(request_id: str) -> None:
        async with request_scope(studio.ledger, request_id):
            await submit(studio, request_id)

    async def run_watch(request_id: str) -> None:
        async with request_scope(studio.ledger, request_id):
            await _cancel_on_stop(stopping, poll(studio, request_id))

    async def run_tell(request_id: str) -> None:
        async with request_scope(studio.ledger, request_id):
            await _cancel_on_stop(stopping, tell(request_id))
            await report_outcome(studio.ledger, request_id)

    docket.register(run_direct, names=["direct"])
    docket.register(run_shoot, names=["shoot"])
    docket.register(run_watch, names=["watch"])
    docket.register(run_tell, names=["tell"])
