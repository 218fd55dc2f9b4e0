"""Moves of a video: compare-and-set along `words.EDGES`, in one transaction with their money."""

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger import breaker, entries, orders
from ledger.breaker import BreakerRates
from ledger.database import Ledger
from ledger.models import Video
from ledger.money import Money
from ledger.patience import transaction
from ledger.requests import log
from ledger.schema import requests, videos
from ledger.step import JobTaken, NoSuchEdge, step
from ledger.words import DOUBTFUL, LATE, WAITING, RequestState, VideoState
from telemetry.instruments import VIOLATIONS

__all__ = [
    "JobTaken", "NoSuchEdge",
    "adopt", "approve", "begin_submit", "cancel", "find_locked", "job_claimed", "move", "set_progress",
]  # fmt: skip


@transaction
async def move(
    ledger: Ledger,
    request_id: str,
    frm: VideoState,
    to: VideoState,
    who: str,
    why: str,
    *,
    fence: str | None = None,
    billed: Money | None = None,
    **columns: Any,
) -> Video | None:
    """Move one video and book its money; None if it was not in `frm` (any more), which changes nothing.

    Args:
        ledger: Where the video stands.
        request_id: Whose video.
        frm: The state that it must be in.
        to: The state that it gets.
        who: A room's task or a person, for the transitions table.
        why: A plain reason, for the transitions table.
        fence: If given, the row must carry it: only the holder of SUBMITTING may act on its answer. Without
            one, SUBMITTING only ends in doubt, after its deadline, or with a job that turned up.
        billed: The provider's own figure where a charge is booked; else the quote is.
        columns: Further columns to set.

    Raises:
        NoSuchEdge: DESIGN §6 has no such edge, or the edge needs what was not given: a fence, a job id.
        JobTaken: `job_id` is another request's job.
    """
    async with ledger.write() as conn:
        return await step(
            ledger, conn, request_id, frm, to, who, why, fence=fence, billed=billed, columns=columns
        )


@transaction
async def begin_submit(
    ledger: Ledger, request_id: str, fence: str, deadline_s: float, rates: BreakerRates
) -> Video | None:
    """Take QUEUED → SUBMITTING: the point of no return, committed before the first byte is sent.

    None if the order is not waiting, not due, expired, charged for already, or the breaker is open (or opens
    by this start).
    """
    async with ledger.write() as conn:
        video = await find_locked(ledger, conn, request_id)
        now = await ledger.now(conn)
        if video is None or not await _may_begin(conn, video, now):
            return None
        if video.submitted_at is None and await breaker.trip(conn, video, rates, now):
            return None
        columns = {
            "fence": fence,
            "deadline_at": now + int(deadline_s * 1000),
            "submits": video.submits + 1,
            "submitted_at": video.submitted_at or now,
            "sent_at": now,
        }
        frm, to = VideoState.QUEUED, VideoState.SUBMITTING
        return await step(ledger, conn, request_id, frm, to, "shoot", "begins to send", columns=columns)


async def find_locked(ledger: Ledger, conn: AsyncConnection, request_id: str) -> Video | None:
    """Return the video under the breaker's locks and its own, in this order, as it is once all are held."""
    video = await orders.find(conn, request_id)
    if video is None:
        return None
    await breaker.lock(ledger, conn, video.user_id)
    return await orders.find(conn, request_id, lock=True)


async def _may_begin(conn: AsyncConnection, video: Video, now: int) -> bool:
    if video.state is not VideoState.QUEUED or not video.retry_at <= now < video.expires_at:
        return False
    if await breaker.is_open(conn, video.user_id):
        return False
    # A charge on an order that waits: its "not sent" was no proof, and another POST could pay twice.
    return not await entries.charged(conn, video.request_id)


