"""What is due, claimed by lease from the rows alone: oldest first, in batches, by any number of workers.

A claim moves the row's due time to the end of its lease in the statement that finds it, so no other worker
claims it until then; the step that runs writes the next due time, or none. A worker that dies loses nothing:
the lease ends and the row is due again. On PostgreSQL rows that another transaction holds are skipped.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, ScalarSelect, case, func, select, update

from ledger.database import Ledger, transaction
from ledger.models import Request, RequestState, Video, VideoState
from ledger.schema import requests, videos

LATE_CHECK_AFTER_MS: Final = 60_000
"""An order that ended unpaid, or is on HOLD, is first checked for a late charge after this."""


def due_at(state: VideoState, now: int, columns: Mapping[str, Any]) -> int | ColumnElement[int] | None:
    """Return when the worker acts next on an order that gets `state` now; None: never.

    Args:
        state: The state that it gets.
        now: The store's time in milliseconds.
        columns: What the change sets: `retry_at` delays a submit, `expires_at` ends an offer, `deadline_at` a
            submit.
    """
    match state:
        case VideoState.AWAITING_APPROVAL:
            return int(columns["expires_at"])
        case VideoState.QUEUED:
            return max(now, int(columns.get("retry_at", 0)))
        case VideoState.SUBMITTING:
            return int(columns.get("deadline_at", now))
        case VideoState.ACCEPTED | VideoState.IN_DOUBT:
            return now
        case VideoState.HOLD | VideoState.FAILED_UNPAID:
            # Without a submit no charge can turn up late.
            return case((videos.c.submits > 0, now + LATE_CHECK_AFTER_MS))
        case _:
            return None


@dataclass(frozen=True, slots=True)
class ClaimedVideos:
    """Orders that are due, and the store's time of the claim in milliseconds."""

    now: int
    videos: Sequence[Video]


@dataclass(slots=True)
class ClaimedRequest:
    """A request whose user has something new to read, with its order, as both were at the claim.

    Attributes:
        now: The store's time of the claim in milliseconds.
        lease_until: When another process may claim it. It identifies the lease: `ledger.notifications` writes
            only while the row carries it, and moves it here when it renews the lease.
    """

    now: int
    request: Request
    video: Video | None
    lease_until: int


