"""Cost reports and gauges."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Select, String, Subquery, case, exists, func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.limits import EVERYONE
from guardrails.money import MICROS_PER_DOLLAR, ZERO, Money
from ledger.database import Ledger, transaction
from ledger.models import VideoState
from ledger.schema import breaker, entries, requests, transitions, videos
from telemetry import metrics as shown
from telemetry.redaction import short_id

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000

GroupBy = Literal["all", "user", "model", "request", "day", "hour"]
"""What sums are grouped by; `day` and `hour` are whole UTC days and hours since the epoch."""


@dataclass(frozen=True, slots=True)
class CostSummary:
    """What a period cost. A video is a provider's job that was charged and is not refunded in full.

    Attributes:
        charged: Booked as charged by providers.
        credited: Booked as refunded by them.
        held: Reserved for orders that are neither charged nor released yet.
        videos: Jobs that are charged and not refunded.
        paid_for: Commands that have such a job. Equal to `videos` as long as no command is paid twice.
        commands: Commands that were received, refused ones too.
        duplicates: Further calls of a paid tool that were answered without paying.
    """

    charged: Money = ZERO
    credited: Money = ZERO
    held: Money = ZERO
    videos: int = 0
    paid_for: int = 0
    commands: int = 0
    duplicates: int = 0

    @property
    def paid(self) -> Money:
        """What the operator has paid."""
        return self.charged - self.credited

    @property
    def videos_per_command(self) -> float:
        """How many videos were paid for each command that was paid for at all; 0 before the first."""
        return self.videos / self.paid_for if self.paid_for else 0.0


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries: from `since` on (milliseconds since the epoch), of one user or of everyone."""

    since: int = 0
    user_id: int | None = None

    def conditions(self, at: ColumnElement[int], user: ColumnElement[int]) -> list[ColumnElement[bool]]:
        found = [at >= self.since]
        return found if self.user_id is None else [*found, user == self.user_id]


async def sum_entries(
    conn: AsyncConnection, by: GroupBy, where: EntryFilter, most: int | None = None
) -> dict[Any, CostSummary]:
    """Sum the entries that `where` names for each key of `by`, most expensive first.

    Args:
        conn: A transaction; two sums agree with each other if it is a snapshot.
        by: What the keys are.
        where: What is counted.
        most: How many keys at most; None is all.
    """
    return {
        row.key: CostSummary(
            Money(int(row.charged)), Money(int(row.credited)), Money(int(row.held)),
            int(row.videos), int(row.paid_for),
        )
        for row in await conn.execute(_sum_by_key(by, where).limit(most))
    }  # fmt: skip


async def summarize(
    conn: AsyncConnection, by: GroupBy, where: EntryFilter, most: int | None = None
) -> dict[Any, CostSummary]:
    """Add each key's commands and prevented duplicates to `sum_entries`; keys with only those come last."""
    found = await sum_entries(conn, by, where, most)
    came = await _count_by_key(conn, _commands(by, where))
    twice = await _count_by_key(conn, _duplicates(by, where))
    # A command that neither cost nor repeated anything gets no line of its own.
    others = twice.keys() if by == "request" else came.keys() | twice.keys()
    for key in sorted(others - found.keys() - {None}):
        if most is None or len(found) < most:
            found[key] = CostSummary()
    return {
        key: replace(one, commands=came.get(key, 0), duplicates=twice.get(key, 0))
        for key, one in found.items()
    }


def _group_key(by: GroupBy, request: Any, user: Any, at: Any) -> ColumnElement[Any]:
    keys: Mapping[GroupBy, ColumnElement[Any]] = {
        "all": literal("all", String),
        "user": user,
        "model": videos.c.provider + "/" + videos.c.model,
        "request": request,
        "day": at // DAY_MS,
        "hour": at // HOUR_MS,
    }
    return keys[by].label("key")


