"""Money in the books: hold, release, charge, credit. Rows are only ever added, each at most once."""

from dataclasses import dataclass

from sqlalchemy import exists, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.money import ZERO, Money
from ledger.database import Ledger
from ledger.models import EntryKind, Video, VideoState
from ledger.schema import entries, videos

ORDER_CAUSE = "order"
"""The cause of a hold and of its release; a charge's and a credit's cause is the provider's job id."""

NO_JOB = "unknown"
"""The cause where a person settled an order as paid and knew no job id."""

_V = VideoState
_CHARGED_STATES = (_V.ACCEPTED, _V.SUCCEEDED, _V.FAILED_PAID)


@dataclass(frozen=True, slots=True)
class _JobTotals:
    """What stands in the books for one job of one request."""

    charges: int
    credits: int
    net: Money


async def add_entry(
    ledger: Ledger, conn: AsyncConnection, video: Video, kind: EntryKind, cause: str, amount: Money, now: int
) -> bool:
    """Add one entry; False where the same (request, kind, cause) stands already, which changes nothing."""
    done = await conn.execute(
        ledger.insert_new(entries).values(
            request_id=video.request_id,
            user_id=video.user_id,
            kind=kind,
            cause=cause,
            micros=amount.micros,
            at=now,
        )
    )
    return bool(done.rowcount)


async def book_transition(
    ledger: Ledger, conn: AsyncConnection, video: Video, frm: VideoState, billed: Money | None, now: int
) -> None:
    """Book what a move from `frm` means in money; `video` is as it is after the move.

    A hold ends in one of two ways: a charge uses it up, a release gives it back. What was charged and then
    proved unbilled is credited; what was credited and then turns up as billed after all is charged again.
    """
    if video.state in (_V.CANCELLED, _V.EXPIRED):
        await _release(ledger, conn, video, now)
        return
    booked = await _job_totals(conn, video)
    if video.state is _V.FAILED_UNPAID:
        if booked.charges:
            await _adjust_charge(ledger, conn, video, booked, ZERO, now)
        else:
            await _release(ledger, conn, video, now)
    elif video.state in _CHARGED_STATES:
        stands = booked.charges and frm is not _V.FAILED_UNPAID
        cost = billed if billed is not None else booked.net if stands else video.quote
        await _adjust_charge(ledger, conn, video, booked, cost, now)


async def _release(ledger: Ledger, conn: AsyncConnection, video: Video, now: int) -> None:
    """Give the hold back, unless any charge of this request has used it up: no hold ends twice."""
    if not await has_charge(conn, video.request_id):
        await add_entry(ledger, conn, video, "release", ORDER_CAUSE, video.quote, now)


async def _adjust_charge(
    ledger: Ledger, conn: AsyncConnection, video: Video, booked: _JobTotals, cost: Money, now: int
) -> None:
    """Make the books say that this video's job cost `cost`: charge what is missing, credit the rest."""
    job = video.job_id or NO_JOB
    if cost > booked.net or not booked.charges:
        await add_entry(ledger, conn, video, "charge", _cause(job, booked.charges), cost - booked.net, now)
    elif cost < booked.net:
        await add_entry(ledger, conn, video, "credit", _cause(job, booked.credits), booked.net - cost, now)


def _cause(job_id: str, before: int) -> str:
    """Return the job id, numbered from the second entry of its kind on, so that each is unique."""
    return f"{job_id} ({before + 1})" if before else job_id


async def _job_totals(conn: AsyncConnection, video: Video) -> _JobTotals:
    job = video.job_id or NO_JOB
    query = select(entries.c.kind, entries.c.cause, entries.c.micros).where(
        entries.c.request_id == video.request_id, entries.c.kind.in_(("charge", "credit"))
    )
    rows = (await conn.execute(query)).all()
    charges, credits_ = (
        [row.micros for row in rows if row.kind == kind and row.cause.partition(" (")[0] == job]
        for kind in ("charge", "credit")
    )
    return _JobTotals(len(charges), len(credits_), Money(sum(charges) - sum(credits_)))


async def has_charge(conn: AsyncConnection, request_id: str) -> bool:
    """Say whether any job was ever charged for this request."""
    query = select(exists().where(entries.c.request_id == request_id, entries.c.kind == "charge"))
    return bool(await conn.scalar(query))


async def owner_of_job(conn: AsyncConnection, provider: str, job_id: str) -> str | None:
    """Return the request for which this job stands in the books, as its own job or as a second one."""
    owner: str | None = await conn.scalar(
        select(videos.c.request_id)
        .join(entries, entries.c.request_id == videos.c.request_id, isouter=True)
        .where(
            videos.c.provider == provider,
            or_(videos.c.job_id == job_id, (entries.c.kind == "charge") & (entries.c.cause == job_id)),
        )
        .limit(1)
    )
    return owner


async def known_jobs(conn: AsyncConnection, provider: str) -> set[str]:
    """Return every job id of one provider that some request holds or was charged for."""
    held = select(videos.c.job_id).where(videos.c.provider == provider, videos.c.job_id.is_not(None))
    paid = (
        select(entries.c.cause)
        .join(videos, videos.c.request_id == entries.c.request_id)
        .where(videos.c.provider == provider, entries.c.kind == "charge")
    )
    return set((await conn.scalars(held.union(paid))).all())
