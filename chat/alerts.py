"""The rules of operator alerts: holds, open breakers, failed orders, daily cost, clocks, silent processes.

Each alert reaches the log and every admin, over all processes: every one checks, and a lease in the ledger
decides which one sends. `chat.alert_sending` says what follows where an admin cannot be reached.
"""

import asyncio
from collections.abc import Sequence
from html import escape
from typing import Final

from aiogram.exceptions import TelegramRetryAfter

from chat.alert_sending import ENGLISH, Alert, recipients, send_alert, send_missed
from chat.cancelling import enforce_bans
from chat.context import ChatContext
from chat.keyboards import breaker_buttons, hold_buttons, report_buttons
from chat.process_alerts import check_processes
from guardrails.money import Money
from ledger import breaker, notifications, operator_alerts, reports, user_reports
from ledger.breaker import OpenBreaker
from ledger.failures import Failure, explanation
from ledger.models import Video, VideoState
from ledger.notifications import Notification
from ledger.user_reports import UserReport
from telemetry.logs import get_logger
from tools.text import trimmed
from worker.clocks import ClockStep
from worker.outages import is_outage

log = get_logger(__name__)

_OPERATOR_FAILURES: Final = frozenset({Failure.INVALID, Failure.AUTH, Failure.FUNDS})
"""Refusals of the provider that only an operator can fix."""

_LOOKBACK_S: Final = 86_400
_MAX_VIDEOS: Final = 20
"""Videos in one check: a chat accepts about one message a second."""

_DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000


async def run_alerts(ctx: ChatContext) -> None:
    """Send due alerts every `alerts_s` seconds until cancelled."""
    while True:
        pause_s = ctx.worker.timeouts.alerts_s
        try:
            await enforce_bans(ctx)
            await send_due_alerts(ctx)
        except TelegramRetryAfter as error:
            pause_s = max(pause_s, error.retry_after)
        except Exception as error:  # noqa: BLE001 - the loop that calls for help must not end
            if is_outage(error):
                log.warning("ledger unavailable for alerts", error=type(error).__name__)
            else:
                log.error("alert check failed", error=type(error).__name__)
        await asyncio.sleep(pause_s)


async def send_due_alerts(ctx: ChatContext) -> None:
    """Look at every rule once, and send what is due: also what an admin has missed before."""
    missed = await operator_alerts.missed(ctx.ledger, ctx.admins)
    for opened in await breaker.open_breakers(ctx.ledger):
        await send_alert(ctx, _breaker_alert(opened))
    for video in await notifications.videos_needing_attention(
        ctx.ledger, _OPERATOR_FAILURES, recipients(ctx), _LOOKBACK_S, _MAX_VIDEOS
    ):
        await send_alert(ctx, _video_alert(video))
    for report in await user_reports.open_reports(ctx.ledger, ctx.bot.id, len(recipients(ctx))):
        await send_alert(ctx, _report_alert(report))
    if blocked := await notifications.blocked_by_disk(ctx.ledger):
        async with ctx.ledger.read() as conn:
            now = await ctx.ledger.now(conn)
        await send_alert(ctx, _disk_alert(blocked, now - now % _HOUR_MS))
    await _check_day_cost(ctx)
    await _check_clocks(ctx)
    for alert in await check_processes(ctx):
        await send_alert(ctx, alert)
    await send_missed(ctx, missed)


def _video_alert(video: Video) -> Alert:
    held = video.state is VideoState.HOLD
    text = (
        f"#{video.short_id} is <b>{video.state}</b> ({escape(video.failure or 'no reason')}), "
        f"{escape(video.account or video.provider)}, quoted {video.quote}."
    )
    if why := explanation(video.failure):
        text += f"\n{escape(why[:1].upper() + why[1:])}."
    if held:
        text += (
            "\nFind it at the provider, then:"
            f"\n<code>python -m bot resolve {video.short_id} paid JOB_ID</code>"
            f"\n<code>python -m bot resolve {video.short_id} unpaid</code>"
            f"\n(charged, and no video will come: <code>gone JOB_ID</code>)"
            f"\nor here: <code>/resolve #{video.short_id} paid JOB_ID</code>"
        )
    return Alert(
        Notification(video.request_id, video.updated_at),
        "operator needed",
        text,
        {"request": video.request_id, "state": video.state, "failure": video.failure, "why": why},
        hold_buttons(ENGLISH, video.short_id, video.updated_at) if held else None,
        video.request_id,
        standing=held,
        order_id=video.request_id,
    )


def _report_alert(report: UserReport) -> Alert:
    request = report.request
    where = "in private" if request.chat_id == request.user_id else "in a group"
    text = (
        f"<b>Reported</b>: #{request.short_id}, by user <code>{report.reporter_id}</code>; made {where} for"
        f" user <code>{report.author_id}</code>."
        f"\n<blockquote>{escape(trimmed(request.idea, 300))}</blockquote>"
    )
    if report.words:
        text += f"\nThey say: <i>{escape(trimmed(report.words, 600))}</i>"
    return Alert(
        Notification(f"{user_reports.SUBJECT}{report.report_id}", report.at),
        "video reported",
        text,
        {"request": request.request_id, "report": report.report_id},
        report_buttons(ENGLISH, report.report_id),
        order_id=request.request_id,
        # A user's words are kept in one place, from which /forget removes them.
        kept_text=f"<b>Reported</b>: #{request.short_id}. [{ENGLISH('button_see')}] shows it.",
    )


