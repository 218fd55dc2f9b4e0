"""Replies to a message or tap, sent at most once; throttling of notices.

A reply that Telegram does not accept is dropped, unless its limits are the only reason: then it is sent when
they allow it. It must not fail its update: the request is already in the ledger, and a redelivery would delay
every update after it.
"""

import asyncio
import time
from typing import Any, Final

from aiogram import Bot
from aiogram.exceptions import AiogramError, TelegramBadRequest, TelegramRetryAfter
from aiogram.methods import (
    AnswerCallbackQuery,
    AnswerInlineQuery,
    AnswerPreCheckoutQuery,
    EditEphemeralMessageReplyMarkup,
    EditEphemeralMessageText,
    TelegramMethod,
)
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

_LATEST_S: Final = 300
"""A reply that the limits hold back for longer is dropped: nobody waits for it any more."""

_MAX_LATE: Final = 10_000

_SHORT_LIVED: Final = (AnswerCallbackQuery, AnswerInlineQuery, AnswerPreCheckoutQuery)
"""Answers that Telegram takes for seconds alone."""


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
    message = query.message
    if not isinstance(message, Message):
        return
    if message.ephemeral_message_id is not None:
        hidden = EditEphemeralMessageReplyMarkup(**_ephemeral_id(query, message), reply_markup=buttons)
        await _send_once(query, hidden)
    elif message.message_id:
        await _send_once(query, message.edit_reply_markup(reply_markup=buttons))


async def edit_text(query: CallbackQuery, text: str, buttons: InlineKeyboardMarkup | None = None) -> None:
    """Replace the tapped message by this text and these buttons; a deleted message needs none."""
    message = query.message
    if not isinstance(message, Message):
        return
    if message.ephemeral_message_id is not None:
        hidden = EditEphemeralMessageText(**_ephemeral_id(query, message), text=text, reply_markup=buttons)
        await _send_once(query, hidden)
    elif message.message_id:
        await _send_once(query, message.edit_text(text, reply_markup=buttons))


def _ephemeral_id(query: CallbackQuery, message: Message) -> dict[str, Any]:
    """Return what names a message that one person sees: its `message_id` is 0."""
    return {
        "chat_id": message.chat.id, "receiver_user_id": query.from_user.id,
        "ephemeral_message_id": message.ephemeral_message_id,
    }  # fmt: skip


async def _send_once(event: Message | CallbackQuery, method: TelegramMethod[Any]) -> bool:
    return event.bot is not None and await send_once(event.bot, method)


async def send_once(bot: Bot, method: TelegramMethod[Any], timeout_s: int = REPLY_TIMEOUT_S) -> bool:
    """Call the Bot API; a failure is logged. True if Telegram answered, even with a refusal.

    A 429 proves that nothing was sent, so the call is made again: here if that is soon, else later.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            await bot(method, request_timeout=timeout_s)
        except TelegramRetryAfter as error:
            if time.monotonic() + error.retry_after > deadline:
                return _send_later(bot, method, error.retry_after)
            await asyncio.sleep(error.retry_after)
            continue
        except TelegramBadRequest as error:
            if not any(part in error.message for part in _HARMLESS_ERRORS):
                log.warning("reply not sent", why=error.message)
        except AiogramError as error:
            # ClientDecodeError (an answer that is not JSON) is one, and no TelegramAPIError.
            log.warning("reply not sent", error=type(error).__name__)
            return False
        return True


_late: Final[set[asyncio.Task[None]]] = set()
"""Replies that Telegram's limits hold back. They are in memory alone: a stop of the process drops them."""


def _send_later(bot: Bot, method: TelegramMethod[Any], wait_s: float) -> bool:
    """Send a reply when the limits allow it. A tap's answer is of no use by then."""
    if isinstance(method, _SHORT_LIVED) or wait_s > _LATEST_S or len(_late) >= _MAX_LATE:
        log.warning("reply not sent", why="held back by Telegram's limits", wait_s=round(wait_s))
        return False
    task = asyncio.create_task(_wait_and_send(bot, method, wait_s))
    _late.add(task)
    task.add_done_callback(_late.discard)
    return True


async def _wait_and_send(bot: Bot, method: TelegramMethod[Any], wait_s: float) -> None:
    deadline = time.monotonic() + _LATEST_S
    while time.monotonic() + wait_s < deadline:
        await asyncio.sleep(wait_s)
        try:
            await bot(method, request_timeout=REPLY_TIMEOUT_S)
        except TelegramRetryAfter as error:
            wait_s = error.retry_after
        except AiogramError as error:
            log.warning("late reply not sent", error=type(error).__name__)
            return
        else:
            return
    log.warning("reply not sent", why="held back by Telegram's limits for too long")
