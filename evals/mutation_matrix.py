"""Mutation testing of the cases: plays every mutant against them; writes the matrix into docs/evals.md."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from evals.case import Case
from evals.events import FAILED, INCOMPLETE, OK, EvalError
from evals.mutants.registry import MUTANTS, Mutant
from evals.pool import Pool, open_pool
from evals.report import markdown_table, progress, table
from evals.scorer import score
from evals.sources import job_of
from evals.waiting import BUSY_S, CROWDED

OBLIGED: Final = frozenset("BCDEFGIM")
"""Categories whose every case must kill a mutant of the layer that it names."""

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "evals.md"
BEGIN: Final = "<!-- matrix: written by `make matrix` -->"
END: Final = "<!-- end of matrix -->"

_NO_KILL: Final = frozenset({"rest", "seconds", "language", "nothing escapes", "faults"})
"""Checks that prove no bug: they may fail on a busy machine, or because a bug prevented the fault."""

_SEEN_AT_ONCE: Final = frozenset(
    {"one charge per request", "no charge too many", "each at its own account", "requests", "keys"}
)
"""Checks that prove a bug in an app that did not settle in time: nothing later undoes them."""

_PAID_ONCE: Final = frozenset({"paid", "one charge per request", "books"})
"""Checks that must hold for a control: without a guard it refuses with other reasons, but pays no more."""

_MANY_KILLERS: Final = 12
_SINCE: Final = " Played again since: "
_ROW_AND_DAY: Final = re.compile(r"`(\w+)` \(([\d-]+)\)")


@dataclass(frozen=True)
class Cell:
    """One mutant against one case. `trouble` says why there is no evidence.

    `excused` says that the machine was busy: a bug that was not seen may have been seen on a quiet one.
    """

    mutant: Mutant
    case: Case
    failed: tuple[str, ...] = ()
    trouble: str = ""
    seconds: float = 0
    excused: bool = False

    @property
    def killed(self) -> bool:
        """Whether the case saw the bug; for a control, whether it paid more than once."""
        failed = set(self.failed)
        if self.mutant.control:
            return bool(failed & _PAID_ONCE)
        return bool(failed & _SEEN_AT_ONCE if "rest" in failed else failed - _NO_KILL)


@dataclass(frozen=True)
class Matrix:
    """A whole matrix, in the order of the registry and of the cases' ids."""

    cells: Sequence[Cell]
    cases: Sequence[Case]
    seconds: float

    def of(self, mutant: Mutant) -> list[Cell]:
        return [cell for cell in self.cells if cell.mutant is mutant]

    def rows(self) -> Iterator[tuple[Mutant, list[str], list[str]]]:
        """Yield each mutant with the ids of the cases played against it, and of those that killed it."""
        for mutant in MUTANTS.values():
            if cells := self.of(mutant):
                killers = sorted(cell.case.id for cell in cells if cell.killed)
                yield mutant, sorted(cell.case.id for cell in cells), killers


Pair = tuple[Mutant, Case]


def run_matrix(
    console: Console, cases: Sequence[Case], *, quick: bool, only: Sequence[str], workers: int | None = None
) -> int:
    """Play a matrix, show it, and write it to the page unless `quick`; return the exit code.

    Raises:
        EvalError: A name in `only` is unknown.
    """
    if unknown := set(only) - MUTANTS.keys():
        raise EvalError(f"{', '.join(sorted(unknown))}: not a mutant; known: {', '.join(MUTANTS)}")
    chosen = pairs(cases, quick=quick, only=only)
    with open_pool(workers) as pool, progress(console, "games", len(chosen)) as advance:

        def on_cell(cell: Cell) -> None:
            advance(f"{cell.mutant.name} × {cell.case.id}", 1)

        matrix = asyncio.run(play_pairs(chosen, pool, on_cell))
    whole = not quick and not only
    faults = show(console, matrix, whole=whole)
    if not quick:
        write(matrix, whole=whole)
        console.print(f"[dim]docs/{PAGE.name}[/]")
    if faults:
        return FAILED
    return INCOMPLETE if list(unproven(matrix)) else OK


def pairs(cases: Sequence[Case], *, quick: bool = False, only: Sequence[str] = ()) -> list[Pair]:
    """Return what is to be played: a mutant against the cases of its layer, a control against B–G and I.

    Args:
        cases: All cases.
        quick: Each mutant only against its declared killers, each control only against the smoke suite.
        only: Names of mutants; without them, all mutants.
    """
    chosen = [one for one in MUTANTS.values() if not only or one.name in only]
    return [(one, case) for one in chosen for case in cases if _concerns(one, case, quick=quick)]


def _concerns(mutant: Mutant, case: Case, *, quick: bool) -> bool:
    if mutant.control:
        return case.category in OBLIGED and case.agent is None and (not quick or "smoke" in case.tags)
    return case.id in mutant.killed or (not quick and case.layer == mutant.layer)


async def play_pairs(
    chosen: Sequence[Pair], pool: Pool, on_cell: Callable[[Cell], None] = lambda _: None
) -> Matrix:
    """Play every pair; `on_cell` is called with each cell as it arrives."""
    began = time.monotonic()

    async def play(mutant: Mutant, case: Case) -> Cell:
        cell = await _cell(pool, mutant, case)
        on_cell(cell)
        return cell

    cells = await asyncio.gather(*(play(*pair) for pair in chosen))
    cases = {case.id: case for _, case in chosen}
    return Matrix(cells, [cases[name] for name in sorted(cases)], time.monotonic() - began)


