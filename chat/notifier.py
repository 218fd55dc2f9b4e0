"""The steps `notify` and `deliver`: the status message, the video, failures of both.

Each claims a request by a lease in SQL, makes its Bot API call, and writes all that it leaves in one
transaction: what was shown, and when the user is notified next. Rows, lease and pauses are in
`ledger.due_work` and `ledger.notifications`; triggers of the ledger say when there is something new.
"""

import asyncio
import hashlib
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from html import escape
from typing import Any, Final, TypeVar

import stamina
from aiogram.enums import ParseMode
from aiogram.exceptions import (
    AiogramError,
    TelegramAPIError,
    TelegramBadRequest,
    TelegramEntityTooLarge,
    TelegramMigrateToChat,
    TelegramNotFound,
    TelegramRetryAfter,
)

from chat.alert_sending import Alert, send_alert
from chat.cancelling import cancel_unpaid
from chat.context import ChatContext
from chat.delivery import deliver, remove_replaced, reply_to
from chat.i18n import translator
from chat.send_limits import HeldBack, send_priority
from chat.status_facts import is_operator_told, read_facts
from chat.status_message import (
    View,
    current_state,
    render,
    with_operator_told,
)
from chat.telegram_errors import is_final, refuses_chat
from chat.updates import NOT_MODIFIED
from ledger import (
    due_work,
    notifications,
    reports,
)
from ledger.due_work import ClaimedRequest, LeaseLost
from ledger.models import (
    CANCELLABLE_STATES,
    CHAT_REFUSED,
    FINAL_STATES,
    LATE_CHARGE,
    PACED_STATES,
    Request,
    RequestState,
    Video,
    VideoState,
)
from ledger.notifications import Finished, Notification, Notified, ShownColumns
from providers.base import BadAsset, Gone, JobFailed, StorageFault
from providers.video_file import DISK_ERRNOS, disk_error_text
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from tools.text import storable
from worker.context import DETAIL_CHARACTERS
from worker.dispatcher import Step
from worker.outages import is_outage
from worker.tracing import delivery_span, row_scope, write_outcome

log = get_logger(__name__)

BLOCKED_RETRY_S: Final = 30 * 86_400
"""A user who blocked the bot is notified at their next update, else after this."""

_ALERT_AFTER_S: Final = 1800
"""Delays by the network or by Telegram alone are not alerted before this."""

_MAX_RETRY_S: Final = 3600.0
_MAX_DOUBLINGS: Final = 20
_GIVE_UP_MS: Final = 7 * 86_400_000
_MAX_RECHECK_S: Final = 60.0
_WRITE_TIMEOUT_S: Final = 5.0
NOTIFY_SLOTS: Final = 16
DELIVER_SLOTS: Final = 4
"""Messages, and uploads, at once in one process."""

_TOGETHER_S: Final = 0.2
"""Users who have something new to read within this time are notified together."""

Result = TypeVar("Result")
_AT_REST: Final = FINAL_STATES | {
    VideoState.SUCCEEDED, RequestState.REFUSED, RequestState.NO_ORDER, RequestState.CANCELLED,
}  # fmt: skip
_REFUSED_ERRORS: Final = (TelegramBadRequest, TelegramNotFound, TelegramEntityTooLarge)
_FILE_GONE_ERRORS: Final = (FileNotFoundError, BadAsset, Gone, JobFailed)


def notification_steps(ctx: ChatContext) -> Sequence[Step[ClaimedRequest]]:
    """Return the chat's two steps: `notify` shows the state of a request, `deliver` sends its video.

    They have slots of their own, so that uploads do not hold up short edits. Where several bots share a
    ledger, each notifies about its own requests: no other has its chats.
    """

    async def claim_notify(most: int) -> Sequence[ClaimedRequest]:
        lease_s = ctx.edit_limits.lease_s
        return await due_work.claim_notifications(ctx.ledger, ctx.bot.id, most, lease_s, delivery=False)

    async def claim_deliver(most: int) -> Sequence[ClaimedRequest]:
        lease_s = ctx.edit_limits.upload_lease_s
        return await due_work.claim_notifications(ctx.ledger, ctx.bot.id, most, lease_s, delivery=True)

    shown = partial(notify, ctx)
    sent = partial(deliver_video, ctx)
    return (
        # A message whose answer is lost is sent again: so a short call may finish when the process stops.
        Step(
            "notify",
            frozenset({"notify"}),
            NOTIFY_SLOTS,
            claim_notify,
            shown,
            gap_s=_TOGETHER_S,
            finishes=True,
        ),
        Step("deliver", frozenset({"deliver"}), DELIVER_SLOTS, claim_deliver, sent),
    )


