"""Replies to a message or tap, sent at most once; throttling of notices.

A reply that Telegram does not accept is dropped. It must not fail its update: the request is already in the
ledger, and a redelivery would delay every update after it.
"""

import time
from typing import Any, Final

from aiogram import Bot
from aiogram.exceptions import AiogramError, TelegramBadRequest
from aiogram.methods import TelegramMethod
from aiogram.types import (
    CallbackQuery,
    EphemeralMessageParameters,
    ForceReply,
    InlineKeyboardMarkup,
    Message,
    ReplyParameters,
)

from chat.updates import NOT_MODIFIED
from telemetry.logs import get_logger

log = get_logger(__name__)

TAP_CHARACTERS: Final = 190
"""What a tap's answer may hold: Telegram refuses one of more than 200."""

REPLY_TIMEOUT_S: Final = 10
"""Seconds that a reply may take: a handler must end long before Telegram gives up on its webhook call."""

_HARMLESS_ERRORS: Final = ("query is too old", NOT_MODIFIED)

_INTERVAL_S: Final = 10
"""Seconds between two refusals of one person in a group."""

_MAX_KEYS: Final = 10_000


class ReplyThrottle:
    """Remembers replies of the last seconds so that they are not repeated. In memory, per process."""

    def __init__(self) -> None:
        self._until: dict[object, float] = {}

    def allow(self, *key: object, seconds: float = _INTERVAL_S) -> bool:
        """Return whether `key` was not allowed in the last `seconds`, and record it."""
        now = time.monotonic()
        if self._until.get(key, 0) > now:
            return False
        if len(self._until) >= _MAX_KEYS:
            self._until = {other: until for other, until in self._until.items() if until > now}
        self._until[key] = now + seconds
        return True

    def reset(self, *key: object) -> None:
        """Forget `key`: the reply was not sent."""
        self._until.pop(key, None)


async def answer(
    message: Message,
    text: str,
    buttons: InlineKeyboardMarkup | ForceReply | None = None,
    *,
    quote: bool = False,
) -> bool:
    """Answer a message; in a group, or with `quote`, as a reply to it.

    True if Telegram answered, even with a refusal.
    """
    reply = None
    if (quote or message.chat.type != "private") and message.message_id:
        reply = ReplyParameters(message_id=message.message_id, allow_sending_without_reply=True)
    sends = message.answer(text, reply_parameters=reply, reply_markup=buttons)
    if message.ephemeral_message_id is not None and message.from_user is not None:
        # Only its sender sees an ephemeral command, so nobody else sees the answer.
        receiver = EphemeralMessageParameters(receiver_user_id=message.from_user.id)
        sends = sends.model_copy(update={"ephemeral_message_parameters": receiver})
    return await _send_once(message, sends)


async def answer_below(query: CallbackQuery, text: str) -> None:
    """Answer a tap by a message of its own."""
    if isinstance(query.message, Message):
        await _send_once(query, query.message.answer(text))
    await answer_tap(query)


async def answer_tap(query: CallbackQuery, text: str | None = None, *, alert: bool = False) -> None:
    """Answer a tap. One that is too old, or was answered by an earlier delivery, needs no answer.

    With `alert` the text stays on the screen until the user closes it.
    """
    await _send_once(query, query.answer(text, show_alert=alert or None))


async def edit_buttons(query: CallbackQuery, buttons: InlineKeyboardMarkup | None) -> None:
    """Replace the buttons under the tapped message, or remove them; a deleted message needs none."""
    if isinstance(query.message, Message):
        await _send_once(query, query.message.edit_reply_markup(reply_markup=buttons))


async def edit_text(query: CallbackQuery, text: str, buttons: InlineKeyboardMarkup | None = None) -> None:
    """Replace the tapped message by this text and these buttons; a deleted message needs none."""
    if isinstance(query.message, Message):
        await _send_once(query, query.message.edit_text(text, reply_markup=buttons))


async def _send_once(event: Message | CallbackQuery, method: TelegramMethod[Any]) -> bool:
    return event.bot is not None and await send_once(event.bot, method)


async def send_once(bot: Bot, method: TelegramMethod[Any], timeout_s: int = REPLY_TIMEOUT_S) -> bool:
    """Call the Bot API; a failure is logged. True if Telegram answered, even with a refusal."""
    try:
        await bot(method, request_timeout=timeout_s)
    except TelegramBadRequest as error:
        if not any(part in error.message for part in _HARMLESS_ERRORS):
            log.warning("reply not sent", why=error.message)
    except (
        AiogramError
    ) as error:  # ClientDecodeError (an answer that is not JSON) is one, and no TelegramAPIError
        log.warning("reply not sent", error=type(error).__name__)
        return False
    return True
