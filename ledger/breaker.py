"""Circuit breaker on paid starts: one row per scope, open until an operator closes it."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import case, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.limits import EVERYONE, BreakerRates, user_scope
from guardrails.protocols import BreakerState
from ledger.database import Ledger, transaction
from ledger.models import Video
from ledger.schema import breaker, videos

_WHO_MAX = 80
OPENED_BY_RATE: Final = "studio"


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """One opening. `at` distinguishes it from earlier ones; `who` is `OPENED_BY_RATE`, or names a defect."""

    scope: str
    why: str
    at: int
    who: str

    @property
    def violation(self) -> bool:
        """Whether it was opened for something that only a defect can explain."""
        return self.who != OPENED_BY_RATE


async def lock(ledger: Ledger, conn: AsyncConnection, user_id: int) -> None:
    """Lock the `everyone` row, then the user's: in this order everywhere, so that there is no deadlock.

    On SQLite the transaction began with BEGIN IMMEDIATE and holds the whole file already.
    """
    scopes = (EVERYONE, user_scope(user_id))
    # `everyone` sorts before `user:`, and PostgreSQL locks the rows in the order in which it sorts them.
    query = select(breaker.c.scope).where(breaker.c.scope.in_(scopes)).order_by(breaker.c.scope)
    query = query.with_for_update()  # SQLite has none
    if len((await conn.execute(query)).all()) == len(scopes):
        return
    rows = [{"scope": scope, "state": "closed"} for scope in scopes]
    await conn.execute(ledger.insert_new(breaker).values(rows))
    await conn.execute(query)


async def is_open(conn: AsyncConnection, user_id: int) -> bool:
    """Return whether starts of this user are stopped, by the user's own breaker or everyone's."""
    scopes = (EVERYONE, user_scope(user_id))
    found = await conn.scalar(
        select(breaker.c.scope).where(breaker.c.scope.in_(scopes), breaker.c.state == "open").limit(1)
    )
    return found is not None


async def trip(conn: AsyncConnection, video: Video, rates: BreakerRates, now: int) -> bool:
    """Open the breaker if one more first start would exceed a rate; return whether it opened.

    Counts first entries into SUBMITTING, not admissions: what was paid, not what was asked for. Starts before
    an operator closed the breaker are not counted again, so that waiting orders may start.
    """
    for scope, rate in ((user_scope(video.user_id), rates.user), (EVERYONE, rates.everyone)):
        if rate is None:
            continue
        closed_at = await conn.scalar(select(breaker.c.at).where(breaker.c.scope == scope)) or 0
        since = max(now - rate.window_s * 1000, closed_at)
        started = select(func.count()).where(videos.c.submitted_at > since)
        if scope != EVERYONE:
            started = started.where(videos.c.user_id == video.user_id)
        count = (await conn.execute(started)).scalar_one()
        if count >= rate.count:
            why = f"{count + 1} paid starts in {rate.window_s} s, allowed {rate.count}"
            await _set(conn, scope, "open", OPENED_BY_RATE, why, now)
            return True
    return False


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
