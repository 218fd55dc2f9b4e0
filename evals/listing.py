"""The list of cases: what each attacks, with whom, and what must hold."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from evals.case import Case
from evals.report import kind_of

_COLUMNS = ("id", "suite", "kind", "attacks", "adversary", "what must hold")


def show_cases(console: Console, cases: Sequence[Case]) -> None:
    """Print a line for each case; where the output is no terminal, tabs between the columns."""
    if not console.is_terminal:
        for row in rows(cases):
            console.file.write("\t".join(row) + "\n")  # rich would turn tabs into spaces
        return
    shown = Table(*_COLUMNS, box=None, padding=(0, 1))
    for row in rows(cases):
        shown.add_row(*row)
    console.print(shown)
    console.print(f"{len(cases)} cases", style="dim")


def rows(cases: Sequence[Case]) -> Iterator[tuple[str, ...]]:
    """Yield id, suite, kind, the layer that is attacked, the adversary, and the sentence that must hold."""
    for case in cases:
        suite = "smoke" if "smoke" in case.tags else "full"
        attacked = case.layer or "nothing"
        adversary = case.policy.name if case.topology == "single" else f"{case.policy.name}, {case.topology}"
        yield case.id, suite, kind_of(case), attacked, adversary, " ".join(case.title.split())
