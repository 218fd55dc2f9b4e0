"""OneTake: one `/create` makes one video. This file is the whole story on one screen.

A Telegram update becomes a request in the ledger before it is acknowledged (`chat`). A worker lets the
director, an agent declared in `agents/`, turn the idea into an order; its tool is guarded (`guardrails`) and
pays nothing (`tools`). The studio pays for orders, once each, as the ledger decides (`ledger`), watches them,
and `chat` delivers. What was lost on the way is found by a sweep that reads the ledger alone.

    python -m bot run | worker | demo | chat | doctor
    python -m bot costs | videos | duplicates | trace | resolve | breaker
"""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from telemetry.logs import setup_logs

if TYPE_CHECKING:
    from app.settings import Settings
    from ledger.reports import ReportPeriod

AsyncCommand = Callable[["Settings"], Coroutine[Any, Any, None]]

_USER = "Of one Telegram user alone."
_JSON = "As JSON, for programs."

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One /create makes one video.",
)
console = Console()


@app.command()
def run() -> None:
    """Serve Telegram: updates by polling or webhook, and a worker in the same process unless WORKER=apart."""
    from app.processes import run_bot

    _run_command(run_bot)


@app.command()
def worker() -> None:
    """Only work: run the agents, pay for orders, deliver. As many as you like, on as many machines."""
    from app.processes import run_worker_alone

    _run_command(run_worker_alone)


@app.command()
def demo() -> None:
    """Make one video with nothing configured, then replay the incident and print the bill."""
    from app.demo import demo as show

    _run_command(lambda settings: show(settings, console), quiet=True)


@app.command()
def chat() -> None:
    """Leave the house running with a local Telegram and a web page to talk to."""
    from app.processes import run_chat

    _run_command(lambda settings: run_chat(settings, console))


@app.command()
def doctor() -> None:
    """Check every part that is configured, and say what to do about each that is not well."""
    from app.doctor import doctor as examine

    _run_command(lambda settings: examine(settings, console), quiet=True)


@app.command()
def resolve(
    request: Annotated[str, typer.Argument(help="The request's id or its six letters.")],
    outcome: Annotated[str, typer.Argument(help="paid, unpaid, or gone (paid, and no video comes)")],
    job_id: Annotated[str, typer.Argument(help="The provider's job, if it was paid.")] = "",
    why: Annotated[str, typer.Option(help="What you saw; it stands in the transitions.")] = "",
) -> None:
    """Settle a request on HOLD: paid (it has this job), unpaid, or gone (paid, and there is no video)."""
    from app.operator_commands import resolve as settle

    _run_command(lambda settings: settle(settings, console, request, outcome, job_id, why), quiet=True)


@app.command()
def breaker(
    act: Annotated[str, typer.Argument(help="show or close")] = "show",
    scope: Annotated[str, typer.Argument(help="everyone, or user:ID")] = "",
) -> None:
    """Show which breakers stop paid work and why, or close one: orders that wait go on."""
    from app.operator_commands import breakers

    _run_command(lambda settings: breakers(settings, console, act, scope), quiet=True)


@app.command()
def costs(
    day: Annotated[
        bool, typer.Option("--day", help="Also by user, model and request: this UTC day.")
    ] = False,
    hour: Annotated[bool, typer.Option("--hour", help="The same of the last 60 minutes.")] = False,
    user: Annotated[int | None, typer.Option(help=_USER)] = None,
    json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Print what was charged, refunded and is reserved: last hour, today (UTC), in 30 days, in all."""
    from app.operator_commands import costs as show

    span: ReportPeriod | None = "hour" if hour else "today" if day else None
    _run_command(lambda settings: show(settings, console, user, span, as_json=json), quiet=True)


@app.command()
def videos(
    user: Annotated[int | None, typer.Option(help=_USER)] = None,
    most: Annotated[int, typer.Option(min=1, max=500, help="So many lines.")] = 20,
    json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Print the latest videos: state, what was paid, the provider's job, the trace."""
    from app.operator_commands import videos as show

    _run_command(lambda settings: show(settings, console, user, most, as_json=json), quiet=True)


@app.command()
def duplicates(
    days: Annotated[int, typer.Option(min=1, max=366, help="UTC days, this one included.")] = 1,
    json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Print the calls that would have paid again and did not: by request, tool and layer."""
    from app.operator_commands import duplicates as show

    _run_command(lambda settings: show(settings, console, days, as_json=json), quiet=True)


@app.command()
def trace(request: Annotated[str, typer.Argument(help="The request's id or its six letters.")]) -> None:
    """Print all that happened to one request; with JAEGER_URL set, the spans of its trace too."""
    from app.trace_command import trace as show

    _run_command(lambda settings: show(settings, console, request), quiet=True)


def _run_command(work: AsyncCommand, *, quiet: bool = False) -> None:
    """Read the settings and do the work; whatever is wrong is said in one sentence, without a trace."""
    from app.errors import describe_error, expected_errors
    from app.settings import read_settings

    try:
        settings = read_settings()
        setup_logs("ERROR" if quiet else settings.log_level, settings.log_format)
        if not gc.isenabled():
            gc.freeze()  # all that was imported stays: it need never be looked through
            gc.enable()
        asyncio.run(work(settings))
    except expected_errors() as error:
        _stop(describe_error(error))
    except KeyboardInterrupt:
        _stop("stopped")


def _stop(words: str) -> NoReturn:
    Console(stderr=True).print(f"[bold red]OneTake stops:[/] {words}", highlight=False, markup=True)
    sys.exit(1)


if __name__ == "__main__":
    gc.disable()  # until the parts are imported: a quarter of the start went into looking for garbage there
    app()
