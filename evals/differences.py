"""Two reports side by side: what became worse, what became better, and the figures of both."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from evals.events import FAILED, OK, EvalError
from evals.metrics import shown
from evals.report import table

_COUNTS: Final = ("paid", "delivered", "attempts")
_FIELDS: Final = ("verdict", *_COUNTS, "ended")
_RANK: Final = {"ok": 0, "incomplete": 1, "failed": 2}
_MOST: Final = 100
_SLOWER: Final = 2.0
_SLOW_S: Final = 5.0


@dataclass(frozen=True)
class Report:
    """What a report.json says."""

    name: str
    cases: dict[str, dict[str, Any]]
    figures: dict[str, Any]
    seconds: float
    about: str


@dataclass(frozen=True)
class Difference:
    """One case that the reports differ in; a side is None where the case was not played."""

    case: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    @property
    def is_worse(self) -> bool:
        """Whether it was played in both, and ended worse."""
        if self.before is None or self.after is None:
            return False
        return _RANK[self.after["verdict"]] > _RANK[self.before["verdict"]]


def read_report(path: Path) -> Report:
    """Read a report.json.

    Raises:
        EvalError: It is none of this version.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        cases = {one["name"]: {name: one[name] for name in (*_FIELDS, "seconds")} for one in found["cases"]}
        assert {one["verdict"] for one in cases.values()} <= _RANK.keys()
        about = f"{found['source']} against {found['broken'] or 'the shipped app'}"
        return Report(str(path), cases, dict(found["figures"]), float(found["seconds"]), about)
    except (OSError, ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
        raise EvalError(f"{path} is not a report.json of this version: {type(error).__name__}") from None


def differences(before: Report, after: Report) -> list[Difference]:
    """Return the cases that differ in verdict, counts or ends, or take twice as long, worse ones first."""
    found = []
    for name in sorted(before.cases.keys() | after.cases.keys()):
        old, new = before.cases.get(name), after.cases.get(name)
        if old is None or new is None or _differ(old, new):
            found.append(Difference(name, old, new))
    return sorted(found, key=lambda one: (not one.is_worse, one.case))


def _differ(old: dict[str, Any], new: dict[str, Any]) -> bool:
    if any(old[name] != new[name] for name in _FIELDS):
        return True
    slow, fast = sorted((old["seconds"] or 0.0, new["seconds"] or 0.0), reverse=True)
    return slow > _SLOW_S and slow > fast * _SLOWER


def show_differences(console: Console, before: Report, after: Report) -> int:
    """Print two reports side by side; return the exit code, 1 if a case ended worse."""
    found = differences(before, after)
    for name, one in (("A", before), ("B", after)):
        console.print(f"{name}: {one.name}, {one.about}, {len(one.cases)} cases in {one.seconds:.0f} s")
    if found:
        rows = [(one.case, _side(one.before), _side(one.after)) for one in found[:_MOST]]
        console.print(table(("case", "A", "B"), rows))
    if len(found) > _MOST:
        console.print(f"… and {len(found) - _MOST} more")
    figures = list(_figures(before, after))
    if figures:
        console.print(table(("figure", "A", "B"), figures, {"A", "B"}))
    worse = [one.case for one in found if one.is_worse]
    console.print(f"{len(found)} cases differ, {len(worse)} of them ended worse")
    return FAILED if worse else OK


def _side(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not played"
    counts = [f"{name} {found[name]}" for name in _COUNTS if found[name] is not None]
    ends = ", ".join(map(str, found["ended"] or ()))
    seconds = f"{found['seconds']:.1f} s" if found["seconds"] is not None else ""
    return " · ".join(filter(None, [found["verdict"], *counts, ends, seconds]))


def _figures(before: Report, after: Report) -> Iterator[tuple[str, str, str]]:
    for name in [*before.figures, *(after.figures.keys() - before.figures.keys())]:
        old, new = before.figures.get(name), after.figures.get(name)
        if old != new:
            yield name.replace("_", " "), shown(old), shown(new)
