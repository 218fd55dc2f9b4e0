"""Reads what a status message says beyond its rows: charges, breakers, the queue, and whether workers live.

`status_message` makes the words of it; `notifier` sends them.
"""

from dataclasses import replace
from typing import Any, Final, Literal

from chat.context import ChatContext
from chat.offer_text import OfferFacts
from chat.status_message import Facts, has_ended_with_credit, may_be_alerted, shows_charge
from guardrails.money import Money
from ledger import breaker, estimates, heartbeats, limits, notifications, orders, reports, video_credits
from ledger.due_work import ClaimedRequest
from ledger.models import Credit, Request, RequestState, Video, VideoState
from ledger.notifications import Notification
from tools.offer import APPROVAL_TIMEOUT_S, STILL_SECONDS
from tools.registry import GENERATE_IMAGE
from worker.stills import size_of_still

_WAITS_MS: Final = 2000
"""An order that is not sent after so long waits behind others."""


async def read_facts(ctx: ChatContext, claimed: ClaimedRequest) -> Facts:
    """Read what the text needs in addition to the rows, for the few texts that need it."""
    video, charged, breaker_open = claimed.video, Money(0), False
    if video is not None and shows_charge(video):
        charged = await reports.net_charged(ctx.ledger, video.request_id)
    if video is not None and video.state is VideoState.QUEUED:
        async with ctx.ledger.read() as conn:
            breaker_open = await breaker.is_open(conn, video.user_id)
    back = (
        video is not None
        and has_ended_with_credit(video)
        and await video_credits.came_back(ctx.ledger, video)
    )
    told = video is not None and may_be_alerted(video) and await is_operator_told(ctx, video)
    bounds = ctx.limits if video is None else ctx.limits_of(video)
    facts = Facts(
        claimed.now, charged, bounds, breaker_open=breaker_open, operator_told=told, credit_back=back,
        waits=await _why_it_waits(ctx, claimed),
    )  # fmt: skip
    return facts if video is None else replace(facts, **await _waiting_facts(ctx, claimed, video))


async def _why_it_waits(ctx: ChatContext, claimed: ClaimedRequest) -> Literal["busy", "no_worker"] | None:
    """Return why no worker has taken a request, or its order, in `Waits.received_s`; None if it is early."""
    request, video = claimed.request, claimed.video
    waiting_since = _waiting_since(request, video)
    if waiting_since is None or claimed.now - waiting_since < ctx.waits.received_s * 1000:
        return None
    workers = (await heartbeats.alive(ctx.ledger, ctx.bot.id))["worker"]
    return "busy" if workers.count else "no_worker"


def _waiting_since(request: Request, video: Video | None) -> int | None:
    """Return since when a worker could have taken it, in milliseconds; None: one has."""
    if video is None:
        return request.created_at if request.state is RequestState.OPEN and not request.attempts else None
    return video.updated_at if video.state is VideoState.QUEUED else None


async def _waiting_facts(ctx: ChatContext, claimed: ClaimedRequest, video: Video) -> dict[str, Any]:
    """Read what is left for an offer, who is before an order that waits, how long a video usually takes."""
    if video.state is VideoState.AWAITING_APPROVAL:
        async with ctx.ledger.read() as conn:
            now = await ctx.ledger.now(conn)
            usage = await limits.current_usage(
                conn, video.user_id, video.quote, ctx.limits_of(video), now, video.tool
            )
        above = video.credit == Credit.OFFERED
        left = await video_credits.left(ctx.ledger, video.user_id) if above else 0
        minutes = APPROVAL_TIMEOUT_S // 60
        offer = ctx.offer_of(video)
        known = ctx.offer.capabilities if offer is None else offer.capabilities
        still = await _price_of_still(ctx, video)
        return {"offer": OfferFacts(known, usage, minutes, offer, left, still)}
    if video.state is VideoState.QUEUED and claimed.now - video.ordered_at > _WAITS_MS:
        return {"ahead": await estimates.orders_ahead(ctx.ledger, video)}
    if video.state is VideoState.ACCEPTED and not video.progress:
        return {"usual_s": await ctx.usual_times.of(video.model)}
    return {}


async def _price_of_still(ctx: ChatContext, video: Video) -> Money | None:
    """Return what a still of an offered video costs; None: none is on offer, or there is one already."""
    other = ctx.others.get(GENERATE_IMAGE)
    if other is None or video.kind != "video" or video.picture is not None:
        return None
    if await orders.has_beside(ctx.ledger, video.request_id):
        return None
    return other.offer.price(STILL_SECONDS, size_of_still(other.offer, video))


async def is_operator_told(ctx: ChatContext, video: Video, subject: str = "") -> bool:
    """Return whether an admin has got the alert about an order, or another `subject` of it."""
    alert = Notification(subject or video.request_id, video.updated_at)
    return bool(ctx.admins) and await notifications.is_received(ctx.ledger, alert, ctx.admins)
