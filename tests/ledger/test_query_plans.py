"""Every question of a timer or a page: by an index, and no more work on a long history than on a short one.

The statements are those that the functions really send: a hook on the engine records them. `ONETAKE_HISTORY`
says how many requests the long history has; the nightly run sets 1000000.
"""

import asyncio
import json
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import event, select

from bench import history as long_history
from guardrails.protocols import PagePosition
from ledger import (
    breaker,
    entries,
    estimates,
    history,
    limits,
    notifications,
    offers,
    pending_work,
    people,
    reports,
    requests,
    totals,
    transitions,
)
from ledger.database import Ledger
from ledger.models import ADOPTABLE_STATES, CANCELLABLE_STATES, FINAL_STATES, Video, VideoState
from ledger.schema import ACTIVE_ORDERS, CANCELLABLE_ORDERS, videos
from telemetry.metrics import STATES
from telemetry.redaction import short_id
from tests.support import services

SHORT, LONG = 1000, int(os.environ.get("ONETAKE_HISTORY", "10000"))
LIMIT = 1.5
"""How much more work a question may be on the long history."""

# Tables that grow with every request; and indexes that hold the work in progress alone.
HISTORY = ("requests", "videos", "entries", "transitions", "cost_totals")
SMALL = (
    "ix_videos_active", "ix_videos_due", "ix_videos_cancellable", "ix_videos_twice_paid",
    "ix_requests_notify", "ix_requests_open", "ix_requests_report", "ix_requests_run", "ix_requests_unnamed",
    "ix_cost_totals_counted",
)  # fmt: skip

Question = Callable[[Ledger, Video], Awaitable[object]]


async def in_read(ledger: Ledger, ask: Callable[..., Awaitable[object]], *args: Any) -> object:
    async with ledger.read() as conn:
        return await ask(conn, *args)


def job_ids(video: Video) -> list[str]:
    """Return what a provider's list of a thousand jobs may show: ours and others'."""
    ours = (f"job-{n}" for n in range(0, 500, 7))
    return [video.job_id or "none", *ours, *(f"other-{n}" for n in range(900))]


def lately() -> int:
    return int(time.time() * 1000) - 600_000


QUESTIONS: dict[str, Question] = {
    "metrics": lambda ledger, _: reports.update_gauges(ledger),
    "page, hour": lambda ledger, _: reports.read_report(ledger, "hour"),
    "page, today": lambda ledger, _: reports.read_report(ledger, "today"),
    "page, 30d": lambda ledger, _: reports.read_report(ledger, "30d"),
    "page, one user": lambda ledger, video: reports.read_report(ledger, "30d", video.user_id),
    "page, orders": lambda ledger, _: history.pending_orders(ledger),
    "costs, ever": lambda ledger, _: reports.cost_summary(ledger),
    "costs, user": lambda ledger, video: reports.cost_summary(ledger, 0, video.user_id),
    "costs, net": lambda ledger, video: reports.net_charged(ledger, video.request_id),
    "videos": lambda ledger, _: history.latest_orders(ledger),
    "duplicates": lambda ledger, _: history.prevented_duplicates(ledger),
    "alerts, cost": lambda ledger, _: reports.cost_summary(ledger, int(time.time() * 1000)),
    "alerts, videos": lambda ledger, _: notifications.videos_needing_attention(
        ledger, ("invalid", "auth", "funds"), (0, 1), 86_400, 20
    ),
    "alerts, breakers": lambda ledger, _: breaker.open_breakers(ledger),
    "outcomes": lambda ledger, _: history.unreported(ledger),
    "outcome": lambda ledger, video: history.request_outcome(ledger, video.request_id),
    "owner of a job": lambda ledger, video: in_read(
        ledger, entries.owner_of_job, video.account_names, "job-500"
    ),
    "claimed jobs": lambda ledger, video: transitions.claimed_jobs(
        ledger, video.account_names, job_ids(video)
    ),
    "similar orders": lambda ledger, video: pending_work.similar_orders(ledger, video, ADOPTABLE_STATES),
    "history by name": lambda ledger, video: history.read_history(ledger, short_id(video.request_id)),
    "hold by name": lambda ledger, video: transitions.find_hold(ledger, short_id(video.request_id)),
    "names": lambda ledger, _: requests.name_requests(ledger),
    "roll off": lambda ledger, _: totals.roll_off(ledger),
    "list of a user": lambda ledger, video: requests.list_for_user(ledger, video.user_id),
    "list of a user in a chat": lambda ledger, video: requests.list_for_user(
        ledger, video.user_id, chat_id=video.user_id
    ),
    "request by name": lambda ledger, video: requests.find_named(
        ledger, short_id(video.request_id), video.user_id
    ),
    "offer of a button": lambda ledger, _: offers.find(ledger, "a-nonce"),
    "usual time": lambda ledger, video: estimates.usual_seconds(ledger, video.model),
    "orders ahead": estimates.orders_ahead,
    "settings": lambda ledger, video: people.find(ledger, video.user_id),
    "another of a user": lambda ledger, video: requests.open_request(
        ledger, requests.NewRequest("tg:1:one more", 1, 7, 9, video.user_id, "en", "a market"), most=1
    ),
    "arrival": lambda ledger, video: pending_work.arrival(ledger, video.request_id, video.user_id, 60),
    "counters, window": lambda ledger, _: limits.orders_since(ledger, PagePosition(lately()), 1000),
    "counters, changes": lambda ledger, _: limits.orders_changed_since(ledger, PagePosition(lately()), 1000),
    "in flight": lambda ledger, _: history.count_in_flight(ledger),
    # The last one: it takes the video off HOLD.
    "adoption": lambda ledger, video: transitions.adopt_job(
        ledger, video.request_id, f"job of {video.request_id}", "test", None
    ),
}


