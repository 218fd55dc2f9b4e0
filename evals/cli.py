"""Command line: run, matrix, fuzz, sweep, new, schema.

Only what a usage error needs is imported here; each command imports the app itself, which takes seconds.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from evals.dataset import SCHEMA, choose, read_all, scaffold, schema
from evals.events import FAILED, USAGE, EvalError

if TYPE_CHECKING:
    from evals.case import Case
    from evals.report import Baseline
    from evals.runner import Result

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Attacks on the whole app, scored by the provider's own charge log. Exit codes: 0 ok, "
    "1 an expectation failed, 2 usage or schema, 3 incomplete.",
)
console: Final = Console()

Suite = Literal["smoke", "full"]


@app.command()
def run(
    suite: Annotated[Suite, typer.Option(help="smoke selects the cases with that tag")] = "full",
    tag: Annotated[list[str] | None, typer.Option(help="only cases with this tag or category")] = None,
    case: Annotated[list[str] | None, typer.Option(help="only this case")] = None,
    repeat: Annotated[int, typer.Option(min=1, max=100)] = 1,
    out: Annotated[Path, typer.Option(help="folder for the reports")] = Path("var/evals"),
    baseline: Annotated[Path | None, typer.Option(help="a report.json to compare with")] = None,
    guard: Annotated[str | None, typer.Option(metavar="MUTANT", help="play against a mutant")] = None,
    cases_from: Annotated[Path | None, typer.Option("--cases", help="another folder of cases")] = None,
    record: Annotated[Path | None, typer.Option(help="folder for recordings, see replay")] = None,
    live: Annotated[bool, typer.Option("--live", help="use a real model; all else stays local")] = False,
    model: Annotated[str | None, typer.Option(help="live: the model's name")] = None,
    base_url: Annotated[str | None, typer.Option(help="live: an OpenAI-compatible endpoint")] = None,
    api: Annotated[Literal["responses", "chat"], typer.Option(help="live: the endpoint's API")] = "responses",
    max_usd: Annotated[str | None, typer.Option(help="live: a cap, in dollars")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="live: a cap")] = None,
    max_requests: Annotated[int | None, typer.Option(help="live: a cap")] = None,
    price: Annotated[str | None, typer.Option(metavar="IN/OUT", help="live: $ per million tokens")] = None,
) -> None:
    """Play cases and score them."""
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
    from evals.live.session import DEFAULT_PRICE, LiveOptions, run_live

    options = LiveOptions(model, base_url, api, max_usd, max_tokens, max_requests, price or DEFAULT_PRICE)
    try:
        code = run_live(console, chosen, options, play, repeat=repeat, out=out)
    except EvalError as error:
        refuse(str(error))
    raise typer.Exit(code)


@app.command()
def matrix(
    *,
    quick: Annotated[
        bool, typer.Option(help="only the cases that each mutant declares as its killers; writes nothing")
    ] = False,
    mutant: Annotated[list[str] | None, typer.Option(help="only this mutant, and its row")] = None,
) -> None:
    """Play the cases against every mutant; a whole matrix is written into docs/evals.md."""
    from evals.mutation_matrix import run_matrix

    try:
        code = run_matrix(console, read_all(), quick=quick, only=mutant or ())
    except EvalError as error:
        refuse(str(error))
    raise typer.Exit(code)


@app.command()
def fuzz(
    examples: Annotated[int, typer.Option(min=1, help="how many games")] = 200,
    seed: Annotated[int | None, typer.Option(help="other games; without it, always the same")] = None,
    guard: Annotated[str | None, typer.Option(metavar="MUTANT", help="play against a mutant")] = None,
) -> None:
    """Let hypothesis search for a counterexample, which is printed as a case."""
    from evals.fuzz.state_machine import run_fuzz
    from evals.mutants.registry import MUTANTS

    if guard is not None and guard not in MUTANTS:
        refuse(f"{guard!r} is not a mutant; known: {', '.join(MUTANTS)}")
    raise typer.Exit(run_fuzz(console, examples, number=seed, broken=guard))


@app.command(name="schema")
def write_schema(
    *, check: Annotated[bool, typer.Option(help="only check whether it is current")] = False
) -> None:
    """Write evals/cases/schema.json, from which editors complete."""
    if check and SCHEMA.read_text(encoding="utf-8") != schema():
        refuse("evals/cases/schema.json differs from the types; run: python -m evals schema")
    if not check:
        SCHEMA.write_text(schema(), encoding="utf-8")


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="JSON lines with a `text`")],
    out: Annotated[Path, typer.Option(help="folder for sweep.json")] = Path("var/evals"),
) -> None:
    """Play any texts as idea, as argument and as the provider's text; each may be paid once at most."""
    from evals.corpus.run import run_corpus

    try:
        code = run_corpus(console, file, out)
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


def refuse(message: str) -> NoReturn:
    """End with the exit code for wrong usage."""
    console.print(message, style="red", markup=False)
    raise typer.Exit(USAGE)


def run_cases(
    console: Console,
    cases: "Sequence[Case]",
    *,
    repeat: int = 1,
    broken: str | None = None,
    out: Path,
    baseline: "Baseline | None" = None,
    recordings: Path | None = None,
) -> int:
    """Play cases, show and write the results; return the exit code."""
    from evals.adversaries.scripted import record
    from evals.pool import evaluate_cases, open_pool
    from evals.report import compute_metrics, progress, show, write

    with open_pool() as pool, progress(console, "cases", len(cases) * repeat) as advance:

        def on_result(result: "Result") -> None:
            advance(result.case.id, 1)
            if result.verdict != "ok":
                console.print(Text(f"{result.name} {result.verdict}: {result.reason}"[:400], "red"))

        results = asyncio.run(evaluate_cases(cases, pool, repeat=repeat, broken=broken, on_result=on_result))
    metrics = compute_metrics(results)
    show(console, results, metrics)
    worse = write(out, results, metrics, baseline)
    for result in results.results:
        if recordings is not None and result.evidence is not None:
            path = record(recordings, result.case, result.evidence, result.name)
            console.print(f"recorded {path}", style="dim", markup=False)
    for line in worse:
        console.print(line, style="red", markup=False)
    console.print(f"[dim]{out}/report.json, report.md, junit.xml[/]")
    return FAILED if worse else results.exit_code


def main() -> None:
    """Run the command line."""
    app()
