"""Long polling that confirms only handled updates and keeps each user's updates in order."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiogram import Bot, Dispatcher
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramAPIError,
    TelegramConflictError,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramUnauthorizedError,
)
from aiogram.methods import GetUpdates
from aiogram.types import Update

from chat.hearing import Hearing
from chat.poison import MAX_TRIES, FailureCounts, give_up, waits
from chat.updates import parse_update
from telemetry.logs import get_logger

log = get_logger(__name__)

RawUpdate = Update | dict[str, Any]
"""An update from getUpdates: parsed, or the raw dictionary where nothing in it can be handled."""

ALLOWED_UPDATES: Final = [
    "message", "callback_query", "inline_query", "my_chat_member", "pre_checkout_query",
]  # fmt: skip
"""Edited messages are not requested: an edit never creates a request."""

_POLL_S: Final = 25

_BATCH_TIMEOUT_S: Final = 2.0
"""How long a batch may take before the next updates are fetched."""

_MAX_WAIT_S: Final = 30.0


class PerUserQueue:
    """Handles fetched updates in order per user, and knows which offset may be confirmed.

    An update that waits for the ledger delays only its own user: it is fetched again without being confirmed,
    while the updates of other users are handled.
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
        """Start new updates, wait up to `_BATCH_TIMEOUT_S` for all that are running, and move the offset."""
        for update in [one for one in updates if update_id_of(one) not in self._known]:
            self._known.add(update_id_of(update))
            sender = _sender_id(update)
            task = asyncio.create_task(self._run(update, self._last.get(sender)))
            self._last[sender] = task
            self._open[task] = update_id_of(update)
        if self._open:
            await asyncio.wait(self._open, timeout=_BATCH_TIMEOUT_S)
        self._confirm()

    async def close(self) -> None:
        """Cancel running handlers: their updates were not confirmed and are delivered again."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _run(self, update: RawUpdate, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait((previous,))
        await self._handle(update)

    def _confirm(self) -> None:
        for task in [task for task in self._open if task.done()]:
            del self._open[task]
            task.result()  # `_handle` deals with every error itself; what it raises is a defect
        self._last = {sender: task for sender, task in self._last.items() if not task.done()}
        if self._open:
            self.offset = min(self._open.values())
        elif self._known:
            self.offset = max(self._known) + 1
        self._known = {one for one in self._known if self.offset is not None and one >= self.offset}


def update_id_of(update: RawUpdate) -> int:
    """Return the update's id."""
    return update.update_id if isinstance(update, Update) else int(update["update_id"])


def _sender_id(update: RawUpdate) -> object:
    if not isinstance(update, Update):
        return None
    if update.pre_checkout_query is not None:
        return update.pre_checkout_query.id  # it has seconds, and waits for nothing
    event = update.message or update.callback_query or update.inline_query
    return event.from_user.id if event is not None and event.from_user is not None else None


async def poll_updates(dispatcher: Dispatcher, bot: Bot, hearing: Hearing | None = None) -> None:
    """Handle updates until cancelled; each getUpdates confirms what was handled before it, and nothing else.

    What is heard is noted in `hearing`.

    Raises:
        TelegramUnauthorizedError: The token is wrong; waiting does not help.
    """
    queue = PerUserQueue(lambda update: _handle(dispatcher, bot, update))
    try:
        await _poll_until_cancelled(bot, queue, hearing or Hearing())
    finally:
        await queue.close()


async def _poll_until_cancelled(bot: Bot, queue: PerUserQueue, hearing: Hearing) -> None:
    backoff_s = 1.0
    hearing.begin()
    while True:
        try:
            updates = await _fetch(bot, queue.offset, 0 if queue.busy else _POLL_S)
        except TelegramUnauthorizedError as error:
            hearing.failed(error)
            raise
        except TelegramAPIError as error:
            hearing.failed(error)
            pause_s = error.retry_after if isinstance(error, TelegramRetryAfter) else backoff_s
            _log_failure(error, pause_s)
            await asyncio.sleep(pause_s)
            backoff_s = min(backoff_s * 2, _MAX_WAIT_S)
            continue
        backoff_s = 1.0
        hearing.good()
        hearing.update(len(updates))
        await queue.process(updates)


async def _fetch(bot: Bot, offset: int | None, timeout_s: int) -> Sequence[RawUpdate]:
    try:
        return await bot.get_updates(
            offset=offset, timeout=timeout_s, allowed_updates=ALLOWED_UPDATES, request_timeout=timeout_s + 10
        )
    except ClientDecodeError as error:
        # One update that this aiogram version cannot parse must not block the others: each is parsed alone.
        found = error.data.get("result") if isinstance(error.data, dict) else None
        if not isinstance(found, list):
            raise TelegramNetworkError(GetUpdates(), "the answer is not JSON") from error
        return [
            parse_update(one, bot) or one for one in found if isinstance(one, dict) and "update_id" in one
        ]


def _log_failure(error: TelegramAPIError, pause_s: float) -> None:
    if isinstance(error, TelegramConflictError):
        log.error(
            "polling conflict: another process polls this bot or a webhook is set",
            hint="run one poller, or use WEBHOOK_URL",
            wait_s=pause_s,
        )
    else:
        log.warning("telegram unavailable", error=type(error).__name__, wait_s=pause_s)


async def _handle(dispatcher: Dispatcher, bot: Bot, update: RawUpdate) -> None:
    """Handle one update, retrying until it is handled. While a store or Telegram is unavailable it waits.

    Any other error is a defect: when the same one came `MAX_TRIES` times, the update is given up.
    """
    if not isinstance(update, Update):
        log.error("unreadable update dropped", update=update_id_of(update))
        return
    backoff_s, failures = 0.2, FailureCounts()
    while True:
        try:
            await dispatcher.feed_update(bot, update)
        except Exception as error:  # noqa: BLE001 - a defect in one handler must not stop the others' updates
            kind = type(error).__name__
            if waits(error):
                log.error("store unavailable, update waits", error=kind, wait_s=backoff_s)
            else:
                tries = failures.add(update.update_id, error)
                log.error("handler failed", update=update.update_id, tries=tries, error=kind)
                if tries >= MAX_TRIES:
                    await give_up(bot, update)
                    return
        else:
            return
        await asyncio.sleep(backoff_s)
        backoff_s = min(backoff_s * 2, _MAX_WAIT_S)
