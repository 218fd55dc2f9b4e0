"""Who has been notified of what: user lease, operator alerts."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, and_, func, or_, select, update

from ledger.database import Ledger, transaction
from ledger.models import Video, VideoState
from ledger.schema import news, requests, videos

LEASE_S: Final = 60
"""A process that has not sent its alert by then counts as dead, and another may send it."""


@dataclass(frozen=True, slots=True)
class Notification:
    """One operator alert. `at` (milliseconds) is when `subject` changed: a later change is new."""

    subject: str
    at: int


def _is_row_of(item: Notification, reader: int) -> ColumnElement[bool]:
    return and_(news.c.subject == item.subject, news.c.at == item.at, news.c.reader == reader)


@transaction
async def recipients_due(ledger: Ledger, item: Notification, readers: Collection[int]) -> list[int]:
    """Return the recipients who were not notified and whom no process is notifying; `claim` each first."""
    async with ledger.read() as conn:
        closed = or_(news.c.told_at > 0, news.c.free_at > ledger.time())
        query = select(news.c.reader).where(news.c.subject == item.subject, news.c.at == item.at, closed)
        return sorted(set(readers) - set((await conn.scalars(query)).all()))


@transaction
async def claim(ledger: Ledger, item: Notification, reader: int) -> bool:
    """Claim one recipient for `LEASE_S`; False if another process has notified them, or is about to."""
    async with ledger.write() as conn:
        lease = {"free_at": ledger.time() + LEASE_S * 1000}
        claimed = await conn.execute(
            ledger.upsert(
                news,
                {"subject": item.subject, "at": item.at, "reader": reader},
                lease,
                where=and_(news.c.told_at == 0, news.c.free_at <= ledger.time()),
            ).returning(news.c.reader)
        )
        return claimed.first() is not None


@transaction
async def mark_sent(ledger: Ledger, item: Notification, reader: int) -> None:
    """Record that this recipient has it, or can never be reached."""
    async with ledger.write() as conn:
        await conn.execute(update(news).where(_is_row_of(item, reader)).values(told_at=ledger.time()))


@transaction
async def release(ledger: Ledger, item: Notification, reader: int, pause_s: float) -> None:
    """Give the claim back: the recipient could not be reached, and is due again after `pause_s`."""
    async with ledger.write() as conn:
        free_at = ledger.time() + int(pause_s * 1000)
        await conn.execute(update(news).where(_is_row_of(item, reader)).values(free_at=free_at))


@transaction
async def videos_needing_attention(
    ledger: Ledger, failures: Collection[str], readers: Collection[int], within_s: float, most: int
) -> list[Video]:
    """Return videos that need an operator and of which not every recipient was notified, oldest change first.

    Args:
        ledger: Where they are stored.
        failures: Words of FAILED_UNPAID that only an operator can mend.
        readers: The recipients.
        within_s: How long an end is reported; a HOLD is until it is resolved.
        most: How many at most.
    """
    async with ledger.read() as conn:
        ended = or_(
            videos.c.state == VideoState.FAILED_PAID,
            and_(videos.c.state == VideoState.FAILED_UNPAID, videos.c.failure.in_(failures)),
        )
        recent = videos.c.updated_at > ledger.time() - int(within_s * 1000)
        notified = (
            select(func.count())
            .where(
                news.c.subject == videos.c.request_id,
                news.c.at == videos.c.updated_at,
                news.c.reader.in_(readers),
                news.c.told_at > 0,
            )
            .scalar_subquery()
        )
        query = select(videos).where(
            or_(videos.c.state == VideoState.HOLD, and_(ended, recent)), notified < len(readers)
        )
        return [
            Video.from_row(row) for row in await conn.execute(query.order_by(videos.c.updated_at).limit(most))
        ]


@transaction
async def claim_notification(ledger: Ledger, request_id: str, lease_s: float) -> bool:
    """Claim the notification of one user for `lease_s` seconds; False if it is claimed or postponed."""
    async with ledger.write() as conn:
        now = ledger.time()
        done = await conn.execute(
            update(requests)
            .where(requests.c.request_id == request_id, requests.c.told_after <= now)
            .values(told_after=now + int(lease_s * 1000))
        )
    return bool(done.rowcount)


@transaction
async def postpone_notification(ledger: Ledger, request_id: str, seconds: float) -> None:
    """Postpone the notification: to keep a lease, or because Telegram asks to wait; 0 ends the lease."""
    async with ledger.write() as conn:
        after = ledger.time() + int(seconds * 1000)
        await conn.execute(
            update(requests).where(requests.c.request_id == request_id).values(told_after=after)
        )