@dataclass
class Histories:
    """Two ledgers with the same work in progress and the same last day, and a video on HOLD of each."""

    short: Ledger
    long: Ledger
    videos: dict[int, Video] = field(default_factory=dict)

    def video(self, ledger: Ledger) -> Video:
        return self.videos[id(ledger)]


@pytest.fixture(scope="module")
def history_urls(request, tmp_path_factory) -> Iterator[Callable[[str], tuple[str, str]]]:
    """Return the URLs of the two ledgers of one dialect, filled once for all tests here."""
    made: dict[str, tuple[str, str]] = {}
    with ExitStack() as stack:

        def url(dialect: str, size: int) -> str:
            if dialect == "sqlite":
                return f"sqlite:///{tmp_path_factory.mktemp('history')}/{size}.db"
            return stack.enter_context(services.database())

        async def fill(url: str, size: int) -> None:
            ledger = Ledger(url)
            await long_history.fill(ledger, size)
            await ledger.close()

        def both(dialect: str) -> tuple[str, str]:
            if dialect not in made:
                made[dialect] = (url(dialect, SHORT), url(dialect, LONG))
                for one, size in zip(made[dialect], (SHORT, LONG), strict=True):
                    asyncio.run(fill(one, size))
            return made[dialect]

        yield both


@pytest.fixture
async def histories(history_urls, dialect: str) -> AsyncIterator[Histories]:
    short, long = (Ledger(url) for url in await _in_thread(history_urls, dialect))
    found = Histories(short, long)
    for ledger in (short, long):
        async with ledger.read() as conn:
            query = select(videos).where(videos.c.state == VideoState.HOLD).limit(1)
            row = (await conn.execute(query)).one()
        found.videos[id(ledger)] = Video.from_row(row)
    yield found
    await short.close()
    await long.close()


async def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.to_thread(function, *args)


@contextmanager
def recorded(ledger: Ledger) -> Iterator[list[tuple[str, Any]]]:
    """Record the statements that the engine sends, without those of the connection itself."""
    found: list[tuple[str, Any]] = []

    def record(conn, cursor, statement, parameters, context, executemany) -> None:
        if not statement.startswith(("BEGIN", "SET", "EXPLAIN")):
            found.append((statement, parameters[0] if executemany else parameters))

    event.listen(ledger.engine.sync_engine, "before_cursor_execute", record)
    try:
        yield found
    finally:
        event.remove(ledger.engine.sync_engine, "before_cursor_execute", record)


async def sqlite_scans(ledger: Ledger, statement: str, parameters: Any) -> list[str]:
    async with ledger.read() as conn:
        plan = await conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        lines = [row.detail for row in plan]
    return [line for line in lines if re.match(r"SCAN (\w+)", line) and is_history_scan(line)]


def is_history_scan(line: str) -> bool:
    table = line.split()[1]
    return table in HISTORY and not any(name in line for name in SMALL)


async def postgresql_scans(ledger: Ledger, statement: str, parameters: Any) -> list[str]:
    async with ledger.engine.connect() as conn:
        plan = await conn.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        found = plan.scalar_one()
        await conn.rollback()
    nodes = list(walk(json.loads(found)[0]["Plan"] if isinstance(found, str) else found[0]["Plan"]))
    return [describe(node) for node in nodes if is_unbounded(node)]


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)


