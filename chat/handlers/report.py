"""/report: a person says that a video should not be here; an admin decides by buttons.

The report is in the ledger before it is answered, and its alert is sent from there. The answer is the same
whether or not the named video exists, so it reveals nothing about another person's.
"""

import re
from typing import Final

from aiogram import F, Router
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandObject
from aiogram.methods import SendPhoto, SendVideo
from aiogram.types import CallbackQuery, Message

from chat.context import ChatContext
from chat.handlers.members import ban_user
from chat.handlers.operator import operator_name
from chat.i18n import Translator
from chat.keyboards import (
    REPORT_BACK,
    REPORT_BAN,
    REPORT_CONFIRM,
    REPORT_DISMISS,
    REPORT_SEE,
    confirm_ban_buttons,
    report_buttons,
)
from chat.replies import TAP_CHARACTERS, answer, answer_tap, edit_buttons, send_once
from chat.updates import clean, request_id_of, user_of
from ledger import user_reports
from ledger.models import OrderKind
from ledger.user_reports import Decision, NewReport, UserReport
from telemetry.logs import get_logger
from tools.text import plain_text, storable

log = get_logger(__name__)

_NAME: Final = re.compile(r"#?([0-9a-f]{6})\b", re.IGNORECASE)
_SHOWN_NAME: Final = re.compile(r"#([0-9a-f]{6})\b", re.IGNORECASE)
_WORDS: Final = 1000


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent."""
    router = Router(name="reports")
    router.message.register(report, Command("report", ignore_case=True))
    for prefix, handler in (
        (REPORT_SEE, see), (REPORT_BAN, ask_ban), (REPORT_CONFIRM, confirm_ban), (REPORT_BACK, back),
        (REPORT_DISMISS, dismiss),
    ):  # fmt: skip
        router.callback_query.register(handler, F.data.startswith(prefix))
    return router


async def report(message: Message, command: CommandObject, ctx: ChatContext, t: Translator) -> None:
    """`/report #id why`, or `/report why` as a reply to a video of this bot."""
    user = user_of(message)
    named = _named(message, command, ctx.bot.id)
    if user is None:
        await answer(message, t("no_payer"))
    elif message.forward_origin is not None:
        await answer(message, t("report_forwarded"))
    elif named is None:
        await answer(message, t("report_usage"))
    else:
        short_id, words = named
        here = None if message.chat.type == ChatType.PRIVATE else message.chat.id
        source = request_id_of(message, ctx.bot.id)
        new = NewReport(source, ctx.bot.id, user.id, short_id, here, storable(words, _WORDS))
        until = await user_reports.add(ctx.ledger, new)
        async with ctx.ledger.read() as conn:
            now = await ctx.ledger.now(conn)
        text = t("report_kept", id=short_id) if until is None else t("report_many", when=t.when(until, now))
        await answer(message, text)


def _named(message: Message, command: CommandObject, bot_id: int) -> tuple[str, str] | None:
    """Return the six letters that are meant, and the words; None if none are named."""
    args = clean(command.args or "")
    if found := _NAME.match(args):
        return found.group(1).lower(), args[found.end() :].strip()
    source = message.reply_to_message
    if source is None or source.from_user is None or source.from_user.id != bot_id:
        return None
    shown = _SHOWN_NAME.findall(source.caption or source.text or "")
    return (shown[-1].lower(), args) if shown else None


async def see(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[See the video]: send it to the admin, by its file id."""
    found = await _reported(query, ctx, t, REPORT_SEE)
    if found is None:
        return
    if found.video is None or found.video.file_id is None:
        await answer_tap(query, t("report_no_video"), alert=True)
        return
    caption = f"#{found.request.short_id}"
    send = _sent_by_id(found.video.kind, query.from_user.id, found.video.file_id, caption)
    await send_once(ctx.bot, send)
    await answer_tap(query)


def _sent_by_id(kind: OrderKind, chat_id: int, file_id: str, caption: str) -> SendVideo | SendPhoto:
    if kind == "image":
        return SendPhoto(chat_id=chat_id, photo=file_id, caption=caption)
    return SendVideo(chat_id=chat_id, video=file_id, caption=caption)


async def ask_ban(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[Ban …]: one tap alone bans no one."""
    found = await _reported(query, ctx, t, REPORT_BAN)
    if found is not None:
        await answer_tap(query)
        await edit_buttons(query, confirm_ban_buttons(t, found.report_id, found.author_id))


async def back(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    found = await _reported(query, ctx, t, REPORT_BACK)
    if found is not None:
        await answer_tap(query)
        await edit_buttons(query, report_buttons(t, found.report_id))


async def confirm_ban(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Ban the person whose video was reported, and close the report."""
    found = await _reported(query, ctx, t, REPORT_CONFIRM)
    who = operator_name(ctx, query)
    if found is None or who is None:
        return
    why = f"report {found.report_id} about #{found.request.short_id}"
    text = await ban_user(ctx, t, found.author_id, who, why)
    await _close(query, ctx, found, "banned", who)
    await answer_tap(query, plain_text(text, TAP_CHARACTERS), alert=True)


async def dismiss(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[Dismiss]: nothing is done about it."""
    found = await _reported(query, ctx, t, REPORT_DISMISS)
    who = operator_name(ctx, query)
    if found is None or who is None:
        return
    closed = await _close(query, ctx, found, "dismissed", who)
    await answer_tap(query, t("report_dismissed" if closed else "tap_settled"))


async def _close(
    query: CallbackQuery, ctx: ChatContext, found: UserReport, decision: Decision, who: str
) -> bool:
    closed = await user_reports.decide(ctx.ledger, found.report_id, decision, who)
    if closed:
        log.warning("report decided", report=found.report_id, decision=decision, who=who)
    await edit_buttons(query, None)
    return closed


async def _reported(query: CallbackQuery, ctx: ChatContext, t: Translator, prefix: str) -> UserReport | None:
    """Return the report of a button; None, after an answer, if it is not there or not for this person."""
    if operator_name(ctx, query) is None:
        await answer_tap(query, t("tap_operators"))
        return None
    number = (query.data or "").removeprefix(prefix)
    found = await user_reports.find(ctx.ledger, int(number)) if number.isdecimal() else None
    if found is None:
        await answer_tap(query, t("tap_settled"))
    return found
