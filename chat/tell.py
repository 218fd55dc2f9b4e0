"""`tell`: keeps one status message true until the request rests, and delivers."""

import asyncio
import time
from typing import Final

from aiogram.exceptions import TelegramForbiddenError, TelegramMigrateToChat, TelegramRetryAfter
from sqlalchemy.exc import SQLAlchemyError

from chat.delivery import deliver, reply_to
from chat.desk import Desk, Teller
from chat.gate import PARKED_S
from chat.message import show
from chat.status import Facts, render, shown
from chat.stuck import say_stuck
from chat.texts import texts
from ledger import breaker, reports, requests, telling
from ledger.models import Request, Video
from ledger.words import LATE, VideoState
from telemetry.failpoints import reach
from telemetry.logs import get_logger

log = get_logger(__name__)

_LONGEST_S: Final = 3600.0
_PATIENCE: Final = 10
"""What has failed for ten minutes is tried again in one."""


async def tell(desk: Desk, request_id: str) -> None:
    """Bring the user up to date, for a shift or until the request rests. Safe to run twice and to be killed.

    A lease keeps a second teller of the same request away. Whatever cannot be told now is put off in SQL;
    `sweep` wakes this task again for everything untold. Where bots share a ledger, each tells its own.
    """
    request = await requests.find(desk.ledger, request_id)
    if request is None or request.bot_id != desk.bot.id:
        return
    if not await telling.take(desk.ledger, request_id, desk.manners.lease_s):
        return
    lease = asyncio.create_task(_keep_lease(desk, request_id))
    pause = 0.0
    try:
        pause = await _tell(desk, request_id)
    finally:
        lease.cancel()
        await asyncio.gather(lease, return_exceptions=True)
        await asyncio.shield(telling.put_off(desk.ledger, request_id, pause))


async def _keep_lease(desk: Desk, request_id: str) -> None:
    while True:
        await asyncio.sleep(desk.manners.lease_s / 3)
        try:
            await telling.put_off(desk.ledger, request_id, desk.manners.lease_s)
        except (SQLAlchemyError, OSError) as error:
            log.warning("a lease was not renewed", request=request_id, error=type(error).__name__)


async def _tell(desk: Desk, request_id: str) -> float:
    """Tell until the request rests or the shift ends; return the seconds that the next teller has to wait."""
    teller = desk.tellers.pop(request_id, None) or Teller()
    home = time.monotonic() + desk.studio.pace.shift_s
    try:
        while not await _step(desk, teller, request_id):
            if time.monotonic() >= home:
                desk.remember(request_id, teller)
                break
            await asyncio.sleep(desk.manners.tick_s)
    except TelegramForbiddenError:
        log.warning("the user blocked the bot; telling is parked", request=request_id)
        return PARKED_S
    except TelegramRetryAfter as error:
        log.warning("Telegram asks to wait", request=request_id, retry_after=error.retry_after)
        return error.retry_after
    except TelegramMigrateToChat as error:
        log.info("the group has a new number", request=request_id)
        await requests.note(
            desk.ledger, request_id, chat_id=error.migrate_to_chat_id, message_id=0, status_message_id=None
        )
    except Exception as error:  # noqa: BLE001 - a defect here would be met again by every sweep, at once
        log.warning("telling is put off", request=request_id, error=type(error).__name__)
        await say_stuck(desk, request_id, error)
        return await _patience(desk, request_id)
    return 0


async def _patience(desk: Desk, request_id: str) -> float:
    """Return how long to wait after a failure: the longer nothing changed, the longer, up to an hour."""
    request = await requests.find(desk.ledger, request_id)
    async with desk.ledger.read() as conn:
        age_s = (await desk.ledger.now(conn) - (request.updated_at if request else 0)) / 1000
    return max(desk.manners.retry_s, min(age_s / _PATIENCE, _LONGEST_S))


async def _step(desk: Desk, teller: Teller, request_id: str) -> bool:
    """Look once; True when the user knows how the request stands and it rests."""
    found = await requests.find_both(desk.ledger, request_id)
    if found is None:
        return True
    request, video = found
    word = shown(request, video)
    if request.told == word and word == VideoState.DELIVERED:
        return True
    if video is not None and video.state in (VideoState.SUCCEEDED, VideoState.DELIVERED):
        return await _hand_over(desk, teller, request, video)
    view = render(request, video, await _facts(desk, request, video))
    told = await show(desk, teller, request, view)
    if told and request.told != word:
        await requests.note(desk.ledger, request_id, told=word)
    return told and view.resting


async def _facts(desk: Desk, request: Request, video: Video | None) -> Facts:
    charged = await reports.charged(desk.ledger, request.request_id)
    async with desk.ledger.read() as conn:
        now = await desk.ledger.now(conn)
        stopped = (
            video is not None
            and video.state is VideoState.QUEUED
            and await breaker.is_open(conn, request.user_id)
        )
    return Facts(now, charged, desk.limits, breaker_open=stopped)


async def _hand_over(desk: Desk, teller: Teller, request: Request, video: Video) -> bool:
    """Deliver, then ping: an edited message does not make a telephone ring."""
    if video.state is VideoState.SUCCEEDED:
        await asyncio.sleep(max(0.0, teller.free_at - time.monotonic()))
        await deliver(desk, request, video)
        return False
    await reach("delivered")
    say = texts(request.language)
    fresh = await requests.find(desk.ledger, request.request_id) or request
    await desk.bot.send_message(
        request.chat_id,
        say("ready_late" if video.failure == LATE else "ready", id=request.short_id),
        reply_parameters=reply_to(request, fresh.status_message_id),
    )
    await requests.note(desk.ledger, request.request_id, told=VideoState.DELIVERED)
    return True
