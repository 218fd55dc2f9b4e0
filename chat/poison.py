"""Poison updates: those that fail again and again by a defect of ours are given up, in words.

Telegram delivers an update until it is accepted, by webhook and by polling, and holds back what comes after
it in the same chat. So one that only a repair could handle is accepted after `MAX_TRIES`, and its person is
told.
"""

from collections import Counter
from typing import Final

from aiogram import Bot
from aiogram.exceptions import AiogramError, TelegramNetworkError, TelegramRetryAfter, TelegramServerError
from aiogram.types import Message, ReplyParameters, Update

from chat.i18n import translator
from chat.replies import REPLY_TIMEOUT_S
from chat.updates import topic_of
from telemetry.logs import get_logger
from worker.outages import is_outage

log = get_logger(__name__)

MAX_TRIES: Final = 5
_MAX_UPDATES: Final = 10_000
_TELEGRAM_UNAVAILABLE: Final = (TelegramNetworkError, TelegramServerError, TelegramRetryAfter)

_Defect = tuple[object, ...]


def waits(error: BaseException) -> bool:
    """Whether an update waits after this error, because a store or Telegram is unavailable."""
    return is_outage(error) or isinstance(error, _TELEGRAM_UNAVAILABLE)


class FailureCounts:
    """Counts the failures of each update in this process; beyond ten thousand the oldest is forgotten."""

    def __init__(self) -> None:
        self._failures: dict[int, Counter[_Defect]] = {}

    def add(self, update_id: int, error: BaseException) -> int:
        """Count one more failure; return how often the same defect came."""
        found = self._failures.pop(update_id, Counter())
        if len(self._failures) >= _MAX_UPDATES:
            del self._failures[next(iter(self._failures))]
        self._failures[update_id] = found
        defect = _defect_of(error)
        found[defect] += 1
        return found[defect]

    def forget(self, update_id: int) -> None:
        """Forget an update: it was handled, or given up."""
        self._failures.pop(update_id, None)


def _defect_of(error: BaseException) -> _Defect:
    """Return what makes two errors the same defect: their class, and the line that raised them."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return type(error), trace and trace.tb_frame.f_code, trace and trace.tb_lineno


async def give_up(bot: Bot, update: Update) -> None:
    """Reply that a message or tap was not handled; a failure of the reply is logged."""
    log.error("update given up", update=update.update_id)
    query = update.callback_query
    sender = query or update.message
    if sender is None or sender.from_user is None:
        return
    text = translator(sender.from_user.language_code or "en")("not_taken")
    try:
        if query is not None:
            await bot.answer_callback_query(query.id, text, show_alert=True, request_timeout=REPLY_TIMEOUT_S)
        elif update.message is not None:
            await _reply(bot, update.message, text)
    except AiogramError as error:
        log.warning("reply not sent", error=type(error).__name__)


async def _reply(bot: Bot, message: Message, text: str) -> None:
    reply = None
    if message.chat.type != "private" and message.message_id:
        reply = ReplyParameters(message_id=message.message_id, allow_sending_without_reply=True)
    await bot.send_message(
        message.chat.id,
        text,
        message_thread_id=topic_of(message),
        reply_parameters=reply,
        request_timeout=REPLY_TIMEOUT_S,
    )
