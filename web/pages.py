"""HTML pages and charts."""

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
from ledger.reports import CostSummary, Report
from web.auth import Session
from web.serializers import iso_time

WEB_DIR: Final = Path(__file__).parent
PERIOD_LABELS: Final = {"today": "today (UTC)", "hour": "last 60 minutes", "30d": "30 days"}
WIDTH: Final = 420
HEIGHT: Final = 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 10, 20

_GAP: Final = 0.25
"""The share of a bar's room that stays empty."""

_STEPS: Final = (1, 2, 5)


def costs_page(
    report: Report, pending: PendingOrders, opened: list[OpenBreaker], session: Session, *,
    jaeger: str = "", said: str = "", wrong: str = "",
) -> str:  # fmt: skip
    """Return the cost page.

    Args:
        report: The figures.
        pending: What is under way and on hold.
        opened: The breakers that are open.
        session: Whose page; its form token stands in every form.
        jaeger: Where traces can be looked at; empty: they are named, not linked.
        said: What was just done, in words.
        wrong: Why nothing was done, in words.
    """
    return _templates().get_template("costs.html").render(
        report=report,
        pending=pending,
        opened=opened,
        session=session,
        jaeger=jaeger.rstrip("/"),
        said=said,
        wrong=wrong,
        charts=[
            chart("Paid per day, 30 days", report.days, "%d %b", 7),
            chart("Paid per hour, 24 hours", report.hours, "%H:00", 6),
        ],
        largest=max((line.costs.paid for line in report.users), default=ZERO),
        dearest=max((line.costs.paid for line in report.models), default=ZERO),
    )  # fmt: skip


def login_page(wrong: str = "") -> str:
    """Return the page that asks for name and token."""
    return _templates().get_template("login.html").render(wrong=wrong)


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(WEB_DIR / "templates")
    found = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    found.filters |= {"when": iso_time, "clock": _clock, "age": age, "short": _short}
    found.globals |= {"WIDTH": WIDTH, "HEIGHT": HEIGHT, "SPANS": PERIOD_LABELS, "share": share}
    return found


def _clock(at: int) -> str:
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%d %b %H:%M")


def age(since: int, now: int) -> str:
    """Return how long ago `since` was, as people say it."""
    seconds = max(0, (now - since) // 1000)
    for size, word in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {word}"
    return f"{seconds} s"


def _short(words: Any, most: int = 60) -> str:
    text = " ".join(str(words).split())
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar and its words, in the chart's own units."""

    x: float
    y: float
    width: float
    height: float
    words: str


@dataclass(frozen=True, slots=True)
class AxisLabel:
    """A word at a place on an axis."""

    at: float
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """All that a template needs to draw one."""

    name: str
    bars: list[Bar]
    lines: list[AxisLabel]
    ticks: list[AxisLabel]
    empty: bool


def chart(name: str, found: Sequence[tuple[int, CostSummary]], form: str, every: int) -> Chart:
    """Lay out what was paid in each of `found`.

    Args:
        name: Said before anything else to whoever cannot see it.
        found: Beginnings (milliseconds since the epoch) with their costs, oldest first.
        form: How a beginning is written, for `strftime`.
        every: Every so many bars get a word below them, counted from the newest.
    """
    top = _top(max((one.paid.micros for _, one in found), default=0))
    room = (WIDTH - _LEFT - _RIGHT) / max(len(found), 1)
    floor, span = HEIGHT - _BOTTOM, HEIGHT - _BOTTOM - _TOP
    bars, ticks = [], []
    for n, (at, one) in enumerate(found):
        # A day on which more came back than went out has no bar; its words say so.
        height = round(max(one.paid.micros, 0) / top * span, 2)
        x, label = _LEFT + n * room, datetime.fromtimestamp(at // 1000, UTC).strftime(form)
        words = f"{label}: {one.paid} for {one.videos} {'video' if one.videos == 1 else 'videos'}"
        bars.append(
            Bar(round(x + room * _GAP / 2, 2), floor - height, round(room * (1 - _GAP), 2), height, words)
        )
        if (len(found) - 1 - n) % every == 0:
            ticks.append(AxisLabel(round(x + room / 2, 2), label))
    lines = [
        AxisLabel(floor - span * part, str(Money(top * half // 2)))
        for half, part in ((0, 0), (1, 0.5), (2, 1))
    ]
    return Chart(name, bars, lines, ticks, empty=not any(one.paid for _, one in found))


def _top(most: int) -> int:
    """Return a round amount that is not less than `most` micro-dollars, and not zero."""
    size = MICROS_PER_DOLLAR // 50
    while True:
        for step in _STEPS:
            if most <= size * step:
                return size * step
        size *= 10


def share(part: Money, whole: Money) -> float:
    """Return `part` as a share of `whole` in per cent, between 0 and 100, for a bar inside a table."""
    if whole.micros <= 0:
        return 0.0
    return round(min(max(part.micros / whole.micros, 0.0), 1.0) * 100, 1)