async def _cell(pool: Pool, mutant: Mutant, case: Case) -> Cell:
    try:
        found = (await pool.run(job_of(case), mutant.name)).evidence[0]
    except EvalError as error:  # a mutant that cannot be played is no kill, and ends nothing
        return Cell(mutant, case, trouble=str(error))
    failed = tuple(check.name for check in score(case, found) if not check.holds)
    return Cell(
        mutant,
        case,
        failed,
        seconds=found.seconds,
        excused=found.lag_s >= BUSY_S or found.crowding >= CROWDED,
    )


def wrong(matrix: Matrix) -> Iterator[str]:
    """Yield what is wrong in a matrix, as sentences."""
    for mutant, played, killers in matrix.rows():
        if mutant.control:
            yield from (f"{mutant.name} pays more than once in {name}" for name in killers)
            continue
        excused = {cell.case.id for cell in matrix.of(mutant) if cell.excused}
        if not killers and not excused:
            yield f"{mutant.name} is killed by no case"
        for name in sorted(set(played) & set(mutant.killed) - set(killers) - excused):
            yield f"{name} is declared to kill {mutant.name} and does not"
    for cell in matrix.cells:
        # A bug that breaks the whole run is not caught; that matters only where a kill was declared.
        if cell.trouble and (cell.mutant.control or cell.case.id in cell.mutant.killed):
            yield f"{cell.mutant.name} × {cell.case.id}: {cell.trouble}"


def unproven(matrix: Matrix) -> Iterator[str]:
    """Yield every declared kill that did not happen on a busy machine: no proof of anything."""
    for cell in matrix.cells:
        if cell.excused and not cell.killed and cell.case.id in cell.mutant.killed:
            yield f"{cell.mutant.name} × {cell.case.id}: not killed, and the machine was busy"


def idle(matrix: Matrix) -> Iterator[str]:
    """Yield every case of B–G, I and M that kills no mutant of the layer that it names."""
    kills = {(cell.case.id, cell.mutant.layer) for cell in matrix.cells if cell.killed}
    for case in matrix.cases:
        if case.category not in OBLIGED:
            continue
        if case.layer is None:
            yield f"{case.id} names no layer"
        elif (case.id, case.layer) not in kills:
            yield f"{case.id} kills no mutant of the layer {case.layer}"


def show(console: Console, matrix: Matrix, *, whole: bool) -> list[str]:
    """Print the matrix and what is wrong with it; return the latter."""
    rows = []
    for mutant, played, killers in matrix.rows():
        by = "control: pays once in all" if mutant.control and not killers else _names(played, killers)
        rows.append((mutant.name, mutant.layer, str(len(played)), str(len(killers)), by))
    console.print(table(("mutant", "layer", "played", "killed", "by"), rows, {"played", "killed"}))
    faults = [*wrong(matrix), *(idle(matrix) if whole else ())]
    for line in faults:
        console.print(line, style="red", markup=False)
    for line in unproven(matrix):
        console.print(line, style="yellow", markup=False)
    console.print(f"[bold]{len(matrix.cells)} games in {matrix.seconds:.0f} s, {len(faults)} faults[/]")
    return faults


def write(matrix: Matrix, page: Path = PAGE, *, whole: bool = True) -> None:
    """Write the table between the marks of `page`; rows of mutants that were not played stay as they are."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    known, _, after = rest.partition(END)
    first = _summary(matrix) if whole else _partial_summary(matrix, known)
    columns = ("mutant", "layer", "the bug", "killed by")
    lines = [first, "", *markdown_table(columns, ()), *_page_rows(matrix, known)]
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")


def _summary(matrix: Matrix) -> str:
    faults = len([*wrong(matrix), *idle(matrix)])
    games, seconds = f"{len(matrix.cells)} games", f"{matrix.seconds:.0f} s"
    return f"{_today()}: {games} of {len(matrix.cases)} cases in {seconds}, {faults} faults."


def _partial_summary(matrix: Matrix, known: str) -> str:
    """Return the line of the last whole matrix, and the rows that are younger, with their days."""
    first, _, since = known.strip().partition("\n")[0].partition(_SINCE)
    days = dict(_ROW_AND_DAY.findall(since)) | {mutant.name: _today() for mutant, _, _ in matrix.rows()}
    rows = ", ".join(f"`{name}` ({day})" for name, day in days.items())
    return f"{first}{_SINCE}{rows}."


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _page_rows(matrix: Matrix, known: str) -> list[str]:
    rows = {line.split("`")[1]: line for line in known.splitlines() if line.startswith("| `")}
    for mutant, played, killers in matrix.rows():
        by = f"{len(killers)} of {len(played)}: {_names(played, killers)}"
        if mutant.control and not killers:
            by = f"none of {len(played)}: it pays once"
        rows[mutant.name] = f"| `{mutant.name}` | {mutant.layer} | {mutant.about} | {by} |"
    return [rows[name] for name in MUTANTS if name in rows]


def _names(played: Sequence[str], killers: Sequence[str]) -> str:
    survived = [name for name in played if name not in killers]
    if len(killers) <= _MANY_KILLERS or len(survived) >= len(killers):
        return ", ".join(killers) or "none"
    return f"all but {', '.join(survived)}" if survived else "all"
