"""Sums entries themselves, where there are few: those of the last hour, or of one user.

What is bounded by neither is read from the totals (`ledger.totals`), with the same meaning of each figure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    ScalarSelect,
    Select,
    String,
    case,
    exists,
    func,
    literal,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.money import Money
from ledger.schema import REPLAYS, entries, requests, transitions, videos
from ledger.totals import DAY_MS, HOUR_MS, CostSummary

GroupBy = Literal["all", "user", "model", "hour"]
"""What sums are grouped by; `hour` is whole UTC hours since the epoch."""


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries: from `since` on (milliseconds since the epoch), of one user or of everyone."""

    since: int = 0
    user_id: int | None = None

    def conditions(self, at: ColumnElement[int], user: ColumnElement[int]) -> list[ColumnElement[bool]]:
        found = [at >= self.since]
        return found if self.user_id is None else [*found, user == self.user_id]


async def summarize(
    conn: AsyncConnection, by: GroupBy, where: EntryFilter, most: int | None = None
) -> dict[Any, CostSummary]:
    """Sum what `where` names for each key of `by`, most expensive first; at most `most` keys.

    Keys with only commands or prevented duplicates come last.
    """
    found = {
        row.key: CostSummary(
            Money(int(row.charged)), Money(int(row.credited)), Money(int(row.held)),
            int(row.videos), int(row.paid_for),
        )
        for row in await conn.execute(_sum_by_key(by, where).limit(most))
    }  # fmt: skip
    came = await _count_by_key(conn, _commands(by, where))
    twice = await _count_by_key(conn, _duplicates(by, where))
    for key in sorted((came.keys() | twice.keys()) - found.keys() - {None}):
        if most is None or len(found) < most:
            found[key] = CostSummary()
    return {
        key: replace(one, commands=came.get(key, 0), duplicates=twice.get(key, 0))
        for key, one in found.items()
    }


async def summarize_all(conn: AsyncConnection, where: EntryFilter) -> CostSummary:
    """Sum all that `where` names."""
    return (await summarize(conn, "all", where)).get("all", CostSummary())


def _group_key(by: GroupBy, user: Any, at: Any) -> ColumnElement[Any]:
    keys: Mapping[GroupBy, ColumnElement[Any]] = {
        "all": literal("all", String),
        "user": user,
        "model": videos.c.provider + "/" + videos.c.model,
        "hour": at // HOUR_MS,
    }
    return keys[by].label("key")


def _sum_by_key(by: GroupBy, where: EntryFilter) -> Select[Any]:
    """Charges, refunds and open holds by key; the most expensive first."""
    charge = entries.c.kind == "charge"
    first = charge & (entries.c.at == videos.c.charged_at) & (videos.c.paid_jobs > 0)
    # Not grouped by these expressions themselves: their constants would be other parameters to PostgreSQL.
    line = (
        select(
            _group_key(by, entries.c.user_id, entries.c.at),
            case((charge, entries.c.micros), else_=0).label("charged"),
            case((entries.c.kind == "credit", entries.c.micros), else_=0).label("credited"),
            case((_is_open_hold(), entries.c.micros), else_=0).label("held"),
            case((charge & (entries.c.n == 1) & _is_paid_job(), 1), else_=0).label("video"),
            case((first, entries.c.request_id)).label("paid_for"),
        )
        .join(videos, videos.c.request_id == entries.c.request_id)
        .where(*where.conditions(entries.c.at, entries.c.user_id))
        .cte("line")
        # Found by time or user before it is grouped: SQLite would read an index that is in the group's order.
        .prefix_with("MATERIALIZED")
    )
    sums = (func.sum(line.c[name]).label(name) for name in ("charged", "credited", "held"))
    return (
        select(
            line.c.key,
            *sums,
            func.sum(line.c.video).label("videos"),
            func.count(line.c.paid_for.distinct()).label("paid_for"),
        )
        .group_by(line.c.key)
        .order_by(func.sum(line.c.charged - line.c.credited).desc(), line.c.key.desc())
    )


def _is_open_hold() -> ColumnElement[bool]:
    """A hold that has not ended: neither used up by a charge nor released."""
    other = entries.alias()
    ended = exists().where(
        other.c.request_id == entries.c.request_id, other.c.kind.in_(("charge", "release"))
    )
    return (entries.c.kind == "hold") & ~ended


def _is_paid_job() -> ColumnElement[bool]:
    """The job of a charge is not refunded in full."""
    other = entries.alias()
    signed = case((other.c.kind == "charge", other.c.micros), else_=-other.c.micros)
    refunded = case((other.c.kind == "credit", other.c.micros), else_=0)
    return (
        select((func.sum(signed) > 0) | (func.sum(refunded) == 0))
        .where(
            other.c.request_id == entries.c.request_id,
            other.c.kind.in_(("charge", "credit")),
            other.c.job_id.is_not_distinct_from(entries.c.job_id),
        )
        .scalar_subquery()
    )


def _commands(by: GroupBy, where: EntryFilter) -> Select[Any]:
    return (
        select(_group_key(by, requests.c.user_id, requests.c.created_at), literal(1, Integer).label("count"))
        .join(videos, videos.c.request_id == requests.c.request_id, isouter=True)
        .where(*where.conditions(requests.c.created_at, requests.c.user_id))
    )


def _duplicates(by: GroupBy, where: EntryFilter) -> Select[Any]:
    if where.user_id is not None and by != "hour":
        return _duplicates_of_user(by, where, where.user_id)
    return (
        select(_group_key(by, requests.c.user_id, transitions.c.at), literal(1, Integer).label("count"))
        .select_from(transitions)
        .join(requests, requests.c.request_id == transitions.c.request_id)
        .join(videos, videos.c.request_id == requests.c.request_id, isouter=True)
        .where(text(REPLAYS), *where.conditions(transitions.c.at, requests.c.user_id))
    )


def _duplicates_of_user(by: GroupBy, where: EntryFilter, user_id: int) -> Select[Any]:
    """Count by request: everyone's repeated calls of a month are many more than one user's requests."""
    mine = of_user(user_id, where.since)
    key, count = _group_key(by, mine.c.user_id, literal(0)), replays_of(mine, where.since).label("count")
    joined = mine.join(videos, videos.c.request_id == mine.c.request_id, isouter=True)
    return select(key, count).select_from(joined)


_RUN_MS: Final = 7 * DAY_MS
"""No call is repeated longer than that after its command: a run is given up within hours."""


def of_user(user_id: int, since: int) -> CTE:
    """Return the requests of one user of which a call can have been repeated from `since` on.

    They are found before anything is joined to them.
    """
    query = select(requests.c.request_id, requests.c.user_id, requests.c.created_at).where(
        requests.c.user_id == user_id, requests.c.created_at >= since - _RUN_MS
    )
    return query.cte("mine").prefix_with("MATERIALIZED")


def replays_of(found: CTE, since: int) -> ScalarSelect[int]:
    """Return how often a call of a row of `found` was repeated from `since` on."""
    return (
        select(func.count())
        .select_from(transitions)
        .where(
            transitions.c.request_id == found.c.request_id,
            transitions.c.subject == "call",
            transitions.c.to_state == "replay",
            transitions.c.at >= since,
        )
        .scalar_subquery()
    )


async def _count_by_key(conn: AsyncConnection, rows: Select[Any]) -> dict[Any, int]:
    line = rows.cte("line").prefix_with("MATERIALIZED")
    query = select(line.c.key, func.sum(line.c["count"])).group_by(line.c.key)
    return {row[0]: int(row[1]) for row in await conn.execute(query) if row[1]}
