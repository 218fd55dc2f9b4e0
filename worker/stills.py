"""A still of an offered video: ordered by a tap on its button, at the price that the button shows.

The tap orders by the same key as a call of `generate_image` in the same request: however often it comes, and
whatever the agent calls, there is one still.
"""

import asyncio
from typing import Final

from guardrails.admission import AdmissionRequest
from guardrails.limits import LimitExceeded
from ledger import offers, orders, requests
from ledger.models import Video, VideoState, order_id, provider_key
from ledger.offers import FIRST_FRAME
from ledger.orders import Order, Placed
from providers.base import Picture
from providers.pictures import digest
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from telemetry.tracing import request_traceparent
from tools.offer import ORDER_TIMEOUT_S, STILL_SECONDS, Offer, PaidOffer
from tools.registry import GENERATE_IMAGE
from tools.wishes import shape_of
from worker.context import WorkerContext
from worker.pictures import save_picture

log = get_logger(__name__)

_MAY_ORDER: Final = ("admitted", "replay")
"""Redis counts it now, or knows an earlier call; the ledger decides."""


def size_of_still(offer: Offer, video: Video) -> str:
    """Return the size on offer for a still of a video: of its shape, else the first."""
    sizes, shape = offer.capabilities.sizes, shape_of(video.size)
    return next((one for one in sizes if shape_of(one) == shape), sizes[0])


async def order_still(ctx: WorkerContext, other: PaidOffer, video: Video) -> Placed | LimitExceeded:
    """Order the still of an open offer, once; a later tap gets the order back as it is.

    Redis is asked first, as for any paid call; the ledger recounts and has the last word.

    Args:
        ctx: The worker's parts, of which a chat process has its own.
        other: What `generate_image` may order.
        video: The open offer of a video; the still is of its words.

    Raises:
        Exception: The ledger is away. The tap may have ordered or not: a second one finds out.
    """
    offer = other.offer
    size = size_of_still(offer, video)
    price = offer.price(STILL_SECONDS, size)
    ask = AdmissionRequest(
        GENERATE_IMAGE, video.act_id, video.user_id, call_id=f"tap:{video.nonce}", price=price,
        limits=other.limits,
    )  # fmt: skip
    decision = await ctx.admission.reserve(ask)
    if decision.word not in _MAY_ORDER:
        return LimitExceeded(decision.word, decision.until, decision.used, decision.limit, decision.at)
    await failpoint("confirmed")
    own = request_traceparent(provider_key(order_id(video.act_id, GENERATE_IMAGE)))
    order = Order(
        video.act_id, offer.provider, offer.model, video.prompt, STILL_SECONDS, size, price,
        account=offer.account, valid_s=ORDER_TIMEOUT_S, tool=GENERATE_IMAGE, traceparent=own,
        chosen=FIRST_FRAME,
    )  # fmt: skip
    placed = await orders.place(ctx.ledger, order, other.limits)
    if isinstance(placed, LimitExceeded):
        await ctx.admission.release(GENERATE_IMAGE, video.act_id, video.user_id, "all")
        return placed
    if placed.created:
        log.info("still ordered", request=placed.video.request_id, offer=video.request_id)
        await ctx.queue.wake("notify", placed.video.request_id)
    return placed


async def begin_with_still(ctx: WorkerContext, still: Video) -> None:
    """Have the offer from which a still was ordered begin with it, where its provider takes a first frame.

    Nothing depends on it: an offer that was tapped or has ended meanwhile stays as it is.
    """
    if still.kind != "image" or FIRST_FRAME not in (still.chosen or "").split():
        return
    found = await requests.find_with_video(ctx.ledger, still.act_id)
    video = None if found is None else found[1]
    provider = None if video is None else ctx.provider_of(video)
    if video is None or provider is None or not provider.capabilities.pictures:
        return
    try:
        data = await asyncio.to_thread(ctx.asset_path(still).read_bytes)
        picture = Picture(data, digest(data))
        await save_picture(ctx.media_dir, video.user_id, video.request_id, picture)
    except OSError as error:
        log.warning("still not used as first frame", request=still.request_id, error=type(error).__name__)
        return
    if await offers.begin_with_still(ctx.ledger, video.request_id, picture.sha256):
        await ctx.queue.wake("notify", video.request_id)


def is_open_offer(video: Video, nonce: str, now: int) -> bool:
    """Return whether this is an offer of a video that still waits for its tap, by the nonce it shows."""
    shown = video.nonce == nonce and video.state is VideoState.AWAITING_APPROVAL
    return shown and now < video.expires_at and video.kind == "video"
