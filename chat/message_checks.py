"""What is checked between a message and its handler: whose account it is, and how many came in a minute.

Inner middlewares: they see only messages that are meant for the bot, with the command that was recognised.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiogram import BaseMiddleware, Bot
from aiogram.dispatcher.flags import get_flag
from aiogram.filters import CommandObject
from aiogram.types import Message, ReactionTypeEmoji, TelegramObject

from chat.context import ChatContext
from chat.free_limit import MOST_FREE
from chat.i18n import Translator
from chat.keyboards import link_button
from chat.replies import answer, send_once
from chat.updates import request_id_of, user_of

NextHandler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]

ORDERS: Final = {"orders": True}
"""Flags of a handler whose message may order a video: it is never left out."""

_TIRED: Final = "😴"
_FOR_EVERYONE: Final = frozenset({"help", "start"})
"""Commands whose answer is the same for everyone."""


class AccountCheck(BaseMiddleware):
    """Asks anonymous admins and channels to write from an account of their own, with a link to it."""

    async def __call__(self, handler: NextHandler, event: TelegramObject, data: dict[str, Any]) -> Any:
        if isinstance(event, Message) and user_of(event) is None and _command(data) not in _FOR_EVERYONE:
            await answer_without_account(event, data["bot"], data["t"])
            return None
        return await handler(event, data)


class FreeLimitCheck(BaseMiddleware):
    """Answers more than `MOST_FREE` free messages within a minute by a reaction, the first by words."""

    def __init__(self, ctx: ChatContext) -> None:
        self._ctx = ctx

    async def __call__(self, handler: NextHandler, event: TelegramObject, data: dict[str, Any]) -> Any:
        if not isinstance(event, Message) or not _is_free(event, data):
            return await handler(event, data)
        if not await within_free_limit(self._ctx, event, data["t"]):
            return None
        return await handler(event, data)


async def answer_without_account(message: Message, bot: Bot, t: Translator) -> None:
    """Say that only personal accounts are served, with a button that opens the private chat."""
    me = await bot.me()
    link = link_button(t("button_open"), f"https://t.me/{me.username}?start=create")
    await answer(message, t("no_payer"), link)


async def within_free_limit(ctx: ChatContext, message: Message, t: Translator) -> bool:
    """Count a message; False if it is one too many, which is then answered here."""
    user = user_of(message)
    if ctx.free_limit is None or user is None or user.id in ctx.admins:
        return True
    counted = await ctx.free_limit.count(user.id, request_id_of(message, ctx.bot.id))
    if counted.is_answered:
        return True
    if counted.is_first_over or not message.message_id:
        await answer(message, t("slow_down", most=MOST_FREE, seconds=counted.wait_s))
    else:
        await send_once(ctx.bot, message.react([ReactionTypeEmoji(emoji=_TIRED)]))
    return False


def _is_free(message: Message, data: dict[str, Any]) -> bool:
    """Whether a message costs nothing and stops nothing: all but an idea, /cancel and payments."""
    if message.successful_payment is not None or message.refunded_payment is not None:
        return False
    if get_flag(data, "orders"):
        return False
    name = _command(data)
    if name != "create":
        return name != "cancel"
    return not data["command"].args and message.reply_to_message is None


def _command(data: dict[str, Any]) -> str | None:
    command = data.get("command")
    return command.command.lower() if isinstance(command, CommandObject) else None
