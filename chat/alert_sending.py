"""Sends operator alerts: to each admin and the log once, to who missed one again, repeated while one stands.

Told means told: an alert that an admin could not be sent stays due. It is tried each hour, and at once when
that admin writes to the bot (`chat.middleware`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from typing import Final

from aiogram.exceptions import AiogramError, TelegramRetryAfter
from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup

from chat.context import ChatContext
from chat.i18n import translator
from chat.keyboards import ACKNOWLEDGE
from chat.replies import REPLY_TIMEOUT_S
from chat.telegram_errors import UNREACHABLE
from ledger import due_work, notifications, operator_alerts, requests
from ledger.notifications import Notification
from ledger.operator_alerts import KeptAlert, NewAlert
from telemetry.logs import get_logger
from telemetry.redaction import user_tag

log = get_logger(__name__)

ENGLISH: Final = translator("en")
"""Alerts are in English: an admin's language is known only when they write."""

LOG_RECIPIENT: Final = 0
"""The recipient that stands for the log in `notifications`; no Telegram user has this id."""

UNREACHED_S: Final = 3600.0
"""An admin who cannot be reached is tried again after this."""

REPEAT_S: Final = 4 * 3600.0
"""An alert that stands and that no one has acknowledged is sent again after this."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One message to operators.

    Attributes:
        notification: Identifies the alert, so that each recipient gets it once.
        event: The log event.
        text: HTML for the admins: what happened, and what to do.
        log_fields: Fields of the log event.
        buttons: Inline buttons, where a tap can resolve the cause.
        request_id: Whose user reads that the operator has been told.
        standing: Its cause lasts until someone acts: it can be acknowledged, and is repeated until then.
        order_id: The request whose order it is about: an alert stands while that is unchanged.
        kept_text: What is stored in place of `text`, where that has words of a user.
    """

    notification: Notification
    event: str
    text: str
    log_fields: Mapping[str, object] = field(default_factory=dict)
    buttons: InlineKeyboardMarkup | None = None
    request_id: str | None = None
    standing: bool = False
    order_id: str | None = None
    kept_text: str | None = None


def recipients(ctx: ChatContext) -> frozenset[int]:
    """Return who is told of every alert: the admins, and the log."""
    return ctx.admins | {LOG_RECIPIENT}


async def send_alert(ctx: ChatContext, alert: Alert) -> None:
    """Send an alert to every recipient who has not had it yet, or not since `REPEAT_S` while it stands.

    Raises:
        TelegramRetryAfter: Telegram asks to wait; the rest is sent by a later check.
    """
    kept = await operator_alerts.keep(
        ctx.ledger,
        NewAlert(
            alert.notification,
            alert.text if alert.kept_text is None else alert.kept_text,
            alert.buttons.model_dump_json(exclude_none=True) if alert.buttons else "",
            alert.order_id,
            alert.standing,
        ),
    )
    repeat_s = REPEAT_S if alert.standing and kept.ack_who is None else None
    due = await notifications.recipients_due(ctx.ledger, alert.notification, recipients(ctx), repeat_s)
    for recipient in due:
        lease_until = await notifications.claim(ctx.ledger, alert.notification, recipient, repeat_s)
        if lease_until is None:
            continue
        if recipient == LOG_RECIPIENT:
            log.error(alert.event, **alert.log_fields)
            await notifications.mark_sent(ctx.ledger, alert.notification, recipient)
        else:
            text = alert.text + await _footer(ctx, kept)
            buttons = _with_acknowledge(alert.buttons, kept)
            if await _send(ctx, kept, text, buttons, recipient, lease_until) and alert.request_id:
                await due_work.make_notification_due(ctx.ledger, alert.request_id)


async def send_missed(ctx: ChatContext, missed: Sequence[tuple[KeptAlert, int]]) -> None:
    """Send what an admin has missed and what is due for them again, with what became of it since.

    What a rule has sent them meanwhile is not sent again.

    Raises:
        TelegramRetryAfter: Telegram asks to wait.
    """
    for kept, admin in missed:
        lease_until = await notifications.claim(ctx.ledger, kept.item, admin)
        if lease_until is None:
            continue
        text = kept.text + await _footer(ctx, kept)
        buttons = InlineKeyboardMarkup.model_validate_json(kept.buttons) if kept.buttons else None
        if kept.standing and not kept.open:
            text, buttons = f"{text}\n<i>This has ended meanwhile.</i>", None
        await _send(ctx, kept, text, _with_acknowledge(buttons, kept), admin, lease_until)


async def _send(
    ctx: ChatContext,
    kept: KeptAlert,
    text: str,
    buttons: InlineKeyboardMarkup | None,
    admin: int,
    lease_until: int,
) -> bool:
    """Send one admin an alert; return whether they have it. What failed stays due."""
    pause_s: float
    try:
        await ctx.bot.send_message(admin, text, reply_markup=buttons, request_timeout=REPLY_TIMEOUT_S)
    except UNREACHABLE as error:
        log.warning("admin cannot be reached, will retry", admin=user_tag(admin), why=error.message)
        pause_s = UNREACHED_S
    except TelegramRetryAfter as error:
        await notifications.release(ctx.ledger, kept.item, admin, lease_until, error.retry_after)
        raise
    except AiogramError as error:
        log.warning("alert not sent, will retry", admin=user_tag(admin), error=type(error).__name__)
        pause_s = ctx.edit_limits.retry_s
    else:
        await notifications.mark_sent(ctx.ledger, kept.item, admin)
        return True
    await notifications.release(ctx.ledger, kept.item, admin, lease_until, pause_s)
    return False


async def _footer(ctx: ChatContext, kept: KeptAlert) -> str:
    """Return the last line of an alert: its number, when it was found, and where to look."""
    parts = [f"Alert {kept.alert_id}", utc(kept.created_at)]
    request = None if kept.order_id is None else await requests.find(ctx.ledger, kept.order_id)
    if ctx.links.page:
        page = ctx.links.page if request is None else f"{ctx.links.page}/request?id={request.short_id}"
        parts.append(f'<a href="{escape(page)}">page</a>')
    if ctx.links.jaeger and request is not None and request.traceparent:
        trace_id = request.traceparent.split("-")[1]
        parts.append(f'<a href="{escape(ctx.links.jaeger)}/trace/{escape(trace_id)}">trace</a>')
    if kept.ack_who is not None:
        parts.append(f"taken on by {escape(kept.ack_who)}")
    return f"\n<i>{' · '.join(parts)}</i>"


def utc(at_ms: int) -> str:
    """Return a time of the store as operators read it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _with_acknowledge(buttons: InlineKeyboardMarkup | None, kept: KeptAlert) -> InlineKeyboardMarkup | None:
    if not kept.open or kept.ack_who is not None:
        return buttons
    take = InlineKeyboardButton(
        text=ENGLISH("button_acknowledge"), callback_data=f"{ACKNOWLEDGE}{kept.alert_id}"
    )
    return InlineKeyboardMarkup(inline_keyboard=[*(buttons.inline_keyboard if buttons else ()), [take]])
