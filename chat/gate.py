"""The gate before every handler: who may come in, in which language, and what was put off for them."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiogram import BaseMiddleware
from aiogram.types import CallbackQuery, Message, TelegramObject, User

from chat.answers import answer, answer_tap
from chat.desk import Desk
from chat.texts import texts
from ledger import requests, telling, waiting

PARKED_S: Final = 30 * 86_400
"""A user who blocked the bot is told at their next update, else after this."""

_LONGER_S: Final = 86_400
"""What is put off for longer than this is parked; for less, Telegram or the network asked to wait."""

Handler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]


class Gate(BaseMiddleware):
    """Turns strangers away in words, hands the user's language on, and takes up parked deliveries."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, handler: Handler, event: TelegramObject, data: dict[str, Any]) -> Any:
        user: User | None = data.get("event_from_user")
        say = texts((user.language_code if user else None) or "en")
        if user is not None and not self._desk.may_use(user.id):
            await self._turn_away(event, user, say("not_allowed", user_id=user.id))
            return None
        if user is not None:
            await self._unpark(user.id)
        return await handler(event, {**data, "desk": self._desk, "say": say})

    async def _unpark(self, user_id: int) -> None:
        """A user who had blocked the bot is back: what was put off for them is told now."""
        ledger = self._desk.ledger
        for request_id in await waiting.parked(ledger, user_id):
            request = await requests.find(ledger, request_id)
            async with ledger.read() as conn:
                late = await ledger.now(conn) + _LONGER_S * 1000
            if request is not None and request.told_after > late:
                await telling.put_off(ledger, request_id, 0)
                await self._desk.queue.wake("tell", request_id)

    async def _turn_away(self, event: TelegramObject, user: User, words: str) -> None:
        """In words, but not for every message; and in a group only if the bot was clearly meant."""
        if isinstance(event, CallbackQuery):
            await answer_tap(event, words)
        elif isinstance(event, Message):
            meant = event.chat.type == "private" or (event.text or "").lower().startswith("/create")
            if meant and self._desk.hush.first("stranger", event.chat.id, user.id):
                await answer(event, words)
