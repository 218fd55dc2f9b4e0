"""HTML of the admin pages, and their charts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2

from guardrails.money import MICROS_PER_DOLLAR, ZERO, Money
from ledger.breaker import OpenBreaker
from ledger.history import PendingOrders
from ledger.reports import Report
from ledger.totals import CostSummary
from web.auth import Session
from web.serializers import iso_time

WEB_DIR: Final = Path(__file__).parent
PERIOD_LABELS: Final = {"today": "today (UTC)", "hour": "last 60 minutes", "30d": "30 days"}
WIDTH: Final = 420
HEIGHT: Final = 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 10, 20

_GAP: Final = 0.25
"""The share of a bar's slot that stays empty."""

_STEPS: Final = (1, 2, 5)


def costs_page(
    report: Report, pending: PendingOrders, opened: list[OpenBreaker], session: Session, *,
    jaeger: str = "", notice: str = "", error: str = "",
) -> str:  # fmt: skip
    """Return the cost page.

    Args:
        report: The figures.
        pending: Orders in progress and on hold.
        opened: The breakers that are open.
        session: The operator's session; its CSRF token is in every form.
        jaeger: Base URL of Jaeger; empty shows trace ids without links.
        notice: What was just done.
        error: Why nothing was done.
    """
    return _templates().get_template("costs.html").render(
        report=report,
        pending=pending,
        opened=opened,
        session=session,
        jaeger=jaeger.rstrip("/"),
        notice=notice,
        error=error,
        charts=[
            chart("Paid per day, 30 days", report.days, "%d %b", 7),
            chart("Paid per hour, 24 hours", report.hours, "%H:00", 6),
        ],
        largest_user=max((line.costs.paid for line in report.users), default=ZERO),
        largest_model=max((line.costs.paid for line in report.models), default=ZERO),
    )  # fmt: skip


def login_page(error: str = "") -> str:
    """Return the login page."""
    return _templates().get_template("login.html").render(error=error)


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(WEB_DIR / "templates")
    found = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    found.filters |= {"when": iso_time, "clock": _clock, "age": age, "short": _short}
    found.globals |= {"WIDTH": WIDTH, "HEIGHT": HEIGHT, "PERIODS": PERIOD_LABELS, "share": share}
    return found


def _clock(at: int) -> str:
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%d %b %H:%M")


def age(since: int, now: int) -> str:
    """Return the time since `since` as `3 h`, in its largest unit."""
    seconds = max(0, (now - since) // 1000)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _short(value: Any, limit: int = 60) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar with its label, in SVG units."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True, slots=True)
class AxisLabel:
    """A label at a position on an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What the template needs to draw a chart."""

    name: str
    bars: list[Bar]
    lines: list[AxisLabel]
    ticks: list[AxisLabel]
    empty: bool


def chart(name: str, found: Sequence[tuple[int, CostSummary]], form: str, every: int) -> Chart:
    """Lay out the costs of `found` as bars.

    Args:
        name: Caption, and the chart's label for screen readers.
        found: Start times (milliseconds since the epoch) with their costs, oldest first.
        form: `strftime` format of a start time.
        every: Every nth bar gets a label below it, counted from the newest.
    """
    top = _axis_top(max((one.paid.micros for _, one in found), default=0))
    slot = (WIDTH - _LEFT - _RIGHT) / max(len(found), 1)
    baseline, height_span = HEIGHT - _BOTTOM, HEIGHT - _BOTTOM - _TOP
    bars, ticks = [], []
    for n, (at, one) in enumerate(found):
        # A day with more refunds than charges has no bar; its label shows the amount.
        height = round(max(one.paid.micros, 0) / top * height_span, 2)
        x, label = _LEFT + n * slot, datetime.fromtimestamp(at // 1000, UTC).strftime(form)
        text = f"{label}: {one.paid} for {one.videos} {'video' if one.videos == 1 else 'videos'}"
        bars.append(
            Bar(round(x + slot * _GAP / 2, 2), baseline - height, round(slot * (1 - _GAP), 2), height, text)
        )
        if (len(found) - 1 - n) % every == 0:
            ticks.append(AxisLabel(round(x + slot / 2, 2), label))
    lines = [
        AxisLabel(baseline - height_span * part, str(Money(top * half // 2)))
        for half, part in ((0, 0), (1, 0.5), (2, 1))
    ]
    return Chart(name, bars, lines, ticks, empty=not any(one.paid for _, one in found))


def _axis_top(limit: int) -> int:
    """Return a round amount in micro-dollars, at least `limit` and not zero."""
    size = MICROS_PER_DOLLAR // 50
    while True:
        for step in _STEPS:
            if limit <= size * step:
                return size * step
        size *= 10


def share(part: Money, whole: Money) -> float:
    """Return `part` as a percentage of `whole`, between 0 and 100."""
    if whole.micros <= 0:
        return 0.0
    return round(min(max(part.micros / whole.micros, 0.0), 1.0) * 100, 1)
