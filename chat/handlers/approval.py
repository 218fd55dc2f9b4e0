"""Taps. A double tap has two callback ids; the nonce in the button makes them one act."""

from aiogram import F, Router
from aiogram.types import CallbackQuery

from chat.context import ChatContext
from chat.i18n import Translator
from chat.keyboards import DROP, MAKE
from chat.replies import answer_tap
from ledger import transitions
from ledger.models import VideoState
from tools.generate_video import ORDER_TIMEOUT_S


def build_router() -> Router:
    """Return a router of its own for each dispatcher: a router has one parent."""
    router = Router(name="buttons")
    router.callback_query.register(approve, F.data.startswith(MAKE))
    router.callback_query.register(cancel_offer, F.data.startswith(DROP))
    router.callback_query.register(unknown)
    return router


async def approve(query: CallbackQuery, desk: ChatContext, say: Translator) -> None:
    """Let the order go to its worker: one tap wins, by the user who asked, in time."""
    nonce = (query.data or "").removeprefix(MAKE)
    video = await transitions.approve(desk.ledger, nonce, query.from_user.id, ORDER_TIMEOUT_S)
    if video is not None:
        await desk.studio.follow(video)
    await answer_tap(
        query, say("tap_done") if video else await _why_not(desk, say, nonce, query.from_user.id)
    )


async def cancel_offer(query: CallbackQuery, desk: ChatContext, say: Translator) -> None:
    """Cancel the offer, if it is this user's and still open."""
    nonce = (query.data or "").removeprefix(DROP)
    video = await transitions.find_by_nonce(desk.ledger, nonce)
    done = False
    if video is not None and video.user_id == query.from_user.id:
        done = await transitions.cancel(desk.ledger, video.request_id, video.user_id) is VideoState.CANCELLED
    if done and video is not None:
        await desk.studio.follow(await transitions.find_by_nonce(desk.ledger, nonce))
    await answer_tap(query, say("tap_done") if done else await _why_not(desk, say, nonce, query.from_user.id))


async def unknown(query: CallbackQuery, say: Translator) -> None:
    await answer_tap(query, say("tap_gone"))


async def _why_not(desk: ChatContext, say: Translator, nonce: str, user_id: int) -> str:
    video = await transitions.find_by_nonce(desk.ledger, nonce)
    return say("tap_not_yours") if video is not None and video.user_id != user_id else say("tap_gone")
