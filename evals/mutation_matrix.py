"""Every mutant against the cases that must catch it."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from evals.case import Case
from evals.events import EvalError
from evals.mutants.registry import MUTANTS, Mutant
from evals.pool import Pool, max_parallel_cases, open_pool
from evals.runner import FAILED, OK
from evals.scorer import score

OBLIGED: Final = frozenset("BCDEFGI")
"""Categories whose every case must kill a mutant of the layer that it names."""

_NO_KILL: Final = frozenset({"rest", "seconds", "language", "nothing escapes", "faults"})
"""A check that may fail for a busy machine's sake proves no bug; nor does a fault that a bug kept away."""

_SEEN_AT_ONCE: Final = frozenset({"one charge per request", "requests", "keys"})
"""What proves a bug in a house that was not at rest in time: nothing that comes later takes it back."""

_PAID_ONCE: Final = frozenset({"paid", "one charge per request", "books"})
"""What must hold of a control: a guard that is missing refuses in other words, and pays no more."""


@dataclass(frozen=True)
class Cell:
    """One mutant against one case. `trouble` says why there is no evidence."""

    mutant: Mutant
    case: Case
    failed: tuple[str, ...] = ()
    trouble: str = ""
    seconds: float = 0

    @property
    def killed(self) -> bool:
        """Whether the case saw the bug; of a control, whether it paid more than once."""
        wrong = set(self.failed)
        if self.mutant.control:
            return bool(wrong & _PAID_ONCE)
        return bool(wrong & _SEEN_AT_ONCE if "rest" in wrong else wrong - _NO_KILL)


@dataclass(frozen=True)
class Matrix:
    """A whole matrix, in the order of the registry and of the cases' ids."""

    cells: Sequence[Cell]
    cases: Sequence[Case]
    seconds: float

    def of(self, mutant: Mutant) -> list[Cell]:
        return [cell for cell in self.cells if cell.mutant is mutant]


Pair = tuple[Mutant, Case]
OnCell = Callable[[Cell], None]


def pairs(cases: Sequence[Case], *, quick: bool = False, only: Sequence[str] = ()) -> list[Pair]:
    """Return what is to be played: a mutant against the cases of its layer, a control against all of B–G, I.

    Args:
        cases: All cases.
        quick: Each mutant against its declared killers alone, each control against the smoke suite's.
        only: Names of mutants; without one, all of them.
    """
    chosen = [one for one in MUTANTS.values() if not only or one.name in only]
    return [(one, case) for one in chosen for case in cases if _concerns(one, case, quick=quick)]


def _concerns(mutant: Mutant, case: Case, *, quick: bool) -> bool:
    if mutant.control:
        return case.category in OBLIGED and (not quick or "smoke" in case.tags)
    return case.id in mutant.killed or (not quick and case.layer == mutant.layer)


async def play_pairs(chosen: Sequence[Pair], pool: Pool, tell: OnCell | None = None) -> Matrix:
    """Play every pair, as many at once as there are places."""
    began, room = time.monotonic(), asyncio.Semaphore(max_parallel_cases() + 2)

    async def one(mutant: Mutant, case: Case) -> Cell:
        async with room:
            cell = await _cell(pool, mutant, case)
        if tell is not None:
            tell(cell)
        return cell

    cells = await asyncio.gather(*(one(*pair) for pair in chosen))
    cases = {case.id: case for _, case in chosen}
    return Matrix(cells, [cases[name] for name in sorted(cases)], time.monotonic() - began)


async def _cell(pool: Pool, mutant: Mutant, case: Case) -> Cell:
    try:
        found = await pool.play(case, mutant.name)
    except Exception as error:  # noqa: BLE001 - a house that could not be played is no proof, and no end either
        return Cell(mutant, case, trouble=f"{type(error).__name__}: {error}")
    failed = tuple(check.name for check in score(case, found) if not check.holds)
    return Cell(mutant, case, failed, seconds=found.seconds)


def wrong(matrix: Matrix) -> Iterator[str]:
    """Yield what does not hold of a matrix, in sentences."""
    for mutant in dict.fromkeys(cell.mutant for cell in matrix.cells):
        cells = matrix.of(mutant)
        killers = [cell.case.id for cell in cells if cell.killed]
        if mutant.control:
            yield from (f"{mutant.name} pays more than once in {name}" for name in killers)
            continue
        if not killers:
            yield f"{mutant.name} is killed by no case"
        for name in sorted({cell.case.id for cell in cells} & set(mutant.killed) - set(killers)):
            yield f"{name} is declared to kill {mutant.name} and does not"
    for cell in matrix.cells:
        # Where a bug breaks the game itself nobody was caught, and nobody said that it would be.
        if cell.trouble and (cell.mutant.control or cell.case.id in cell.mutant.killed):
            yield f"{cell.mutant.name} × {cell.case.id}: {cell.trouble}"


