"""`python -m evals`: run cases, begin a new one, write the schema."""

from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn

import typer
from rich.console import Console

from evals.base import EvalError
from evals.datasets import SCHEMA, choose, read_all, scaffold, schema
from evals.result import USAGE

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
    from evals.mutants.registry import mutant
    from evals.policies.registry import make
    from evals.report import read_baseline
    from evals.topologies import topology

    try:
        before = read_baseline(baseline) if baseline else None
        chosen = choose(read_all(cases_from) if cases_from else read_all(), suite, tag or (), case or ())
        for one in chosen:
            make(one.policy)
            with topology(one.topology), mutant(guard):
                pass
    except (EvalError, ValueError) as error:
        refuse(str(error))
    from evals.session import session

    play = partial(session, repeat=repeat, broken=guard, baseline=before, recordings=record)
    if not live:
        raise typer.Exit(play(console, chosen, out=out))
    from evals.live.session import DEAR, Asked
    from evals.live.session import session as live_session

    asked = Asked(model, base_url, api, max_usd, max_tokens, max_requests, price or DEAR)
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
    from evals.matrix_page import session

    try:
        code = session(console, read_all(), quick=quick, only=mutant or ())
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
    from evals.fuzz.command import session
    from evals.mutants.registry import MUTANTS

    if guard is not None and guard not in MUTANTS:
        refuse(f"{guard!r} is not a mutant; known: {', '.join(MUTANTS)}")
    raise typer.Exit(session(console, examples, number=seed, broken=guard))


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
    from evals.sweep.run import sweep as run_sweep

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
