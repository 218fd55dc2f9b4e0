"""Long polling that confirms an update only when it was handled: aiogram's own loses what raised."""

import asyncio
from collections.abc import Sequence
from typing import Final

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

from chat.lanes import Lanes, Raw, number
from chat.texts import texts
from telemetry.logs import get_logger

log = get_logger(__name__)

UPDATES: Final = ["message", "callback_query"]
"""Edited messages are not asked for: an edit never creates."""

AWAY: Final = (OperationalError, InterfaceError, PoolTimeoutError, OSError)
"""How a ledger that is away, locked or full shows itself. Other errors of SQL are defects of ours."""

_POLL_S: Final = 25
_TRIES: Final = 5
_LONGEST_S: Final = 30.0


async def poll(dispatcher: Dispatcher, bot: Bot) -> None:
    """Take updates until cancelled; each getUpdates confirms what was handled before it, and nothing else.

    Raises:
        TelegramUnauthorizedError: The token is wrong; waiting would not help.
    """
    lanes = Lanes(lambda update: _handle(dispatcher, bot, update))
    try:
        await _poll(bot, lanes)
    finally:
        await lanes.close()


async def _poll(bot: Bot, lanes: Lanes) -> None:
    wait_s = 1.0
    while True:
        try:
            updates = await _fetch(bot, lanes.offset, 0 if lanes.busy else _POLL_S)
        except TelegramUnauthorizedError:
            raise
        except TelegramAPIError as error:
            pause = error.retry_after if isinstance(error, TelegramRetryAfter) else wait_s
            _complain(error, pause)
            await asyncio.sleep(pause)
            wait_s = min(wait_s * 2, _LONGEST_S)
            continue
        wait_s = 1.0
        await lanes.take(updates)


async def _fetch(bot: Bot, offset: int | None, lasts_s: int) -> Sequence[Raw]:
    try:
        return await bot.get_updates(
            offset=offset, timeout=lasts_s, allowed_updates=UPDATES, request_timeout=lasts_s + 10
        )
    except ClientDecodeError as error:
        # One update that this version cannot read must not hold up the others: each is read by itself.
        found = error.data.get("result") if isinstance(error.data, dict) else None
        if not isinstance(found, list):
            raise TelegramNetworkError(GetUpdates(), "the answer is no JSON") from error
        return [one for one in found if isinstance(one, dict) and "update_id" in one]


def _complain(error: TelegramAPIError, pause: float) -> None:
    if isinstance(error, TelegramConflictError):
        log.error(
            "another process polls this bot, or a webhook was set: run one poller, or use WEBHOOK_URL",
            wait_s=pause,
        )
    else:
        log.warning("Telegram does not answer", error=type(error).__name__, wait_s=pause)


async def _handle(dispatcher: Dispatcher, bot: Bot, update: Raw) -> None:
    """Handle one update until it is done. While the ledger is away nothing can be persisted, so it waits."""
    wait_s, tries = 0.2, 0
    while True:
        try:
            if isinstance(update, Update):
                await dispatcher.feed_update(bot, update)
            else:
                await dispatcher.feed_raw_update(bot, update)
        except AWAY as error:
            log.error("the ledger is away; the update waits", error=type(error).__name__, wait_s=wait_s)
        except Exception as error:  # noqa: BLE001 - a defect in one handler must not stop the others' updates
            tries += 1
            log.error("a handler failed", update=number(update), tries=tries, error=type(error).__name__)
            if tries >= _TRIES:
                await _give_up(bot, update)
                return
        else:
            return
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, _LONGEST_S)


async def _give_up(bot: Bot, update: Raw) -> None:
    """Say so: an update that no handler can take would come for ever, and nobody is left in silence."""
    if not isinstance(update, Update) or update.message is None or update.message.from_user is None:
        return
    say = texts(update.message.from_user.language_code or "en")
    try:
        await bot.send_message(update.message.chat.id, say("not_taken"), request_timeout=10)
    except AiogramError as error:
        log.warning("an answer was not taken", error=type(error).__name__)
