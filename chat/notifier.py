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

from chat.alerts import Alert, send_alert
from chat.context import ChatContext, LastShown
from chat.delivery import deliver, reply_to
from chat.i18n import translator
from chat.send_limits import HeldBack, send_priority
from chat.status_message import Facts, View, current_state, render
from chat.updates import NOT_MODIFIED
from ledger import breaker, notifications, reports, requests
from ledger.models import LATE_CHARGE, Request, Video, VideoState
from ledger.notifications import Notification
from providers.base import BadAsset, Gone, JobFailed
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger

log = get_logger(__name__)

BLOCKED_RETRY_S: Final = 30 * 86_400
"""A user who blocked the bot is notified at their next update, else after this."""

_ALERT_AFTER_S: Final = 1800
"""Delays by the network or by Telegram alone are not alerted before this."""

_MAX_RETRY_S: Final = 3600.0
_BACKOFF_DIVISOR: Final = 10
"""A notification that has failed for ten minutes is tried again after one."""

_REFUSED_ERRORS: Final = (TelegramBadRequest, TelegramNotFound, TelegramEntityTooLarge)
_FILE_GONE_ERRORS: Final = (FileNotFoundError, BadAsset, Gone, JobFailed)


async def notify(ctx: ChatContext, request_id: str) -> None:
    """Keep the user up to date until the request rests or `shift_s` is over. Safe to repeat and to kill.

    A lease in SQL keeps a second worker from notifying about the same request. What cannot be sent now is
    postponed in SQL, and the sweeper enqueues this task again. Where several bots share a ledger, each
    notifies about its own requests.
    """
    request = await requests.find(ctx.ledger, request_id)
    if request is None or request.bot_id != ctx.bot.id:
        return
    if not await notifications.claim_notification(ctx.ledger, request_id, ctx.edit_limits.lease_s):
        return
    lease = asyncio.create_task(_keep_lease(ctx, request_id))
    delay_s = 0.0
    try:
        delay_s = await _notify_for_shift(ctx, request_id)
    finally:
        lease.cancel()
        await asyncio.gather(lease, return_exceptions=True)
        await asyncio.shield(notifications.postpone_notification(ctx.ledger, request_id, delay_s))


async def _keep_lease(ctx: ChatContext, request_id: str) -> None:
    while True:
        await asyncio.sleep(ctx.edit_limits.lease_s / 3)
        try:
            await notifications.postpone_notification(ctx.ledger, request_id, ctx.edit_limits.lease_s)
        except (SQLAlchemyError, OSError) as error:
            log.warning("notification lease not renewed", request=request_id, error=type(error).__name__)


async def _notify_for_shift(ctx: ChatContext, request_id: str) -> float:
    """Notify until the request rests or the shift ends; return the seconds until the next try."""
    last_shown = ctx.last_shown.pop(request_id, None) or LastShown()
    deadline = time.monotonic() + ctx.worker.timeouts.shift_s
    try:
        while not await _update_once(ctx, last_shown, request_id):
            if time.monotonic() >= deadline:
                ctx.remember(request_id, last_shown)
                break
            await asyncio.sleep(ctx.edit_limits.tick_s)
    except TelegramForbiddenError:
        log.warning("bot blocked by user, notification postponed", request=request_id)
        return BLOCKED_RETRY_S
    except TelegramRetryAfter as error:
        log.warning("telegram asks to wait", request=request_id, retry_after=error.retry_after)
        return error.retry_after
    except TelegramMigrateToChat as error:
        log.info("group moved to a new chat id", request=request_id)
        await requests.update_fields(
            ctx.ledger, request_id, chat_id=error.migrate_to_chat_id, message_id=0, status_message_id=None
        )
    except Exception as error:  # noqa: BLE001 - without the delay, every sweep would run into a defect again at once
        log.warning("notification failed, will retry", request=request_id, error=type(error).__name__)
        await report_undeliverable(ctx, request_id, error)
        return await _retry_delay_s(ctx, request_id)
    return 0


async def _retry_delay_s(ctx: ChatContext, request_id: str) -> float:
    """Return the delay after a failure: a tenth of the time since the last change, up to an hour."""
    request = await requests.find(ctx.ledger, request_id)
    async with ctx.ledger.read() as conn:
        age_s = (await ctx.ledger.now(conn) - (request.updated_at if request else 0)) / 1000
    return max(ctx.edit_limits.retry_s, min(age_s / _BACKOFF_DIVISOR, _MAX_RETRY_S))


async def _update_once(ctx: ChatContext, last_shown: LastShown, request_id: str) -> bool:
    """Bring the status message up to date once; True if the user has the latest state and it is at rest."""
    found = await requests.find_with_video(ctx.ledger, request_id)
    if found is None:
        return True
    request, video = found
    state = current_state(request, video)
    if request.told == state and state == VideoState.DELIVERED:
        return True
    if video is not None and video.state in (VideoState.SUCCEEDED, VideoState.DELIVERED):
        return await _deliver_and_ping(ctx, last_shown, request, video)
    view = render(request, video, await _facts(ctx, request, video))
    shown = await show_status(ctx, last_shown, request, view)
    if shown and request.told != state:
        await requests.update_fields(ctx.ledger, request_id, told=state)
    return shown and view.resting


