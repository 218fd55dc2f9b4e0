"""Whether this process hears Telegram: what its polls or its webhook last said, with metrics.

A bot that hears nothing answers no one, and nothing of it fails: another process polls with its token, the
token was revoked, its webhook was changed or answers an error. So each answer of getUpdates is noted here,
and where updates come by webhook, Telegram is asked about it every minute.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

from aiogram import Bot
from aiogram.exceptions import (
    AiogramError,
    TelegramAPIError,
    TelegramConflictError,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.types import WebhookInfo

from telemetry import metrics
from telemetry.logs import get_logger

log = get_logger(__name__)

DEAF_AFTER_S: Final = 90.0
"""A process hears while its last good answer is younger: a poll takes up to 35 s, and may fail once."""

WEBHOOK_EVERY_S: Final = 60.0
_WEBHOOK_ERROR_S: Final = 300.0
"""A webhook's last error counts for so long, unless an update has come since."""

_CODES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (TelegramConflictError, "409"),
    (TelegramUnauthorizedError, "401"),
    (TelegramRetryAfter, "429"),
    (TelegramServerError, "5xx"),
    (TelegramNetworkError, "network"),
)

WHY: Final = {
    "409": "another process polls with this bot's token, or a webhook is set",
    "401": "Telegram does not know the token any more",
    "429": "Telegram asks to wait: it is asked too often",
    "5xx": "Telegram answers with errors",
    "network": "Telegram is not reached",
    "webhook": "Telegram cannot deliver to the webhook",
    "moved": "Telegram delivers to another address than WEBHOOK_URL",
}
"""What is known of a process that does not hear, by the word in `Hearing.fault`."""


def error_code(error: Exception) -> str:
    """Return the word of `onetake_update_errors` for an error of getUpdates or getWebhookInfo."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), "other")


@dataclass
class Hearing:
    """What one process has heard.

    Attributes:
        receives: This process receives updates; a worker does not.
        fault: The word for the last failure; empty after a good answer.
    """

    receives: bool = False
    fault: str = ""
    _good_at: float = field(default_factory=time.monotonic)
    _update_at: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """Say that this process receives updates from now on."""
        self.receives, self._good_at = True, time.monotonic()

    def good(self) -> None:
        """Note an answer of getUpdates, or a webhook without a fault."""
        self.fault, self._good_at = "", time.monotonic()

    def update(self, count: int = 1) -> None:
        """Note that updates came."""
        if count:
            self._update_at = time.monotonic()
            self.good()

    def failed(self, error: Exception) -> None:
        """Note a failed question for updates, and count it."""
        self.fault = error_code(error)
        metrics.UPDATE_ERRORS.add(code=self.fault)

    @property
    def silent_s(self) -> float:
        """For how long nothing good was heard; 0 in a process that receives nothing."""
        return time.monotonic() - self._good_at if self.receives else 0.0

    @property
    def hears(self) -> bool:
        """Whether updates reach this process, as far as is known."""
        return self.receives and self.silent_s < DEAF_AFTER_S

    def update_gauges(self) -> None:
        """Set this process's gauges; all are 0 where no updates are received."""
        metrics.HEARD_AGE.set(self.silent_s)
        metrics.UPDATE_AGE.set(time.monotonic() - self._update_at if self.receives else 0.0)

    def read_webhook(self, info: WebhookInfo, url: str, now: float) -> None:
        """Note what Telegram says of the webhook; `now` is in seconds since the epoch."""
        error_at = info.last_error_date.timestamp() if info.last_error_date is not None else 0.0
        metrics.WEBHOOK_PENDING.set(info.pending_update_count)
        metrics.WEBHOOK_ERROR.set(error_at)
        heard_at = now - (time.monotonic() - self._update_at)
        if info.url != url:
            self.fault = "moved"
        elif info.pending_update_count and now - error_at < _WEBHOOK_ERROR_S and heard_at < error_at:
            self.fault = "webhook"
        else:
            self.good()


async def watch_webhook(bot: Bot, hearing: Hearing, url: str, every_s: float = WEBHOOK_EVERY_S) -> None:
    """Ask Telegram every `every_s` seconds about the webhook, until cancelled."""
    while True:
        try:
            hearing.read_webhook(await bot.get_webhook_info(), url, time.time())
        except TelegramAPIError as error:
            hearing.failed(error)
            log.warning("webhook not checked", error=type(error).__name__)
        except AiogramError as error:
            log.warning("webhook not checked", error=type(error).__name__)
        if hearing.fault:
            log.error("the bot hears nothing", why=WHY.get(hearing.fault, hearing.fault))
        await asyncio.sleep(every_s)