def _sum_by_key(by: GroupBy, where: EntryFilter) -> Select[Any]:
    """Charges, refunds and open holds by key; the most expensive first."""
    job = _sum_by_job(by, where)
    paid = (job.c.charges > 0) & ((job.c.charged > job.c.credited) | (job.c.credited == 0))
    return (
        select(
            job.c.key,
            func.sum(job.c.charged).label("charged"),
            func.sum(job.c.credited).label("credited"),
            func.sum(job.c.held).label("held"),
            func.sum(case((paid, 1), else_=0)).label("videos"),
            func.count(case((paid, job.c.request_id)).distinct()).label("paid_for"),
        )
        .group_by(job.c.key)
        .order_by(func.sum(job.c.charged - job.c.credited).desc(), job.c.key.desc())
    )


def _sum_by_job(by: GroupBy, where: EntryFilter) -> Subquery:
    """The sums of the entries of each job of each request; holds are summed under no job."""
    # Not grouped by these expressions themselves: their constants would be other parameters to PostgreSQL.
    line = (
        select(
            _group_key(by, entries.c.request_id, entries.c.user_id, entries.c.at),
            entries.c.request_id,
            entries.c.job_id,
            case((entries.c.kind == "charge", 1), else_=0).label("charges"),
            case((entries.c.kind == "charge", entries.c.micros), else_=0).label("charged"),
            case((entries.c.kind == "credit", entries.c.micros), else_=0).label("credited"),
            case((_is_open_hold(), entries.c.micros), else_=0).label("held"),
        )
        .join(videos, videos.c.request_id == entries.c.request_id)
        .where(*where.conditions(entries.c.at, entries.c.user_id))
        .subquery()
    )
    sums = (func.sum(line.c[name]).label(name) for name in ("charges", "charged", "credited", "held"))
    group = (line.c.key, line.c.request_id, line.c.job_id)
    return select(*group, *sums).group_by(*group).subquery()


def _is_open_hold() -> ColumnElement[bool]:
    """A hold that has not ended: neither used up by a charge nor released."""
    other = entries.alias()
    ended = exists().where(
        other.c.request_id == entries.c.request_id, other.c.kind.in_(("charge", "release"))
    )
    return (entries.c.kind == "hold") & ~ended


def _commands(by: GroupBy, where: EntryFilter) -> Select[Any]:
    return (
        select(_group_key(by, requests.c.request_id, requests.c.user_id, requests.c.created_at))
        .join(videos, videos.c.request_id == requests.c.request_id, isouter=True)
        .where(*where.conditions(requests.c.created_at, requests.c.user_id))
    )


def _duplicates(by: GroupBy, where: EntryFilter) -> Select[Any]:
    return (
        select(_group_key(by, requests.c.request_id, requests.c.user_id, transitions.c.at))
        .select_from(transitions)
        .join(requests, requests.c.request_id == transitions.c.request_id)
        .join(videos, videos.c.request_id == requests.c.request_id, isouter=True)
        .where(
            transitions.c.subject == "call",
            transitions.c.to_state == "replay",
            *where.conditions(transitions.c.at, requests.c.user_id),
        )
    )


async def _count_by_key(conn: AsyncConnection, rows: Select[Any]) -> dict[Any, int]:
    line = rows.subquery()
    found = await conn.execute(select(line.c.key, func.count()).group_by(line.c.key))
    return {row[0]: int(row[1]) for row in found}


ReportPeriod = Literal["hour", "today", "30d"]
"""The last 60 minutes; since midnight UTC; today and the 29 days before it."""

REPORT_DAYS: Final = 30
REPORT_HOURS: Final = 24
MAX_LINES: Final = 50
"""Lines in one table of a report."""

_ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class TodayTotals:
    """The cost of the UTC day so far, and of the user who cost most."""

    cost: Money = ZERO
    largest_user: Money = ZERO


@dataclass(frozen=True, slots=True)
class CostLine:
    """The costs of one user or model."""

    name: str
    costs: CostSummary