def is_unbounded(node: dict[str, Any]) -> bool:
    """A sequential scan of a table that grows, or an index read from end to end without a condition."""
    kind = node["Node Type"]
    if kind == "Seq Scan":
        return node["Relation Name"] in HISTORY
    whole = kind in ("Index Scan", "Index Only Scan", "Bitmap Index Scan") and "Index Cond" not in node
    return whole and node["Index Name"] not in SMALL and not node.get("limited")


def describe(node: dict[str, Any]) -> str:
    return f"{node['Node Type']} {node.get('Relation Name', '')} {node.get('Index Name', '')}"


FIRST_ROWS = {"videos"}
"""Questions for the latest rows: an index read from its end, and stopped by LIMIT."""


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_no_question_reads_the_whole_history(histories: Histories, dialect: str):
    """Each statement of each question finds its rows by an index, in the tables that grow with requests."""
    scans = sqlite_scans if dialect == "sqlite" else postgresql_scans
    bad = []
    for name, ask in QUESTIONS.items():
        with recorded(histories.long) as statements:
            await ask(histories.long, histories.video(histories.long))
        assert statements, name
        for statement, parameters in statements:
            if not statement.startswith(("SELECT", "UPDATE", "INSERT", "WITH")):
                continue
            found = await scans(histories.long, statement, parameters)
            bad += [(name, line, statement) for line in found if name not in FIRST_ROWS]
    assert not bad


@contextmanager
def counted_steps(ledger: Ledger) -> Iterator[list[int]]:
    """Count the steps of SQLite's machine, by fifties: work that no load changes."""
    steps = [0]

    def step() -> int:
        steps[0] += 1
        return 0

    def begun(conn) -> None:
        raw: sqlite3.Connection = conn.connection.driver_connection._conn
        raw.set_progress_handler(step, 50)

    event.listen(ledger.engine.sync_engine, "begin", begun)
    try:
        yield steps
    finally:
        event.remove(ledger.engine.sync_engine, "begin", begun)


async def steps_of(ledger: Ledger, ask: Question, video: Video) -> int:
    await ask(ledger, video)
    with counted_steps(ledger) as steps:
        await ask(ledger, video)
    return steps[0]


async def rows_of(ledger: Ledger, ask: Question, video: Video) -> int:
    """Return how many rows and index entries PostgreSQL reads for the statements of one question."""
    with recorded(ledger) as statements:
        await ask(ledger, video)
    rows = 0
    for statement, parameters in statements:
        if not statement.startswith(("SELECT", "WITH")) or "FOR UPDATE" in statement:
            continue
        async with ledger.engine.connect() as conn:
            plan = await conn.exec_driver_sql(
                f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", parameters
            )
            found = plan.scalar_one()
            await conn.rollback()
        root = json.loads(found)[0]["Plan"] if isinstance(found, str) else found[0]["Plan"]
        rows += sum(rows_read(node) for node in walk(root) if "Scan" in node["Node Type"])
    return rows


def rows_read(node: dict[str, Any]) -> int:
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return int((node["Actual Rows"] + removed) * node["Actual Loops"])


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_no_question_grows_with_history(histories: Histories, dialect: str):
    """Each question is at most `LIMIT` times the work on the long history, and 30 days instead of one."""
    work_of, slack = (steps_of, 40) if dialect == "sqlite" else (rows_of, 100)
    grown = {}
    for name, ask in QUESTIONS.items():
        short, long = [
            await work_of(one, ask, histories.video(one)) for one in (histories.short, histories.long)
        ]
        allowed = LIMIT * short + slack + THIRTY_DAYS.get(name, 0)
        if long > allowed:
            grown[name] = (short, long)
    assert not grown


THIRTY_DAYS = {"page, 30d": 2500, "page, one user": 1500, "page, today": 60, "page, hour": 60}
"""Rows or steps for the 29 days that the short history does not have: fifty lines of each."""


def test_the_conditions_of_indexes_name_todays_states():
    """The words in the partial indexes are those of the state machine and of the gauges."""
    assert set(re.findall(r"'(\w+)'", ACTIVE_ORDERS)) == set(VideoState) - FINAL_STATES == set(STATES)
    assert set(re.findall(r"'(\w+)'", CANCELLABLE_ORDERS)) == CANCELLABLE_STATES