@transaction
async def adopt(ledger: Ledger, request_id: str, job_id: str, who: str, billed: Money | None) -> Video | None:
    """Book a job that the provider has for this request, from any doubtful state and however late.

    A second job for one request is booked as well, never hidden, and opens the breaker for everyone. An order
    whose user has read that nothing was paid is marked `late`, so that they are told otherwise.

    Returns:
        The video if it moved to ACCEPTED by this call.

    Raises:
        JobTaken: The job stands in the books of another request. Nothing was changed.
        LookupError: The request has no order.
    """
    async with ledger.write() as conn:
        video = await find_locked(ledger, conn, request_id)
        if video is None:
            raise LookupError(f"request {request_id!r} has no order; job {job_id!r} cannot be booked on it")
        owner = await entries.owner_of_job(conn, video.provider, job_id)
        if owner not in (None, request_id):
            raise JobTaken(
                f"job {job_id!r} of {video.provider} belongs to request {owner}, not to {request_id}"
            )
        if video.state in DOUBTFUL and video.job_id in (None, job_id):
            to, why = VideoState.ACCEPTED, f"the provider has job {job_id}"
            late = LATE if video.state is VideoState.FAILED_UNPAID else None
            return await step(
                ledger, conn, request_id, video.state, to, who, why, billed=billed,
                columns={"job_id": job_id, "failure": late, "failure_detail": None},
            )  # fmt: skip
        if video.job_id != job_id:
            await _book_second_job(ledger, conn, video, job_id, billed)
    return None


async def _book_second_job(
    ledger: Ledger, conn: AsyncConnection, video: Video, job_id: str, billed: Money | None
) -> None:
    now = await ledger.now(conn)
    other = video.job_id or f"none in {video.state}"
    why = f"a job too many for request {video.request_id}: {job_id} beside {other}"
    cost = video.quote if billed is None else billed
    if await entries.book(ledger, conn, video, "charge", job_id, cost, now):
        VIOLATIONS.add(kind="second_job")
        await breaker.open_for_everyone(ledger, conn, "ledger", why, now)


@transaction
async def cancel(ledger: Ledger, request_id: str, user_id: int) -> RequestState | VideoState | None:
    """Cancel what is not paid yet, if it is this user's: CANCELLED, or the state in which it is too late.

    None if this user has no such request.
    """
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        mine = (requests.c.request_id == request_id, requests.c.user_id == user_id)
        done = await conn.execute(
            update(requests)
            .where(*mine, requests.c.state == RequestState.OPEN)
            .values(state=RequestState.CANCELLED, reason="cancelled", updated_at=now)
        )
        if done.rowcount:
            opened, ended = RequestState.OPEN, RequestState.CANCELLED
            await log(conn, request_id, "request", opened, ended, f"user:{user_id}", "cancelled", now)
            return RequestState.CANCELLED
        state = await conn.scalar(select(requests.c.state).where(*mine))
        video = await orders.find(conn, request_id, lock=True)
        if state is None or video is None:
            return None if state is None else RequestState(state)
        if video.state not in WAITING:
            return video.state
        frm, to = video.state, VideoState.CANCELLED
        await step(ledger, conn, request_id, frm, to, f"user:{user_id}", "cancelled by its user", columns={})
        return VideoState.CANCELLED


@transaction
async def approve(ledger: Ledger, nonce: str, user_id: int, valid_s: int) -> Video | None:
    """Let an order go to its worker: one tap wins, by the right user, in time; else None."""
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        query = select(videos).where(videos.c.nonce == nonce, videos.c.user_id == user_id)
        row = (await conn.execute(query)).first()
        if row is None or row.expires_at <= now:
            return None
        frm, to = VideoState.AWAITING_APPROVAL, VideoState.QUEUED
        return await step(
            ledger, conn, row.request_id, frm, to, f"user:{user_id}", "tapped [Make it]",
            columns={"expires_at": now + valid_s * 1000, "nonce": None},
        )  # fmt: skip


@transaction
async def set_progress(ledger: Ledger, request_id: str, progress: int) -> None:
    """Write how far the provider says it is, whole per cent; never backwards."""
    async with ledger.write() as conn:
        await conn.execute(
            update(videos)
            .where(
                videos.c.request_id == request_id,
                videos.c.state == VideoState.ACCEPTED,
                videos.c.progress < progress,
            )
            .values(progress=progress)
        )


@transaction
async def job_claimed(ledger: Ledger, provider: str) -> set[str]:
    """Return the job ids of one provider that belong to a request already."""
    async with ledger.read() as conn:
        return await entries.jobs_of(conn, provider)


@transaction
async def by_nonce(ledger: Ledger, nonce: str) -> Video | None:
    """Return the order that a button belongs to."""
    async with ledger.read() as conn:
        row = (await conn.execute(select(videos).where(videos.c.nonce == nonce))).first()
        return None if row is None else Video.of(row)
