"""What a run measured: figures, their goals and verdicts, and the raw series behind the plots."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

Verdict = Literal["met", "missed", "reported", "not measured", "failed"]

Size = Literal["short", "usual", "whole"]
"""Of a run: a minute for CI, some minutes, or everything with 10^6 rows."""

RED: Final = 1.5
"""CI fails when a judged figure is above its goal times this."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One row of the table.

    Attributes:
        figure: What is measured, for readers.
        first: The first edition's figure, as text.
        goal: The goal, as text.
        limit: The goal as a number; None if the row has none.
        judged: Whether CI may fail on it: ratios and counts only, never seconds.
        at_least: The figure must reach the limit rather than stay below it.
        today: For a goal that is missed by more than CI allows: CI fails above this figure instead, so that
            it does not get worse while it is worked on. The table says "missed" all the same.
    """

    figure: str
    first: str
    goal: str
    limit: float | None = None
    judged: bool = True
    at_least: bool = False
    today: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured row.

    Attributes:
        value: The number that is compared with the goal; None if it could not be measured.
        shown: The same for readers.
        spread: Quartiles, or the least and the greatest, as text.
        note: What was compared with what, or why there is no value.
        failed: The measurement itself broke, which is a defect and not an absent part.
    """

    value: float | None = None
    shown: str = ""
    spread: str = ""
    note: str = ""
    failed: bool = False

    def verdict(self, goal: Goal) -> Verdict:
        """Compare with the goal."""
        if self.failed:
            return "failed"
        if self.value is None:
            return "not measured"
        if goal.limit is None:
            return "reported"
        reached = self.value >= goal.limit if goal.at_least else self.value <= goal.limit
        return "met" if reached else "missed"

    def is_red(self, goal: Goal) -> bool:
        """Say whether CI must fail: the measurement broke, or a judged figure is far above its goal."""
        if self.failed:
            return True
        if self.value is None or goal.limit is None or not goal.judged:
            return False
        return self.value > (goal.today or goal.limit * RED)


@dataclass
class Results:
    """Everything of one run.

    Attributes:
        figures: By the goal's key.
        series: Raw series for plots and for the page `beyond one machine`, by name.
        machine: What the run was made on.
    """

    figures: dict[str, Figure] = field(default_factory=dict)
    series: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the run as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "Results":
        """Read what `as_json` returned."""
        figures = {key: Figure(**one) for key, one in given["figures"].items()}
        return cls(figures, dict(given["series"]), dict(given["machine"]))
