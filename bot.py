"""OneTake: one `/create` makes one video. This file is the command line.

A Telegram update becomes a request in the ledger before it is acknowledged (`chat`). A worker runs the
director, an agent declared in `agents/`, which turns the idea into an order; its tool is guarded
(`guardrails`) and pays nothing (`tools`). The worker submits each order once, as the ledger decides
(`worker`, `ledger`), polls the job, and `chat` delivers the video. What is due is read from the
ledger alone. docs/architecture.md has the diagram and the state machine.

    python -m bot run | worker | demo | chat | doctor
    python -m bot costs | videos | duplicates | trace | resolve | correct | breaker | prune
    python -m bot backup | restore
"""

import asyncio
import gc
import platform
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from telemetry.logs import get_logger, setup_logs

if TYPE_CHECKING:
    from app.settings import Settings
    from ledger.reports import ReportPeriod

AsyncCommand = Callable[["Settings"], Coroutine[Any, Any, None]]

_USER = "Only this Telegram user id."
_JSON = "Print JSON for programs."

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One /create makes one video.",
)
console = Console()


@app.command()
def run() -> None:
    """Serve Telegram by polling or webhook, with a worker in the same process unless WORKER=apart."""
    from app.processes import run_bot

    _run_command(run_bot)


@app.command()
def worker() -> None:
    """Run a worker without the bot: agents, paid orders, delivery. Start any number, on any machines."""
    from app.processes import run_worker_alone

    _run_command(run_worker_alone)


@app.command()
def demo() -> None:
    """Make one video with nothing configured, then replay the incident and print what it cost."""
    from app.demo import demo as run_demo

    _run_command(lambda settings: run_demo(settings, console), quiet=True)


@app.command()
def chat() -> None:
    """Run the app with a local Telegram and a web page to talk to it."""
    from app.processes import run_chat

    _run_command(lambda settings: run_chat(settings, console))


@app.command()
def doctor() -> None:
    """Check every configured part, and print what to do about each problem."""
    from app.doctor import doctor as run_doctor

    _run_command(lambda settings: run_doctor(settings, console), quiet=True)


@app.command()
def resolve(
    request: Annotated[str, typer.Argument(help="The request's id or its six letters.")],
    outcome: Annotated[str, typer.Argument(help="paid, unpaid, or gone (paid, but there will be no video)")],
    job_id: Annotated[str, typer.Argument(help="The provider's job, if it was paid.")] = "",
    why: Annotated[str, typer.Option(help="What you found; it is stored with the state change.")] = "",
) -> None:
    """Resolve a request on HOLD as paid (by this job), unpaid, or gone (paid, but there is no video)."""
    from app.operator_commands import resolve as resolve_hold

    _run_command(lambda settings: resolve_hold(settings, console, request, outcome, job_id, why), quiet=True)


@app.command()
def correct(
    request: Annotated[str, typer.Argument(help="The request's id or its six letters.")],
    words: Annotated[
        list[str],
        typer.Argument(
            help="refund [JOB], charge [JOB], end paid JOB, end gone JOB or end unpaid; - is an unknown job"
        ),
    ],
    amount: Annotated[str, typer.Option(help="As in $3 or $0.375; a refund without one is of all.")] = "",
    why: Annotated[str, typer.Option(help="What you found; it is stored with the entry.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before it is booked.")] = False,
) -> None:
    """Correct what is booked: a refund of a job, a charge by invoice, or an end that was wrong."""
    from app.operator_commands import correct as correct_order

    def ask(sentence: str) -> bool:
        return yes or typer.confirm(f"{sentence} Book it?")

    _run_command(
        lambda settings: correct_order(settings, console, request, words, amount, why, ask), quiet=True
    )


@app.command()
def breaker(
    action: Annotated[str, typer.Argument(help="show, open or close")] = "show",
    scope: Annotated[str, typer.Argument(help="everyone, or user:ID")] = "",
    why: Annotated[str, typer.Option(help="Why it is opened; every operator reads it.")] = "",
) -> None:
    """Show which breakers stop paid work and why, stop it, or close one so that waiting orders continue."""
    from app.operator_commands import breakers

    _run_command(lambda settings: breakers(settings, console, action, scope, why), quiet=True)


