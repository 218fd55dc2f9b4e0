"""Circuit breaker on paid starts: one row per scope, open until an operator closes it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    ScalarSelect,
    Select,
    String,
    bindparam,
    case,
    cast,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.limits import EVERYONE, BreakerRates, user_scope
from guardrails.protocols import BreakerState
from ledger import operator_log
from ledger.database import Ledger, LedgerError, transaction
from ledger.models import Video
from ledger.operator_log import NewAction
from ledger.schema import breaker, videos

_WHO_MAX = 80
_WHY_MAX = 500
_SCOPE: Final = re.compile(r"everyone|user:[1-9][0-9]{0,18}")
_USER: Final = user_scope(0).removesuffix("0")
OPENED_BY_RATE: Final = "studio"


class UnknownScope(LedgerError):
    """No paid start asks for this scope; the message names those that there are."""


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """One opening. `at` distinguishes it from earlier ones.

    `who` is `OPENED_BY_RATE`, or a person (`operator:`, `admin:` or `web:` and a name), or names a defect.
    """

    scope: str
    why: str
    at: int
    who: str

    @property
    def violation(self) -> bool:
        """Whether it was opened for something that only a defect can explain."""
        return self.who != OPENED_BY_RATE and not self.by_operator

    @property
    def by_operator(self) -> bool:
        """Whether a person opened it."""
        return ":" in self.who


@dataclass(frozen=True, slots=True)
class LockedBreakers:
    """The breakers of one user's starts, locked until the end of the transaction.

    Attributes:
        is_open: Starts of this user are stopped, by the user's own breaker or everyone's.
        user_at: When the user's own breaker changed last, in milliseconds; 0: never.
        everyone_at: The same of everyone's.
    """

    is_open: bool
    user_at: int
    everyone_at: int


async def lock(ledger: Ledger, conn: AsyncConnection, user_id: int) -> LockedBreakers:
    """Lock the `everyone` row, then the user's: in this order everywhere, so that there is no deadlock.

    On SQLite the transaction began with BEGIN IMMEDIATE and holds the whole file already.
    """
    mine = user_scope(user_id)
    rows = (await conn.execute(_lock_query(), {"everyone": EVERYONE, "mine": mine})).all()
    return await _with_missing(ledger, conn, rows, mine)


async def lock_for_order(ledger: Ledger, conn: AsyncConnection, request_id: str) -> LockedBreakers | None:
    """Lock the rows of the user of an order, in the order of `lock`; None if the request has no order."""
    of_order = {"everyone": EVERYONE, "order": request_id}
    rows = (await conn.execute(_lock_query(of_order=True), of_order)).all()
    if len(rows) == _BOTH:
        return _as_locked(*rows)
    # An order's rows are there, except where the ledger was edited.
    known = await conn.scalar(select(videos.c.user_id).where(videos.c.request_id == request_id))
    return None if known is None else await _with_missing(ledger, conn, rows, user_scope(known))


_BOTH: Final = 2


@cache
def _lock_query(*, of_order: bool = False) -> Select[Any]:
    """SQL that locks everyone's row and a user's: of the scope `mine`, or of the user of `order`."""
    mine: ColumnElement[str] = bindparam("mine", type_=String)
    if of_order:
        user_id = select(videos.c.user_id).where(videos.c.request_id == bindparam("order", type_=String))
        mine = literal(_USER, String).concat(cast(user_id.scalar_subquery(), String))
    scopes = (bindparam("everyone", type_=String), mine)
    query = select(breaker.c.scope, breaker.c.state, breaker.c.at).where(breaker.c.scope.in_(scopes))
    # `everyone` sorts before `user:`, and PostgreSQL locks the rows in the order in which it sorts them.
    return query.order_by(breaker.c.scope).with_for_update()  # SQLite has none


async def _with_missing(
    ledger: Ledger, conn: AsyncConnection, rows: Sequence[Any], mine: str
) -> LockedBreakers:
    """Write the rows that were not there; one that another transaction wrote meanwhile is locked."""
    found = {row.scope: row for row in rows}
    for scope in (EVERYONE, mine):
        if scope not in found:
            written = ledger.insert_or_lock(breaker, breaker.c.state)
            found[scope] = (await conn.execute(written, {"scope": scope, "state": "closed"})).one()
    return _as_locked(found[EVERYONE], found[mine])


def _as_locked(everyone: Any, user: Any) -> LockedBreakers:
    return LockedBreakers("open" in (everyone.state, user.state), user.at, everyone.at)


@transaction
async def stops(ledger: Ledger, user_id: int) -> bool:
    """Return whether POSTs of this user are stopped now."""
    async with ledger.read() as conn:
        return await is_open(conn, user_id)


async def is_open(conn: AsyncConnection, user_id: int) -> bool:
    """Return whether starts of this user are stopped, by the user's own breaker or everyone's."""
    scopes = (EVERYONE, user_scope(user_id))
    found = await conn.scalar(
        select(breaker.c.scope).where(breaker.c.scope.in_(scopes), breaker.c.state == "open").limit(1)
    )
    return found is not None


async def trip(
    conn: AsyncConnection, video: Video, rates: BreakerRates, now: int, locked: LockedBreakers
) -> bool:
    """Open the breaker if one more first start would exceed a rate; return whether it opened.

    Counts first entries into SUBMITTING, not admissions: what was paid, not what was asked for. Starts before
    an operator closed the breaker are not counted again, so that waiting orders may start. A count ends at
    its rate, so it costs the same however many starts a window holds.
    """
    scopes = (
        (user_scope(video.user_id), rates.user, locked.user_at),
        (EVERYONE, rates.everyone, locked.everyone_at),
    )
    limited = [(scope, rate, at) for scope, rate, at in scopes if rate is not None]
    if not limited:
        return False
    values: dict[str, Any] = {"user": video.user_id, "tool": video.tool}
    for number, (_, rate, at) in enumerate(limited):
        values |= {f"since_{number}": max(now - rate.window_s * 1000, at), f"most_{number}": rate.count}
    query = _starts_query(tuple(scope == EVERYONE for scope, _, _ in limited))
    counts = (await conn.execute(query, values)).one()
    for (scope, rate, _), count in zip(limited, counts, strict=True):
        if count >= rate.count:
            why = f"{count + 1} paid starts in {rate.window_s} s, allowed {rate.count}"
            await _set(conn, scope, "open", OPENED_BY_RATE, why, now)
            return True
    return False


@cache
def _starts_query(everyone: tuple[bool, ...]) -> Any:
    """SQL for a count of each window: of the starts of all users, or of `user`."""
    return select(*(_starts(number, whose) for number, whose in enumerate(everyone)))


def _starts(number: int, everyone: bool) -> ScalarSelect[int]:
    """Count the starts of `tool` since `since_N`, at most `most_N`."""
    since = bindparam(f"since_{number}", type_=BigInteger)
    latest = select(videos.c.request_id).where(
        videos.c.submitted_at > since, videos.c.tool == bindparam("tool", type_=String)
    )
    if not everyone:
        latest = latest.where(videos.c.user_id == bindparam("user"))
    # In the index's order, so that no planner reads the history for the first few rows that match.
    latest = latest.order_by(videos.c.submitted_at.desc()).limit(bindparam(f"most_{number}", type_=Integer))
    return select(func.count()).select_from(latest.subquery()).scalar_subquery()


async def _set(conn: AsyncConnection, scope: str, state: str, who: str, why: str, now: int) -> None:
    await conn.execute(
        update(breaker)
        .where(breaker.c.scope == scope)
        .values(state=state, who=who, why=why, at=_next_at(now))
    )


def _next_at(now: int) -> Any:
    """Return the time of a change. It only grows, so that it is the row's version for copies in Redis."""
    return case((breaker.c.at >= now, breaker.c.at + 1), else_=now)


