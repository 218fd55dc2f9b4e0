"""Tells people that their request waits, where no worker does: a bot of its own runs this.

Workers show the state of each request. While none lives, or all are busy, nobody would: so a bot notifies
about what has been due for ten seconds. It sends no videos; those need a worker's slots.
"""

import asyncio
from typing import Final

from chat.context import ChatContext
from chat.notifier import NOTIFY_SLOTS, notify
from ledger import due_work
from telemetry.logs import get_logger
from worker.outages import is_outage

log = get_logger(__name__)

_EVERY_S: Final = 2.0


async def run_awaited(ctx: ChatContext, every_s: float = _EVERY_S) -> None:
    """Notify until cancelled about what no worker has taken in `Waits.received_s`."""
    while True:
        try:
            await notify_awaited(ctx)
        except Exception as error:  # noqa: BLE001 - this loop must survive every error
            report = log.warning if is_outage(error) else log.error
            report("awaited requests not shown", error=type(error).__name__)
        await asyncio.sleep(every_s)


async def notify_awaited(ctx: ChatContext) -> None:
    """Notify once about some requests that no worker has notified about in time."""
    # A request's first message is due a little later than the request: both are counted from its arrival.
    overdue_s = max(0.0, ctx.waits.received_s - ctx.edit_limits.quiet_s)
    claimed = await due_work.claim_notifications(
        ctx.ledger, ctx.bot.id, NOTIFY_SLOTS, ctx.edit_limits.lease_s,
        delivery=False, overdue_s=overdue_s,
    )  # fmt: skip
    await asyncio.gather(*(notify(ctx, one) for one in claimed))
