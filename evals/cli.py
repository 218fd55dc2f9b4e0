"""Command line: run, sweep, list, diff, matrix, fuzz, new, schema.

Only what a usage error needs is imported here; each command imports the app itself, which takes seconds.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, NoReturn

import typer
from rich.console import Console

from evals.dataset import SCHEMA, choose, read_all, scaffold, schema
from evals.events import USAGE, EvalError

if TYPE_CHECKING:
    from evals.live.session import LiveOptions
    from evals.suite import RunOptions

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Attacks on the whole app, scored by the provider's own charge log. Exit codes: 0 ok, "
    "1 an expectation failed, 2 usage or schema, 3 incomplete.",
)
console: Final = Console()

Suite = Literal["smoke", "full"]
Guard = Annotated[str | None, typer.Option(metavar="MUTANT", help="play against a mutant")]
Workers = Annotated[int | None, typer.Option(min=1, max=64, help="processes that play at the same time")]
Out = Annotated[Path, typer.Option(help="folder for the reports")]
Inspect = Annotated[Path | None, typer.Option(metavar="FOLDER", help="a log for `inspect view` too")]


@app.command()
def run(
    suite: Annotated[Suite, typer.Option(help="smoke selects the cases with that tag")] = "full",
    tag: Annotated[list[str] | None, typer.Option(help="only cases with this tag or category")] = None,
    case: Annotated[list[str] | None, typer.Option(help="only this case")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="only what was not ok in the last report")] = False,
    repeat: Annotated[int, typer.Option(min=1, max=100)] = 1,
    workers: Workers = None,
    out: Out = Path("var/evals"),
    baseline: Annotated[Path | None, typer.Option(help="a report.json to compare with")] = None,
    guard: Guard = None,
    cases_from: Annotated[Path | None, typer.Option("--cases", help="another folder of cases")] = None,
    corpus: Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="texts in place of cases")] = None,
    record: Annotated[Path | None, typer.Option(help="folder for recordings, see replay")] = None,
    inspect: Inspect = None,
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
    from evals.suite import RunOptions

    if corpus is not None and (live or cases_from or record):
        refuse("--corpus has its own models and cases: it goes with neither --live, --cases nor --record")
    options = RunOptions(
        corpus, cases_from, suite, tag or (), case or (), failed=failed, repeat=repeat, broken=guard,
        workers=workers, out=out, baseline=baseline, recordings=record, inspect=inspect,
    )  # fmt: skip
    if not live:
        _run(options)
    from evals.live.session import DEFAULT_PRICE, LiveOptions

    _run(
        options, LiveOptions(model, base_url, api, max_usd, max_tokens, max_requests, price or DEFAULT_PRICE)
    )


def _run(options: "RunOptions", live: "LiveOptions | None" = None) -> NoReturn:
    from evals.live.session import run_live
    from evals.suite import run_suite, select

    try:
        chosen = select(options)
        if live is None:
            code = run_suite(console, chosen, options)
        else:
            play = partial(run_suite, console, options=options)
            code = run_live(console, chosen, live, play, repeat=options.repeat, out=options.out)
    except (EvalError, ValueError) as error:
        refuse(str(error))
    raise typer.Exit(code)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="JSON lines with a `text`")],
    guard: Guard = None,
    workers: Workers = None,
    out: Out = Path("var/evals"),
) -> None:
    """The same as `run --corpus FILE`: any texts as idea, as argument and as the provider's text."""
    from evals.suite import RunOptions

    _run(RunOptions(file, broken=guard, workers=workers, out=out))


@app.command(name="list")
def list_cases(
    suite: Annotated[Suite, typer.Option()] = "full",
    tag: Annotated[list[str] | None, typer.Option(help="only cases with this tag or category")] = None,
    corpus: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="the cases of these texts")
    ] = None,
) -> None:
    """List cases: suite, id, kind, whom they attack and how, and what must hold."""
    from evals.listing import show_cases
    from evals.sources import read_selection

    try:
        show_cases(console, choose(read_selection(corpus).cases, suite, tag or ()))
    except EvalError as error:
        refuse(str(error))


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="a report.json")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="a later one")],
) -> None:
    """Show two reports side by side; 1 if a case ended worse in the second."""
    from evals.differences import read_report, show_differences

    try:
        code = show_differences(console, read_report(before), read_report(after))
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
    workers: Workers = None,
) -> None:
    """Play the cases against every mutant; a whole matrix is written into docs/evals.md."""
    from evals.mutation_matrix import run_matrix

    try:
        code = run_matrix(console, read_all(), quick=quick, only=mutant or (), workers=workers)
    except EvalError as error:
        refuse(str(error))
    raise typer.Exit(code)


@app.command()
def fuzz(
    examples: Annotated[int, typer.Option(min=1, help="how many games")] = 200,
    seed: Annotated[int | None, typer.Option(help="other games; without it, always the same")] = None,
    guard: Guard = None,
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


def main() -> None:
    """Run the command line."""
    app()
