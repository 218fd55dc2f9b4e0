"""Work by the clock that belongs to no row: projections into Redis, outcomes that were not reported yet.

Each loop is its own: one that fails or hangs delays no other.
"""

import asyncio
from collections.abc import Awaitable, Callable
from logging import ERROR, WARNING
from typing import Final

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from ledger import history
from telemetry.logs import get_logger
from worker.context import WorkerContext
from worker.tracing import report_outcome

log = get_logger(__name__)

_STORE_ERRORS: Final = (SQLAlchemyError, RedisError, OSError, TimeoutError)


async def run_periodic(ctx: WorkerContext) -> None:
    """Run until cancelled."""
    pause_s = ctx.timeouts.refresh_s
    await asyncio.gather(_repeat(refresh_admission, ctx, pause_s), _repeat(report_outcomes, ctx, pause_s))


async def _repeat(
    work: Callable[[WorkerContext], Awaitable[None]], ctx: WorkerContext, pause_s: float
) -> None:
    while True:
        try:
            await work(ctx)
        except Exception as error:  # noqa: BLE001 - this loop must survive every error
            unavailable = isinstance(error, _STORE_ERRORS)
            event = "store unavailable for periodic work" if unavailable else "periodic work failed"
            log.log(WARNING if unavailable else ERROR, event, work=work.__name__, error=type(error).__name__)
        await asyncio.sleep(pause_s)


async def refresh_admission(ctx: WorkerContext) -> None:
    """Let the counters follow the ledger; workers do it in turn."""
    await ctx.admission.refresh(ctx.timeouts.refresh_s)


async def report_outcomes(ctx: WorkerContext) -> None:
    """Write outcomes to traces and metrics where the last notification did not; an error stops no other."""
    for request_id in await history.unreported(ctx.ledger):
        try:
            await report_outcome(ctx.ledger, request_id)
        except SQLAlchemyError as error:
            log.warning("outcome not reported", request=request_id, error=type(error).__name__)
