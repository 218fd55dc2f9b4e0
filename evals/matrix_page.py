"""The kill matrix for people: a table on the screen, and the same between two marks of docs/evals.md."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from evals.base import EvalError
from evals.case import Case
from evals.matrix import Cell, Matrix, idle, pairs, play, wrong
from evals.mutants.registry import MUTANTS, Mutant
from evals.pool import open_pool
from evals.result import FAILED, OK

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "evals.md"
BEGIN: Final = "<!-- matrix: written by `make matrix` -->"
END: Final = "<!-- end of matrix -->"
_FEW: Final = 12
_SINCE: Final = " Played again since: "
_ROW_AND_DAY: Final = re.compile(r"`(\w+)` \(([\d-]+)\)")


def session(console: Console, cases: Sequence[Case], *, quick: bool, only: Sequence[str]) -> int:
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

        matrix = asyncio.run(play(chosen, pool, tell))
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
