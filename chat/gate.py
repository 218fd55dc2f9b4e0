"""The gate before every handler: who may come in, in which language, and what was put off for them."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiogram import BaseMiddleware
from aiogram.types import CallbackQuery, Message, TelegramObject, User

from chat.answers import answer, answer_tap
from chat.desk import Desk
from chat.polling import AWAY
from chat.texts import Texts, texts
from ledger import pending_work, requests, telling

PARKED_S: Final = 30 * 86_400
"""A user who blocked the bot is told at their next update, else after this."""

_LONGER_S: Final = 86_400
"""What is put off for longer than this is parked; for less, Telegram or the network asked to wait."""

_AWAY_S: Final = 600
"""An outage is told to one person once in this time, however often their updates come again."""

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
        try:
            if user is not None:
                await self._unpark(user.id)
            return await handler(event, {**data, "desk": self._desk, "say": say})
        except AWAY:
            await self._say_away(event, user, say)
            raise  # the update was not handled: it comes again

    async def _say_away(self, event: TelegramObject, user: User | None, say: Texts) -> None:
        """What a person asked for waits until the ledger is back; they hear so once, not at every try."""
        if isinstance(event, CallbackQuery):
            if self._desk.hush.first("away", event.id, seconds=_AWAY_S):
                await answer_tap(event, say("tap_away"), alert=True)
        elif isinstance(event, Message) and user is not None and _meant(event):
            what = ("away", event.chat.id, user.id)
            if self._desk.hush.first(*what, seconds=_AWAY_S) and not await answer(event, say("away")):
                self._desk.hush.forget(*what)

    async def _unpark(self, user_id: int) -> None:
        """A user who had blocked the bot is back: what was put off for them is told now."""
        ledger = self._desk.ledger
        for request_id in await pending_work.parked(ledger, user_id):
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
        elif (
            isinstance(event, Message)
            and _meant(event)
            and self._desk.hush.first("stranger", event.chat.id, user.id)
        ):
            await answer(event, words)


def _meant(message: Message) -> bool:
    """Say whether the bot was clearly meant: everything in private, a command of ours in a group."""
    return message.chat.type == "private" or (message.text or "").lower().startswith("/create")
