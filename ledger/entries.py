"""Ledger entries: hold, release, charge and refund (kind `credit`). Rows are added only, each once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, FromClause, and_, exists, func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.money import ZERO, Money
from ledger.database import Ledger
from ledger.models import EntryKind, Video, VideoState
from ledger.schema import entries, videos

_V = VideoState
_CHARGED_STATES = (_V.ACCEPTED, _V.SUCCEEDED, _V.FAILED_PAID)


@dataclass(frozen=True, slots=True)
class _JobTotals:
    """The entries of one job of one request."""

    charges: int
    credits: int
    net: Money


async def add_entry(
    ledger: Ledger,
    conn: AsyncConnection,
    video: Video,
    kind: EntryKind,
    amount: Money,
    now: int,
    job_id: str | None = None,
    n: int = 1,
    action_id: int | None = None,
) -> bool:
    """Add one entry; False where it is stored already, which changes nothing.

    Args:
        ledger: Where it is stored.
        conn: The caller's transaction.
        video: Whose order.
        kind: With the request, `job_id` and `n` it is the entry's key.
        amount: Never negative; the kind says the direction.
        now: The store's time in milliseconds.
        job_id: The provider's job of a charge or a credit. None for a hold or a release, and where an order
            was paid and no job is known.
        n: The nth entry of this kind for this job, from 1.
        action_id: The correction that it belongs to; None: the worker books it.
    """
    done = await conn.execute(
        ledger.insert_new(entries),
        {
            "request_id": video.request_id,
            "user_id": video.user_id,
            "kind": kind,
            "cause": subject_of(kind, job_id, n),
            "job_id": job_id,
            "n": n,
            "micros": amount.micros,
            "at": now,
            "action_id": action_id,
        },
    )
    return bool(done.rowcount)


def subject_of(kind: str, job_id: str | None, n: int) -> str:
    """Return in one text what an entry is about, for people and for the column `cause`."""
    name = job_id or ("unknown" if kind in ("charge", "credit") else "order")
    return f"{name} ({n})" if n > 1 else name


async def book_transition(
    ledger: Ledger,
    conn: AsyncConnection,
    video: Video,
    frm: VideoState,
    billed: Money | None,
    now: int,
    action_id: int | None = None,
) -> None:
    """Book what a transition from `frm` means in money; `video` is as it is afterwards.

    A hold ends in one of two ways: a charge uses it up, or a release gives it back. What was charged and then
    proved unbilled is refunded; what was refunded and then turns out to be billed is charged again.
    """
    if video.state in (_V.CANCELLED, _V.EXPIRED):
        await _release(ledger, conn, video, now)
        return
    if frm is _V.ACCEPTED and video.state is _V.SUCCEEDED and billed is None and video.charged_at is not None:
        return  # charged as it was accepted
    booked = await _job_totals(conn, video)
    if video.state is _V.FAILED_UNPAID:
        if booked.charges:
            await _adjust_charge(ledger, conn, video, booked, ZERO, now, action_id)
        else:
            await _release(ledger, conn, video, now)
    elif video.state in _CHARGED_STATES:
        known = booked.charges and frm is not _V.FAILED_UNPAID
        cost = billed if billed is not None else booked.net if known else video.quote
        await _adjust_charge(ledger, conn, video, booked, cost, now, action_id)


async def _release(ledger: Ledger, conn: AsyncConnection, video: Video, now: int) -> None:
    """Give the hold back, unless any charge of this request has used it up: no hold ends twice.

    An offer has none, except one of the version before: that may hold another price than it has by now.
    """
    mine = entries.c.request_id == video.request_id
    held = await conn.scalar(select(entries.c.micros).where(mine, entries.c.kind == "hold"))
    if held is not None and not await has_charge(conn, video.request_id):
        await add_entry(ledger, conn, video, "release", Money(held), now)


async def _adjust_charge(
    ledger: Ledger,
    conn: AsyncConnection,
    video: Video,
    booked: _JobTotals,
    cost: Money,
    now: int,
    action_id: int | None,
) -> None:
    """Make the entries of this video's job sum up to `cost`: charge what is missing or refund the rest."""
    job, more = video.job_id, cost - booked.net
    if cost > booked.net or not booked.charges:
        await add_entry(ledger, conn, video, "charge", more, now, job, booked.charges + 1, action_id)
    elif cost < booked.net:
        back = booked.net - cost
        await add_entry(ledger, conn, video, "credit", back, now, job, booked.credits + 1, action_id)