@dataclass(frozen=True, slots=True)
class RequestLine:
    """The costs of one command. `state` is its video's, else its own; `trace_id` is hex, or empty."""

    request_id: str
    user_id: int
    idea: str
    state: str
    model: str
    created_at: int
    trace_id: str
    costs: CostSummary

    @property
    def short_id(self) -> str:
        """The six letters by which people name the request."""
        return short_id(self.request_id)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about costs at one moment; `users`, `models` and `requests` are of `span` alone.

    Attributes:
        at: The store's time, milliseconds since the epoch.
        span: Of the three tables.
        user_id: The one user whose report this is; None: everyone's.
        spans: The sums of each period.
        days: By UTC day, oldest first, days without costs too; the key is the day's first millisecond.
        hours: The same for the last 24 UTC hours.
    """

    at: int
    span: ReportPeriod
    user_id: int | None
    spans: Mapping[ReportPeriod, CostSummary]
    users: list[CostLine]
    models: list[CostLine]
    requests: list[RequestLine]
    days: list[tuple[int, CostSummary]]
    hours: list[tuple[int, CostSummary]]


@transaction
async def net_charged(ledger: Ledger, request_id: str) -> Money:
    """Return what was charged for one request, less what was credited."""
    query = (
        select(entries.c.kind, func.sum(entries.c.micros))
        .where(entries.c.request_id == request_id)
        .group_by(entries.c.kind)
    )
    async with ledger.read() as conn:
        found = {row[0]: int(row[1]) for row in await conn.execute(query)}
    return Money(found.get("charge", 0) - found.get("credit", 0))


@transaction
async def cost_summary(ledger: Ledger, since: int = 0, user_id: int | None = None) -> CostSummary:
    """Sum all entries from `since` (milliseconds since the epoch), of one user or of everyone."""
    async with snapshot(ledger) as conn:
        return (await summarize(conn, "all", EntryFilter(since, user_id))).get(_ALL, CostSummary())


async def today_totals(conn: AsyncConnection, now: int) -> TodayTotals:
    """Return the totals of the day of `now`, for gauges: two numbers from one indexed query."""
    found = await sum_entries(conn, "user", EntryFilter(period_starts(now)["today"]))
    paid = [one.paid for one in found.values()]
    return TodayTotals(sum(paid, ZERO), max(paid, default=ZERO))


@transaction
async def read_report(
    ledger: Ledger, span: ReportPeriod = "today", user_id: int | None = None, most: int = MAX_LINES
) -> Report:
    """Read a whole report at one moment.

    Args:
        ledger: Whose entries.
        span: Of the tables by user, model and request.
        user_id: Only what this user's commands cost.
        most: Lines in each table, the most expensive first.
    """
    async with snapshot(ledger) as conn:
        now = await ledger.now(conn)
        since = period_starts(now)
        where = EntryFilter(since[span], user_id)
        spans = {
            name: (await summarize(conn, "all", EntryFilter(at, user_id))).get(_ALL, CostSummary())
            for name, at in since.items()
        }
        users, models = [
            [CostLine(str(key), one) for key, one in (await summarize(conn, by, where, most)).items()]
            for by in ("user", "model")
        ]
        lines = await _request_lines(conn, where, most)
        days = await summarize(conn, "day", EntryFilter(since["30d"], user_id))
        first_hour = now // HOUR_MS - REPORT_HOURS + 1
        hours = await summarize(conn, "hour", EntryFilter(first_hour * HOUR_MS, user_id))
    first_day = now // DAY_MS - REPORT_DAYS + 1
    return Report(
        now,
        span,
        user_id,
        spans,
        users,
        models,
        lines,
        [(day * DAY_MS, days.get(day, CostSummary())) for day in range(first_day, first_day + REPORT_DAYS)],
        [
            (hour * HOUR_MS, hours.get(hour, CostSummary()))
            for hour in range(first_hour, first_hour + REPORT_HOURS)
        ],
    )


def period_starts(now: int) -> dict[ReportPeriod, int]:
    """Return when each period began, for a report at `now`."""
    day = now // DAY_MS
    return {"hour": now - HOUR_MS, "today": day * DAY_MS, "30d": (day - REPORT_DAYS + 1) * DAY_MS}


@asynccontextmanager
async def snapshot(ledger: Ledger) -> AsyncIterator[AsyncConnection]:
    """Read in one snapshot: SQLite's readers have one anyway, PostgreSQL's statements each have their own."""
    async with ledger.read() as conn:
        if ledger.dialect != "sqlite":
            await conn.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        yield conn


async def _request_lines(conn: AsyncConnection, where: EntryFilter, most: int) -> list[RequestLine]:
    found = await summarize(conn, "request", where, most)
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


_PAID_STATES: Final = (VideoState.SUBMITTING, VideoState.ACCEPTED, VideoState.IN_DOUBT, VideoState.SUCCEEDED)
"""States of a paid order that continues by itself; a HOLD waits for a person and has a gauge of its own."""


@transaction
async def update_gauges(ledger: Ledger) -> None:
    """Set every gauge that is read from the ledger, in one transaction."""
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        await _set_entry_gauges(conn)
        await _set_today_gauges(conn, now)
        await _set_command_gauges(conn, now)
        await _set_order_gauges(conn, now)
        await _set_breaker_gauges(conn)
    shown.STORE_UP.set(1, store="ledger")


def _dollars(micros: int | None) -> float:
    """Return dollars for a gauge: exact to the micro-dollar up to nine thousand million dollars."""
    return (micros or 0) / MICROS_PER_DOLLAR


def _signed(kind: str, micros: int) -> int:
    return int(micros) if kind == "charge" else -int(micros)


async def _set_entry_gauges(conn: AsyncConnection) -> None:
    query = select(entries.c.kind, func.sum(entries.c.micros)).group_by(entries.c.kind)
    for kind, micros in await conn.execute(query):
        shown.COST.set(_dollars(int(micros)), kind=kind)


async def _set_today_gauges(conn: AsyncConnection, now: int) -> None:
    found = await today_totals(conn, now)
    shown.COST_TODAY.set(_dollars(found.cost.micros))
    shown.USER_TODAY.set(_dollars(found.largest_user.micros))


async def _set_command_gauges(conn: AsyncConnection, now: int) -> None:
    """Of the requests charged in the last 24 hours: the most expensive, and those with two paid jobs."""
    charged = select(entries.c.request_id).where(entries.c.kind == "charge", entries.c.at > now - DAY_MS)
    query = select(entries.c.request_id, entries.c.kind, entries.c.job_id, entries.c.micros).where(
        entries.c.request_id.in_(charged), entries.c.kind.in_(("charge", "credit"))
    )
    jobs: dict[str, dict[str | None, int]] = {}
    for row in await conn.execute(query):
        one = jobs.setdefault(row.request_id, {})
        one[row.job_id] = one.get(row.job_id, 0) + _signed(row.kind, row.micros)
    shown.LARGEST_COMMAND.set(_dollars(max((sum(one.values()) for one in jobs.values()), default=0)))
    shown.TWICE_PAID.set(sum(sum(cost > 0 for cost in one.values()) > 1 for one in jobs.values()))


async def _set_order_gauges(conn: AsyncConnection, now: int) -> None:
    query = (
        select(videos.c.state, func.count(), func.min(videos.c.submitted_at), func.min(videos.c.updated_at))
        .where(videos.c.state.in_(shown.STATES))
        .group_by(videos.c.state)
    )
    found = {VideoState(row[0]): row for row in await conn.execute(query)}
    for state in shown.STATES:
        row = found.get(VideoState(state))
        shown.ORDERS.set(0 if row is None else row[1], state=state)
    oldest = min((found[one][2] or now for one in _PAID_STATES if one in found), default=now)
    shown.OLDEST_PAID_ORDER.set(max(0, now - oldest) / 1000)
    held = found.get(VideoState.HOLD)
    shown.HOLDS.set(0 if held is None else held[1])
    shown.OLDEST_HOLD.set(0 if held is None else max(0, now - held[3]) / 1000)


async def _set_breaker_gauges(conn: AsyncConnection) -> None:
    scopes = list(await conn.scalars(select(breaker.c.scope).where(breaker.c.state == "open")))
    shown.BREAKERS.set(scopes.count(EVERYONE), scope="everyone")
    shown.BREAKERS.set(len(scopes) - scopes.count(EVERYONE), scope="user")
