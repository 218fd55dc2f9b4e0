"""Cost reports and gauges, read from totals: no question here grows with what was ever ordered."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import case, func, select, text, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.limits import EVERYONE
from guardrails.money import MICROS_PER_DOLLAR, ZERO, Money
from ledger import totals
from ledger.database import Ledger, transaction
from ledger.entry_sums import EntryFilter, of_user, replays_of, summarize, summarize_all
from ledger.models import VideoState
from ledger.schema import ACTIVE_ORDERS, REPLAYS, breaker, entries, requests, transitions, videos
from ledger.totals import DAY_MS, HOUR_MS, CostSummary
from telemetry import metrics as shown
from telemetry.redaction import short_id

ReportPeriod = Literal["hour", "today", "30d"]
"""The last 60 minutes; since midnight UTC; today and the 29 days before it."""

REPORT_DAYS: Final = totals.WINDOW_DAYS
REPORT_HOURS: Final = 24
MAX_LINES: Final = 50
"""Lines in one table of a report."""


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
    """All that one command cost. `state` is its video's, else its own; `trace_id` is hex, or empty."""

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

    `requests` are the commands that were first charged in the span (in the last hour or of one user: those
    with an entry in it), each with all that it cost; where there are few, orders with an open hold and
    commands with repeated calls follow.

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
    query = select(videos.c.cost_micros).where(videos.c.request_id == request_id)
    async with ledger.read() as conn:
        return Money(int(await conn.scalar(query) or 0))