def idle(matrix: Matrix) -> Iterator[str]:
    """Yield every case of B–G and I that kills no mutant of the layer that it names. For whole matrices."""
    kills = {(cell.case.id, cell.mutant.layer) for cell in matrix.cells if cell.killed}
    for case in matrix.cases:
        if case.category not in OBLIGED:
            continue
        if case.layer is None:
            yield f"{case.id} names no layer"
        elif (case.id, case.layer) not in kills:
            yield f"{case.id} kills no mutant of the layer {case.layer}"


PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "evals.md"
BEGIN: Final = "<!-- matrix: written by `make matrix` -->"
END: Final = "<!-- end of matrix -->"
_FEW: Final = 12
_SINCE: Final = " Played again since: "
_ROW_AND_DAY: Final = re.compile(r"`(\w+)` \(([\d-]+)\)")


def run_matrix(console: Console, cases: Sequence[Case], *, quick: bool, only: Sequence[str]) -> int:
    """Play a matrix, show it, write a whole one down; return the exit code.

    Raises:
        EvalError: There is no such mutant.
    """
    if strangers := set(only) - MUTANTS.keys():
        raise EvalError(f"{', '.join(sorted(strangers))}: not a mutant; known: {', '.join(MUTANTS)}")
    chosen = pairs(cases, quick=quick, only=only)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with open_pool() as pool, Progress(*columns, console=console, transient=console.is_terminal) as bar:
        task = bar.add_task("games", total=len(chosen))

        def tell(cell: Cell) -> None:
            bar.update(task, advance=1, description=f"{cell.mutant.name} × {cell.case.id}")

        matrix = asyncio.run(play_pairs(chosen, pool, tell))
    whole = not quick and not only
    faults = show(console, matrix, whole=whole)
    if not quick:
        write(matrix, whole=whole)
        console.print(f"[dim]docs/{PAGE.name}[/]")
    return FAILED if faults else OK


def show(console: Console, matrix: Matrix, *, whole: bool) -> list[str]:
    """Print the matrix and what is wrong with it; return the latter."""
    table = Table(box=None, padding=(0, 1))
    for name in ("mutant", "layer", "played", "killed", "by"):
        table.add_column(name, justify="right" if name in ("played", "killed") else "left")
    for mutant, played, killers in _rows(matrix):
        by = "control: pays once in all" if mutant.control and not killers else _names(played, killers)
        table.add_row(mutant.name, mutant.layer, str(len(played)), str(len(killers)), by)
    console.print(table)
    faults = [*wrong(matrix), *(idle(matrix) if whole else ())]
    for line in faults:
        console.print(line, style="red", markup=False)
    console.print(f"[bold]{len(matrix.cells)} games in {matrix.seconds:.0f} s, {len(faults)} faults[/]")
    return faults


def write(matrix: Matrix, page: Path = PAGE, *, whole: bool = True) -> None:
    """Write the table between the marks of `page`; rows of mutants that were not played stay as they are."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    known, _, after = rest.partition(END)
    lines = [
        _when(matrix) if whole else _again(matrix, known),
        "",
        "| mutant | layer | the bug | killed by |",
        "|---|---|---|---|",
        *_rows_of_page(matrix, known),
    ]
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")


def _when(matrix: Matrix) -> str:
    faults = len([*wrong(matrix), *idle(matrix)])
    games, seconds = f"{len(matrix.cells)} games", f"{matrix.seconds:.0f} s"
    return f"{_today()}: {games} of {len(matrix.cases)} cases in {seconds}, {faults} faults."


def _again(matrix: Matrix, known: str) -> str:
    """Return the line of the last whole matrix, and which rows are younger than that, with their days."""
    first, _, since = known.strip().partition("\n")[0].partition(_SINCE)
    days = dict(_ROW_AND_DAY.findall(since)) | {mutant.name: _today() for mutant, _, _ in _rows(matrix)}
    rows = ", ".join(f"`{name}` ({day})" for name, day in days.items())
    return f"{first}{_SINCE}{rows}."


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _rows_of_page(matrix: Matrix, known: str) -> list[str]:
    rows = {line.split("`")[1]: line for line in known.splitlines() if line.startswith("| `")}
    for mutant, played, killers in _rows(matrix):
        count = f"{len(killers)} of {len(played)}"
        by = f"{count}: {_names(played, killers)}"
        if mutant.control and not killers:
            by = f"none of {len(played)}: it pays once"
        rows[mutant.name] = f"| `{mutant.name}` | {mutant.layer} | {mutant.about} | {by} |"
    return [rows[name] for name in MUTANTS if name in rows]


def _rows(matrix: Matrix) -> Iterator[tuple[Mutant, list[str], list[str]]]:
    """Yield each mutant with the cases that were played against it, and those that killed it."""
    for mutant in MUTANTS.values():
        cells = matrix.of(mutant)
        if cells:
            killers = sorted(cell.case.id for cell in cells if cell.killed)
            yield mutant, sorted(cell.case.id for cell in cells), killers


def _names(played: Sequence[str], killers: Sequence[str]) -> str:
    survived = [name for name in played if name not in killers]
    if len(killers) <= _FEW or len(survived) >= len(killers):
        return ", ".join(killers) or "none"
    return f"all but {', '.join(survived)}" if survived else "all"
