"""[See a still first · price] under the offer of a video."""

from aiogram import F, Router
from aiogram.types import CallbackQuery

from chat.context import ChatContext
from chat.i18n import Translator
from chat.keyboards import STILL
from chat.replies import TAP_CHARACTERS, answer_tap
from chat.status_message import refusal_text
from guardrails.limits import LimitExceeded
from ledger import due_work, offers
from ledger.models import Video
from tools.offer import PaidOffer
from tools.registry import GENERATE_IMAGE
from tools.text import plain_text
from worker.stills import is_open_offer, order_still


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent."""
    router = Router(name="stills")
    router.callback_query.register(see_still, F.data.startswith(STILL))
    return router


async def see_still(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Order one still of what is offered. The button shows its price, so the tap is the approval."""
    nonce = (query.data or "").removeprefix(STILL)
    video, other = await offers.find(ctx.ledger, nonce), ctx.others.get(GENERATE_IMAGE)
    if video is not None and video.user_id != query.from_user.id:
        await answer_tap(query, t("tap_not_yours"))
    elif video is None or not is_open_offer(video, nonce, await ctx.worker.now_ms()):
        await answer_tap(query, t("tap_gone"))
    elif other is None:
        await answer_tap(query, t("tap_ended"), alert=True)
    elif (await ctx.rules.judge(video.prompt)).word != "allowed":  # the rules may have changed since
        await answer_tap(query, t("tap_content"), alert=True)
    else:
        await _order(query, ctx, t, video, other)


async def _order(
    query: CallbackQuery, ctx: ChatContext, t: Translator, video: Video, other: PaidOffer
) -> None:
    placed = await order_still(ctx.worker, other, video)
    if isinstance(placed, LimitExceeded):
        await answer_tap(query, _refused(t, placed, other), alert=True)
        return
    # The offer is shown again, without the button.
    await due_work.make_notification_due(ctx.ledger, video.request_id)
    await ctx.queue.wake("notify", video.request_id)
    await answer_tap(query, t("tap_still" if placed.created else "tap_already"))


def _refused(t: Translator, denied: LimitExceeded, other: PaidOffer) -> str:
    if denied.verdict in ("closed", "content"):
        return t(f"tap_{denied.verdict}")
    if denied.verdict in ("quota", "cooldown"):
        return t("tap_still_later", when=t.when(denied.until, denied.at))
    said = refusal_text(t, denied.verdict, denied.until, denied.at, other.limits)
    return plain_text(said, TAP_CHARACTERS)