@transaction
async def cost_summary(ledger: Ledger, since: int = 0, user_id: int | None = None) -> CostSummary:
    """Sum everything, or the UTC days from that of `since` on (milliseconds since the epoch).

    Of one user or of everyone.
    """
    async with snapshot(ledger) as conn:
        if not since:
            return await totals.read_ever(conn, user_id)
        today = period_starts(await ledger.now(conn))["today"]
        return await totals.sum_days(conn, since // DAY_MS * DAY_MS, today, user_id)


async def today_totals(conn: AsyncConnection, now: int) -> TodayTotals:
    """Return the totals of the day of `now`, for gauges: two rows."""
    today = period_starts(now)["today"]
    cost = await totals.sum_days(conn, today, today)
    largest = await totals.most_expensive(conn, "user", today, 1)
    return TodayTotals(cost.paid, max((one.paid for _, one in largest), default=ZERO))


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
    while True:
        await totals.roll_off(ledger)
        async with snapshot(ledger) as conn:
            now = await ledger.now(conn)
            if await totals.is_current(conn, now):  # else a day ended since
                return await _read_report(conn, now, span, user_id, most)


async def _read_report(
    conn: AsyncConnection, now: int, span: ReportPeriod, user_id: int | None, most: int
) -> Report:
    since = period_starts(now)
    where = EntryFilter(since[span], user_id)
    by_day = await totals.read_starts(conn, "day", range(since["30d"], now, DAY_MS), user_id)
    days = [(at, by_day.get(at, CostSummary())) for at in range(since["30d"], now, DAY_MS)]
    return Report(
        now,
        span,
        user_id,
        {
            "hour": await summarize_all(conn, EntryFilter(since["hour"], user_id)),
            "today": days[-1][1],
            "30d": totals.add_up(one for _, one in days),
        },
        await _user_lines(conn, span, where, most),
        await _model_lines(conn, span, where, most),
        await _request_lines(conn, span, where, most, now),
        days,
        await _read_hours(conn, now, user_id),
    )


async def _user_lines(
    conn: AsyncConnection, span: ReportPeriod, where: EntryFilter, most: int
) -> list[CostLine]:
    if span == "hour":
        found = (await summarize(conn, "user", where, most)).items()
        return [CostLine(str(key), one) for key, one in found]
    day = where.since if span == "today" else None
    user = None if where.user_id is None else str(where.user_id)
    return [CostLine(*line) for line in await totals.most_expensive(conn, "user", day, most, user)]


async def _model_lines(
    conn: AsyncConnection, span: ReportPeriod, where: EntryFilter, most: int
) -> list[CostLine]:
    if span == "hour" or where.user_id is not None:
        return [CostLine(*line) for line in (await summarize(conn, "model", where, most)).items()]
    day = where.since if span == "today" else None
    return [CostLine(*line) for line in await totals.most_expensive(conn, "model", day, most)]


async def _read_hours(conn: AsyncConnection, now: int, user_id: int | None) -> list[tuple[int, CostSummary]]:
    first = (now // HOUR_MS - REPORT_HOURS + 1) * HOUR_MS
    starts = range(first, now, HOUR_MS)
    if user_id is None:
        found = await totals.read_starts(conn, "hour", starts)
    else:
        by_hour = await summarize(conn, "hour", EntryFilter(first, user_id))
        found = {hour * HOUR_MS: one for hour, one in by_hour.items()}
    return [(at, found.get(at, CostSummary())) for at in starts]


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


async def _request_lines(
    conn: AsyncConnection, span: ReportPeriod, where: EntryFilter, most: int, now: int
) -> list[RequestLine]:
    ids = await _charged_requests(conn, span, where, most, now)
    for more in (_open_orders, _repeated_requests):
        if len(ids) < most:
            ids += [one for one in await more(conn, where, most) if one not in ids]
    return await read_lines(conn, ids[:most])


async def read_lines(conn: AsyncConnection, ids: Sequence[str]) -> list[RequestLine]:
    """Return a line for each of a few requests, in this order."""
    costs = await _costs_of(conn, ids)
    query = (
        select(requests, videos.c.state.label("video_state"), videos.c.provider, videos.c.model)
        .join(videos, videos.c.request_id == requests.c.request_id, isouter=True)
        .where(requests.c.request_id.in_(ids))
    )
    rows = {row.request_id: row for row in await conn.execute(query)}
    return [
        RequestLine(
            key, row.user_id, row.idea, row.video_state or row.state,
            f"{row.provider}/{row.model}" if row.model else "", row.created_at, trace_id_of(row), costs[key],
        )
        for key in ids for row in (rows[key],)
    ]  # fmt: skip


async def _charged_requests(
    conn: AsyncConnection, span: ReportPeriod, where: EntryFilter, most: int, now: int
) -> list[str]:
    """Return the most expensive requests of the span: the first of each of its days, merged."""
    if span == "hour" or where.user_id is not None:
        found = (
            select(entries.c.request_id)
            .where(entries.c.kind.in_(("charge", "credit")))
            .where(*where.conditions(entries.c.at, entries.c.user_id))
            .cte("found")
            .prefix_with("MATERIALIZED")
        )
        lines = (
            select(videos.c.request_id, videos.c.cost_micros)
            .join(found, found.c.request_id == videos.c.request_id)
            .distinct()
        )
    else:
        lines = _first_of_days(range(where.since // DAY_MS, now // DAY_MS + 1), most)
    line = lines.subquery()
    query = select(line.c.request_id).order_by(line.c.cost_micros.desc(), line.c.request_id.desc())
    return list(await conn.scalars(query.limit(most)))


def _first_of_days(days: Iterable[int], most: int) -> Any:
    """Return the `most` dearest requests of each day: one range of an index for each."""
    return union_all(
        *(
            select(
                select(videos.c.request_id, videos.c.cost_micros)
                .where(videos.c.charged_day == day)
                .order_by(videos.c.cost_micros.desc(), videos.c.request_id.desc())
                .limit(most)
                .subquery()
            )
            for day in days
        )
    )


async def _open_orders(conn: AsyncConnection, where: EntryFilter, most: int) -> Sequence[str]:
    """Return orders of the span that have a hold and no charge yet, newest first."""
    query = (
        select(videos.c.request_id)
        .where(text(f"videos.{ACTIVE_ORDERS}"), videos.c.charged_at.is_(None))
        .where(*where.conditions(videos.c.ordered_at, videos.c.user_id))
        .order_by(videos.c.ordered_at.desc())
    )
    return (await conn.scalars(query.limit(most))).all()


async def _repeated_requests(conn: AsyncConnection, where: EntryFilter, most: int) -> Sequence[str]:
    """Return requests of which a call was repeated in the span, latest first."""
    if where.user_id is not None:
        mine = of_user(where.user_id, where.since)
        own = select(mine.c.request_id).where(replays_of(mine, where.since) > 0)
        return (await conn.scalars(own.order_by(mine.c.created_at.desc()).limit(most))).all()
    query = (
        select(transitions.c.request_id)
        .where(text(REPLAYS), transitions.c.at >= where.since)
        .order_by(transitions.c.at.desc())
    )
    # A request has few such calls; where one has more, the table is shorter.
    return list(dict.fromkeys(await conn.scalars(query.limit(4 * most))))


async def _costs_of(conn: AsyncConnection, ids: Sequence[str]) -> dict[str, CostSummary]:
    """Return all that each of a few requests cost."""
    micros, kind = entries.c.micros, entries.c.kind
    sums = (
        select(
            entries.c.request_id,
            *(func.sum(case((kind == one, micros), else_=0)).label(one) for one in _KINDS),
            func.count(case((kind.in_(("charge", "release")), 1))).label("ended"),
        )
        .where(entries.c.request_id.in_(ids))
        .group_by(entries.c.request_id)
    )
    booked = {row.request_id: row for row in await conn.execute(sums)}
    paid = select(videos.c.request_id, videos.c.paid_jobs).where(videos.c.request_id.in_(ids))
    jobs = {row.request_id: row.paid_jobs for row in await conn.execute(paid)}
    moves = select(transitions.c.request_id, transitions.c.subject, transitions.c.to_state).where(
        transitions.c.request_id.in_(ids)
    )
    repeated = Counter(
        row.request_id
        for row in await conn.execute(moves)
        if (row.subject, row.to_state) == ("call", "replay")
    )
    return {one: _cost_of(booked.get(one), jobs.get(one, 0), repeated.get(one, 0)) for one in ids}


_KINDS: Final = ("hold", "charge", "credit")


def _cost_of(row: Any, jobs: int, repeated: int) -> CostSummary:
    charged, credited = (Money(int(row.charge)), Money(int(row.credit))) if row else (ZERO, ZERO)
    held = Money(int(row.hold)) if row and not row.ended else ZERO
    return CostSummary(charged, credited, held, jobs, int(jobs > 0), 1, repeated)


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


async def _set_entry_gauges(conn: AsyncConnection) -> None:
    for kind, micros in (await totals.sums_by_kind(conn)).items():
        shown.COST.set(_dollars(int(micros)), kind=kind)


async def _set_today_gauges(conn: AsyncConnection, now: int) -> None:
    found = await today_totals(conn, now)
    shown.COST_TODAY.set(_dollars(found.cost.micros))
    shown.USER_TODAY.set(_dollars(found.largest_user.micros))


async def _set_command_gauges(conn: AsyncConnection, now: int) -> None:
    """Set the most expensive request of today and yesterday, and how many have two paid jobs.

    A request with two paid jobs counts for 24 hours from its latest charge, whenever the first was.
    """
    twice = (text("videos.paid_jobs > 1"), videos.c.last_charged_at > now - DAY_MS)
    count, most = (
        await conn.execute(select(func.count(), func.max(videos.c.cost_micros)).where(*twice))
    ).one()
    today = now // DAY_MS
    line = _first_of_days((today - 1, today), 1).subquery()
    largest = await conn.scalar(select(func.max(line.c.cost_micros)))
    shown.LARGEST_COMMAND.set(_dollars(max(most or 0, largest or 0)))
    shown.TWICE_PAID.set(count)


async def _set_order_gauges(conn: AsyncConnection, now: int) -> None:
    query = (
        select(videos.c.state, func.count(), func.min(videos.c.submitted_at), func.min(videos.c.updated_at))
        .where(text(f"videos.{ACTIVE_ORDERS}"))
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
