"""What is left to do, from SQL alone: the questions that `sweep` asks."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, case, func, or_, select

from ledger.database import Ledger
from ledger.limits import Limits
from ledger.models import Video
from ledger.patience import transaction
from ledger.schema import requests, videos
from ledger.words import QUOTA_BACK, SETTLED, UNPAID_ENDS, WAITING, RequestState, VideoState

_MOST = 500
"""Rows of one kind in one sweep; the next sweep takes the next."""


def shown() -> ColumnElement[str]:
    """The SQL expression for what a user should have been told: the video's state, else the request's."""
    return case((videos.c.state.is_(None), requests.c.state), else_=videos.c.state)


@transaction
async def to_run(ledger: Ledger, most_attempts: int) -> list[str]:
    """Open requests that nobody is running and that have attempts left."""
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        query = (
            select(requests.c.request_id)
            .where(
                requests.c.state == RequestState.OPEN,
                requests.c.run_until <= now,
                requests.c.attempts < most_attempts,
            )
            .order_by(requests.c.created_at)
        )
        return list((await conn.scalars(query.limit(_MOST))).all())


@transaction
async def run_out(ledger: Ledger, most_attempts: int, stale_s: int) -> list[str]:
    """Open requests that used up their attempts, or that have waited longer than `stale_s`."""
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        spent = and_(requests.c.attempts >= most_attempts, requests.c.run_until <= now)
        stale = and_(requests.c.created_at <= now - stale_s * 1000, requests.c.run_until <= now)
        query = select(requests.c.request_id).where(requests.c.state == RequestState.OPEN, or_(spent, stale))
        return list((await conn.scalars(query.limit(_MOST))).all())


@transaction
async def in_state(ledger: Ledger, state: VideoState, *, past_deadline: bool = False) -> list[Video]:
    """Videos in one state, oldest change first; with `past_deadline` only those whose deadline is over."""
    async with ledger.read() as conn:
        query = select(videos).where(videos.c.state == state)
        if past_deadline:
            query = query.where(videos.c.deadline_at <= await ledger.now(conn))
        rows = await conn.execute(query.order_by(videos.c.updated_at).limit(_MOST))
        return [Video.of(row) for row in rows]


@transaction
async def expired(ledger: Ledger) -> list[Video]:
    """Orders that waited too long for a tap or for a worker; nothing was paid for them."""
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        query = select(videos).where(videos.c.state.in_(WAITING), videos.c.expires_at <= now)
        return [Video.of(row) for row in await conn.execute(query.limit(_MOST))]


@transaction
async def untold(ledger: Ledger) -> list[str]:
    """Requests whose user has not been told how they stand now."""
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        query = (
            select(requests.c.request_id)
            .join(videos, videos.c.request_id == requests.c.request_id, isouter=True)
            .where(requests.c.told != shown(), requests.c.told_after <= now)
            .order_by(requests.c.updated_at)
        )
        return list((await conn.scalars(query.limit(_MOST))).all())


@transaction
async def parked(ledger: Ledger, user_id: int) -> list[str]:
    """Requests of one user whose telling was put off (the user had blocked the bot)."""
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        query = (
            select(requests.c.request_id)
            .join(videos, videos.c.request_id == requests.c.request_id, isouter=True)
            .where(requests.c.user_id == user_id, requests.c.told != shown(), requests.c.told_after > now)
        )
        return list((await conn.scalars(query)).all())


@dataclass(frozen=True, slots=True)
class Member:
    """One order as admission counts it. `at` is milliseconds since the epoch."""

    request_id: str
    user_id: int
    at: int
    micros: int
    counts: bool
    cools: bool


@transaction
async def members(ledger: Ledger, limits: Limits) -> list[Member]:
    """Every order that still counts toward a limit: from these admission's counters are rebuilt."""
    async with ledger.read() as conn:
        since = await ledger.now(conn) - limits.window_s * 1000
        rows = await conn.execute(
            select(
                videos.c.request_id,
                videos.c.user_id,
                videos.c.ordered_at,
                videos.c.quote_micros,
                videos.c.state,
            )
            .where(videos.c.ordered_at > since)
            .order_by(videos.c.ordered_at)
        )
        return [
            Member(
                row.request_id,
                row.user_id,
                row.ordered_at,
                row.quote_micros,
                counts=row.state not in QUOTA_BACK,
                cools=row.state not in UNPAID_ENDS,
            )
            for row in rows
        ]


@transaction
async def counts(ledger: Ledger) -> dict[str, int]:
    """Count the videos by state, for people."""
    async with ledger.read() as conn:
        rows = await conn.execute(select(videos.c.state, func.count()).group_by(videos.c.state))
        return {row[0]: row[1] for row in rows}


@transaction
async def in_flight(ledger: Ledger) -> dict[str, int]:
    """Count by provider the videos that still need theirs: ordered, and neither here nor ended."""
    async with ledger.read() as conn:
        ended = SETTLED | {VideoState.SUCCEEDED}
        query = select(videos.c.provider, func.count()).where(videos.c.state.not_in(ended))
        return {row[0]: row[1] for row in await conn.execute(query.group_by(videos.c.provider))}


@transaction
async def recent_users(ledger: Ledger, window_s: int) -> set[int]:
    """Users with a request in the last `window_s` seconds: each may hold a reservation without an order."""
    async with ledger.read() as conn:
        since = await ledger.now(conn) - window_s * 1000
        query = select(requests.c.user_id).where(requests.c.created_at > since).distinct()
        return set((await conn.scalars(query)).all())
