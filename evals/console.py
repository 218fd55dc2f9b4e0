"""What a run looks like while it runs, and its table at the end."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from evals.figures import Figures
from evals.harness import Tell
from evals.report import account
from evals.result import Result, Results

_STYLES = {"ok": "green", "failed": "bold red", "incomplete": "yellow"}


@contextmanager
def progress(console: Console, total: int) -> Iterator[Tell]:
    """Show how far a run is; yields what is to be called with each result."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=console.is_terminal) as bar:
        task = bar.add_task("cases", total=total)

        def tell(result: Result) -> None:
            bar.update(task, advance=1, description=f"cases · {result.case.id}")
            if result.verdict != "ok":
                bar.console.print(Text(f"{result.name} {result.verdict}: {result.reason}"[:400], "red"))

        yield tell


def show(console: Console, results: Results, summed: Figures) -> None:
    """Print every case, what failed and why, and the figures."""
    console.print(_cases(results))
    for result in (*results.of("failed"), *results.of("incomplete")):
        console.print(Panel(Text(account(result)), title=result.name, border_style=_STYLES[result.verdict]))
    console.print(_figures(summed))
    if summed.mount_rate == 0:
        console.print("The model attacked in no case: what held here was not tried.", style="yellow")
    counts = " · ".join(f"{len(results.of(word))} {word}" for word in ("ok", "failed", "incomplete"))
    against = f" · against the mutant {results.broken}" if results.broken else ""
    console.print(f"[bold]{counts}[/] in {results.seconds:.0f} s{against}")


def _cases(results: Results) -> Table:
    table = Table(box=None, padding=(0, 1))
    for name, side in (("case", "left"), ("what must hold", "left"), ("asked", "right"), ("paid", "right"),
                       ("came", "right"), ("s", "right"), ("", "left")):  # fmt: skip
        table.add_column(name, justify=side)  # type: ignore[arg-type]  # rich's own words
    for result in results.results:
        found = result.evidence
        figures = ["", "", "", ""]
        if found is not None:
            figures = [str(found.attempts), str(found.paid), str(found.delivered), f"{found.seconds:.1f}"]
        table.add_row(result.name, result.case.title, *figures, Text(result.verdict, _STYLES[result.verdict]))
    return table


def _figures(summed: Figures) -> Table:
    table = Table(box=None, padding=(0, 1), show_header=False)
    for name, value in summed.rows():
        table.add_row(name, value)
    return table
