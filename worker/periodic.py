"""Work by the clock that belongs to no row: projections into Redis, late reports and erasures, old pictures.

Each loop is its own: one that fails or hangs delays no other.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from logging import ERROR, WARNING
from typing import Final

from ledger import history, requests, totals
from telemetry.logs import get_logger
from worker.context import WorkerContext
from worker.erasure import erase_marked
from worker.orphans import Orphans
from worker.outages import is_outage
from worker.pictures import remove_old_pictures
from worker.tracing import report_outcome

log = get_logger(__name__)

_CLOCKS_S: Final = 10.0


async def run_periodic(ctx: WorkerContext, orphans: Orphans | None = None) -> None:
    """Run until cancelled; with `orphans` also report which accounts this process knows."""
    pause_s = ctx.timeouts.refresh_s
    work = (refresh_admission, keep_totals, report_outcomes, erase_what_ended, remove_old_pictures)
    loops = [_repeat(partial(one, ctx), one.__name__, pause_s) for one in work]
    if ctx.clocks is not None:
        loops.append(_repeat(ctx.clocks.look, "clocks", min(pause_s, _CLOCKS_S)))
    if orphans is not None:
        loops.append(_repeat(orphans.look, "orphans", pause_s))
    await asyncio.gather(*loops)


async def _repeat(work: Callable[[], Awaitable[None]], name: str, pause_s: float) -> None:
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - this loop must survive every error
            unavailable = is_outage(error)
            event = "store unavailable for periodic work" if unavailable else "periodic work failed"
            log.log(WARNING if unavailable else ERROR, event, work=name, error=type(error).__name__)
        await asyncio.sleep(pause_s)


async def refresh_admission(ctx: WorkerContext) -> None:
    """Let the counters follow the ledger; workers do it in turn."""
    await ctx.admission.refresh(ctx.timeouts.refresh_s)


async def keep_totals(ctx: WorkerContext) -> None:
    """Take the day that left the 30 days off their sums; name requests of the version before."""
    await totals.roll_off(ctx.ledger)
    await requests.name_requests(ctx.ledger)


async def erase_what_ended(ctx: WorkerContext) -> None:
    """Erase what people wanted gone while it was under way, or while a file could not be removed."""
    await erase_marked(ctx)


async def report_outcomes(ctx: WorkerContext) -> None:
    """Write outcomes to traces and metrics where the last notification did not; an error stops no other."""
    for request_id in await history.unreported(ctx.ledger):
        try:
            await report_outcome(ctx.ledger, request_id)
        except Exception as error:  # noqa: BLE001 - one that fails must not keep the others from their end
            log.warning("outcome not reported", request=request_id, error=type(error).__name__)
