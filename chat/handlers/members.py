"""/invite, /ban, /unban: admins decide who may use the bot. In private chats only."""

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Final

from aiogram import Bot, F, Router
from aiogram.dispatcher.event.bases import SkipHandler
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandObject, CommandStart
from aiogram.types import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup, Message

from chat.access import INVITE_START
from chat.cancelling import enforce_bans
from chat.context import ChatContext
from chat.handlers.operator import operator_name
from chat.handlers.user import is_for_them_alone
from chat.i18n import Translator
from chat.replies import answer, answer_tap, edit_buttons
from chat.updates import clean, request_id_of
from ledger import members
from telemetry.logs import get_logger
from telemetry.redaction import user_tag

log = get_logger(__name__)

END_INVITE: Final = "invite:end:"
_USUAL: Final = (1, 7)
"""People and days of an invitation, where a number is not given."""

_MOST_USES: Final = 1000
_MOST_DAYS: Final = 365
_DIGEST_START: Final = 32
"""Letters of an invitation's digest in its button, which has room for 64."""

_REASON_CHARACTERS: Final = 500


def build_router(publish_menu: Callable[[Bot, int], Awaitable[None]]) -> Router:
    """Return a new router: aiogram allows a router one parent.

    Args:
        publish_menu: Publishes an admin's own menu, which Telegram takes only once they have pressed Start.
    """
    router = Router(name="members")

    async def start(message: Message, bot: Bot, ctx: ChatContext) -> None:
        if message.chat.type == ChatType.PRIVATE and message.chat.id in ctx.admins:
            await publish_menu(bot, message.chat.id)
        raise SkipHandler  # the welcome follows

    router.message.register(start, CommandStart())
    router.message.register(invite, Command("invite", ignore_case=True))
    router.message.register(ban, Command("ban", ignore_case=True))
    router.message.register(unban, Command("unban", ignore_case=True))
    router.callback_query.register(end_invite, F.data.startswith(END_INVITE))
    return router


async def invite(message: Message, command: CommandObject, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """`/invite [N] [days]`: a link by which N people may join. Delivered again, it answers the same link."""
    who = operator_name(ctx, message)
    if who is None:
        await answer(message, t("operators_only"))
        return
    if not await is_for_them_alone(message, bot, t, "invite"):
        return
    numbers = _numbers(command.args)
    if numbers is None:
        await answer(
            message, t("invite_usage", uses=_MOST_USES, span=t.days(_MOST_DAYS), usual=t.days(_USUAL[1]))
        )
        return
    uses, days = numbers
    token = _token(bot, request_id_of(message, bot.id))
    made = await members.add_invite(ctx.ledger, token, who, uses, days)
    log.info("invitation made", who=who, uses=uses, days=days)
    me = await bot.me()
    link = f"https://t.me/{me.username}?start={INVITE_START}{token}"
    text = t("invite_made", link=link, count=made.uses, span=t.days(days))
    if ctx.access.mode != "invite":
        text = f"{text}\n{t('invite_not_needed')}"
    await answer(message, text, _end_button(t, members.digest_of(token)))


def _numbers(args: str | None) -> tuple[int, int] | None:
    """Return how many may join and for how many days; None if that cannot be read or is out of bounds."""
    words = clean(args or "").split()
    if len(words) > 2 or not all(word.isdecimal() for word in words):
        return None
    uses, days = [*map(int, words), *_USUAL[len(words) :]]
    return (uses, days) if 1 <= uses <= _MOST_USES and 1 <= days <= _MOST_DAYS else None


def _token(bot: Bot, source: str) -> str:
    """Return the secret of an invitation, the same at every delivery of the message that asked for it."""
    digest = hmac.new(bot.token.encode(), f"invite {source}".encode(), hashlib.sha256).digest()
    return base64.b32encode(digest[:15]).decode().lower()  # a link that ends in a letter is read whole


def _end_button(t: Translator, digest: str) -> InlineKeyboardMarkup:
    data = f"{END_INVITE}{digest[:_DIGEST_START]}"
    return InlineKeyboardMarkup(
        inline_keyboard=[[InlineKeyboardButton(text=t("button_end_invite"), callback_data=data)]]
    )


async def end_invite(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[End this link]: no one else joins by it."""
    if operator_name(ctx, query) is None:
        await answer_tap(query, t("tap_operators"))
        return
    ended = await members.end_invite(ctx.ledger, (query.data or "").removeprefix(END_INVITE))
    await answer_tap(query, t("invite_ended" if ended else "tap_settled"))
    await edit_buttons(query, None)


async def ban(message: Message, command: CommandObject, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """`/ban USER [why]`: a user id, or the #id of one of their requests."""
    who = operator_name(ctx, message)
    if who is None:
        await answer(message, t("operators_only"))
    elif await is_for_them_alone(message, bot, t, "ban"):
        named, _, why = clean(command.args or "").partition(" ")
        user_id = await _named(ctx, named)
        if user_id is None:
            await answer(message, t("ban_usage"))
        else:
            await answer(message, await ban_user(ctx, t, user_id, who, why))


async def _named(ctx: ChatContext, wanted: str) -> int | None:
    """Return the one person that a user id, or the name of a request, means."""
    if wanted.startswith("#"):
        found = await members.people_named(ctx.ledger, wanted.removeprefix("#"))
        return found.pop() if len(found) == 1 else None
    return int(wanted) if wanted.isascii() and wanted.isdecimal() and len(wanted) < 16 else None


async def ban_user(ctx: ChatContext, t: Translator, user_id: int, who: str, why: str) -> str:
    """Ban a person and end what they have not paid for; return the answer to the admin."""
    if user_id in ctx.admins:
        return t("ban_admin")
    new = await members.ban(ctx.ledger, user_id, who, why[:_REASON_CHARACTERS])
    ctx.access.set(user_id, "banned")
    ended = await enforce_bans(ctx)
    log.warning("user banned", user=user_tag(user_id), who=who, new=new)
    return t("ban_done", user_id=user_id, count=ended) if new else t("ban_already", user_id=user_id)


async def unban(message: Message, command: CommandObject, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """`/unban USER`: they may use the bot again, if they might before."""
    who = operator_name(ctx, message)
    if who is None:
        await answer(message, t("operators_only"))
    elif await is_for_them_alone(message, bot, t, "unban"):
        user_id = await _named(ctx, clean(command.args or "").partition(" ")[0])
        if user_id is None:
            await answer(message, t("ban_usage"))
            return
        lifted = await members.unban(ctx.ledger, user_id, who)
        ctx.access.set(user_id, await members.membership(ctx.ledger, user_id))
        log.warning("ban lifted", user=user_tag(user_id), who=who, lifted=lifted)
        await answer(message, t("unban_done" if lifted else "unban_none", user_id=user_id))
