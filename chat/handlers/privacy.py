"""/privacy says what is stored; /forget erases it, after two taps."""

import asyncio
from contextlib import suppress
from typing import Final

from aiogram import Bot, F, Router
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandStart
from aiogram.types import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup, Message

from chat.context import ChatContext
from chat.handlers.user import answer_in_private
from chat.i18n import Translator, translator
from chat.replies import answer, answer_tap, edit_text
from chat.updates import user_of
from guardrails.admission import ReleaseScope
from ledger import erasure, people, transitions
from ledger.models import RequestState, VideoState, act_of
from telemetry.logs import get_logger
from tools.registry import GENERATE_VIDEO
from worker.erasure import erase_marked

log = get_logger(__name__)

FORGET: Final = "forget:ask"
CONFIRM_FORGET: Final = "forget:all"
KEEP_ALL: Final = "forget:no"

_ERASE_S: Final = 20
"""Less than a handler may take."""

_CANCELLED: Final = (RequestState.CANCELLED, VideoState.CANCELLED)


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent."""
    router = Router(name="privacy")
    for name, handler in (("privacy", privacy), ("forget", forget)):
        router.message.register(handler, Command(name, ignore_case=True))
        router.message.register(handler, CommandStart(deep_link=True, magic=F.args == name))
    router.callback_query.register(ask_again, F.data == FORGET)
    router.callback_query.register(forget_everything, F.data == CONFIRM_FORGET)
    router.callback_query.register(keep_all, F.data == KEEP_ALL)
    return router


async def privacy(message: Message, t: Translator) -> None:
    """Say what is stored, why, for how long, who sees it, and how it is deleted; that is no secret."""
    await answer(message, f"{t('privacy_stored')}\n\n{t('privacy_seen')}")


async def forget(message: Message, bot: Bot, t: Translator) -> None:
    """Say what would go and what stays, and ask."""
    if user_of(message) is None:
        await answer(message, t("no_payer"))
    elif message.chat.type != ChatType.PRIVATE:
        await answer_in_private(message, bot, t, "forget")
    else:
        await answer(message, t("forget_ask"), _buttons(t, "button_forget", FORGET))


async def ask_again(query: CallbackQuery, t: Translator) -> None:
    """[Forget me]: the first of two taps."""
    text = f"{t('forget_ask')}\n\n{t('forget_really')}"
    await edit_text(query, text, _buttons(t, "button_yes_forget", CONFIRM_FORGET))
    await answer_tap(query)


async def keep_all(query: CallbackQuery, t: Translator) -> None:
    """[No]: nothing is erased."""
    await edit_text(query, t("forget_kept"))
    await answer_tap(query, t("tap_kept"))


async def forget_everything(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[Yes, forget everything]: cancel what is free, erase what has ended, mark the rest. Safe to repeat."""
    user_id = query.from_user.id
    await answer_tap(query, t("tap_forgetting"))
    for request_id in await erasure.cancellable(ctx.ledger, user_id, ctx.bot.id):
        await _cancel(ctx, request_id, user_id)
    chats = {user_id, *await erasure.chats_of(ctx.ledger, user_id, ctx.bot.id)}
    await erasure.ask_all(ctx.ledger, user_id, ctx.bot.id)
    await people.forget(ctx.ledger, user_id)
    await ctx.conversations.forget(user_id, chats)
    ctx.languages.set(user_id, None)
    for forget_more in ctx.forgets:
        await forget_more(user_id)
    with suppress(TimeoutError):  # the rest is erased by the clock
        async with asyncio.timeout(_ERASE_S):
            await erase_marked(ctx.worker, user_id)
    waiting = await erasure.count_waiting(ctx.ledger, user_id, ctx.bot.id)
    log.info("person forgotten", waiting=waiting)
    t = translator(query.from_user.language_code or "en")  # the language that was set is forgotten too
    lines = [t("forget_done"), *([t("forget_waiting", count=waiting)] if waiting else [])]
    await edit_text(query, "\n".join(lines))


async def _cancel(ctx: ChatContext, request_id: str, user_id: int) -> None:
    """Cancel what nothing was charged for; what was sent meanwhile is erased when it ends."""
    ended = await transitions.cancel(ctx.ledger, request_id, user_id)
    if ended.state in _CANCELLED:
        what: ReleaseScope = "all" if ended.video is None else "unpaid"
        version = None if ended.video is None else ended.video.version
        tool = GENERATE_VIDEO if ended.video is None else ended.video.tool
        await ctx.admission.release(tool, act_of(request_id), user_id, what, version)
        await ctx.queue.wake("notify", request_id)


def _buttons(t: Translator, name: str, data: str) -> InlineKeyboardMarkup:
    yes = InlineKeyboardButton(text=t(name), callback_data=data)
    return InlineKeyboardMarkup(
        inline_keyboard=[[yes, InlineKeyboardButton(text=t("button_no"), callback_data=KEEP_ALL)]]
    )
