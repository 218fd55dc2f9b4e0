"""Reports for people: what was charged, credited and is held. Page, API, commands and gauges read these.

Days are UTC days. A report is read at one moment, so that its parts agree with each other to the cent.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.database import Ledger
from ledger.identity import short_id
from ledger.money import ZERO, Money
from ledger.patience import transaction
from ledger.schema import entries, requests, videos
from ledger.tallies import DAY_MS, HOUR_MS, Costs, Where, money, tally

Span = Literal["hour", "today", "30d"]
"""The last 60 minutes; since midnight UTC; today and the 29 days before it."""

DAYS: Final = 30
HOURS: Final = 24
MOST: Final = 50
"""Lines in one table of a report."""

_ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class Today:
    """The UTC day so far: what it cost, and what the payer who cost most did."""

    cost: Money = ZERO
    largest_user: Money = ZERO


@dataclass(frozen=True, slots=True)
class Line:
    """One payer's or model's costs."""

    name: str
    costs: Costs


@dataclass(frozen=True, slots=True)
class RequestLine:
    """One command's costs. `state` is its video's, else its own; `trace_id` is hex, or empty."""

    request_id: str
    user_id: int
    idea: str
    state: str
    model: str
    created_at: int
    trace_id: str
    costs: Costs

    @property
    def short_id(self) -> str:
        """Six letters for people."""
        return short_id(self.request_id)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about costs at one moment; `users`, `models` and `requests` are of `span` alone.

    Attributes:
        at: The store's time, milliseconds since the epoch.
        span: Of the three tables.
        user_id: The one payer whose report this is; None: everyone's.
        spans: The sums of each span.
        days: By UTC day, oldest first, days without costs too; the key is the day's first millisecond.
        hours: The same for the last 24 UTC hours.
    """

    at: int
    span: Span
    user_id: int | None
    spans: Mapping[Span, Costs]
    users: list[Line]
    models: list[Line]
    requests: list[RequestLine]
    days: list[tuple[int, Costs]]
    hours: list[tuple[int, Costs]]


async def charged(ledger: Ledger, request_id: str) -> Money:
    """Return what stands charged for one request, less what was credited."""
    return await _charged(ledger, request_id)


@transaction
async def _charged(ledger: Ledger, request_id: str) -> Money:
    query = (
        select(entries.c.kind, func.sum(entries.c.micros))
        .where(entries.c.request_id == request_id)
        .group_by(entries.c.kind)
    )
    async with ledger.read() as conn:
        found = {row[0]: int(row[1]) for row in await conn.execute(query)}
    return Money(found.get("charge", 0) - found.get("credit", 0))


@transaction
async def costs(ledger: Ledger, since: int = 0, user_id: int | None = None) -> Costs:
    """Sum all entries from `since` (milliseconds since the epoch), of one user or of everyone."""
    async with one_moment(ledger) as conn:
        return (await tally(conn, "all", Where(since, user_id))).get(_ALL, Costs())


async def today(conn: AsyncConnection, now: int) -> Today:
    """Return the figures of the day of `now`, for gauges: two numbers from one indexed look."""
    found = await money(conn, "user", Where(starts(now)["today"]))
    paid = [one.paid for one in found.values()]
    return Today(sum(paid, ZERO), max(paid, default=ZERO))


@transaction
async def report(
    ledger: Ledger, span: Span = "today", user_id: int | None = None, most: int = MOST
) -> Report:
    """Read a whole report at one moment.

    Args:
        ledger: Whose entries.
        span: Of the tables by payer, model and request.
        user_id: Only what this payer's commands cost.
        most: Lines in each table, the most expensive first.
    """
    async with one_moment(ledger) as conn:
        now = await ledger.now(conn)
        since = starts(now)
        where = Where(since[span], user_id)
        spans = {
            name: (await tally(conn, "all", Where(at, user_id))).get(_ALL, Costs())
            for name, at in since.items()
        }
        users, models = [
            [Line(str(key), one) for key, one in (await tally(conn, by, where, most)).items()]
            for by in ("user", "model")
        ]
        lines = await _requests(conn, where, most)
        days = await tally(conn, "day", Where(since["30d"], user_id))
        first_hour = now // HOUR_MS - HOURS + 1
        hours = await tally(conn, "hour", Where(first_hour * HOUR_MS, user_id))
    first_day = now // DAY_MS - DAYS + 1
    return Report(
        now, span, user_id, spans, users, models, lines,
        [(day * DAY_MS, days.get(day, Costs())) for day in range(first_day, first_day + DAYS)],
        [(hour * HOUR_MS, hours.get(hour, Costs())) for hour in range(first_hour, first_hour + HOURS)],
    )  # fmt: skip


def starts(now: int) -> dict[Span, int]:
    """Return when each span began, for a report at `now`."""
    day = now // DAY_MS
    return {"hour": now - HOUR_MS, "today": day * DAY_MS, "30d": (day - DAYS + 1) * DAY_MS}


@asynccontextmanager
async def one_moment(ledger: Ledger) -> AsyncIterator[AsyncConnection]:
    """Read in one snapshot: SQLite's readers have one anyway, PostgreSQL's statements each have their own."""
    async with ledger.read() as conn:
        if ledger.dialect != "sqlite":
            await conn.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        yield conn


async def _requests(conn: AsyncConnection, where: Where, most: int) -> list[RequestLine]:
    found = await tally(conn, "request", where, most)
    query = (
        select(requests, videos.c.state.label("video_state"), videos.c.provider, videos.c.model)
        .join(videos, videos.c.request_id == requests.c.request_id, isouter=True)
        .where(requests.c.request_id.in_(found))
    )
    rows = {row.request_id: row for row in await conn.execute(query)}
    return [
        RequestLine(
            key, row.user_id, row.idea, row.video_state or row.state,
            f"{row.provider}/{row.model}" if row.model else "", row.created_at, trace_id_of(row), one,
        )
        for key, one in found.items() for row in (rows[key],)
    ]  # fmt: skip


def trace_id_of(row: Any) -> str:
    """Return the trace id of a request's row; empty if it was not traced."""
    parts = str(row.traceparent or "").split("-")
    return parts[1] if len(parts) == 4 else ""
