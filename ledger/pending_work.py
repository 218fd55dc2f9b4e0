"""What the sweeper must do next, read from the rows alone; and the schedule of reconciliation checks.

The schedule is stored in SQL (`videos.look_at`, `videos.absent_at`), so a restart neither repeats a check too
early nor loses the first "not found" answer.
"""

from collections.abc import Collection

from sqlalchemy import ColumnElement, and_, case, func, or_, select, update

from ledger.database import Ledger, transaction
from ledger.models import (
    CANCELLABLE_STATES,
    RequestState,
    Video,
    VideoState,
)
from ledger.schema import requests, videos

_BATCH_SIZE = 500
"""Rows of one kind in one sweep; the next sweep takes the next."""


def current_state() -> ColumnElement[str]:
    """SQL for the state that a user should have been notified of: the video's, else the request's."""
    return case((videos.c.state.is_(None), requests.c.state), else_=videos.c.state)


@transaction
async def to_run(ledger: Ledger, most_attempts: int) -> list[str]:
    """Open requests that no worker is running and that have attempts left."""
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
        return list((await conn.scalars(query.limit(_BATCH_SIZE))).all())


@transaction
async def exhausted(ledger: Ledger, most_attempts: int, stale_s: int) -> list[str]:
    """Open requests that used up their attempts, or that have waited longer than `stale_s`."""
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        spent = and_(requests.c.attempts >= most_attempts, requests.c.run_until <= now)
        stale = and_(requests.c.created_at <= now - stale_s * 1000, requests.c.run_until <= now)
        query = select(requests.c.request_id).where(requests.c.state == RequestState.OPEN, or_(spent, stale))
        return list((await conn.scalars(query.limit(_BATCH_SIZE))).all())


@transaction
async def in_state(ledger: Ledger, state: VideoState, *, past_deadline: bool = False) -> list[Video]:
    """Videos in one state, oldest change first; with `past_deadline` only those whose deadline is over."""
    async with ledger.read() as conn:
        query = select(videos).where(videos.c.state == state)
        if past_deadline:
            query = query.where(videos.c.deadline_at <= await ledger.now(conn))
        rows = await conn.execute(query.order_by(videos.c.updated_at).limit(_BATCH_SIZE))
        return [Video.from_row(row) for row in rows]


@transaction
async def expired(ledger: Ledger) -> list[Video]:
    """Orders that waited too long for a tap or for a worker; nothing was paid for them."""
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        query = select(videos).where(videos.c.state.in_(CANCELLABLE_STATES), videos.c.expires_at <= now)
        return [Video.from_row(row) for row in await conn.execute(query.limit(_BATCH_SIZE))]


@transaction
async def to_notify(ledger: Ledger) -> list[str]:
    """Requests whose user was not notified of the current state."""
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        query = (
            select(requests.c.request_id)
            .join(videos, videos.c.request_id == requests.c.request_id, isouter=True)
            .where(requests.c.told != current_state(), requests.c.told_after <= now)
            .order_by(requests.c.updated_at)
        )
        return list((await conn.scalars(query.limit(_BATCH_SIZE))).all())


@transaction
async def postponed(ledger: Ledger, user_id: int, longer_than_s: float) -> list[str]:
    """Requests of one user whose notification is postponed for longer: the user had blocked the bot."""
    async with ledger.read() as conn:
        then = await ledger.now(conn) + int(longer_than_s * 1000)
        query = select(requests.c.request_id).where(
            requests.c.user_id == user_id, requests.c.notify_at.is_not(None), requests.c.told_after > then
        )
        return list((await conn.scalars(query)).all())


_LATE_CHECK_STATES = (VideoState.FAILED_UNPAID, VideoState.HOLD)


@transaction
async def claim_check(ledger: Ledger, video: Video, pause_s: float) -> bool:
    """Claim the next check of this order; the one after it is due in `pause_s`, or when `finish_check` says.

    False if another process claimed it, if it is too early, or if the order has another state.
    """
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        done = await conn.execute(
            update(videos)
            .where(
                videos.c.request_id == video.request_id,
                videos.c.state == video.state,
                videos.c.look_at <= now,
            )
            .values(look_at=now + int(pause_s * 1000))
        )
    return bool(done.rowcount)


@transaction
async def finish_check(ledger: Ledger, video: Video, pause_s: float) -> None:
    """End a check early because its question is answered: the next is due in `pause_s`, or sooner."""
    async with ledger.write() as conn:
        then = await ledger.now(conn) + int(pause_s * 1000)
        await conn.execute(
            update(videos)
            .where(videos.c.request_id == video.request_id, videos.c.look_at > then)
            .values(look_at=then)
        )


@transaction
async def record_absent(ledger: Ledger, request_id: str, asked_at: int, gap_s: float) -> bool:
    """Record that a list requested at `asked_at` does not show the job of an order in doubt.

    Returns:
        Whether this is the second such list, asked for at least `gap_s` after the first was read.
    """
    mine = (videos.c.request_id == request_id, videos.c.state == VideoState.IN_DOUBT)
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        await conn.execute(update(videos).where(*mine, videos.c.absent_at.is_(None)).values(absent_at=now))
        first = await conn.scalar(select(videos.c.absent_at).where(*mine))
    return first is not None and asked_at > first and asked_at - first >= gap_s * 1000


@transaction
async def clear_absent(ledger: Ledger, request_id: str) -> None:
    """Forget the first "not found": a later answer was no proof, so two new lists are needed."""
    async with ledger.write() as conn:
        await conn.execute(
            update(videos)
            .where(videos.c.request_id == request_id, videos.c.absent_at.is_not(None))
            .values(absent_at=None)
        )


@transaction
async def late_checks_due(
    ledger: Ledger, after_s: float, within_s: float, most: int, providers: Collection[str]
) -> list[Video]:
    """Orders that ended unpaid after a send, or are on HOLD, and are due for a late-charge check.

    Args:
        ledger: Where they are stored.
        after_s: How long they have been in that state, at least.
        within_s: And at most.
        most: How many at most; those that have waited longest come first.
        providers: Names of the providers that can be asked: orders of others must not use up the limit.
    """
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        query = (
            select(videos)
            .where(
                videos.c.state.in_(_LATE_CHECK_STATES),
                videos.c.submits > 0,
                videos.c.provider.in_(providers),
                videos.c.updated_at > now - int(within_s * 1000),
                videos.c.updated_at <= now - int(after_s * 1000),
                videos.c.look_at <= now,
            )
            .order_by(videos.c.look_at, videos.c.updated_at)
        )
        return [Video.from_row(row) for row in await conn.execute(query.limit(most))]


@transaction
async def similar_orders(ledger: Ledger, video: Video, states: Collection[VideoState]) -> int:
    """Count the other orders in `states` to which a job that matches this order could belong."""
    async with ledger.read() as conn:
        query = select(func.count()).where(
            videos.c.request_id != video.request_id,
            videos.c.provider == video.provider,
            videos.c.state.in_(states),
            videos.c.submits > 0,
            videos.c.job_id.is_(None),
            videos.c.model == video.model,
            videos.c.prompt == video.prompt,
            videos.c.seconds == video.seconds,
            videos.c.size == video.size,
        )
        return int(await conn.scalar(query) or 0)
