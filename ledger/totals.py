"""Reads `cost_totals`: what periods cost and counted, without reading the history that they sum up.

Triggers write the table with each entry, command, order and repeated call (migration 0010), in the same
transaction. A question here reads as many rows as it answers, however much was ever ordered.

The last 30 days of each user and model are one row of period `30d`. Days are added with what is written and
taken off by `roll_off` once they are too old. Every reader of `30d` calls it first, the workers every minute.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, Self

from sqlalchemy import BigInteger, Label, Select, cast, func, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.money import ZERO, Money
from ledger.database import Ledger, transaction
from ledger.schema import cost_totals

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
WINDOW_DAYS: Final = 30

Period = Literal["hour", "day", "30d", "ever"]
Dimension = Literal["all", "user", "model"]

_LOCK: Final = text(f"SELECT pg_advisory_xact_lock({0x546F74616C73})")
"""The lock that migration 0010's triggers take before they write totals."""

_ROLL_OFF_BATCH: Final = 500
_COUNTED: Final = text("cost_totals.period = 'day' AND cost_totals.days = 1")
_T: Final = cost_totals.c


@dataclass(frozen=True, slots=True)
class CostSummary:
    """What a period cost. A video is a provider's job that was charged and is not refunded in full.

    Money counts at the time of its own entry. `videos` counts at the first charge of the job, `paid_for` at
    the first charge of the command, and both are taken back there when the job is refunded in full; `held`
    counts at the time of the hold until it ends.

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

    def ratio(self, decimals: int) -> float:
        """Return `videos_per_command` rounded up: 1,001 videos for 1,000 commands are not 1.00."""
        size = 10**decimals
        return -(-self.videos * size // self.paid_for) / size if self.paid_for else 0.0

    @classmethod
    def from_row(cls, row: Any) -> Self:
        """Read a row that has a column for each attribute; amounts are whole micro-dollars."""
        charged, credited, held = (Money(int(one)) for one in (row.charged, row.credited, row.held))
        counts = (row.videos, row.paid_for, row.commands, row.duplicates)
        return cls(charged, credited, held, *map(int, counts))


_COLUMNS: Final = tuple(_T[field.name] for field in fields(CostSummary))


_TOOLS: Final = text(
    """
