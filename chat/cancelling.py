"""What a ban ends: offers are withdrawn and unpaid orders cancelled. What is paid is made and delivered."""

from chat.context import ChatContext
from ledger import members, requests, transitions
from ledger.failures import Failure
from ledger.models import CANCELLABLE_STATES, RequestState, VideoState
from telemetry.logs import get_logger
from tools.registry import GENERATE_VIDEO

log = get_logger(__name__)


async def enforce_bans(ctx: ChatContext) -> int:
    """Cancel what banned people have not paid for; return how many requests that were.

    Safe to repeat, and every process does: also what was opened while a ban was on its way ends.
    """
    ended = 0
    for request_id in await members.unpaid_of_banned(ctx.ledger, ctx.bot.id):
        ended += await cancel_unpaid(ctx, request_id, "admin", Failure.BANNED, "its user was banned")
    return ended


async def cancel_unpaid(
    ctx: ChatContext, request_id: str, who: str, reason: Failure, why: str, detail: str | None = None
) -> bool:
    """Cancel a request unless it is paid, for another reason than its user's wish; return whether it was."""
    request = await requests.find(ctx.ledger, request_id)
    if request is None:
        return False
    if await requests.close_request(ctx.ledger, request_id, RequestState.CANCELLED, who, reason):
        await ctx.admission.release(GENERATE_VIDEO, request_id, request.user_id, "all")
        log.warning("request cancelled", request=request_id, reason=reason, why=why)
        await ctx.queue.wake("notify", request_id)
        return True
    for state in CANCELLABLE_STATES:
        moved = await transitions.transition(
            ctx.ledger, request_id, state, VideoState.CANCELLED, who, why,
            failure=reason, failure_detail=detail,
        )  # fmt: skip
        if moved is not None:
            log.warning("order cancelled", request=request_id, reason=reason, why=why)
            await ctx.worker.apply_effects(moved)
            return True
    return False
