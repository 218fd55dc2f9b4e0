"""What happens to a chat: a group becomes a supergroup, the bot is removed, silenced, blocked, or back.

Rule: nothing is paid that cannot be spoken of. Where the bot may not write any more, what is not paid ends at
once; what is paid is shown to its person in private, and if that is not possible either, in the group when
the bot is back.
"""

from collections.abc import Collection
from typing import Any, Final

from aiogram import BaseMiddleware, Router
from aiogram.enums import ChatType
from aiogram.types import ChatMemberRestricted, ChatMemberUpdated, Message, TelegramObject

from chat.cancelling import cancel_unpaid
from chat.context import ChatContext
from chat.message_checks import NextHandler
from ledger import chat_moves, notifications, pending_work
from ledger.failures import Failure
from telemetry.logs import get_logger

log = get_logger(__name__)

_POSTPONED_AFTER_S: Final = 3600
"""A longer postponement means that the person could not be reached; a shorter one is a retry delay."""


class MigrationMiddleware(BaseMiddleware):
    """Takes the message that names a group's new id; it is from no one who needs an answer."""

    def __init__(self, ctx: ChatContext) -> None:
        self._ctx = ctx

    async def __call__(self, handler: NextHandler, event: TelegramObject, data: dict[str, Any]) -> Any:
        if not isinstance(event, Message):
            return await handler(event, data)
        if event.migrate_to_chat_id is not None:
            await follow(self._ctx, event.chat.id, event.migrate_to_chat_id)
        elif event.migrate_from_chat_id is not None:
            await follow(self._ctx, event.migrate_from_chat_id, event.chat.id)
        else:
            return await handler(event, data)
        return None


async def follow(ctx: ChatContext, old: int, new: int) -> None:
    """Speak in the new chat of what the old one still had to read."""
    moved = await chat_moves.move(ctx.ledger, ctx.bot.id, old, new)
    log.info("group moved to a new chat id", requests=len(moved))
    await _wake(ctx, moved)


def build_router(ctx: ChatContext) -> Router:
    """Return a new router for changes of the bot's own rights, which no access control stands before."""
    router = Router(name="groups")

    async def changed(event: ChatMemberUpdated) -> None:
        await bot_changed(event, ctx)

    router.my_chat_member.register(changed)
    return router


async def bot_changed(event: ChatMemberUpdated, ctx: ChatContext) -> None:
    """The bot may write in a chat from now on, or may not any more."""
    before, after = _may_write(event.old_chat_member), _may_write(event.new_chat_member)
    private = event.chat.type == ChatType.PRIVATE
    if before and not after:
        await _lost(ctx, event.chat.id, private=private)
    elif after and not before and private:
        postponed = await pending_work.postponed(ctx.ledger, event.from_user.id, _POSTPONED_AFTER_S)
        await notifications.resume(ctx.ledger, postponed, _POSTPONED_AFTER_S)
        await _wake(ctx, postponed)
    elif after and not before:
        back = await chat_moves.bring_back(ctx.ledger, ctx.bot.id, event.chat.id)
        log.info("bot is back in a group", requests=len(back))
        await _wake(ctx, back)


def _may_write(member: Any) -> bool:
    if isinstance(member, ChatMemberRestricted):
        return member.is_member and member.can_send_messages
    return member.status not in ("left", "kicked")


async def _lost(ctx: ChatContext, chat_id: int, *, private: bool) -> None:
    """End what is not paid; what a group can no longer show is shown in private."""
    found = await chat_moves.unfinished(ctx.ledger, ctx.bot.id, chat_id)
    for request_id in found:
        why = "the bot may not write in its chat any more"
        await cancel_unpaid(ctx, request_id, "tell", Failure.CHAT_REFUSED, why)
    log.warning("bot may not write in a chat any more", private=private, requests=len(found))
    if not private:
        await chat_moves.show_in_private(ctx.ledger, found)
        await _wake(ctx, found)


async def _wake(ctx: ChatContext, request_ids: Collection[str]) -> None:
    for request_id in request_ids:
        await ctx.queue.wake("notify", request_id)
        await ctx.queue.wake("deliver", request_id)
