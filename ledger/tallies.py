"""Tallies: the entries summed by payer, model, request or time, in SQL. `reports` gives them to people."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Select, String, Subquery, case, exists, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.money import ZERO, Money
from ledger.schema import entries, requests, transitions, videos

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000

By = Literal["all", "user", "model", "request", "day", "hour"]
"""What a tally is kept by; `day` and `hour` are whole UTC days and hours since the epoch."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a span of time cost. A video is a provider's job that stands charged and is not credited in full.

    Attributes:
        charged: Booked as taken by providers.
        credited: Booked as given back by them.
        held: Reserved for orders that are neither charged nor released yet.
        videos: Jobs that stand charged.
        paid_for: Commands that have such a job: one each, while the first rule of this house holds.
        commands: Commands that came, refused ones too.
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
        """What has left the purse."""
        return self.charged - self.credited

    @property
    def videos_per_command(self) -> float:
        """How many videos were paid for each command that was paid for at all; 0 before the first."""
        return self.videos / self.paid_for if self.paid_for else 0.0


@dataclass(frozen=True, slots=True)
class Where:
    """Which entries: from `since` on (milliseconds since the epoch), of one payer or of everyone."""

    since: int = 0
    user_id: int | None = None

    def over(self, at: ColumnElement[int], user: ColumnElement[int]) -> list[ColumnElement[bool]]:
        found = [at >= self.since]
        return found if self.user_id is None else [*found, user == self.user_id]


async def money(conn: AsyncConnection, by: By, where: Where, most: int | None = None) -> dict[Any, Costs]:
    """Sum the entries that `where` names for each key of `by`, most expensive first.

    Args:
        conn: A transaction; two tallies agree with each other if it sees one moment.
        by: What the keys are.
        where: What is counted.
        most: Only so many keys; None is all of them.
    """
    return {
        row.key: Costs(
            Money(int(row.charged)), Money(int(row.credited)), Money(int(row.held)),
            int(row.videos), int(row.paid_for),
        )
        for row in await conn.execute(_money(conn.dialect.name, by, where).limit(most))
    }  # fmt: skip


async def tally(conn: AsyncConnection, by: By, where: Where, most: int | None = None) -> dict[Any, Costs]:
    """Return `money` with each key's commands and prevented duplicates; keys with only those come last."""
    found = await money(conn, by, where, most)
    came = await _counts(conn, _commands(by, where))
    twice = await _counts(conn, _duplicates(by, where))
    # A command that neither cost nor repeated anything is no line of its own.
    others = twice.keys() if by == "request" else came.keys() | twice.keys()
    for key in sorted(others - found.keys() - {None}):
        if most is None or len(found) < most:
            found[key] = Costs()
    return {
        key: replace(one, commands=came.get(key, 0), duplicates=twice.get(key, 0))
        for key, one in found.items()
    }


def _key(by: By, request: Any, user: Any, at: Any) -> ColumnElement[Any]:
    keys: Mapping[By, ColumnElement[Any]] = {
        "all": literal("all", String),
        "user": user,
        "model": videos.c.provider + "/" + videos.c.model,
        "request": request,
        "day": at // DAY_MS,
        "hour": at // HOUR_MS,
    }
    return keys[by].label("key")


def _money(dialect: str, by: By, where: Where) -> Select[Any]:
    """Charges, credits and standing holds by key; the most expensive first."""
    job = _jobs(dialect, by, where)
    stands = (job.c.charges > 0) & ((job.c.charged > job.c.credited) | (job.c.credited == 0))
    return (
        select(
            job.c.key,
            func.sum(job.c.charged).label("charged"),
            func.sum(job.c.credited).label("credited"),
            func.sum(job.c.held).label("held"),
            func.sum(case((stands, 1), else_=0)).label("videos"),
            func.count(case((stands, job.c.request_id)).distinct()).label("paid_for"),
        )
        .group_by(job.c.key)
        .order_by(func.sum(job.c.charged - job.c.credited).desc(), job.c.key.desc())
    )


def _jobs(dialect: str, by: By, where: Where) -> Subquery:
    """What stands in the books for each job of each request."""
    # Further charges and credits of one job are numbered behind its id: see `entries.book_move`.
    find = func.instr if dialect == "sqlite" else func.strpos
    numbered = find(entries.c.cause, " (")
    # Not grouped by these expressions themselves: their constants would be other parameters to PostgreSQL.
    line = (
        select(
            _key(by, entries.c.request_id, entries.c.user_id, entries.c.at),
            entries.c.request_id,
            case((numbered > 0, func.substr(entries.c.cause, 1, numbered - 1)), else_=entries.c.cause).label(
                "job"
            ),
            case((entries.c.kind == "charge", 1), else_=0).label("charges"),
            case((entries.c.kind == "charge", entries.c.micros), else_=0).label("charged"),
            case((entries.c.kind == "credit", entries.c.micros), else_=0).label("credited"),
            case((_stands(), entries.c.micros), else_=0).label("held"),
        )
        .join(videos, videos.c.request_id == entries.c.request_id)
        .where(*where.over(entries.c.at, entries.c.user_id))
        .subquery()
    )
    sums = (func.sum(line.c[name]).label(name) for name in ("charges", "charged", "credited", "held"))
    group = (line.c.key, line.c.request_id, line.c.job)
    return select(*group, *sums).group_by(*group).subquery()


def _stands() -> ColumnElement[bool]:
    """A hold that has not ended: neither used up by a charge nor released."""
    other = entries.alias()
    ended = exists().where(
        other.c.request_id == entries.c.request_id, other.c.kind.in_(("charge", "release"))
    )
    return (entries.c.kind == "hold") & ~ended


def _commands(by: By, where: Where) -> Select[Any]:
    return (
        select(_key(by, requests.c.request_id, requests.c.user_id, requests.c.created_at))
        .join(videos, videos.c.request_id == requests.c.request_id, isouter=True)
        .where(*where.over(requests.c.created_at, requests.c.user_id))
    )


def _duplicates(by: By, where: Where) -> Select[Any]:
    return (
        select(_key(by, requests.c.request_id, requests.c.user_id, transitions.c.at))
        .select_from(transitions)
        .join(requests, requests.c.request_id == transitions.c.request_id)
        .join(videos, videos.c.request_id == requests.c.request_id, isouter=True)
        .where(
            transitions.c.subject == "call",
            transitions.c.to_state == "replay",
            *where.over(transitions.c.at, requests.c.user_id),
        )
    )


async def _counts(conn: AsyncConnection, rows: Select[Any]) -> dict[Any, int]:
    line = rows.subquery()
    found = await conn.execute(select(line.c.key, func.count()).group_by(line.c.key))
    return {row[0]: int(row[1]) for row in found}
