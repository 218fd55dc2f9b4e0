"""Who has been notified of what: user lease, operator alerts."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, and_, func, or_, select, update

from ledger.database import Ledger, transaction
from ledger.models import Video, VideoState
from ledger.schema import news, requests, videos

LEASE_S: Final = 60
"""A teller that has said nothing by then is taken for dead."""


@dataclass(frozen=True, slots=True)
class Notification:
    """One thing to tell. `at` (milliseconds) says which standing of `subject`: a later one is news again."""

    subject: str
    at: int


def _is_row_of(item: Notification, reader: int) -> ColumnElement[bool]:
    return and_(news.c.subject == item.subject, news.c.at == item.at, news.c.reader == reader)


@transaction
async def recipients_due(ledger: Ledger, item: Notification, readers: Collection[int]) -> list[int]:
    """Return which of `readers` nobody has told or is telling; each must be taken before it is told."""
    async with ledger.read() as conn:
        closed = or_(news.c.told_at > 0, news.c.free_at > await ledger.now(conn))
        query = select(news.c.reader).where(news.c.subject == item.subject, news.c.at == item.at, closed)
        return sorted(set(readers) - set((await conn.scalars(query)).all()))


@transaction
async def claim(ledger: Ledger, item: Notification, reader: int) -> bool:
    """Take it upon this process to tell one reader; False if another has, or is about to."""
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        row = {"subject": item.subject, "at": item.at, "reader": reader}
        await conn.execute(ledger.insert_new(news).values(**row))
        done = await conn.execute(
            update(news)
            .where(_is_row_of(item, reader), news.c.told_at == 0, news.c.free_at <= now)
            .values(free_at=now + LEASE_S * 1000)
        )
    return bool(done.rowcount)


@transaction
async def mark_sent(ledger: Ledger, item: Notification, reader: int) -> None:
    """This reader has it, or can never be reached."""
    async with ledger.write() as conn:
        await conn.execute(
            update(news).where(_is_row_of(item, reader)).values(told_at=await ledger.now(conn))
        )


@transaction
async def release(ledger: Ledger, item: Notification, reader: int, pause_s: float) -> None:
    """This reader could not be reached: whoever looks after `pause_s` tells them."""
    async with ledger.write() as conn:
        free_at = await ledger.now(conn) + int(pause_s * 1000)
        await conn.execute(update(news).where(_is_row_of(item, reader)).values(free_at=free_at))


@transaction
async def videos_needing_attention(
    ledger: Ledger, failures: Collection[str], readers: Collection[int], within_s: float, most: int
) -> list[Video]:
    """Videos that a person must look at and of which not all readers were told, oldest change first.

    Args:
        ledger: Where they stand.
        failures: Words of FAILED_UNPAID that only an operator can mend.
        readers: Who is to be told of each.
        within_s: An end is news for so long; a HOLD until it is settled.
        most: At most so many.
    """
    async with ledger.read() as conn:
        ended = or_(
            videos.c.state == VideoState.FAILED_PAID,
            and_(videos.c.state == VideoState.FAILED_UNPAID, videos.c.failure.in_(failures)),
        )
        lately = videos.c.updated_at > await ledger.now(conn) - int(within_s * 1000)
        knowing = (
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
            or_(videos.c.state == VideoState.HOLD, and_(ended, lately)), knowing < len(readers)
        )
        return [
            Video.from_row(row) for row in await conn.execute(query.order_by(videos.c.updated_at).limit(most))
        ]


@transaction
async def claim_notification(ledger: Ledger, request_id: str, lease_s: float) -> bool:
    """Take the telling of one request for `lease_s` seconds; False if another has it or it was put off."""
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        done = await conn.execute(
            update(requests)
            .where(requests.c.request_id == request_id, requests.c.told_after <= now)
            .values(told_after=now + int(lease_s * 1000))
        )
    return bool(done.rowcount)


@transaction
async def postpone_notification(ledger: Ledger, request_id: str, seconds: float) -> None:
    """Let nobody tell this request for so long: to keep a lease, to obey Telegram; 0 gives it back."""
    async with ledger.write() as conn:
        after = await ledger.now(conn) + int(seconds * 1000)
        await conn.execute(
            update(requests).where(requests.c.request_id == request_id).values(told_after=after)
        )
