"""Reads the figures that dashboards and alerts show, from the books; never from what a process remembers."""

from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.database import Ledger
from ledger.money import MICROS_PER_DOLLAR
from ledger.patience import transaction
from ledger.reports import today
from ledger.schema import breaker, entries, videos
from ledger.tallies import DAY_MS
from ledger.words import EVERYONE, VideoState
from telemetry import instruments as shown

_PAID: Final = (VideoState.SUBMITTING, VideoState.ACCEPTED, VideoState.IN_DOUBT, VideoState.SUCCEEDED)
"""States of a paid take that moves on by itself; a HOLD waits for a person and has its own figure."""


@transaction
async def observe(ledger: Ledger) -> None:
    """Bring every figure that is read from the ledger up to date, in one transaction."""
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        await _books(conn)
        await _today(conn, now)
        await _commands(conn, now)
        await _takes(conn, now)
        await _breakers(conn)
    shown.STORE_UP.set(1, store="ledger")


def _dollars(micros: int | None) -> float:
    """Exact to the micro-dollar up to nine thousand million dollars; only what is shown is a float."""
    return (micros or 0) / MICROS_PER_DOLLAR


def _signed(kind: str, micros: int) -> int:
    return int(micros) if kind == "charge" else -int(micros)


async def _books(conn: AsyncConnection) -> None:
    query = select(entries.c.kind, func.sum(entries.c.micros)).group_by(entries.c.kind)
    for kind, micros in await conn.execute(query):
        shown.COST.set(_dollars(int(micros)), kind=kind)


async def _today(conn: AsyncConnection, now: int) -> None:
    found = await today(conn, now)
    shown.COST_TODAY.set(_dollars(found.cost.micros))
    shown.USER_TODAY.set(_dollars(found.largest_user.micros))


async def _commands(conn: AsyncConnection, now: int) -> None:
    """Of the requests that were charged in 24 hours: the dearest, and those with two paid jobs."""
    charged = select(entries.c.request_id).where(entries.c.kind == "charge", entries.c.at > now - DAY_MS)
    query = select(entries.c.request_id, entries.c.kind, entries.c.cause, entries.c.micros).where(
        entries.c.request_id.in_(charged), entries.c.kind.in_(("charge", "credit"))
    )
    jobs: dict[str, dict[str, int]] = {}
    for row in await conn.execute(query):
        # A cause is a job id, and in brackets the how-manieth time that it was booked.
        one = jobs.setdefault(row.request_id, {})
        job = str(row.cause).partition(" (")[0]
        one[job] = one.get(job, 0) + _signed(row.kind, row.micros)
    shown.LARGEST_COMMAND.set(_dollars(max((sum(one.values()) for one in jobs.values()), default=0)))
    shown.TWICE_PAID.set(sum(sum(cost > 0 for cost in one.values()) > 1 for one in jobs.values()))


async def _takes(conn: AsyncConnection, now: int) -> None:
    query = (
        select(videos.c.state, func.count(), func.min(videos.c.submitted_at), func.min(videos.c.updated_at))
        .where(videos.c.state.in_(shown.STATES))
        .group_by(videos.c.state)
    )
    found = {VideoState(row[0]): row for row in await conn.execute(query)}
    for state in shown.STATES:
        row = found.get(VideoState(state))
        shown.TAKES.set(0 if row is None else row[1], state=state)
    oldest = min((found[one][2] or now for one in _PAID if one in found), default=now)
    shown.OLDEST_TAKE.set(max(0, now - oldest) / 1000)
    held = found.get(VideoState.HOLD)
    shown.HOLDS.set(0 if held is None else held[1])
    shown.OLDEST_HOLD.set(0 if held is None else max(0, now - held[3]) / 1000)


async def _breakers(conn: AsyncConnection) -> None:
    scopes = list(await conn.scalars(select(breaker.c.scope).where(breaker.c.state == "open")))
    shown.BREAKERS.set(scopes.count(EVERYONE), scope="everyone")
    shown.BREAKERS.set(len(scopes) - scopes.count(EVERYONE), scope="user")