async def notify(ctx: ChatContext, claimed: ClaimedRequest) -> None:
    """Show the user the state of their request, with at most one message; safe to repeat and to kill.

    What cannot be sent now is postponed in SQL. A change that comes meanwhile is shown by the next step.
    """
    with row_scope(claimed.request.request_id, claimed.request.traceparent):
        shown = await _try(ctx, claimed, _show_in_time(ctx, claimed))
        if shown is not None:
            await _finish(ctx, claimed, shown)


async def deliver_video(ctx: ChatContext, claimed: ClaimedRequest) -> None:
    """Send the user their finished video, then a message: an edited message does not notify the phone.

    Safe to repeat and to kill: after a kill between the two, `notify` sends the message.
    """
    with row_scope(claimed.request.request_id, claimed.request.traceparent):
        delivered = await _try(ctx, claimed, _deliver(ctx, claimed))
        if delivered is None:
            return
        if not delivered:  # another process did, or the order has changed
            await _finish(ctx, claimed, Notified())
            return
        await failpoint("delivered")
        shown = await _try(ctx, claimed, _show_in_time(ctx, claimed))
        if shown is not None:
            await _finish(ctx, claimed, shown)


async def _deliver(ctx: ChatContext, claimed: ClaimedRequest) -> bool:
    """Deliver in a span of its own, after one for how long the video waited for it."""
    with delivery_span(claimed):
        return await deliver(ctx, claimed)


async def notify_request(ctx: ChatContext, request_id: str) -> None:
    """Notify about one request now, if that is due and no other process does."""
    for claimed in await due_work.claim_notifications(
        ctx.ledger, ctx.bot.id, 1, ctx.edit_limits.lease_s, delivery=False, request_id=request_id
    ):
        await notify(ctx, claimed)