def _disk_alert(blocked: Sequence[Video], hour: int) -> Alert:
    """Return the alert that the media folder takes no file: it is sent each hour while that lasts."""
    paid = sum(video.state is VideoState.ACCEPTED for video in blocked)
    why, detail = explanation(Failure.DISK), blocked[0].failure_detail or ""
    text = (
        f"<b>MEDIA_DIR takes no file</b> ({escape(detail)}). Orders that wait unpaid: {len(blocked) - paid};"
        f" paid videos that are not stored: {paid}.\n{escape(why[:1].upper() + why[1:])}."
    )
    fields = {"unpaid": len(blocked) - paid, "paid": paid, "detail": detail, "why": why}
    return Alert(Notification("media-dir", hour), "media folder takes no file", text, fields)


def _breaker_alert(opened: OpenBreaker) -> Alert:
    scope = escape(opened.scope)
    violation = "<b>VIOLATION: this must never happen.</b> " if opened.violation else ""
    by = f" by {escape(opened.who)}" if opened.by_operator else ""
    text = (
        f"{violation}<b>Paid work is stopped for {scope}</b>{by}: {escape(opened.why)}."
        "\nWaiting orders continue when it is closed, or end unpaid after 30 minutes."
        f"\nFind the cause, then close it here, by <code>/breaker close {scope}</code>"
        f"\nor <code>python -m bot breaker close {scope}</code>"
    )
    return Alert(
        Notification(f"breaker:{opened.scope}", opened.at),
        "breaker open: paid work is stopped",
        text,
        {"scope": opened.scope, "why": opened.why, "who": opened.who, "violation": opened.violation},
        breaker_buttons(ENGLISH, opened),
        standing=True,
    )


async def _check_clocks(ctx: ChatContext) -> None:
    """Alert, once a day each, of a provider's clock that differs; and of each step of the store's."""
    clocks = ctx.worker.clocks
    if clocks is None:
        return
    skewed = clocks.skewed(ctx.worker.providers.values())
    if skewed:
        async with ctx.ledger.read() as conn:
            now = await ctx.ledger.now(conn)
        for account, seconds in skewed.items():
            await send_alert(ctx, _skew_alert(account, seconds, now - now % _DAY_MS))
    if clocks.step is not None:
        await send_alert(ctx, _step_alert(clocks.step))


def _skew_alert(account: str, seconds: float, day: int) -> Alert:
    ahead = "ahead of" if seconds > 0 else "behind"
    text = (
        f"<b>The clock of {escape(account)} is {abs(seconds):.0f} s {ahead} the ledger's.</b>"
        "\nUntil both agree within 60 s, its job list proves nothing, and orders with an unknown outcome that"
        "\nit does not show become HOLD. Check the time of the database's machine first."
    )
    fields = {"account": account, "seconds": round(seconds)}
    return Alert(Notification(f"clock:{account}", day), "provider's clock differs", text, fields)


def _step_alert(step: ClockStep) -> Alert:
    text = (
        f"<b>The ledger's clock was set by {step.seconds:+.0f} s.</b> Orders that were sent before are not"
        " replayed and not ended by their age; some may become HOLD. Check the database machine's time."
    )
    return Alert(
        # By the minute: every process notices the step at about the same time of the store.
        Notification("clock", step.fresh_after - step.fresh_after % 60_000), "ledger's clock was set", text,
        {"seconds": round(step.seconds)},
    )  # fmt: skip


async def _check_day_cost(ctx: ChatContext) -> None:
    """Alert when this UTC day's cost reaches a threshold, once a day each.

    Of several thresholds reached at once only the highest is sent.
    """
    if not ctx.day_cost_thresholds:
        return
    async with ctx.ledger.read() as conn:
        now = await ctx.ledger.now(conn)
    day = now - now % _DAY_MS
    cost = (await reports.cost_summary(ctx.ledger, day)).paid
    reached = [threshold for threshold in ctx.day_cost_thresholds if cost >= threshold]
    if reached:
        await send_alert(
            ctx, _cost_alert(max(reached), cost, day, last=max(reached) == max(ctx.day_cost_thresholds))
        )


def _cost_alert(threshold: Money, cost: Money, day: int, *, last: bool) -> Alert:
    text = f"<b>{'Act now: ' if last else ''}today's videos cost {cost}</b>, {threshold} or more (UTC day)."
    text += "\n<code>python -m bot costs</code> shows whose, <code>/breaker</code> shows what is stopped."
    event = "daily cost threshold reached"
    return Alert(
        Notification(f"day-cost:{threshold.micros}", day),
        event,
        text,
        {"threshold": str(threshold), "cost": str(cost)},
    )
