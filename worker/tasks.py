"""The studio's tasks as docket knows them: named, keyed `{task}:{request_id}`, safe to run twice."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from docket import Docket

from tools.agent_factory import Crew
from worker.context import Studio
from worker.poll import watch
from worker.run_agent import direct
from worker.submit import shoot
from worker.tracing import report, request_scope

Tell = Callable[[str], Coroutine[Any, Any, None]]


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
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


def register(docket: Docket, studio: Studio, crew: Crew, tell: Tell, stopping: asyncio.Event) -> None:
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
            await direct(studio, crew, request_id)

    async def run_shoot(request_id: str) -> None:
        async with request_scope(studio.ledger, request_id):
            await shoot(studio, request_id)

    async def run_watch(request_id: str) -> None:
        async with request_scope(studio.ledger, request_id):
            await _unless(stopping, watch(studio, request_id))

    async def run_tell(request_id: str) -> None:
        async with request_scope(studio.ledger, request_id):
            await _unless(stopping, tell(request_id))
            await report(studio.ledger, request_id)

    docket.register(run_direct, names=["direct"])
    docket.register(run_shoot, names=["shoot"])
    docket.register(run_watch, names=["watch"])
    docket.register(run_tell, names=["tell"])