async def _try(ctx: ChatContext, claimed: ClaimedRequest, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Await `work`; postpone the notification if it fails, and release it if it is cancelled."""
    try:
        return await work
    except asyncio.CancelledError:
        await asyncio.shield(notifications.release_lease(ctx.ledger, claimed))
        raise
    except LeaseLost:
        log.warning("notification taken over by another process", request=claimed.request.request_id)
    except Exception as error:  # noqa: BLE001 - one row must not stop the others, whatever is wrong with it
        await _finish(ctx, claimed, await _after_failure(ctx, claimed, error))
    return None


async def _finish(ctx: ChatContext, claimed: ClaimedRequest, end: Notified) -> None:
    """Write what was shown; look again if something has changed; report an end that was shown."""
    finished = await asyncio.shield(_write_end(ctx, claimed, end))
    if finished.due:
        await ctx.queue.wake("notify", claimed.request.request_id)
    if finished.submits:
        await ctx.queue.wake("submit", claimed.request.request_id)
    if finished.outcome is not None:
        write_outcome(finished.outcome)


async def _write_end(ctx: ChatContext, claimed: ClaimedRequest, end: Notified) -> Finished:
    """Write the end; a busy ledger is tried again, because a message that is not recorded is sent twice."""
    async for attempt in stamina.retry_context(
        on=is_outage, attempts=3, timeout=_WRITE_TIMEOUT_S, wait_max=1
    ):
        with attempt:
            return await notifications.finish(ctx.ledger, claimed, end)
    return Finished(due=False)


async def _after_failure(ctx: ChatContext, claimed: ClaimedRequest, error: Exception) -> Notified:
    """Return how the notification is postponed after this error."""
    request = claimed.request
    match error:
        case HeldBack():  # by our own limit, which a more urgent text may pass
            return Notified(after_s=error.retry_after)
        case TelegramRetryAfter():
            log.warning("telegram asks to wait", request=request.request_id, retry_after=error.retry_after)
            return Notified(after_s=error.retry_after, held=True)
        case TelegramMigrateToChat():
            log.info("group moved to a new chat id", request=request.request_id)
            return Notified(_moved_to(error.migrate_to_chat_id), after_s=0)
        case TelegramAPIError() if is_final(error):
            return await _after_refusal(ctx, claimed, error)
    return await _failed(ctx, claimed, error)


def _moved_to(chat_id: int) -> ShownColumns:
    """Return the columns of a request that is shown in another chat from now on: no message is there yet."""
    return {
        "chat_id": chat_id,
        "message_id": 0,
        "message_thread_id": None,
        "status_message_id": None,
        "shown": "",
    }


async def _after_refusal(ctx: ChatContext, claimed: ClaimedRequest, error: TelegramAPIError) -> Notified:
    """Return what follows a refusal that waiting does not change.

    What is not paid is cancelled: nothing is paid that cannot be spoken of. What a group refuses is shown to
    its user in private from now on. A user who cannot be reached there reads it when they write again.
    """
    request, video = claimed.request, claimed.video
    shows_all = video is not None and video.state is VideoState.DELIVERED and not request.correction_due
    if video is not None and shows_all and request.chat_id != request.user_id:
        log.info("ready message refused, the video is shown", request=request.request_id, why=error.message)
        return Notified({"told": video.state})
    cancelled = _may_be_unpaid(request, video) and await cancel_unspoken(ctx, request, error.message)
    if not refuses_chat(error):
        return await _failed(ctx, claimed, error)
    if request.chat_id != request.user_id:
        log.warning("chat refused, continued in private", request=request.request_id, why=error.message)
        await remove_replaced(ctx, request)
        return Notified(_moved_to(request.user_id), after_s=0)
    log.warning(
        "user cannot be reached, notification postponed", request=request.request_id, why=error.message
    )
    if request.notify_failures == 0:
        # One refusal is no proof. And a user who came back while this call was under way was not found among
        # those who are postponed: the second try reaches them.
        return await _failed(ctx, claimed, error)
    await report_undeliverable(ctx, claimed, error)
    # A paid order that is not finished is not held: when it is, its delivery is tried.
    changes_by_itself = current_state(request, video) not in _AT_REST and not cancelled
    return Notified(after_s=BLOCKED_RETRY_S, held=not changes_by_itself, failed=True)


def _may_be_unpaid(request: Request, video: Video | None) -> bool:
    """Return whether the request was not paid at its claim: since then it may have been ordered."""
    if video is not None:
        return video.state in CANCELLABLE_STATES
    return request.state in (RequestState.OPEN, RequestState.ORDERED)


async def cancel_unspoken(ctx: ChatContext, request: Request, why: str) -> bool:
    """Cancel a request that is not paid and that its user cannot be told of; return whether it was."""
    why = storable(why, DETAIL_CHARACTERS)
    words = f"its chat refuses messages: {why}"
    return await cancel_unpaid(ctx, request.request_id, "tell", CHAT_REFUSED, words, why)


async def _failed(ctx: ChatContext, claimed: ClaimedRequest, error: Exception) -> Notified:
    """Report what cannot be delivered, and try again after a growing pause."""
    request = claimed.request
    log.warning("notification failed, will retry", request=request.request_id, error=type(error).__name__)
    return Notified(await report_undeliverable(ctx, claimed, error), _retry_s(ctx, claimed), failed=True)


def _retry_s(ctx: ChatContext, claimed: ClaimedRequest) -> float | None:
    """Return the pause after a failure: doubled with each, up to an hour; None ends it until the next change.

    A text that could not be shown for a week is given up; a video that was paid for never is.
    """
    request, video = claimed.request, claimed.video
    changed_at = max(request.updated_at, video.updated_at if video else 0)
    delivers = video is not None and video.state in (VideoState.SUCCEEDED, VideoState.DELIVERED)
    if not delivers and claimed.now - changed_at > _GIVE_UP_MS:
        log.error("notification given up", request=request.request_id)
        return None
    return min(ctx.edit_limits.retry_s * 2.0 ** min(request.notify_failures, _MAX_DOUBLINGS), _MAX_RETRY_S)


async def _show_in_time(ctx: ChatContext, claimed: ClaimedRequest) -> Notified:
    async with asyncio.timeout(ctx.edit_limits.step_s):
        return await _show_state(ctx, claimed)


async def _show_state(ctx: ChatContext, claimed: ClaimedRequest) -> Notified:
    """Show the current state unless the message shows it already, or is too young to be edited for it."""
    request, video = claimed.request, claimed.video
    state = current_state(request, video)
    if video is not None and video.state is VideoState.SUCCEEDED:
        # It became ready while it was claimed: on PostgreSQL the claim still saw the state before.
        return Notified(after_s=0)
    if request.correction_due:
        await _send_correction(ctx, request)
        return Notified({"correction_told": request.corrected_at}, after_s=0)
    if video is not None and video.state is VideoState.DELIVERED:
        if request.told != state and _took_long(ctx, claimed):
            await _send_ready(ctx, request, video)
        return Notified({"told": state})
    view = render(request, video, await read_facts(ctx, claimed))
    digest = _digest(view)
    if digest == request.shown:
        return Notified({"told": state}, _recheck_s(ctx, claimed))
    wait_ms = request.edit_after - claimed.now
    if wait_ms > 0 and state in PACED_STATES and request.status_message_id is not None:
        return Notified(after_s=wait_ms / 1000)
    message_id = await show_status(ctx, claimed, view)
    shown: ShownColumns = {"told": state, "shown": digest, "status_message_id": message_id}
    pause_s = _edit_pause_s(ctx, claimed)
    return Notified(shown, _recheck_s(ctx, claimed), edit_pause_s=pause_s)


def _took_long(ctx: ChatContext, claimed: ClaimedRequest) -> bool:
    """Return whether its user has turned to something else: an edited message does not notify the phone."""
    asked_at = claimed.video.ordered_at if claimed.video else claimed.request.created_at
    return claimed.now - asked_at > ctx.edit_limits.ping_after_s * 1000


def _recheck_s(ctx: ChatContext, claimed: ClaimedRequest) -> float | None:
    """Return when a text is read again that changes without a change of its rows.

    That of a waiting order does: a breaker opens or closes, others go before. It has waited for as long
    before, up to a minute. And that of a video whose provider gives no percentage: it shows the time.
    """
    video = claimed.video
    if video is not None and video.state is VideoState.ACCEPTED and not video.progress:
        return _edit_pause_s(ctx, claimed)
    if video is None or video.state is not VideoState.QUEUED:
        return None
    waited_s = (claimed.now - video.updated_at) / 1000
    return max(ctx.edit_limits.between_edits(claimed.request.chat_id), min(waited_s, _MAX_RECHECK_S))


def _edit_pause_s(ctx: ChatContext, claimed: ClaimedRequest) -> float:
    """Return the least time until the next edit for progress."""
    chat_id, video = claimed.request.chat_id, claimed.video
    if video is None:
        return ctx.edit_limits.between_edits(chat_id)
    if video.state is VideoState.AWAITING_APPROVAL:
        return 0  # a person taps in between, and wants to see that it was heard
    filmed_s = (claimed.now - (video.accepted_at or claimed.now)) / 1000
    return ctx.edit_limits.between_progress(chat_id, filmed_s)


def _digest(view: View) -> str:
    """Return a digest of what is shown. An offer's buttons are part of it: they change without the text."""
    buttons = view.keyboard.model_dump_json() if view.offers and view.keyboard else ""
    text = view.text + buttons
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def _send_correction(ctx: ChatContext, request: Request) -> None:
    """Say what is booked now, in a message of its own: an edited one does not notify the phone."""
    charged = await reports.net_charged(ctx.ledger, request.request_id)
    text = translator(request.language)("corrected", id=request.short_id, price=charged)
    with send_priority("final"):
        await ctx.bot.send_message(
            request.chat_id,
            text,
            message_thread_id=request.message_thread_id,
            parse_mode=ParseMode.HTML,
            reply_parameters=reply_to(request, request.status_message_id),
        )


async def _send_ready(ctx: ChatContext, request: Request, video: Video) -> None:
    text = "ready_late" if video.failure == LATE_CHARGE else "ready"
    if video.kind == "image":
        text = "still_ready"
    if request.status_message_id == 0:  # Telegram has it and shows it a little later
        text = "ready_scheduled"
    await ctx.bot.send_message(
        request.chat_id,
        translator(request.language)(text, id=request.short_id),
        message_thread_id=request.message_thread_id,
        reply_parameters=reply_to(request, request.status_message_id),
    )


async def show_status(ctx: ChatContext, claimed: ClaimedRequest, view: View) -> int:
    """Send the status message, or edit it; return the id of the message that shows the text.

    A message without an id of its own (0: ephemeral, or scheduled by Telegram) cannot be edited. Another
    follows it where there is more to say than progress.

    Raises:
        LeaseLost: The message cannot be edited, and another process notifies the user now.
    """
    message_id = claimed.request.status_message_id
    if message_id is None:
        return await _send_status(ctx, claimed.request, view)
    if message_id == 0 and view.priority == "progress":
        return 0
    if message_id and await _edit_status(ctx, claimed.request, message_id, view):
        return message_id
    # An edit that comes too late is mended by the next one; a message of its own would stay.
    await notifications.renew(ctx.ledger, claimed, ctx.edit_limits.lease_s)
    sent_id = await _send_status(ctx, claimed.request, view)
    await remove_replaced(ctx, claimed.request)
    return sent_id


async def _send_status(ctx: ChatContext, request: Request, view: View) -> int:
    with send_priority("final" if view.priority == "final" else "offer"):
        sent = await ctx.bot.send_message(
            request.chat_id,
            view.text,
            message_thread_id=request.message_thread_id,
            parse_mode=ParseMode.HTML,
            reply_markup=view.keyboard,
            reply_parameters=reply_to(request),
        )
    return sent.message_id


async def _edit_status(ctx: ChatContext, request: Request, message_id: int, view: View) -> bool:
    """Edit the status message; False if that message cannot be edited."""
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
        if NOT_MODIFIED not in error.message:
            log.warning("status message cannot be edited", request=request.request_id, why=error.message)
            return False
    return True


async def report_undeliverable(ctx: ChatContext, claimed: ClaimedRequest, error: Exception) -> ShownColumns:
    """Inform user and operators of a failed delivery, unless waiting may fix it; return what the user sees.

    Safe to repeat at each try. A failure to report is logged and reported at the next try.
    """
    request, video = claimed.request, claimed.video
    if video is None or video.state is not VideoState.SUCCEEDED:
        return {}
    shown: ShownColumns = {}
    try:
        async with asyncio.timeout(ctx.edit_limits.step_s):
            why = await _undeliverable_reason(ctx, claimed, video, error)
            # The upload may have used up most of the lease.
            if why:
                await notifications.renew(ctx.ledger, claimed, ctx.edit_limits.lease_s)
                alert = _undeliverable_alert(ctx, video, why)
                with suppress(AiogramError):  # sent by a later try; the user is told all the same
                    await send_alert(ctx, alert)
                told = await is_operator_told(ctx, video, alert.notification.subject)
                if not refuses_chat(error):
                    shown = await _notify_user(ctx, claimed, told=told)
    except Exception as failure:
        if not isinstance(failure, (AiogramError, LeaseLost)) and not is_outage(failure):
            raise
        log.warning(
            "undeliverable video not reported yet", request=request.request_id, error=type(failure).__name__
        )
    return shown


async def _undeliverable_reason(
    ctx: ChatContext, claimed: ClaimedRequest, video: Video, error: Exception
) -> str:
    """Return why an operator is needed; empty while waiting may be enough."""
    if claimed.request.notify_failures == 0 and isinstance(error, TelegramAPIError):
        return ""  # one refusal is no alarm: Telegram may take the same video the next time
    if refuses_chat(error):
        return f"its user cannot be reached ({error}); it is kept, and sent when they write to the bot again"
    if isinstance(error, _REFUSED_ERRORS):
        return f"Telegram refuses it ({error.message})"
    if fault := _disk_fault(error):
        return fault
    if isinstance(error, _FILE_GONE_ERRORS):
        return f"its file is gone and cannot be downloaded again ({type(error).__name__})"
    async with ctx.ledger.read() as conn:
        waited_s = (await ctx.ledger.now(conn) - video.updated_at) / 1000
    return (
        f"it has failed for {waited_s / 60:.0f} min ({type(error).__name__})"
        if waited_s > _ALERT_AFTER_S
        else ""
    )


def _disk_fault(error: Exception) -> str:
    if isinstance(error, StorageFault):
        return f"MEDIA_DIR does not take its file ({error})"
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        return f"MEDIA_DIR does not give its file ({disk_error_text(error)})"
    return ""


async def _notify_user(ctx: ChatContext, claimed: ClaimedRequest, *, told: bool) -> ShownColumns:
    request = claimed.request
    charged, t = await reports.net_charged(ctx.ledger, request.request_id), translator(request.language)
    text = f"{with_operator_told(t, t('stuck', price=charged), told=told)}\n\n#{request.short_id}"
    view = View(text, resting=True)
    if _digest(view) == request.shown:
        return {}
    try:
        message_id = await show_status(ctx, claimed, view)
    except AiogramError as error:  # what blocks the video may block the message as well
        log.warning("user not notified", request=request.request_id, error=type(error).__name__)
        return {}
    return {"shown": _digest(view), "status_message_id": message_id}


def _undeliverable_alert(ctx: ChatContext, video: Video, why: str) -> Alert:
    text = (
        f"#{video.short_id} is <b>paid and not delivered</b>: {escape(why)}."
        f"\nIts file: <code>{escape(ctx.worker.asset_path(video).name)}</code> in MEDIA_DIR."
        " It is retried automatically; nothing is paid twice. Is it needed sooner? Send that file yourself."
    )
    notification = Notification(f"stuck:{video.request_id}", video.updated_at)
    fields = {"request": video.request_id, "why": why}
    return Alert(notification, "video undeliverable", text, fields, standing=True, order_id=video.request_id)
