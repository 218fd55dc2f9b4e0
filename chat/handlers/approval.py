"""[Make it] and [Cancel] under an offer.

A double tap has two callback ids; the nonce in the button makes it one approval.
"""

from aiogram import F, Router
from aiogram.types import CallbackQuery

from chat.context import ChatContext
from chat.i18n import Translator
from chat.keyboards import APPROVE, DECLINE
from chat.replies import TAP_CHARACTERS, answer_tap
from chat.status_message import refusal_text
from ledger import offers, options, transitions
from ledger.models import Video, VideoState
from ledger.offers import ApprovalOutcome
from tools.text import plain_text
from worker.approval import approve as approve_order


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent."""
    router = Router(name="buttons")
    router.callback_query.register(approve, F.data.startswith(APPROVE))
    router.callback_query.register(decline, F.data.startswith(DECLINE))
    router.callback_query.register(unknown)
    return router


async def approve(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Approve the order. One tap wins, by the user who asked, before the offer expires."""
    nonce = (query.data or "").removeprefix(APPROVE)
    tapped = await approve_order(ctx.worker, ctx.offer, ctx.limits, nonce, query.from_user.id, ctx.others)
    if tapped.denied is not None and tapped.denied.verdict in ("closed", "content"):
        await answer_tap(query, t(f"tap_{tapped.denied.verdict}"), alert=True)
        return
    if tapped.denied is not None:
        limits = ctx.limits if tapped.video is None else ctx.limits_of(tapped.video)
        said = refusal_text(t, tapped.denied.verdict, tapped.denied.until, tapped.denied.at, limits)
        await answer_tap(query, plain_text(said, TAP_CHARACTERS), alert=True)
        return
    outcome: ApprovalOutcome = tapped.outcome
    if outcome == "gone" and await _shown_offer(query, ctx) is not None:
        outcome = "changed"  # an option was chosen since this button was shown
    await answer_tap(query, t(f"tap_{outcome}"), alert=outcome in ("changed", "ended", "rights"))


async def decline(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Cancel the offer if it is this user's and still open."""
    nonce = (query.data or "").removeprefix(DECLINE)
    # Also by a button that was shown before an option was chosen: nothing is paid by cancelling.
    video = await offers.find(ctx.ledger, nonce) or await _shown_offer(query, ctx)
    done = False
    if video is not None and video.user_id == query.from_user.id:
        ended = await transitions.cancel(ctx.ledger, video.request_id, video.user_id)
        done = ended.state is VideoState.CANCELLED
        if done:
            await ctx.worker.apply_effects(ended.video)
    await answer_tap(query, t("tap_done") if done else await _refusal(ctx, t, nonce, query.from_user.id))


async def _shown_offer(query: CallbackQuery, ctx: ChatContext) -> Video | None:
    """Return the person's open offer that the tapped message shows, whatever its buttons were."""
    where = query.message
    if where is None:
        return None
    return await options.find_open(ctx.ledger, query.from_user.id, where.chat.id, where.message_id)


async def unknown(query: CallbackQuery, t: Translator) -> None:
    await answer_tap(query, t("tap_gone"))


async def _refusal(ctx: ChatContext, t: Translator, nonce: str, user_id: int) -> str:
    video = await offers.find(ctx.ledger, nonce)
    return t("tap_not_yours") if video is not None and video.user_id != user_id else t("tap_gone")