@app.command()
def costs(
    day: Annotated[
        bool, typer.Option("--day", help="Break down this UTC day by user, model and request.")
    ] = False,
    hour: Annotated[bool, typer.Option("--hour", help="Break down the last 60 minutes instead.")] = False,
    user: Annotated[int | None, typer.Option(help=_USER)] = None,
    json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Print what was charged, refunded and is reserved: last hour, today (UTC), 30 days, total."""
    from app.operator_commands import costs as print_report

    span: ReportPeriod | None = "hour" if hour else "today" if day else None
    _run_command(lambda settings: print_report(settings, console, user, span, as_json=json), quiet=True)


@app.command()
def videos(
    user: Annotated[int | None, typer.Option(help=_USER)] = None,
    most: Annotated[int, typer.Option(min=1, max=500, help="Maximum number of lines.")] = 20,
    json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Print the latest videos: state, amount paid, provider job, trace."""
    from app.operator_commands import videos as print_report

    _run_command(lambda settings: print_report(settings, console, user, most, as_json=json), quiet=True)


@app.command()
def duplicates(
    days: Annotated[int, typer.Option(min=1, max=366, help="UTC days, including today.")] = 1,
    json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Print prevented duplicate calls by request, tool and layer."""
    from app.operator_commands import duplicates as print_report

    _run_command(lambda settings: print_report(settings, console, days, as_json=json), quiet=True)


@app.command()
def stars() -> None:
    """Compare the payments in Telegram Stars with Telegram's own list; changes nothing."""
    from app.stars_command import stars as print_comparison

    _run_command(lambda settings: print_comparison(settings, console), quiet=True)


@app.command()
def trace(request: Annotated[str, typer.Argument(help="The request's id or its six letters.")]) -> None:
    """Print the history of one request and, with JAEGER_URL set, the spans of its trace."""
    from app.trace_command import trace as print_report

    _run_command(lambda settings: print_report(settings, console, request), quiet=True)


@app.command()
def prune(
    archive: Annotated[
        Path | None, typer.Option(help="Add what is pruned to this file, as JSON lines, before it goes.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would go, and change nothing.")
    ] = False,
    days: Annotated[int | None, typer.Option(min=0, help="In place of RETENTION_DAYS.")] = None,
) -> None:
    """Remove texts, histories and media files older than RETENTION_DAYS and MEDIA_DAYS. No figure changes."""
    from app.prune_command import prune as run_prune

    _run_command(lambda settings: run_prune(settings, console, archive, days, dry_run=dry_run), quiet=True)


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder; only this user may read it.")],
    media: Annotated[bool, typer.Option(help="With the files of finished videos.")] = True,
) -> None:
    """Write the ledger as of one instant, and the finished videos, to a new folder, while the bot runs."""
    from app.backup_command import backup as run_backup

    _run_command(lambda settings: run_backup(settings, console, folder, media=media), quiet=True)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A backup that `backup` has written.")],
    nothing_sent: Annotated[
        bool,
        typer.Option(
            "--nothing-sent-since",
            help="Nothing ran since the backup: send what waits, without asking the provider first.",
        ),
    ] = False,
) -> None:
    """Put a backup into an empty ledger, in one transaction, and check that every row and sum is there."""
    from app.backup_command import restore as run_restore

    _run_command(
        lambda settings: run_restore(settings, console, folder, nothing_sent=nothing_sent), quiet=True
    )


def _print_version(wanted: bool) -> None:
    if wanted:
        from ledger.migrate import newest_revision
        from telemetry.version import VERSION

        typer.echo(
            f"OneTake {VERSION} (ledger schema {newest_revision()}, Python {platform.python_version()})"
        )
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """One /create makes one video."""


def _run_command(work: AsyncCommand, *, quiet: bool = False) -> None:
    """Read the settings and run one command; print an expected error as one sentence and exit with 1.

    Other errors are defects: their class and traceback are kept, in one object where logs are JSON.
    """
    from app.errors import describe_error, is_expected
    from app.settings import log_format, read_settings
    from app.signals import Stopped, run_until_signal

    try:
        setup_logs("ERROR" if quiet else "INFO", log_format())
        settings = read_settings()
        setup_logs("ERROR" if quiet else settings.log_level, settings.log_format)
        if not gc.isenabled():
            gc.freeze()  # imported objects stay alive: the collector can skip them
            gc.enable()
        asyncio.run(run_until_signal(work(settings)))
    except Stopped as signal:
        _stop(str(signal), signal.exit_code)
    except Exception as error:
        if is_expected(error):
            _stop(describe_error(error))
        if log_format() != "json":
            raise
        get_logger(__name__).critical("crashed", exc_info=True)
        sys.exit(1)
    except KeyboardInterrupt:  # before its loop ran
        _stop("stopped")


def _stop(message: str, exit_code: int = 1) -> NoReturn:
    from app.settings import log_format

    if log_format() == "json":
        get_logger(__name__).error("OneTake stops", why=message)
    else:
        text = f"[bold red]OneTake stops:[/] {escape(message)}"
        Console(stderr=True, soft_wrap=True).print(text, highlight=False)
    sys.exit(exit_code)


if __name__ == "__main__":
    gc.disable()  # until everything is imported: collection took a quarter of the start-up time
    app()
