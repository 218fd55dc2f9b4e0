"""Bar charts, computed here and drawn by the template as SVG: no script, nothing from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ledger.money import MICROS_PER_DOLLAR, Money
from ledger.tallies import Costs

WIDTH: Final = 420
HEIGHT: Final = 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 10, 20
_GAP: Final = 0.25
"""The share of a bar's room that stays empty."""
_STEPS: Final = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar and its words, in the chart's own units."""

    x: float
    y: float
    width: float
    height: float
    words: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A word at a place on an axis."""

    at: float
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """All that a template needs to draw one."""

    name: str
    bars: list[Bar]
    lines: list[Mark]
    ticks: list[Mark]
    empty: bool


def chart(name: str, found: Sequence[tuple[int, Costs]], form: str, every: int) -> Chart:
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
            ticks.append(Mark(round(x + room / 2, 2), label))
    lines = [
        Mark(floor - span * part, str(Money(top * half // 2))) for half, part in ((0, 0), (1, 0.5), (2, 1))
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
