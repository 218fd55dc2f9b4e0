"""Answers to a person's message or tap: said once, in time, and never again by a redelivery.

An answer that Telegram does not take is dropped. It must not fail its update: what the update asked for is
in the ledger already, and a second delivery would hold up everything behind it.
"""

import time
from typing import Any, Final

from aiogram.exceptions import AiogramError, TelegramBadRequest
from aiogram.methods import TelegramMethod
from aiogram.types import CallbackQuery, InlineKeyboardMarkup, Message, ReplyParameters

from chat.updates import NOT_MODIFIED
from telemetry.logs import get_logger

log = get_logger(__name__)

REPLY_TIMEOUT_S: Final = 10
"""Seconds an answer may take: a handler has to end long before Telegram gives up on it."""

_HARMLESS_ERRORS: Final = ("query is too old", NOT_MODIFIED)

HINT_INTERVAL_S: Final = 10
"""Seconds in which one person hears a hint of one kind at most once: a long text arrives in many pieces."""

_MAX_KEYS: Final = 10_000


class ReplyThrottle:
    """Remembers what was said lately, so that it is not said again at once. Forgets with the process."""

    def __init__(self) -> None:
        self._until: dict[object, float] = {}

    def allow(self, *what: object, seconds: float = HINT_INTERVAL_S) -> bool:
        """Say whether `what` has not been noted in its last `seconds`, and note it."""
        now = time.monotonic()
        if self._until.get(what, 0) > now:
            return False
        if len(self._until) >= _MAX_KEYS:
            self._until = {key: until for key, until in self._until.items() if until > now}
        self._until[what] = now + seconds
        return True

    def reset(self, *what: object) -> None:
        """It was not said after all."""
        self._until.pop(what, None)


async def answer(message: Message, words: str, buttons: InlineKeyboardMarkup | None = None) -> bool:
    """Answer a message, in a group as a reply, so that it is clear who is meant; True if Telegram took it."""
    reply = None
    if message.chat.type != "private" and message.message_id:
        reply = ReplyParameters(message_id=message.message_id, allow_sending_without_reply=True)
    return await _send_once(message, message.answer(words, reply_parameters=reply, reply_markup=buttons))


async def answer_tap(query: CallbackQuery, words: str, *, alert: bool = False) -> None:
    """Answer a tap; one that is too old, or that an earlier delivery answered, needs no answer.

    With `alert` the words stay on the screen until they are closed.
    """
    await _send_once(query, query.answer(words, show_alert=alert or None))


async def edit_buttons(query: CallbackQuery, buttons: InlineKeyboardMarkup | None) -> None:
    """Put other buttons under the message that was tapped, or none; one that is gone needs none."""
    if isinstance(query.message, Message):
        await _send_once(query, query.message.edit_reply_markup(reply_markup=buttons))


async def _send_once(event: Message | CallbackQuery, method: TelegramMethod[Any]) -> bool:
    if event.bot is None:
        return False
    try:
        await event.bot(method, request_timeout=REPLY_TIMEOUT_S)
    except TelegramBadRequest as error:
        if not any(words in error.message for words in _HARMLESS_ERRORS):
            log.warning("an answer was not taken", why=error.message)
    except AiogramError as error:  # an answer that is no JSON is one, and no TelegramAPIError
        log.warning("an answer was not taken", error=type(error).__name__)
        return False
    return True
