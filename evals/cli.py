"""Run, matrix, fuzz, sweep, new, schema (commands keep their names)."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn

import typer
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from evals import pool as pools
from evals.adversaries.scripted import record
from evals.case import Case
from evals.dataset import SCHEMA, choose, read_all, scaffold, schema
from evals.events import EvalError
from evals.pool import OnResult, open_pool
from evals.report import Baseline, RunMetrics, compute_metrics, describe_failure, write
from evals.runner import FAILED, USAGE, Result, Results

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Attacks on the house, scored against the provider's own charge log. 0 ok, 1 an expectation failed, "
    "2 usage or schema, 3 incomplete.",
)
console: Final = Console()

Suite = Literal["smoke", "full"]


@app.command()
def run(
    suite: Annotated[Suite, typer.Option(help="smoke takes the cases with that tag")] = "full",
    tag: Annotated[list[str] | None, typer.Option(help="only cases with this tag or category")] = None,
    case: Annotated[list[str] | None, typer.Option(help="only this case")] = None,
    repeat: Annotated[int, typer.Option(min=1, max=100)] = 1,
    out: Annotated[Path, typer.Option(help="where the reports are written")] = Path("var/evals"),
    baseline: Annotated[Path | None, typer.Option(help="a report.json to compare with")] = None,
    guard: Annotated[str | None, typer.Option(metavar="MUTANT", help="play against a broken house")] = None,
    cases_from: Annotated[Path | None, typer.Option("--cases", help="another folder of cases")] = None,
    record: Annotated[Path | None, typer.Option(help="a folder for what the model said, see replay")] = None,
    live: Annotated[bool, typer.Option("--live", help="a real model plays; all else stays here")] = False,
    model: Annotated[str | None, typer.Option(help="live: its name")] = None,
    base_url: Annotated[str | None, typer.Option(help="live: an OpenAI-compatible endpoint")] = None,
    api: Annotated[Literal["responses", "chat"], typer.Option(help="live: what it speaks")] = "responses",
    max_usd: Annotated[str | None, typer.Option(help="live: a cap, in dollars")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="live: a cap")] = None,
    max_requests: Annotated[int | None, typer.Option(help="live: a cap")] = None,
    price: Annotated[str | None, typer.Option(metavar="IN/OUT", help="live: $ a million tokens")] = None,
) -> None:
    """Play cases and judge them."""
    # Heavy: the house itself, and only this command needs it.
    from evals.adversaries.catalog import make_adversary
    from evals.mutants.registry import mutant
    from evals.report import read_baseline
    from evals.topologies import topology

    try:
        before = read_baseline(baseline) if baseline else None
        chosen = choose(read_all(cases_from) if cases_from else read_all(), suite, tag or (), case or ())
        for one in chosen:
            make_adversary(one.policy)
            with topology(one.topology), mutant(guard):
                pass
    except (EvalError, ValueError) as error:
        refuse(str(error))

    play = partial(run_cases, repeat=repeat, broken=guard, baseline=before, recordings=record)
    if not live:
        raise typer.Exit(play(console, chosen, out=out))
    from evals.live.session import DEFAULT_PRICE, LiveOptions
    from evals.live.session import run_live as live_session

    asked = LiveOptions(model, base_url, api, max_usd, max_tokens, max_requests, price or DEFAULT_PRICE)
    try:
        code = live_session(console, chosen, asked, play, repeat=repeat, out=out)
    except EvalError as error:
        refuse(str(error))
    raise typer.Exit(code)


@app.command()
def matrix(
    *,
    quick: Annotated[
        bool, typer.Option(help="only the killers that mutants declare; writes nothing")
    ] = False,
    mutant: Annotated[list[str] | None, typer.Option(help="only this mutant, and its row")] = None,
) -> None:
    """Play the cases against every broken house; a whole matrix is written into docs/evals.md."""
    from evals.mutation_matrix import run_matrix

    try:
        code = run_matrix(console, read_all(), quick=quick, only=mutant or ())
    except EvalError as error:
        refuse(str(error))
    raise typer.Exit(code)


@app.command()
def fuzz(
    examples: Annotated[int, typer.Option(min=1, help="how many games")] = 200,
    seed: Annotated[int | None, typer.Option(help="other games; without one always the same")] = None,
    guard: Annotated[str | None, typer.Option(metavar="MUTANT", help="play against a broken house")] = None,
) -> None:
    """Let hypothesis look for what no case says; a counterexample is printed as a case."""
    from evals.fuzz.state_machine import run_fuzz
    from evals.mutants.registry import MUTANTS

    if guard is not None and guard not in MUTANTS:
        refuse(f"{guard!r} is not a mutant; known: {', '.join(MUTANTS)}")
    raise typer.Exit(run_fuzz(console, examples, number=seed, broken=guard))


@app.command(name="schema")
def write_schema(
    *, check: Annotated[bool, typer.Option(help="only say whether it is current")] = False
) -> None:
    """Write evals/cases/schema.json, from which editors complete."""
    if check and SCHEMA.read_text(encoding="utf-8") != schema():
        refuse("evals/cases/schema.json is not what the types say; run: python -m evals schema")
    if not check:
        SCHEMA.write_text(schema(), encoding="utf-8")


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="JSON lines with a `text`")],
    out: Annotated[Path, typer.Option(help="where sweep.json is written")] = Path("var/evals"),
) -> None:
    """Play any texts as idea, as argument and as the provider's words; each may be paid once at most."""
    from evals.corpus.run import run_corpus as run_sweep

    try:
        code = run_sweep(console, file, out)
    except EvalError as error:
        refuse(str(error))
    raise typer.Exit(code)