@transaction
async def claim_videos(
    ledger: Ledger,
    states: Collection[VideoState],
    most: int,
    lease_s: float,
    providers: Collection[str] | None = None,
) -> ClaimedVideos:
    """Claim up to `most` orders in `states` that are due, oldest due first.

    Args:
        ledger: Where they are stored.
        states: What is due is the step of these states.
        most: How many at most.
        lease_s: They are due again after so many seconds, unless a step says otherwise before.
        providers: Only orders of these; None is all.
    """
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        due = (
            select(videos.c.request_id)
            .where(videos.c.state.in_(states), videos.c.due_at <= now)
            .order_by(videos.c.due_at)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        if providers is not None:
            due = due.where(videos.c.provider.in_(providers))
        rows = await conn.execute(
            update(videos)
            .where(videos.c.request_id.in_(select(due.cte("due").c.request_id)))
            .values(due_at=now + int(lease_s * 1000))
            .returning(videos)
        )
        found = [Video.from_row(row) for row in rows]
    return ClaimedVideos(now, sorted(found, key=lambda video: video.updated_at))


@transaction
async def claim_video(
    ledger: Ledger, request_id: str, state: VideoState, lease_s: float
) -> tuple[int, Video] | None:
    """Claim one order, due or not; return it with the store's time, None if it is in another state."""
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        rows = await conn.execute(
            update(videos)
            .where(videos.c.request_id == request_id, videos.c.state == state)
            .values(due_at=now + int(lease_s * 1000))
            .returning(videos)
        )
        row = rows.first()
    return None if row is None else (now, Video.from_row(row))


@transaction
async def put_back(ledger: Ledger, video: Video, after_s: float | None, *, failed: bool = False) -> None:
    """Make an order due again in `after_s` seconds, None: never; a failure is counted, a success resets it.

    Only while it is in the state in which it was claimed: a later state has its own due time.
    """
    async with ledger.write() as conn:
        due_at = None if after_s is None else await ledger.now(conn) + int(after_s * 1000)
        await conn.execute(
            update(videos)
            .where(videos.c.request_id == video.request_id, videos.c.state == video.state)
            .values(due_at=due_at, due_failures=videos.c.due_failures + 1 if failed else 0)
        )


@transaction
async def claim_runs(ledger: Ledger, most: int, lease_s: float) -> list[Request]:
    """Claim up to `most` open requests whose agent may run: each claim is one attempt, counted here."""
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        due = (
            select(requests.c.request_id)
            .where(requests.c.state == RequestState.OPEN, requests.c.run_until <= now)
            .order_by(requests.c.run_until)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        rows = await conn.execute(
            update(requests)
            .where(requests.c.request_id.in_(select(due.cte("due").c.request_id)))
            .values(attempts=requests.c.attempts + 1, run_until=now + int(lease_s * 1000), updated_at=now)
            .returning(requests)
        )
        return [Request.from_row(row) for row in rows]


@transaction
async def claim_notifications(
    ledger: Ledger, bot_id: int, most: int, lease_s: float, *, delivery: bool, request_id: str | None = None
) -> list[ClaimedRequest]:
    """Claim up to `most` requests of one bot whose user has something new to read, oldest due first.

    The lease is a column of its own (`told_after`): a change that comes meanwhile sets `notify_at` again, to
    the end of the lease, and must not end the lease, or two processes would write to one message.

    Args:
        ledger: Where they are stored.
        bot_id: Each bot notifies about its own requests: no other has its chats.
        most: How many at most.
        lease_s: No other process notifies about them for so long.
        delivery: Those whose video is ready to be delivered; else all others.
        request_id: Only this one.
    """
    only = () if request_id is None else (requests.c.request_id == request_id,)
    ready = select(videos.c.request_id).where(
        videos.c.request_id == requests.c.request_id, videos.c.state == VideoState.SUCCEEDED
    )
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        due = (
            select(requests.c.request_id)
            .where(
                requests.c.bot_id == bot_id,
                requests.c.notify_at <= now,
                requests.c.told_after <= now,
                ready.exists() if delivery else ~ready.exists(),
                *only,
            )
            .order_by(requests.c.notify_at)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        rows = await conn.execute(
            update(requests)
            .where(requests.c.request_id.in_(select(due.cte("due").c.request_id)))
            .values(told_after=now + int(lease_s * 1000))
            .returning(requests)
        )
        claimed = sorted((Request.from_row(row) for row in rows), key=lambda one: one.notify_at or 0)
        ids = [one.request_id for one in claimed]
        found = await conn.execute(select(videos).where(videos.c.request_id.in_(ids))) if ids else ()
        orders = {row.request_id: Video.from_row(row) for row in found}
    return [ClaimedRequest(now, one, orders.get(one.request_id), one.told_after) for one in claimed]


@transaction
async def next_due(ledger: Ledger, bot_id: int) -> Mapping[str, float]:
    """Return in how many seconds something is due: `run`, `notify`, `deliver`, and each state of an order.

    A negative number is overdue; a name without anything due is absent. One statement, a look-up in a partial
    index for each name.
    """
    names = {str(state): _first_due(state) for state in _DUE_STATES}
    names["run"] = (
        select(func.min(requests.c.run_until)).where(requests.c.state == RequestState.OPEN).scalar_subquery()
    )
    names["notify"] = (
        select(func.min(requests.c.notify_at))
        .where(requests.c.bot_id == bot_id, requests.c.notify_at.is_not(None))
        .scalar_subquery()
    )
    names["deliver"] = _first_delivery(bot_id)
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        row = (await conn.execute(select(*(one.label(name) for name, one in names.items())))).one()
    return {name: (at - now) / 1000 for name, at in row._mapping.items() if at is not None}  # noqa: SLF001


_DUE_STATES: Final = (
    VideoState.AWAITING_APPROVAL, VideoState.QUEUED, VideoState.SUBMITTING, VideoState.ACCEPTED,
    VideoState.IN_DOUBT, VideoState.HOLD, VideoState.FAILED_UNPAID,
)  # fmt: skip


def _first_due(state: VideoState) -> ScalarSelect[int]:
    return (
        select(func.min(videos.c.due_at))
        .where(videos.c.state == state, videos.c.due_at.is_not(None))
        .scalar_subquery()
    )


def _first_delivery(bot_id: int) -> ScalarSelect[int]:
    """Return when the first finished video is sent: few are in this state at once, and it is indexed."""
    return (
        select(func.min(requests.c.notify_at))
        .join_from(videos, requests, videos.c.request_id == requests.c.request_id)
        .where(videos.c.state == VideoState.SUCCEEDED, requests.c.bot_id == bot_id)
        .scalar_subquery()
    )
