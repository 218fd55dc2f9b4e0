"""Registers the tasks with docket: each is keyed `{task}:{request_id}` and safe to run twice."""

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
    docket: Docket, ctx: WorkerContext, factory: AgentFactory, notify: Notify, stopping: asyncio.Event
) -> None:
    """Make the tasks known. A process that only wakes others registers them too; it never runs them.

    Args:
        docket: The queue.
        ctx: What every task is given.
        factory: Builds the agents that `run_agent` runs.
        notify: The chat's task, which brings a user up to date.
        stopping: Set when this process has to end: polling and notifying stop at once, and the sweeper of
            another worker queues them again.
    """

    async def run_agent_task(request_id: str) -> None:
        async with request_scope(ctx.ledger, request_id):
            await run_agent(ctx, factory, request_id)

    async def submit_task(request_id: str) -> None:
        async with request_scope(ctx.ledger, request_id):
            await submit(ctx, request_id)

    async def poll_task(request_id: str) -> None:
        async with request_scope(ctx.ledger, request_id):
            await _cancel_on_stop(stopping, poll(ctx, request_id))

    async def notify_task(request_id: str) -> None:
        async with request_scope(ctx.ledger, request_id):
            await _cancel_on_stop(stopping, notify(request_id))
            await report_outcome(ctx.ledger, request_id)

    # The second name is the first edition's: its tasks may wait in Redis while a new version is rolled out.
    docket.register(run_agent_task, names=["run_agent", "direct"])
    docket.register(submit_task, names=["submit", "shoot"])
    docket.register(poll_task, names=["poll", "watch"])
    docket.register(notify_task, names=["notify", "tell"])
