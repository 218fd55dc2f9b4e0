"""Orders of accounts that no worker knows any more: ended unpaid, or held for a person.

An operator removes an account from the configuration, or rotates a key without naming the account. Another
account must not be asked about its orders, so none of the usual steps takes them.
"""

import time
from typing import Final

from ledger import accounts, due_work, transitions
from ledger.due_work import ClaimedVideo
from ledger.failures import Failure, explanation
from ledger.models import VideoState
from telemetry.logs import get_logger
from worker.context import WorkerContext
from worker.submit import expire_queued

log = get_logger(__name__)

_AT_ONCE: Final = 100


class Orphans:
    """Reports which accounts this process knows, and ends what no process knows.

    Args:
        ctx: The parts.
        bot_id: The bot of this process: its orders are judged after `absent_s`, those of other bots after
            `absent_other_s`.
        primary: The account that takes new orders.
    """

    def __init__(self, ctx: WorkerContext, bot_id: int, primary: str) -> None:
        self._ctx, self._bot_id, self._primary = ctx, bot_id, primary
        self._began = time.monotonic()

    async def look(self) -> None:
        """Report the accounts, adopt orders without one, and end orphans."""
        ctx = self._ctx
        known = {account: provider.name for account, provider in ctx.providers.items()}
        await accounts.report_in_use(ctx.ledger, self._bot_id, known, self._primary)
        try:
            await self._adopt()
        finally:  # an order that cannot be adopted keeps no other from its end
            await self._end_orphans()

    async def _adopt(self) -> None:
        adopted = 0
        while done := await accounts.adopt_orders(self._ctx.ledger, self._bot_id):
            adopted += done
        if adopted:
            log.info("orders without an account adopted", orders=adopted)

    async def _end_orphans(self) -> None:
        ctx, timeouts = self._ctx, self._ctx.timeouts
        # After all workers were down, the first to start waits longer: another may still report the account.
        waits_s = max(0.0, timeouts.absent_s - (time.monotonic() - self._began))
        own_s = timeouts.absent_s if not waits_s else timeouts.absent_other_s
        orphans = await accounts.claim_orphans(
            ctx.ledger, self._bot_id, list(ctx.providers), own_s, timeouts.absent_other_s, _AT_ONCE,
            timeouts.lease_s,
        )  # fmt: skip
        for order in orphans:
            try:
                await end_orphan(ctx, order)
            except Exception as error:  # noqa: BLE001 - its lease ends, and it is tried again; see the others
                log.warning("orphan not ended", request=order.video.request_id, error=type(error).__name__)


async def end_orphan(ctx: WorkerContext, order: ClaimedVideo) -> None:
    """Expire a queued order in time, hold a paid one; late checks of an ended one stop by its age."""
    video, timeouts = order.video, ctx.timeouts
    if video.state is VideoState.QUEUED and order.now >= video.expires_at:
        await expire_queued(ctx, video, f"no worker knows its account {video.account}")
    elif video.state in (VideoState.ACCEPTED, VideoState.IN_DOUBT):
        await _hold(ctx, order)
    else:
        age_s = (order.now - video.updated_at) / 1000
        ended = video.state is not VideoState.QUEUED and age_s >= timeouts.late_for_s
        pause_s = None if ended else timeouts.late_check_pause_s(age_s)
        if video.state is VideoState.QUEUED:
            # Its account may be configured again meanwhile.
            pause_s = min((video.expires_at - order.now) / 1000, timeouts.late_s)
        await due_work.put_back(ctx.ledger, video, pause_s)


async def _hold(ctx: WorkerContext, order: ClaimedVideo) -> None:
    video = order.video
    name = video.account or video.provider
    why = f"its account {name} is configured nowhere"
    log.error(
        "order held: unknown account",
        request=video.request_id,
        account=name,
        why=explanation(Failure.ACCOUNT_UNKNOWN),
    )
    await ctx.apply_effects(
        await transitions.transition(
            ctx.ledger, video.request_id, video.state, VideoState.HOLD, "studio", why,
            failure=Failure.ACCOUNT_UNKNOWN, failure_detail=why,
        )
    )  # fmt: skip
