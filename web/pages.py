"""HTML of the admin pages, and their charts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2

from guardrails.money import MICROS_PER_DOLLAR, ZERO, Money
from ledger.breaker import OpenBreaker
from ledger.history import PendingOrders
from ledger.model_usage import total_cost
from ledger.operator_alerts import plain_text
from ledger.overview import Overview
from ledger.reports import Report
from ledger.totals import CostSummary
from web.auth import Session

WEB_DIR: Final = Path(__file__).parent
PERIOD_LABELS: Final = {"today": "today (UTC)", "hour": "last 60 minutes", "30d": "30 days"}
PAGES: Final = {
    "/admin": "Costs", "/admin/requests": "Requests", "/admin/users": "Users", "/admin/audit": "Acts",
}  # fmt: skip
OUTCOME_LABELS: Final = {
    "delivered": "delivered", "failed": "failed", "refused": "refused", "no_order": "no order",
    "cancelled": "cancelled or expired", "hold": "on hold", "open": "in progress",
}  # fmt: skip
LINES: Final = 10
"""Lines of each table on the page of costs; the pages behind it have all."""

WIDTH: Final = 420
HEIGHT: Final = 150
LEFT: Final = 56
_RIGHT, _TOP, _BOTTOM = 14, 10, 20

_GAP: Final = 0.25
"""The share of a bar's slot that stays empty."""

_STEPS: Final = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Frame:
    """What every page needs: whose session, what was just done, or why nothing was, and Jaeger's address."""

    session: Session
    jaeger: str = ""
    notice: str = ""
    error: str = ""


def page(template: str, frame: Frame, here: str, **values: Any) -> str:
    """Return a page.

    Args:
        template: Its file's name.
        frame: The session, whose CSRF token is in every form; the notice or error.
        here: The path of the page that is marked in the navigation.
        values: What the template names.
    """
    return _templates().get_template(template).render(
        session=frame.session, jaeger=frame.jaeger.rstrip("/"), notice=frame.notice, error=frame.error,
        page=here, **values,
    )  # fmt: skip


def costs_page(
    report: Report, overview: Overview, pending: PendingOrders, opened: list[OpenBreaker], frame: Frame, *,
    live: bool = False,
) -> str:  # fmt: skip
    """Return the cost page; `live` is the one without forms, which loads itself again and again."""
    return page(
        "costs.html",
        frame,
        "/admin",
        report=report,
        overview=overview,
        pending=pending,
        opened=opened,
        live=live,
        charts=[
            chart("Paid per day, 30 days", report.days, "%d %b", 7),
            chart("Paid per hour, 24 hours", report.hours, "%H:00", 6),
        ],
        models_cost=total_cost(overview.models),
        largest_user=max((line.costs.paid for line in report.users), default=ZERO),
        largest_model=max((line.costs.paid for line in report.models), default=ZERO),
    )


def login_page(error: str = "") -> str:
    """Return the login page."""
    return _templates().get_template("login.html").render(error=error)


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(WEB_DIR / "templates")
    found = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    found.filters |= {
        "clock": _clock, "age": age, "short": _short, "places": places, "fixed": fixed, "after": _after,
        "seconds": _seconds, "plain_text": plain_text,
    }  # fmt: skip
    found.globals |= {
        "WIDTH": WIDTH, "HEIGHT": HEIGHT, "LEFT": LEFT, "PERIODS": PERIOD_LABELS, "share": share,
        "PAGES": PAGES,
        "OUTCOME_LABELS": OUTCOME_LABELS, "LINES": LINES,
    }  # fmt: skip
    return found


def places(amounts: Iterable[Money]) -> int:
    """Return with how many decimals a column of amounts lines up: as many as its finest has, at least two."""
    return max((len(str(one).partition(".")[2]) for one in amounts), default=2)


def fixed(amount: Money, decimals: int) -> str:
    """Return an amount with at least so many decimals."""
    whole, _, part = str(amount).partition(".")
    return f"{whole}.{part:0<{decimals}}"


def _after(elapsed_ms: int) -> str:
    return f"+{elapsed_ms} ms" if elapsed_ms < 1000 else f"+{elapsed_ms / 1000:.1f} s"


def _seconds(seconds: int | None) -> str:
    return "–" if seconds is None else f"{seconds} s"


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
    slot = (WIDTH - LEFT - _RIGHT) / max(len(found), 1)
    baseline, height_span = HEIGHT - _BOTTOM, HEIGHT - _BOTTOM - _TOP
    bars, ticks = [], []
    for n, (at, one) in enumerate(found):
        # A day with more refunds than charges has no bar; its label shows the amount.
        height = round(max(one.paid.micros, 0) / top * height_span, 2)
        x, label = LEFT + n * slot, datetime.fromtimestamp(at // 1000, UTC).strftime(form)
        text = f"{label}: {one.paid} for {one.videos} {'video' if one.videos == 1 else 'videos'}"
        bars.append(
            Bar(round(x + slot * _GAP / 2, 2), baseline - height, round(slot * (1 - _GAP), 2), height, text)
        )
        if (len(found) - 1 - n) % every == 0:
            ticks.append(AxisLabel(round(x + slot / 2, 2), label))
    lines = [
        AxisLabel(baseline - height_span * part, str(Money(top * half // 2)).removesuffix(".00"))
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
