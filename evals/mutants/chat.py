"""Bugs in the chat: a wrong id for a request, or a request for an update that is no command."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from unittest.mock import patch

from aiogram import Bot, Dispatcher
from aiogram.filters import CommandObject
from aiogram.types import Message, Update
from pydantic import ValidationError

from chat import polling
from chat.context import ChatContext
from chat.handlers import create
from chat.i18n import Translator
from chat.updates import request_id_of
from ledger.models import Request

_update: ContextVar[int] = ContextVar("update", default=0)


@contextmanager
def id_from_update() -> Iterator[None]:
    """A request's id is made from the update id."""

    def remember(update: Update) -> Update:
        _update.set(update.update_id)
        return update

    with _read_as(remember), patch("chat.handlers.create.request_id_of", lambda *_: f"tg:{_update.get()}"):
        yield


@contextmanager
def an_edit_creates() -> Iterator[None]:
    """An edited command is handled as if it had just been sent."""

    def sent(update: Update) -> Update:
        if update.edited_message is None:
            return update
        return update.model_copy(update={"message": update.edited_message, "edited_message": None})

    def renamed(message: Message, bot_id: int) -> str:
        edited = f":{message.edit_date}" if message.edit_date else ""
        return request_id_of(message, bot_id) + edited

    with (
        _read_as(sent),
        patch.object(polling, "ALLOWED_UPDATES", [*polling.ALLOWED_UPDATES, "edited_message"]),
        patch("chat.handlers.create.request_id_of", renamed),
    ):
        yield


@contextmanager
def a_forward_creates() -> Iterator[None]:
    """A forwarded command is handled as if the person who forwarded it had written it."""

    def written(update: Update) -> Update:
        if update.message is None:
            return update
        return update.model_copy(
            update={"message": update.message.model_copy(update={"forward_origin": None})}
        )

    with _read_as(written):
        yield


@contextmanager
def any_text_creates() -> Iterator[None]:
    """A text without a command counts as an idea."""

    async def chatting(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
        await create.create(message, CommandObject(command="create", args=message.text), bot, ctx, t)

    with patch("chat.handlers.create.plain_text", chatting):
        yield


@contextmanager
def keeps_unspoken() -> Iterator[None]:
    """A chat that refuses the first message leaves the order as it is."""

    async def kept(ctx: ChatContext, request: Request, why: str) -> bool:
        del ctx, request, why
        return False

    with patch("chat.notifier.cancel_unspoken", kept):
        yield


@contextmanager
def newer_update_dropped() -> Iterator[None]:
    """An update that this aiogram cannot parse is dropped."""

    def parsed(raw: Any, bot: Bot) -> Update | None:
        try:
            return Update.model_validate(raw, context={"bot": bot})
        except ValidationError:
            return None

    with patch("chat.polling.parse_update", parsed):
        yield


@contextmanager
def topic_forgotten() -> Iterator[None]:
    """The topic of a forum is not stored: everything goes to the general one."""
    with patch("chat.handlers.create.topic_of", lambda _: None):
        yield


@contextmanager
def undelivered_alerts_nobody() -> Iterator[None]:
    """No operator hears of a paid video that Telegram does not take."""

    async def unreported(ctx: ChatContext, claimed: Any, error: Exception) -> dict[str, Any]:
        del ctx, claimed, error
        return {}

    with patch("chat.notifier.report_undeliverable", unreported):
        yield


@contextmanager
def _read_as(read: Callable[[Update], Update]) -> Iterator[None]:
    """Handle every update as `read` returns it, inside the block."""
    original = Dispatcher.feed_update

    async def fed(self: Dispatcher, bot: Bot, update: Update, **more: Any) -> Any:
        return await original(self, bot, read(update), **more)

    with patch.object(Dispatcher, "feed_update", fed):
        yield