async def open_for_everyone(ledger: Ledger, conn: AsyncConnection, who: str, why: str, now: int) -> None:
    """Stop all paid starts: something happened that only a defect can explain."""
    await conn.execute(ledger.insert_new(breaker).values(scope=EVERYONE, state="closed"))
    await _set(conn, EVERYONE, "open", who, why, now)


def is_scope(scope: str) -> bool:
    """Return whether there is a breaker of this name."""
    return _SCOPE.fullmatch(scope) is not None


@transaction
async def open_scope(ledger: Ledger, scope: str, who: str, why: str) -> bool:
    """Open one breaker in an operator's name; False if it was open already, which changes nothing.

    It stops first POSTs and replays. What was sent before is polled and delivered as usual.

    Raises:
        UnknownScope: `scope` is neither `everyone` nor `user:ID`.
    """
    if not is_scope(scope):
        raise UnknownScope(f"{scope[:80]!r} is no breaker; use everyone, or user: and a Telegram user id")
    closed = (breaker.c.scope == scope) & (breaker.c.state != "open")
    async with ledger.write() as conn:
        await conn.execute(ledger.insert_new(breaker).values(scope=scope, state="closed"))
        now = await ledger.now(conn)
        done = await conn.execute(
            update(breaker)
            .where(closed)
            .values(state="open", who=who[:_WHO_MAX], why=why.strip()[:_WHY_MAX], at=_next_at(now))
        )
        if done.rowcount:
            new = NewAction("breaker_open", who, why.strip(), detail=scope)
            await operator_log.record(ledger, conn, new)
    return bool(done.rowcount)


@transaction
async def close(ledger: Ledger, scope: str, who: str, opened_at: int | None = None) -> bool:
    """Close one breaker in an operator's name; False if it was not open.

    With `opened_at` only that opening is closed: an old button does not close a new one.
    """
    wanted = (breaker.c.scope == scope) & (breaker.c.state == "open")
    if opened_at is not None:
        wanted &= breaker.c.at == opened_at
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        done = await conn.execute(
            update(breaker)
            .where(wanted)
            .values(state="closed", who=who[:_WHO_MAX], why="closed by an operator", at=_next_at(now))
        )
        if done.rowcount:
            await operator_log.record(ledger, conn, NewAction("breaker_close", who, detail=scope))
    return bool(done.rowcount)


@transaction
async def current_states(ledger: Ledger, closed_within_s: int) -> list[BreakerState]:
    """Return the breakers that are open or were changed in the last `closed_within_s` seconds."""
    async with ledger.read() as conn:
        since = await ledger.now(conn) - closed_within_s * 1000
        query = select(breaker.c.scope, breaker.c.state, breaker.c.at).where(
            (breaker.c.state == "open") | (breaker.c.at > since)
        )
        return [BreakerState(row.scope, row.state == "open", row.at) for row in await conn.execute(query)]


@transaction
async def open_breakers(ledger: Ledger) -> list[OpenBreaker]:
    """List the breakers that are open, oldest first."""
    async with ledger.read() as conn:
        rows = await conn.execute(select(breaker).where(breaker.c.state == "open").order_by(breaker.c.at))
        return [OpenBreaker(row.scope, row.why, row.at, row.who) for row in rows]
