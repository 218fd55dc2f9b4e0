"""The tap on an offer's [Make it]: the one way from an offer to an order."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from guardrails.admission import AdmissionRequest, Decision, with_extra
from guardrails.limits import LimitExceeded, Limits
from ledger import offers, video_credits
from ledger.models import VIDEO_TOOL, Credit, Video, VideoState
from ledger.offers import Approval, Terms
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from tools.offer import APPROVAL_TIMEOUT_S, ORDER_TIMEOUT_S, Offer, PaidOffer
from worker.context import WorkerContext

log = get_logger(__name__)

_ADMITTED: Final = ("admitted", "replay")
"""Redis counts it now, or knows that the order is past its offer; the ledger decides."""

_ORDERED: Final = ("approved", "already")


async def approve(
    ctx: WorkerContext,
    offer: Offer,
    bounds: Limits,
    nonce: str,
    user_id: int,
    others: Mapping[str, PaidOffer] = MappingProxyType({}),
) -> Approval:
    """Check everything again and order what was offered; idempotent, also over several processes.

    Redis is asked first, as for any paid call; where it is away the tap is refused as `closed`, and the offer
    stays. The ledger recounts and has the last word; what it refuses is given back in Redis.

    Args:
        ctx: The worker's parts, of which a chat process has its own.
        offer: Which videos may be ordered now, and at which price.
        bounds: Their limits in the declaration.
        nonce: From the button.
        user_id: Who tapped.
        others: The same of every other paid tool, by its name.

    Raises:
        Exception: The ledger is away. The tap may have ordered or not: a second one finds out.
    """
    video = await offers.find(ctx.ledger, nonce)
    if video is None:
        return Approval("gone")
    if video.user_id != user_id:
        return Approval("not_yours", video)
    terms, bounds = _terms(video, offer, bounds, others)
    may_order = (
        video.state is VideoState.AWAITING_APPROVAL
        and not video.asks_for_rights
        and terms is not None
        and terms.are_those_of(video)
    )
    if may_order and (denied := await _refusal(ctx, video, bounds)) is not None:
        return Approval("refused", video, denied)
    await failpoint("confirmed")
    approval = await offers.approve(
        ctx.ledger, nonce, user_id, terms, bounds, valid_s=ORDER_TIMEOUT_S, offer_valid_s=APPROVAL_TIMEOUT_S
    )
    if may_order and approval.outcome not in _ORDERED:
        await ctx.admission.release(video.tool, video.act_id, user_id, "offer", video.version)
    await _apply(ctx, approval)
    return approval


def _terms(
    video: Video, offer: Offer, bounds: Limits, others: Mapping[str, PaidOffer]
) -> tuple[Terms | None, Limits]:
    """Return on which terms this order's tool may order it now, None if it may not, and the tool's limits."""
    if video.tool != VIDEO_TOOL:
        if (other := others.get(video.tool)) is None:
            return None, bounds
        offer, bounds = other.offer, other.limits
    takes = video.picture is None or offer.capabilities.pictures
    return (offer.terms(video.seconds, video.size, sound=video.with_sound) if takes else None), bounds


async def _refusal(ctx: WorkerContext, video: Video, bounds: Limits) -> LimitExceeded | None:
    ask = AdmissionRequest(video.tool, video.act_id, video.user_id, price=video.quote, limits=bounds)
    found: Decision = await with_extra(
        partial(_confirm, ctx, video.version), ask, partial(video_credits.left, ctx.ledger, video.user_id)
    )
    if found.word in _ADMITTED:
        return None
    return LimitExceeded(found.word, found.until, found.used, found.limit, found.at)


async def _confirm(ctx: WorkerContext, version: int, ask: AdmissionRequest) -> Decision:
    return await ctx.admission.confirm(ask, version)


async def _apply(ctx: WorkerContext, approval: Approval) -> None:
    video = approval.video
    if video is None:
        return
    log.info(
        "offer tapped", request=video.request_id, outcome=approval.outcome,
        verdict=approval.denied.verdict if approval.denied else None,
    )  # fmt: skip
    if approval.outcome == "approved":
        await failpoint("approved")
        if (
            video.credit == Credit.HELD
        ):  # so Redis counts it as the ledger does, whatever it thought of the quota
            await ctx.admission.release(video.tool, video.act_id, video.user_id, "quota", video.version)
    if approval.outcome in ("approved", "ended"):
        await ctx.apply_effects(video)
    elif approval.outcome == "changed":
        await ctx.queue.wake("notify", video.request_id)
