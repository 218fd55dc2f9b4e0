"""Writes docs/benchmarks.md and its pictures from one run."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench.capacity import walls
from bench.goals import GOALS
from bench.results import RED, Figure, Results

MARKS: Final = {
    "met": "met",
    "missed": "**missed**",
    "reported": "reported",
    "not measured": "not measured",
    "failed": "**failed**",
}

_HEAD: Final = """\
# Benchmarks

Written by `make nightly` (`python -m bench --write`); do not edit. `make bench` prints the same table.

Each ratio is measured within one run: both sides in alternating turns, so that a loaded machine slows both.
The baseline uses a plain client without traces. Spread is the quartiles of the turns. Rows in seconds,
megabytes or per second are reported only; CI judges ratios and counts, and is red where one is above {red}
times its goal. "First edition" is what was found before this benchmark existed, "before" what this benchmark
measured on that code (`bench/before.json`).
"""

_BEFORE: Final = Path(__file__).with_name("before.json")
_PICTURES: Final = {
    "admission_against_history": (
        "admission-history.png",
        "One admission by the number of orders in the window; the same call without any next to it.",
    ),
    "latency_against_load": (
        "admission-load.png",
        "Time of one admission by the number that are made at the same time.",
    ),
}


def render(results: Results) -> str:
    """Return the page."""
    parts = [
        _HEAD.format(red=RED),
        _machine(results),
        "## The table",
        _table(results),
        "## What was compared",
    ]
    parts += [_notes(results)]
    if questions := _questions(results):
        parts += ["## Timed questions", questions]
    for name, (file, words) in _PICTURES.items():
        if name in results.series:
            parts.append(f"![{words}](pictures/{file})\n\n{words}")
    if found := walls(results):
        parts += ["## Beyond one machine", found]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _machine(results: Results) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in results.machine.items())


def read_before() -> dict[str, str]:
    """Return the figures that this benchmark measured before the work of the second edition on size."""
    found: dict[str, str] = json.loads(_BEFORE.read_text(encoding="utf-8"))["figures"]
    return found


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _table(results: Results) -> str:
    before = read_before()
    head = ("figure", "first edition", "before", "goal", "measured", "spread", "")
    lines = [_row(*head), _row(*["---"] * len(head))]
    for key, goal in GOALS.items():
        one = results.figures.get(key, Figure(note="not part of this run"))
        verdict = MARKS[one.verdict(goal)]
        cells = (
            goal.figure,
            goal.first,
            before.get(key, "–"),
            goal.goal,
            one.shown or "–",
            one.spread,
            verdict,
        )
        lines.append(_row(*cells))
    return "\n".join(lines)


def _notes(results: Results) -> str:
    return "\n".join(
        f"- {goal.figure}: {results.figures[key].note}."
        for key, goal in GOALS.items()
        if key in results.figures and results.figures[key].note
    )


def _questions(results: Results) -> str:
    parts: list[str] = []
    for dialect in ("sqlite", "postgresql"):
        if found := results.series.get(f"questions_{dialect}"):
            head = f"{found['few']:,} against {found['many']:,} requests on {dialect}"
            lines = [
                f"{head}, {found['bytes_per_request']:.0f} bytes a request:\n",
                _row("question", "few, ms", "many, ms", "growth"),
                _row("---", "---", "---", "---"),
                *_question_rows(found["questions"]),
            ]
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _question_rows(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    for one in lines:
        if "failed" in one:
            yield _row(one["question"], "", "", f"failed: {one['failed']}")
        else:
            yield _row(one["question"], f"{one['few_ms']:.2f}", f"{one['ms']:.2f}", f"{one['growth']:.2f}")


def red_rows(results: Results) -> list[str]:
    """Return the rows for which CI fails, with what was measured."""
    return [
        f"{GOALS[key].figure}: {one.shown or one.note} (goal {GOALS[key].goal})"
        for key, one in results.figures.items()
        if one.is_red(GOALS[key])
    ]


def write(results: Results, docs: Path) -> None:
    """Write the page and, where matplotlib is installed, its pictures into `docs`."""
    (docs / "benchmarks.md").write_text(render(results), encoding="utf-8")
    draw(results, docs / "pictures")


def draw(results: Results, folder: Path) -> None:
    """Draw the pictures of the series that were measured; without matplotlib the old ones stay."""
    try:
        from bench import plots
    except ImportError:
        return
    for name, (file, _) in _PICTURES.items():
        if points := results.series.get(name):
            getattr(plots, name)(points, folder / file)