async def _facts(ctx: ChatContext, request: Request, video: Video | None) -> Facts:
    charged = await reports.net_charged(ctx.ledger, request.request_id)
    async with ctx.ledger.read() as conn:
        now = await ctx.ledger.now(conn)
        breaker_open = (
            video is not None
            and video.state is VideoState.QUEUED
            and await breaker.is_open(conn, request.user_id)
        )
    return Facts(now, charged, ctx.limits, breaker_open=breaker_open)


async def _deliver_and_ping(ctx: ChatContext, last_shown: LastShown, request: Request, video: Video) -> bool:
    """Deliver the video, then send a message: an edited message does not notify the phone."""
    if video.state is VideoState.SUCCEEDED:
        await asyncio.sleep(max(0.0, last_shown.free_at - time.monotonic()))
        await deliver(ctx, request, video)
        return False
    await failpoint("delivered")
    t = translator(request.language)
    latest = await requests.find(ctx.ledger, request.request_id) or request
    await ctx.bot.send_message(
        request.chat_id,
        t("ready_late" if video.failure == LATE_CHARGE else "ready", id=request.short_id),
        reply_parameters=reply_to(request, latest.status_message_id),
    )
    await requests.update_fields(ctx.ledger, request.request_id, told=VideoState.DELIVERED)
    return True


async def show_status(ctx: ChatContext, last_shown: LastShown, request: Request, view: View) -> bool:
    """Send or edit the status message if its text changed; False if it is too early to edit."""
    if view.text == last_shown.text:
        return True
    if request.status_message_id is None:
        await _send_status(ctx, request, view)
    elif time.monotonic() < last_shown.free_at:
        return False
    else:
        try:
            await _edit_status(ctx, request, request.status_message_id, view)
        except HeldBack:
            if view.priority == "progress":
                return False
            raise
    last_shown.text = view.text
    last_shown.free_at = time.monotonic() + ctx.edit_limits.between_edits(request.chat_id)
    return True


async def _send_status(ctx: ChatContext, request: Request, view: View) -> None:
    with send_priority("final" if view.priority == "final" else "offer"):
        sent = await ctx.bot.send_message(
            request.chat_id,
            view.text,
            parse_mode=ParseMode.HTML,
            reply_markup=view.keyboard,
            reply_parameters=reply_to(request),
        )
    await requests.update_fields(ctx.ledger, request.request_id, status_message_id=sent.message_id)


async def _edit_status(ctx: ChatContext, request: Request, message_id: int, view: View) -> None:
    try:
        with send_priority(view.priority):
            await ctx.bot.edit_message_text(
                view.text,
                chat_id=request.chat_id,
                message_id=message_id,
                parse_mode=ParseMode.HTML,
                reply_markup=view.keyboard,
            )
    except (TelegramBadRequest, TelegramNotFound) as error:
        if NOT_MODIFIED in error.message:
            return
        log.warning("status message gone, sending a new one", request=request.request_id, why=error.message)
        await _send_status(ctx, request, view)


async def report_undeliverable(ctx: ChatContext, request_id: str, error: Exception) -> None:
    """Inform user and operators of a failed delivery, unless waiting may fix it.

    Safe to repeat at each try. A failure to report is logged and reported at the next try.
    """
    try:
        found = await requests.find_with_video(ctx.ledger, request_id)
        request, video = found or (None, None)
        if request is None or video is None or video.state is not VideoState.SUCCEEDED:
            return
        why = await _undeliverable_reason(ctx, video, error)
        if why:
            await _notify_user(ctx, request)
            await send_alert(ctx, _undeliverable_alert(ctx, video, why))
    except (AiogramError, SQLAlchemyError, OSError) as failure:
        log.warning("undeliverable video not reported yet", request=request_id, error=type(failure).__name__)


async def _undeliverable_reason(ctx: ChatContext, video: Video, error: Exception) -> str:
    """Return why an operator is needed; empty while waiting may be enough."""
    if isinstance(error, _REFUSED_ERRORS):
        return f"Telegram refuses it ({error.message})"
    if isinstance(error, _FILE_GONE_ERRORS):
        return f"its file is gone and cannot be downloaded again ({type(error).__name__})"
    async with ctx.ledger.read() as conn:
        waited_s = (await ctx.ledger.now(conn) - video.updated_at) / 1000
    return (
        f"it has failed for {waited_s / 60:.0f} min ({type(error).__name__})"
        if waited_s > _ALERT_AFTER_S
        else ""
    )


async def _notify_user(ctx: ChatContext, request: Request) -> None:
    charged = await reports.net_charged(ctx.ledger, request.request_id)
    text = f"{translator(request.language)('stuck', price=charged)}\n\n#{request.short_id}"
    try:
        await show_status(ctx, LastShown(), request, View(text, resting=True))
    except AiogramError as error:  # what blocks the video may block the message as well
        log.warning("user not notified", request=request.request_id, error=type(error).__name__)


def _undeliverable_alert(ctx: ChatContext, video: Video, why: str) -> Alert:
    text = (
        f"#{video.short_id} is <b>paid and not delivered</b>: {escape(why)}."
        f"\nIts file: <code>{escape(ctx.worker.asset_path(video).name)}</code> in MEDIA_DIR."
        " It is retried automatically, at least once an hour; nothing is paid twice."
    )
    notification = Notification(f"stuck:{video.request_id}", video.updated_at)
    return Alert(notification, "video undeliverable", text, {"request": video.request_id, "why": why})