WITH RECURSIVE found(tool) AS (
  SELECT min(tool) FROM cost_totals
  UNION ALL SELECT (SELECT min(tool) FROM cost_totals t WHERE t.tool > found.tool) FROM found
  WHERE found.tool IS NOT NULL
) SELECT tool FROM found WHERE tool IS NOT NULL
"""
)
"""Every tool of the table, by one look into its index for each."""


async def tools_of(conn: AsyncConnection) -> list[str]:
    """Return the paid tools that anything was ever counted for."""
    return list(await conn.scalars(_TOOLS))


def is_row(
    tools: Collection[str], period: Period, starts: Iterable[int], dimension: Dimension
) -> Sequence[Any]:
    """SQL for the rows of these tools and periods."""
    # Each start by name: a range of them would read every user's rows in between.
    return (
        _T.tool.in_(tools), _T.period == period, _T.start.in_(list(starts)), _T.dimension == dimension,
    )  # fmt: skip


async def _which(conn: AsyncConnection, tool: str | None) -> Collection[str]:
    return await tools_of(conn) if tool is None else (tool,)


def summed() -> list[Label[int]]:
    """Return the columns of `CostSummary`, summed over tools."""
    return [
        cast(func.coalesce(func.sum(_T[field.name]), 0), BigInteger).label(field.name)
        for field in fields(CostSummary)
    ]


async def read_starts(
    conn: AsyncConnection,
    period: Period,
    starts: Iterable[int],
    user_id: int | None = None,
    tool: str | None = None,
) -> Mapping[int, CostSummary]:
    """Return the totals of each period that begins at one of `starts`, of one user or of everyone.

    Of one tool, or of all. Periods in which nothing happened are absent. Hours are of everyone alone.
    """
    dimension: Dimension = "all" if user_id is None else "user"
    query = (
        select(_T.start, *summed())
        .where(
            *is_row(await _which(conn, tool), period, starts, dimension),
            _T.key == ("" if user_id is None else str(user_id)),
        )
        .group_by(_T.start)
    )
    return {row.start: CostSummary.from_row(row) for row in await conn.execute(query)}


async def sum_days(conn: AsyncConnection, first: int, last: int, user_id: int | None = None) -> CostSummary:
    """Sum the UTC days from `first` to `last` (each its first millisecond), both included."""
    found = await read_starts(conn, "day", range(first, last + 1, DAY_MS), user_id)
    return add_up(found.values())


def add_up(summaries: Iterable[CostSummary]) -> CostSummary:
    """Return the sum of several totals."""
    total = CostSummary()
    for one in summaries:
        total = CostSummary(
            *(getattr(total, field.name) + getattr(one, field.name) for field in fields(CostSummary))
        )
    return total


async def read_ever(conn: AsyncConnection, user_id: int | None = None) -> CostSummary:
    """Return the totals of everything that was ever written, of one user or of everyone."""
    return (await read_starts(conn, "ever", [0], user_id)).get(0, CostSummary())


async def sums_by_kind(conn: AsyncConnection) -> Mapping[str, int]:
    """Return the micro-dollars of all entries by their kind."""
    kinds = {"hold": _T.reserved, "release": _T.released, "charge": _T.charged, "credit": _T.credited}
    query = select(
        *(cast(func.coalesce(func.sum(one), 0), BigInteger).label(kind) for kind, one in kinds.items())
    )
    tools = await tools_of(conn)
    row = (await conn.execute(query.where(*is_row(tools, "ever", [0], "all"), _T.key == ""))).one()
    return dict(row._mapping)  # noqa: SLF001 - public name


async def most_expensive(
    conn: AsyncConnection,
    dimension: Dimension,
    day: int | None,
    most: int,
    key: str | None = None,
) -> list[tuple[str, CostSummary]]:
    """Return users or models with their totals over all tools, most expensive first.

    With one tool it reads as many rows as it returns; with several, those of the whole period.

    Args:
        conn: A transaction. For the 30 days it is one in which `is_current` holds.
        dimension: Users or models.
        day: The first millisecond of a UTC day; None is the last 30 days.
        most: How many at most.
        key: Only this user or model.
    """
    period: Period = "30d" if day is None else "day"
    tools, net = await tools_of(conn), func.sum(_T.net)
    several = len(tools) > 1
    query: Select[Any] = select(_T.key, *(summed() if several else _COLUMNS)).where(
        _T.tool.in_(tools) if several else _T.tool == "".join(tools),
        _T.period == period, _T.start == (day or 0), _T.dimension == dimension,
    )  # fmt: skip
    if key is not None:
        query = query.where(_T.key == key)
    query = query.group_by(_T.key).order_by(net.desc()) if several else query.order_by(_T.net.desc())
    rows = await conn.execute(query.order_by(_T.key.desc()).limit(most))
    return [(row.key, CostSummary.from_row(row)) for row in rows]


def first_day(now: int) -> int:
    """Return the first millisecond of the oldest of the 30 UTC days that end with the day of `now`."""
    return (now // DAY_MS - WINDOW_DAYS + 1) * DAY_MS


async def is_current(conn: AsyncConnection, now: int) -> bool:
    """Return whether the rows of period `30d` hold the 30 days at `now` and none before."""
    # The first of an index, not whether one is before: planners take the start of other periods for days.
    query = select(_T.start).where(_COUNTED).order_by(_T.start).limit(1)
    oldest: int | None = await conn.scalar(query)
    return oldest is None or oldest >= first_day(now)


@transaction
async def _roll_off_some(ledger: Ledger) -> int:
    async with ledger.write() as conn:
        if ledger.dialect != "sqlite":
            await conn.execute(_LOCK)
        now = await ledger.now(conn)
        old = (
            select(_T.tool, _T.period, _T.start, _T.dimension, _T.key)
            .where(_COUNTED)
            .order_by(_T.start)
            .limit(_ROLL_OFF_BATCH)
        )
        rows = [tuple(row) for row in await conn.execute(old) if row.start < first_day(now)]
        if not rows:
            return 0
        key = tuple_(_T.tool, _T.period, _T.start, _T.dimension, _T.key)
        # A trigger takes the day's figures off its key's 30 days.
        await conn.execute(update(cost_totals).where(key.in_(rows)).values(days=0))
    return len(rows)


@transaction
async def _needs_roll_off(ledger: Ledger) -> bool:
    async with ledger.read() as conn:
        return not await is_current(conn, await ledger.now(conn))


async def roll_off(ledger: Ledger) -> int:
    """Take the days that are too old off the rows of period `30d`; return how many rows that were.

    In batches, each a transaction of its own. Safe in several processes at once and at any delay: a day's row
    says itself whether it still counts.
    """
    done = 0
    if await _needs_roll_off(ledger):
        while batch := await _roll_off_some(ledger):
            done += batch
    return done