async def _job_totals(conn: AsyncConnection, video: Video) -> _JobTotals:
    if video.charged_at is None:
        return _JobTotals(0, 0, ZERO)
    query = (
        select(entries.c.kind, func.count(), func.sum(entries.c.micros))
        .where(
            entries.c.request_id == video.request_id,
            entries.c.kind.in_(("charge", "credit")),
            entries.c.job_id.is_not_distinct_from(video.job_id),
        )
        .group_by(entries.c.kind)
    )
    found = {kind: (count, int(micros)) for kind, count, micros in await conn.execute(query)}
    charges, charged = found.get("charge", (0, 0))
    credits_, credited = found.get("credit", (0, 0))
    return _JobTotals(charges, credits_, Money(charged - credited))


async def has_charge(conn: AsyncConnection, request_id: str) -> bool:
    """Return whether any job was ever charged for this request."""
    return bool(await conn.scalar(select(is_charged(request_id))))


def is_charged(request_id: str | ColumnElement[str]) -> ColumnElement[bool]:
    """SQL for what `has_charge` returns."""
    return exists().where(entries.c.request_id == request_id, entries.c.kind == "charge")


async def owner_of_job(conn: AsyncConnection, names: Collection[str], job_id: str) -> str | None:
    """Return the request that this job belongs to, as its own job or as a second one that was charged.

    Args:
        conn: The caller's transaction.
        names: The account whose job it is, and its provider, by which orders without an account go.
        job_id: The provider's id.
    """
    owner: str | None = await conn.scalar(select(job_owner([literal(one) for one in names], job_id)))
    return owner


def job_owner(
    names: Sequence[ColumnElement[Any]], job_id: str | ColumnElement[str]
) -> ColumnElement[str | None]:
    """SQL for what `owner_of_job` returns."""
    # Two look-ups by index: one condition over both tables would read the whole history.
    other = videos.alias()
    own = select(other.c.request_id).where(account_name(other).in_(names), other.c.job_id == job_id)
    charged = select(entries.c.request_id).where(_is_charge_of(names), entries.c.job_id == job_id)
    # The same job may be charged twice only for one request.
    return func.coalesce(
        own.correlate(videos).limit(1).scalar_subquery(),
        charged.correlate(videos).limit(1).scalar_subquery(),
    )


def account_name(of: FromClause = videos) -> ColumnElement[str]:
    """SQL for an order's account; for one without, written by the version before, its provider's name."""
    return func.coalesce(of.c.account, of.c.provider)


def _is_charge_of(names: Collection[Any]) -> ColumnElement[bool]:
    # Not a join: a planner could begin with all videos of the provider.
    payer = videos.alias()
    its = select(account_name(payer)).where(payer.c.request_id == entries.c.request_id).scalar_subquery()
    return and_(text("entries.kind = 'charge' AND entries.job_id IS NOT NULL"), its.in_(names))


_IDS_BATCH = 500


async def claimed_jobs(conn: AsyncConnection, names: Collection[str], job_ids: Collection[str]) -> set[str]:
    """Return which of these jobs of one account belong to some request, or were charged for it.

    `names` are the account and its provider, as for `owner_of_job`.
    """
    ids, found = list(job_ids), set[str]()
    for at in range(0, len(ids), _IDS_BATCH):
        batch = ids[at : at + _IDS_BATCH]
        own = select(videos.c.job_id).where(account_name().in_(names), videos.c.job_id.in_(batch))
        charged = select(entries.c.job_id).where(_is_charge_of(names), entries.c.job_id.in_(batch))
        found |= set(await conn.scalars(own.union(charged)))
    return found
