"""Alerts: what a person must look at reaches the log and every admin, once each over all workers.

Each worker looks; the ledger says who tells whom. What did not reach an admin because Telegram or the
network was away is told later; an admin who shut the bot out is not asked again.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Final

from aiogram.exceptions import (
    AiogramError,
    TelegramBadRequest,
    TelegramForbiddenError,
    TelegramNotFound,
    TelegramRetryAfter,
)
from aiogram.types import InlineKeyboardMarkup
from sqlalchemy.exc import SQLAlchemyError

from chat.context import ChatContext
from chat.i18n import translator
from chat.keyboards import breaker_buttons, hold_buttons
from chat.replies import REPLY_TIMEOUT_S
from guardrails.money import Money
from ledger import breaker, notifications, reports
from ledger.breaker import OpenBreaker
from ledger.models import Video, VideoState
from ledger.notifications import Notification
from telemetry.logs import get_logger
from telemetry.redaction import user_tag

log = get_logger(__name__)

_OPERATOR_FAILURES: Final = frozenset({"invalid", "auth", "funds"})
"""Refusals of the provider that only the operator can mend."""

_ENGLISH: Final = translator("en")
"""An admin's language is known only once they write; alerts come unasked."""

_LOG_RECIPIENT: Final = 0
"""The reader that is no admin: the log."""

_LOOKBACK_S: Final = 86_400
_MAX_VIDEOS: Final = 20
"""Videos told of in one look: a chat takes one message a second."""

_DAY_MS: Final = 86_400_000
_UNREACHABLE_ERRORS: Final = (TelegramForbiddenError, TelegramBadRequest, TelegramNotFound)


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing to tell operators.

    Attributes:
        item: What makes it one.
        event: The log's words for it.
        facts: Beside them in the log.
        words: HTML for the admins.
        buttons: Below them, where a tap can act.
    """

    item: Notification
    event: str
    words: str
    facts: Mapping[str, object] = field(default_factory=dict)
    buttons: InlineKeyboardMarkup | None = None


async def run_alerts(ctx: ChatContext) -> None:
    """Tell of what happens, until cancelled."""
    while True:
        pause_s = ctx.worker.timeouts.sweep_s
        try:
            await send_due_alerts(ctx)
        except TelegramRetryAfter as error:
            pause_s = max(pause_s, error.retry_after)
        except (SQLAlchemyError, OSError) as error:
            log.warning("the ledger cannot be asked for news", error=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - the loop that calls for help must not end
            log.error("telling of news failed", error=type(error).__name__)
        await asyncio.sleep(pause_s)


async def send_due_alerts(ctx: ChatContext) -> None:
    """Look once: at open breakers, at videos that wait for a person, at the day's cost."""
    for one in await breaker.open_breakers(ctx.ledger):
        await send_alert(ctx, _breaker_alert(one))
    for video in await notifications.videos_needing_attention(
        ctx.ledger, _OPERATOR_FAILURES, _recipients(ctx), _LOOKBACK_S, _MAX_VIDEOS
    ):
        await send_alert(ctx, _video_alert(video))
    await _check_day_cost(ctx)


async def send_alert(ctx: ChatContext, alert: Alert) -> None:
    """Tell everybody who has not been told of this.

    Raises:
        TelegramRetryAfter: Telegram asks to wait; what was not told is told later.
    """
    for recipient in await notifications.recipients_due(ctx.ledger, alert.item, _recipients(ctx)):
        if not await notifications.claim(ctx.ledger, alert.item, recipient):
            continue
        if recipient == _LOG_RECIPIENT:
            log.error(alert.event, **alert.facts)
            await notifications.mark_sent(ctx.ledger, alert.item, recipient)
        else:
            await _send_to_admin(ctx, alert, recipient)


def _recipients(ctx: ChatContext) -> frozenset[int]:
    return ctx.admins | {_LOG_RECIPIENT}


async def _send_to_admin(ctx: ChatContext, alert: Alert, admin: int) -> None:
    try:
        await ctx.bot.send_message(
            admin, alert.words, reply_markup=alert.buttons, request_timeout=REPLY_TIMEOUT_S
        )
    except _UNREACHABLE_ERRORS as error:
        log.warning("an admin cannot be written to", admin=user_tag(admin), why=error.message)
    except TelegramRetryAfter as error:
        await notifications.release(ctx.ledger, alert.item, admin, error.retry_after)
        raise
    except AiogramError as error:
        log.warning(
            "an admin was not reached and is told later", admin=user_tag(admin), error=type(error).__name__
        )
        await notifications.release(ctx.ledger, alert.item, admin, ctx.edit_limits.retry_s)
        return
    await notifications.mark_sent(ctx.ledger, alert.item, admin)


def _video_alert(video: Video) -> Alert:
    held = video.state is VideoState.HOLD
    words = (
        f"#{video.short_id} is <b>{video.state}</b> ({escape(video.failure or 'no word')}), "
        f"{escape(video.provider)}, quoted {video.quote}."
    )
    if held:
        words += (
            "\nLook it up at the provider, then:"
            f"\n<code>python -m bot resolve {video.short_id} paid JOB_ID</code>"
            f"\n<code>python -m bot resolve {video.short_id} unpaid</code>"
            f"\n(paid, and no video will come: <code>gone JOB_ID</code>)"
            f"\nor here: <code>/resolve #{video.short_id} paid JOB_ID</code>"
        )
    return Alert(
        Notification(video.request_id, video.updated_at),
        "operator needed",
        words,
        {"request": video.request_id, "state": video.state, "failure": video.failure},
        hold_buttons(_ENGLISH, video.short_id, video.updated_at) if held else None,
    )


def _breaker_alert(one: OpenBreaker) -> Alert:
    scope = escape(one.scope)
    violation = "<b>VIOLATION: this must never happen.</b> " if one.violation else ""
    words = (
        f"{violation}<b>Paid work is stopped for {scope}</b>: {escape(one.why)}."
        "\nOrders that wait go on when it is closed, or end unpaid after 30 minutes. Look, then close it"
        f"\nhere, by <code>/breaker close {scope}</code>"
        f"\nor <code>python -m bot breaker close {scope}</code>"
    )
    return Alert(
        Notification(f"breaker:{one.scope}", one.at),
        "breaker open: paid work is stopped",
        words,
        {"scope": one.scope, "why": one.why, "violation": one.violation},
        breaker_buttons(_ENGLISH, one),
    )


async def _check_day_cost(ctx: ChatContext) -> None:
    """Tell of the highest mark that this UTC day's cost has reached: once a day for each mark."""
    if not ctx.day_cost_thresholds:
        return
    async with ctx.ledger.read() as conn:
        now = await ctx.ledger.now(conn)
    day = now - now % _DAY_MS
    cost = (await reports.cost_summary(ctx.ledger, day)).paid
    reached = [mark for mark in ctx.day_cost_thresholds if cost >= mark]
    if reached:
        await send_alert(
            ctx, _cost_alert(max(reached), cost, day, last=max(reached) == max(ctx.day_cost_thresholds))
        )


def _cost_alert(mark: Money, cost: Money, day: int, *, last: bool) -> Alert:
    words = f"<b>{'Act now: ' if last else ''}today's videos cost {cost}</b>, {mark} or more (UTC day)."
    words += "\n<code>python -m bot costs</code> shows whose; <code>/breaker</code> what is stopped."
    event = "the day's cost has reached a mark"
    return Alert(
        Notification(f"day-cost:{mark.micros}", day), event, words, {"mark": str(mark), "cost": str(cost)}
    )
