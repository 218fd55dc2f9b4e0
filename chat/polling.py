"""Long polling that confirms only handled updates; per-user ordering."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiogram import Bot, Dispatcher
from aiogram.exceptions import (
    AiogramError,
    ClientDecodeError,
    TelegramAPIError,
    TelegramConflictError,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramUnauthorizedError,
)
from aiogram.methods import GetUpdates
from aiogram.types import Update
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from chat.i18n import translator
from telemetry.logs import get_logger

log = get_logger(__name__)

RawUpdate = Update | dict[str, Any]
"""What getUpdates brings: read, or as it came where this version cannot read it."""

ALLOWED_UPDATES: Final = ["message", "callback_query"]
"""Edited messages are not asked for: an edit never creates."""

LEDGER_UNAVAILABLE: Final = (OperationalError, InterfaceError, PoolTimeoutError, OSError)
"""How a ledger that is away, locked or full shows itself. Other errors of SQL are defects of ours."""

_POLL_S: Final = 25

_BATCH_TIMEOUT_S: Final = 2.0
"""How long a batch may take before Telegram is asked for what came behind it."""

_MAX_TRIES: Final = 5
_MAX_WAIT_S: Final = 30.0


class PerUserQueue:
    """Handles what was fetched, and knows what may be confirmed.

    An update that waits, because the ledger is away, holds up its own person alone: the same updates are
    fetched again without confirming it, and those behind it are handled or told that they wait.
    """

    def __init__(self, handle: Callable[[RawUpdate], Awaitable[None]]) -> None:
        self._handle = handle
        self._last: dict[object, asyncio.Task[None]] = {}
        self._open: dict[asyncio.Task[None], int] = {}
        self._known: set[int] = set()
        self.offset: int | None = None
        """The first update that may not be confirmed yet; None before the first batch."""

    @property
    def busy(self) -> bool:
        return bool(self._open)

    async def process(self, updates: Sequence[RawUpdate]) -> None:
        """Begin what is new, wait for all that is under way, but not for ever, and move the offset."""
        for update in [one for one in updates if update_number(one) not in self._known]:
            self._known.add(update_number(update))
            lane = _sender_id(update)
            task = asyncio.create_task(self._serve(update, self._last.get(lane)))
            self._last[lane] = task
            self._open[task] = update_number(update)
        if self._open:
            await asyncio.wait(self._open, timeout=_BATCH_TIMEOUT_S)
        self._confirm()

    async def close(self) -> None:
        """Cancel what is under way: it was not confirmed and comes again."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, update: RawUpdate, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        await self._handle(update)

    def _confirm(self) -> None:
        for task in [task for task in self._open if task.done()]:
            del self._open[task]
            task.result()  # handling answers for every error itself; what it lets through is a defect
        self._last = {lane: task for lane, task in self._last.items() if not task.done()}
        if self._open:
            self.offset = min(self._open.values())
        elif self._known:
            self.offset = max(self._known) + 1
        self._known = {one for one in self._known if self.offset is not None and one >= self.offset}


def update_number(update: RawUpdate) -> int:
    """Return the update's id."""
    return update.update_id if isinstance(update, Update) else int(update["update_id"])


def _sender_id(update: RawUpdate) -> object:
    event = update.message or update.callback_query if isinstance(update, Update) else None
    return event.from_user.id if event is not None and event.from_user is not None else None


async def poll_updates(dispatcher: Dispatcher, bot: Bot) -> None:
    """Take updates until cancelled; each getUpdates confirms what was handled before it, and nothing else.

    Raises:
        TelegramUnauthorizedError: The token is wrong; waiting would not help.
    """
    lanes = PerUserQueue(lambda update: _handle(dispatcher, bot, update))
    try:
        await _poll_until_cancelled(bot, lanes)
    finally:
        await lanes.close()


async def _poll_until_cancelled(bot: Bot, lanes: PerUserQueue) -> None:
    wait_s = 1.0
    while True:
        try:
            updates = await _fetch(bot, lanes.offset, 0 if lanes.busy else _POLL_S)
        except TelegramUnauthorizedError:
            raise
        except TelegramAPIError as error:
            pause = error.retry_after if isinstance(error, TelegramRetryAfter) else wait_s
            _log_failure(error, pause)
            await asyncio.sleep(pause)
            wait_s = min(wait_s * 2, _MAX_WAIT_S)
            continue
        wait_s = 1.0
        await lanes.process(updates)


async def _fetch(bot: Bot, offset: int | None, lasts_s: int) -> Sequence[RawUpdate]:
    try:
        return await bot.get_updates(
            offset=offset, timeout=lasts_s, allowed_updates=ALLOWED_UPDATES, request_timeout=lasts_s + 10
        )
    except ClientDecodeError as error:
        # One update that this version cannot read must not hold up the others: each is read by itself.
        found = error.data.get("result") if isinstance(error.data, dict) else None
        if not isinstance(found, list):
            raise TelegramNetworkError(GetUpdates(), "the answer is no JSON") from error
        return [one for one in found if isinstance(one, dict) and "update_id" in one]


def _log_failure(error: TelegramAPIError, pause: float) -> None:
    if isinstance(error, TelegramConflictError):
        log.error(
            "another process polls this bot, or a webhook was set: run one poller, or use WEBHOOK_URL",
            wait_s=pause,
        )
    else:
        log.warning("Telegram does not answer", error=type(error).__name__, wait_s=pause)


async def _handle(dispatcher: Dispatcher, bot: Bot, update: RawUpdate) -> None:
    """Handle one update until it is done. While the ledger is away nothing can be persisted, so it waits."""
    wait_s, tries = 0.2, 0
    while True:
        try:
            if isinstance(update, Update):
                await dispatcher.feed_update(bot, update)
            else:
                await dispatcher.feed_raw_update(bot, update)
        except LEDGER_UNAVAILABLE as error:
            log.error("the ledger is away; the update waits", error=type(error).__name__, wait_s=wait_s)
        except Exception as error:  # noqa: BLE001 - a defect in one handler must not stop the others' updates
            tries += 1
            log.error(
                "a handler failed", update=update_number(update), tries=tries, error=type(error).__name__
            )
            if tries >= _MAX_TRIES:
                await _give_up(bot, update)
                return
        else:
            return
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, _MAX_WAIT_S)


async def _give_up(bot: Bot, update: RawUpdate) -> None:
    """Say so: an update that no handler can take would come for ever, and nobody is left in silence."""
    if not isinstance(update, Update) or update.message is None or update.message.from_user is None:
        return
    t = translator(update.message.from_user.language_code or "en")
    try:
        await bot.send_message(update.message.chat.id, t("not_taken"), request_timeout=10)
    except AiogramError as error:
        log.warning("an answer was not taken", error=type(error).__name__)
