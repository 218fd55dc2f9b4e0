"""Chats that fail: they take another id for the user's act, or an edit for a new one."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from unittest.mock import patch

from aiogram import Bot, Dispatcher
from aiogram.types import Message, Update

from chat import polling
from chat.identity import request_id_of

_update: ContextVar[int] = ContextVar("update", default=0)


@contextmanager
def id_from_update() -> Iterator[None]:
    """A request is named by the number of the update that brought it."""
    feed = Dispatcher.feed_update

    async def fed(self: Dispatcher, bot: Bot, update: Update, **more: Any) -> Any:
        _update.set(update.update_id)
        return await feed(self, bot, update, **more)

    with (
        patch.object(Dispatcher, "feed_update", fed),
        patch("chat.commands.request_id_of", lambda *_: f"tg:{_update.get()}"),
    ):
        yield


@contextmanager
def an_edit_creates() -> Iterator[None]:
    """An edited command is handled as if it had just been sent."""
    feed = Dispatcher.feed_update

    async def fed(self: Dispatcher, bot: Bot, update: Update, **more: Any) -> Any:
        if update.edited_message is not None:
            changed = {"message": update.edited_message, "edited_message": None}
            update = update.model_copy(update=changed)
        return await feed(self, bot, update, **more)

    def renamed(message: Message, bot_id: int) -> str:
        edited = f":{message.edit_date}" if message.edit_date else ""
        return request_id_of(message, bot_id) + edited

    with (
        patch.object(Dispatcher, "feed_update", fed),
        patch.object(polling, "UPDATES", [*polling.UPDATES, "edited_message"]),
        patch("chat.commands.request_id_of", renamed),
    ):
        yield