@app.command()
def new(name: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Append a case to the file of its category, to be edited."""
    try:
        path = scaffold(name)
    except EvalError as error:
        refuse(str(error))
    console.print(f"{path.name}: {name} was added; edit it, then: python -m evals run --case {name}")


def refuse(words: str) -> NoReturn:
    """End with the exit code for usage."""
    console.print(words, style="red", markup=False)
    raise typer.Exit(USAGE)


def main() -> None:
    """Run the command line."""
    app()


_STYLES = {"ok": "green", "failed": "bold red", "incomplete": "yellow"}


@contextmanager
def progress(console: Console, total: int) -> Iterator[OnResult]:
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


def show(console: Console, results: Results, summed: RunMetrics) -> None:
    """Print every case, what failed and why, and the figures."""
    console.print(_cases(results))
    for result in (*results.of("failed"), *results.of("incomplete")):
        console.print(
            Panel(Text(describe_failure(result)), title=result.name, border_style=_STYLES[result.verdict])
        )
    console.print(_metrics_table(summed))
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


def _metrics_table(summed: RunMetrics) -> Table:
    table = Table(box=None, padding=(0, 1), show_header=False)
    for name, value in summed.rows():
        table.add_row(name, value)
    return table


def run_cases(
    console: Console,
    cases: Sequence[Case],
    *,
    repeat: int = 1,
    broken: str | None = None,
    out: Path,
    baseline: Baseline | None = None,
    recordings: Path | None = None,
) -> int:
    """Play cases, show and write what came of them; return the exit code."""
    with open_pool() as pool, progress(console, len(cases) * repeat) as tell:
        results = asyncio.run(pools.evaluate_cases(cases, pool, repeat=repeat, broken=broken, tell=tell))
    summed = compute_metrics(results)
    show(console, results, summed)
    worse = write(out, results, summed, baseline)
    if recordings is not None:
        record_all(console, recordings, results)
    for line in worse:
        console.print(line, style="red", markup=False)
    console.print(f"[dim]{out}/report.json, report.md, junit.xml[/]")
    return FAILED if worse else results.exit_code


def record_all(console: Console, folder: Path, results: Results) -> None:
    """Write down what the model said in every case that was played."""
    for result in results.results:
        if result.evidence is not None:
            path = record(folder, result.case, result.evidence, result.name)
            console.print(f"recorded {path}", style="dim", markup=False)
