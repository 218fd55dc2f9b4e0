"""Terminal commands for operators: costs, videos, duplicates, resolve, breaker."""

import getpass
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.settings import Settings
from ledger import breaker, database, history, reports, transitions
from ledger.database import Ledger
from ledger.models import Video
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
            print_json(console, report_as_json(report, pending, opened))
            return
    totals = [(title, report.spans[name]) for name, title in _SPANS.items()]
    title = "Costs" if user is None else f"Costs of user {user}"
    console.print(_table(title, "span", [*totals, ("total", total)]))
    if span is not None:
        for table in _breakdown(report, span):
            console.print(table)


def _breakdown(report: Report, span: ReportPeriod) -> Iterable[Table]:
    yield _table(f"By user, {_SPANS[span]}", "user", [(line.name, line.costs) for line in report.users])
    yield _table(f"By model, {_SPANS[span]}", "model", [(line.name, line.costs) for line in report.models])
    requests = [(f"#{line.short_id} {line.state}", line.costs) for line in report.requests]
    yield _table(f"By request, {_SPANS[span]}", "request", requests)


def _table(title: str, first: str, lines: Iterable[tuple[str, CostSummary]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for name, costs in lines:
        cells = (
            costs.commands, costs.videos, costs.duplicates,
            costs.charged, costs.credited, costs.paid, costs.held,
        )  # fmt: skip
        table.add_row(escape(name), *map(str, cells))
    return table


async def videos(settings: Settings, console: Console, user: int | None, most: int, *, as_json: bool) -> None:
    """Print the latest orders, newest first."""
    async with open_ledger(settings) as ledger:
        orders = await history.latest_orders(ledger, user, most)
        paid = {order.request_id: await reports.net_charged(ledger, order.request_id) for order in orders}
    if as_json:
        print_json(console, [order_as_json(order) for order in orders])
        return
    table = Table(title="Videos, newest first", title_justify="left")
    for name in (
        "request",
        "state",
        "ordered (UTC)",
        "user",
        "model",
        "quoted",
        "paid",
        "job",
        "trace",
        "why",
    ):
        table.add_column(name, justify="right" if name in ("quoted", "paid") else "left")
    for order in orders:
        cells = (
            f"#{order.short_id}",
            order.state,
            iso_time(order.ordered_at),
            order.user_id,
            order.model,
            order.quote,
            paid[order.request_id],
            order.job_id or "",
            order.trace_id[:8],
            order.why,
        )
        table.add_row(*(escape(str(cell)) for cell in cells))
    console.print(table)


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
    table = Table(title=f"Duplicate calls prevented, {period}", title_justify="left")
    for name in ("request", "user", "tool", "layer", "calls", "last (UTC)"):
        table.add_column(name, justify="right" if name == "calls" else "left")
    for call in calls:
        cells = (f"#{call.short_id}", call.user_id, call.tool, call.layer, call.calls, iso_time(call.last_at))
        table.add_row(*(escape(str(cell)) for cell in cells))
    console.print(table)
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
