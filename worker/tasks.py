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
from worker.tracing import request_scope

Kick = Callable[[str], None]


async def _cancel_on_stop(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, and cancel it when the process stops."""
    task, stop = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    if not task.cancelled():
        task.result()


def register(
    docket: Docket, ctx: WorkerContext, factory: AgentFactory, kick: Kick, stopping: asyncio.Event
) -> None:
    """Register the tasks. A process that only queues them registers them too; it never runs them.

    Args:
        docket: The queue.
        ctx: What every task is given.
        factory: Builds the agents that `run_agent` runs.
        kick: Claims the chat's steps now.
        stopping: Set when this process has to end: polls and notifications stop at once, and the sweeper of
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

    async def notify_task(_: str) -> None:
        kick("notify")

    # The second name is the one of release 0.1: its tasks may wait in Redis during an upgrade.
    docket.register(run_agent_task, names=["run_agent", "direct"])
    docket.register(submit_task, names=["submit", "shoot"])
    docket.register(poll_task, names=["poll", "watch"])
    docket.register(notify_task, names=["notify", "tell"])
