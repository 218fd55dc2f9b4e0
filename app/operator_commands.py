"""Terminal commands for operators: costs, videos, duplicates, resolve, correct, breaker."""

import getpass
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Final
from uuid import uuid4

from rich.console import Console

from app.settings import Settings
from app.tables import print_table
from ledger import breaker, corrections, database, history, reports, transitions
from ledger.corrections import Correction, parse_correction
from ledger.database import Ledger
from ledger.models import Video
from ledger.overview import read_overview
from ledger.reports import Report, ReportPeriod
from ledger.totals import CostSummary
from ledger.transitions import Resolution
from web.serializers import iso_time, order_as_json, report_as_json

_SPANS: Final[dict[ReportPeriod, str]] = {"hour": "last 60 minutes", "today": "today (UTC)", "30d": "30 days"}
_COLUMNS: Final = ("commands", "videos", "prevented", "charged", "refunded", "paid", "reserved")


async def costs(
    settings: Settings,
    console: Console,
    user: int | None = None,
    span: ReportPeriod | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Print the totals of the ledger's entries; with a span also by user, model and request.

    `as_json` prints the answer of `GET /api/admin/costs`.
    """
    async with open_ledger(settings) as ledger:
        report = await reports.read_report(ledger, span or "today", user)
        total = await reports.cost_summary(ledger, 0, user)
        if as_json:
            pending, opened = await history.pending_orders(ledger), await breaker.open_breakers(ledger)
            overview = await read_overview(ledger, span or "today", user)
            print_json(console, report_as_json(report, overview, pending, opened))
            return
    totals = [(title, report.spans[name]) for name, title in _SPANS.items()]
    title = "Costs" if user is None else f"Costs of user {user}"
    _print_costs(console, title, "span", [*totals, ("total", total)])
    if span is not None:
        _print_breakdown(console, report, span)


def _print_breakdown(console: Console, report: Report, span: ReportPeriod) -> None:
    within = _SPANS[span]
    _print_costs(console, f"By user, {within}", "user", [(one.name, one.costs) for one in report.users])
    _print_costs(console, f"By model, {within}", "model", [(one.name, one.costs) for one in report.models])
    requests = [(f"#{one.short_id} {one.state}", one.costs) for one in report.requests]
    _print_costs(console, f"By request, {within}", "request", requests)


def _print_costs(console: Console, title: str, first: str, lines: Iterable[tuple[str, CostSummary]]) -> None:
    rows = [
        (
            name, one.commands, one.videos, one.duplicates, one.charged, one.credited, one.paid, one.held,
        )
        for name, one in lines
    ]  # fmt: skip
    print_table(console, title, (first, *_COLUMNS), rows, _COLUMNS)


async def videos(settings: Settings, console: Console, user: int | None, most: int, *, as_json: bool) -> None:
    """Print the latest orders, newest first."""
    async with open_ledger(settings) as ledger:
        orders = await history.latest_orders(ledger, user, most)
        paid = {order.request_id: await reports.net_charged(ledger, order.request_id) for order in orders}
    if as_json:
        print_json(console, [order_as_json(order) for order in orders])
        return
    names = ("request", "state", "ordered (UTC)", "user", "model", "quoted", "paid", "job", "trace", "why")
    rows = [
        (
            f"#{order.short_id}", order.state, iso_time(order.ordered_at), order.user_id, order.model,
            order.quote, paid[order.request_id], order.job_id or "", order.trace_id, order.why,
        )
        for order in orders
    ]  # fmt: skip
    print_table(console, "Videos, newest first", names, rows, ("quoted", "paid"))


async def duplicates(settings: Settings, console: Console, days: int, *, as_json: bool) -> None:
    """Print the repeated calls that were answered without a new order in the last `days` UTC days."""
    async with open_ledger(settings) as ledger:
        calls = await history.prevented_duplicates(ledger, days)
    if as_json:
        print_json(
            console,
            [asdict(call) | {"id": call.short_id, "last_at": iso_time(call.last_at)} for call in calls],
        )
        return
    period = "today (UTC)" if days == 1 else f"{days} UTC days"
    names = ("request", "user", "tool", "layer", "calls", "last (UTC)")
    rows = [
        (f"#{call.short_id}", call.user_id, call.tool, call.layer, call.calls, iso_time(call.last_at))
        for call in calls
    ]
    print_table(console, f"Duplicate calls prevented, {period}", names, rows, ("calls",))
    console.print(
        f"{sum(call.calls for call in calls)} calls, {len({call.request_id for call in calls})} requests"
    )


def print_json(console: Console, document: Any) -> None:
    """Print one JSON document, neither wrapped nor coloured."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@asynccontextmanager
async def open_ledger(settings: Settings) -> AsyncIterator[Ledger]:
    """Open the ledger for one command, without any other part of the app."""
    ledger = Ledger(settings.ledger_url)
    try:
        await database.migrate(ledger)
        yield ledger
    finally:
        await ledger.close()


class OperatorCommandError(Exception):
    """A command cannot be executed; the message says what was found and what is allowed."""


async def resolve(
    settings: Settings, console: Console, request: str, outcome: str, job_id: str, why: str
) -> None:
    """Resolve a request on HOLD in the name of the user who is logged in.

    Raises:
        LedgerError: There is no such request, it is not on HOLD, the outcome does not fit, or the job belongs
            to another request.
    """
    resolution = transitions.parse_resolution(outcome, job_id, why)
    ledger = Ledger(settings.ledger_url)
    try:
        await database.migrate(ledger)
        video = await transitions.find_hold(ledger, request)
        await _check_job(settings, video, resolution)
        moved = await transitions.resolve_hold(ledger, video.request_id, resolution, _operator_name())
        console.print(f"#{moved.short_id} is {moved.state}. A worker continues from here.")
    finally:
        await ledger.close()


async def correct(
    settings: Settings,
    console: Console,
    request: str,
    words: Sequence[str],
    amount: str,
    why: str,
    ask: Callable[[str], bool],
) -> None:
    """Correct what is booked for a request, in the name of the user who is logged in.

    Args:
        settings: The ledger and the provider accounts.
        console: Where the result is printed.
        request: The request's id or its six letters.
        words: `refund [JOB]`, `charge [JOB]`, `end paid JOB`, `end gone JOB` or `end unpaid`.
        amount: Of a refund (empty: all) or a charge.
        why: The reason, which is stored with the entry.
        ask: Shows a sentence and returns whether the operator wants it.

    Raises:
        LedgerError: It cannot be corrected; the message says why.
        OperatorCommandError: The operator said no, or the words are too many.
    """
    wanted = _parse_words(words, amount, why)
    async with open_ledger(settings) as ledger:
        video = await corrections.find_order(ledger, request)
        if wanted.end == "paid":
            await _check_job(settings, video, Resolution("paid", wanted.job_id))
        planned = await corrections.plan(ledger, video.request_id, wanted)
        if not ask(planned.sentence):
            raise OperatorCommandError("nothing was changed")
        done = await corrections.correct(ledger, planned, _operator_name(), f"cli:{uuid4()}")
    console.print(f"Corrected. {done.plan.sentence} A worker tells the user.", markup=False, soft_wrap=True)


def _parse_words(words: Sequence[str], amount: str, why: str) -> Correction:
    kind, *rest = words
    end = rest.pop(0) if kind == "end" and rest else ""
    if len(rest) > 1:
        raise OperatorCommandError(f"{' '.join(rest[1:])!r} is too much; give the reason with --why")
    return parse_correction(kind, amount, rest[0] if rest else "", end, why)


async def _check_job(settings: Settings, video: Video, found: Resolution) -> None:
    """Ask the account of the order about the job, as the chat does."""
    if found.outcome != "paid":
        return
    from app.accounts import collect_accounts  # noqa: PLC0415 - other commands load no adapter
    from app.application import choose_provider  # noqa: PLC0415 - the same
    from worker.job_check import check_job  # noqa: PLC0415 - the same

    accounts = collect_accounts(settings, choose_provider(settings))
    try:
        await check_job(accounts.provider_of(video), video, found)
    finally:
        await accounts.close()


async def breakers(settings: Settings, console: Console, action: str, scope: str, why: str = "") -> None:
    """Print the open breakers, or open or close one in the name of the user who is logged in.

    Raises:
        OperatorCommandError: The action is not known, lacks something, or changes nothing.
        UnknownScope: No paid start asks for the breaker that would be opened.
    """
    if (action, bool(scope)) not in (("show", False), ("close", True), ("open", True)):
        raise OperatorCommandError(
            f"`{action} {scope}` is not known; use `breaker`, `breaker open SCOPE --why …` or"
            " `breaker close SCOPE`"
        )
    if action == "open" and not why.strip():
        raise OperatorCommandError("say why with --why: every operator reads it in the alert")
    async with open_ledger(settings) as ledger:
        if action == "open":
            await _open_breaker(ledger, console, scope, why)
        elif action == "close":
            await _close_breaker(ledger, console, scope)
        else:
            await _show_breakers(ledger, console)


async def _open_breaker(ledger: Ledger, console: Console, scope: str, why: str) -> None:
    if not await breaker.open_scope(ledger, scope, _operator_name(), why):
        raise OperatorCommandError(f"the breaker {scope!r} is open already; `breaker` shows why")
    console.print(
        f"Paid work is stopped for {scope}. What was sent before is still delivered."
        f" `breaker close {scope}` lets it continue.",
        markup=False,
    )


async def _close_breaker(ledger: Ledger, console: Console, scope: str) -> None:
    if not await breaker.close(ledger, scope, _operator_name()):
        names = ", ".join(each.scope for each in await breaker.open_breakers(ledger))
        raise OperatorCommandError(f"no breaker {scope!r} is open; open: {names or 'none'}")
    console.print(f"The breaker for {scope} is closed. Waiting orders continue.")


async def _show_breakers(ledger: Ledger, console: Console) -> None:
    opened = await breaker.open_breakers(ledger)
    for each in opened:
        by = f" (opened by {each.who})" if each.by_operator else ""
        console.print(f"open for {each.scope}: {each.why}{by}", markup=False)
    if not opened:
        console.print("No breaker is open.")


def _operator_name() -> str:
    return f"operator:{getpass.getuser()}"
