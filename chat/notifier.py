"""The notify task: keeps the status message current, delivers, reports failures."""

import asyncio
import time
from html import escape
from typing import Final

from aiogram.enums import ParseMode
from aiogram.exceptions import (
    AiogramError,
    TelegramBadRequest,
    TelegramEntityTooLarge,
    TelegramForbiddenError,
    TelegramMigrateToChat,
    TelegramNotFound,
    TelegramRetryAfter,
)
from sqlalchemy.exc import SQLAlchemyError

from chat.alerts import Alert, send
from chat.context import Desk, Teller
from chat.delivery import NOT_MODIFIED, deliver, reply_to
from chat.i18n import texts
from chat.middleware import PARKED_S
from chat.status_message import Facts, View, render, shown
from ledger import breaker, notifications, reports, requests
from ledger.models import LATE, Request, Video, VideoState
from ledger.notifications import Item
from providers.base import BadAsset, Gone, JobFailed
from telemetry.failpoints import reach
from telemetry.logs import get_logger

log = get_logger(__name__)


async def show(desk: Desk, teller: Teller, request: Request, view: View) -> bool:
    """Send or edit the status message if its text changed; False if it is too early to edit."""
    if view.text == teller.text:
        return True
    if request.status_message_id is None:
        await _first(desk, request, view)
    elif time.monotonic() < teller.free_at:
        return False
    else:
        await _edit(desk, request, request.status_message_id, view)
    teller.text = view.text
    teller.free_at = time.monotonic() + desk.manners.between_edits(request.chat_id)
    return True


async def _first(desk: Desk, request: Request, view: View) -> None:
    sent = await desk.bot.send_message(
        request.chat_id,
        view.text,
        parse_mode=ParseMode.HTML,
        reply_markup=view.keyboard,
        reply_parameters=reply_to(request),
    )
    await requests.note(desk.ledger, request.request_id, status_message_id=sent.message_id)


async def _edit(desk: Desk, request: Request, message_id: int, view: View) -> None:
    try:
        await desk.bot.edit_message_text(
            view.text,
            chat_id=request.chat_id,
            message_id=message_id,
            parse_mode=ParseMode.HTML,
            reply_markup=view.keyboard,
        )
    except (TelegramBadRequest, TelegramNotFound) as error:
        if NOT_MODIFIED in error.message:
            return
        log.warning(
            "the status message is gone; a new one is sent", request=request.request_id, why=error.message
        )
        await _first(desk, request, view)


_LONG_S: Final = 1800
"""What the network or Telegram alone delays is nobody's matter for so long."""

_REFUSED: Final = (TelegramBadRequest, TelegramNotFound, TelegramEntityTooLarge)
_NO_FILE: Final = (FileNotFoundError, BadAsset, Gone, JobFailed)


async def say_stuck(desk: Desk, request_id: str, error: Exception) -> None:
    """Say that a delivery failed, unless waiting may mend it. Safe to repeat at each try; it never raises."""
    try:
        found = await requests.find_both(desk.ledger, request_id)
        request, video = found or (None, None)
        if request is None or video is None or video.state is not VideoState.SUCCEEDED:
            return
        why = await _why(desk, video, error)
        if why:
            await _tell_user(desk, request)
            await send(desk, _alert(desk, video, why))
    except (AiogramError, SQLAlchemyError, OSError) as away:
        log.warning("a stuck delivery is not told yet", request=request_id, error=type(away).__name__)


async def _why(desk: Desk, video: Video, error: Exception) -> str:
    """Return why only a person can help; empty while waiting may."""
    if isinstance(error, _REFUSED):
        return f"Telegram refuses it ({error.message})"
    if isinstance(error, _NO_FILE):
        return f"its file is gone and cannot be fetched again ({type(error).__name__})"
    async with desk.ledger.read() as conn:
        waited_s = (await desk.ledger.now(conn) - video.updated_at) / 1000
    return f"it fails for {waited_s / 60:.0f} min ({type(error).__name__})" if waited_s > _LONG_S else ""


async def _tell_user(desk: Desk, request: Request) -> None:
    charged = await reports.charged(desk.ledger, request.request_id)
    words = f"{texts(request.language)('stuck', price=charged)}\n\n#{request.short_id}"
    try:
        await show(desk, Teller(), request, View(words))
    except AiogramError as error:  # what keeps the video away may keep words away as well
        log.warning("the user cannot be told", request=request.request_id, error=type(error).__name__)


def _alert(desk: Desk, video: Video, why: str) -> Alert:
    words = (
        f"#{video.short_id} is <b>paid and not delivered</b>: {escape(why)}."
        f"\nIts file: <code>{escape(desk.studio.asset_path(video).name)}</code> in MEDIA_DIR."
        " It is tried again by itself, at least once an hour; nothing is paid twice."
    )
    item = Item(f"stuck:{video.request_id}", video.updated_at)
    return Alert(item, "a finished video is not delivered", words, {"request": video.request_id, "why": why})


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
    if not await notifications.claim_notification(desk.ledger, request_id, desk.manners.lease_s):
        return
    lease = asyncio.create_task(_keep_lease(desk, request_id))
    pause = 0.0
    try:
        pause = await _tell(desk, request_id)
    finally:
        lease.cancel()
        await asyncio.gather(lease, return_exceptions=True)
        await asyncio.shield(notifications.put_off(desk.ledger, request_id, pause))


async def _keep_lease(desk: Desk, request_id: str) -> None:
    while True:
        await asyncio.sleep(desk.manners.lease_s / 3)
        try:
            await notifications.put_off(desk.ledger, request_id, desk.manners.lease_s)
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
