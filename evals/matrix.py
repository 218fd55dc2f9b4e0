"""The kill matrix: every mutant against the cases that concern its layer, and what must hold of it."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from evals.case import Case
from evals.judge import judge
from evals.mutants.registry import MUTANTS, Mutant
from evals.pool import Pool, places

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
Tell = Callable[[Cell], None]


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


async def play(chosen: Sequence[Pair], pool: Pool, tell: Tell | None = None) -> Matrix:
    """Play every pair, as many at once as there are places."""
    began, room = time.monotonic(), asyncio.Semaphore(places() + 2)

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
    failed = tuple(check.name for check in judge(case, found) if not check.holds)
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
