"""Looks: when a provider is asked again what became of an order, and since when it says that there is none.

All of it stands in SQL, so that a restart neither forgets a first "absent" nor asks too often.
"""

from collections.abc import Collection

from sqlalchemy import func, select, update

from ledger.database import Ledger
from ledger.models import Video
from ledger.patience import transaction
from ledger.schema import videos
from ledger.words import VideoState

_LATE = (VideoState.FAILED_UNPAID, VideoState.HOLD)


@transaction
async def take(ledger: Ledger, video: Video, pause_s: float) -> bool:
    """Take the next look at this order; the one after it comes no earlier than in `pause_s`, or after `done`.

    False if another process took it, if it is too early, or if the order has moved on.
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
async def done(ledger: Ledger, video: Video, pause_s: float) -> None:
    """End a look before its time, since its question is answered: the next comes in `pause_s`, or sooner."""
    async with ledger.write() as conn:
        then = await ledger.now(conn) + int(pause_s * 1000)
        await conn.execute(
            update(videos)
            .where(videos.c.request_id == video.request_id, videos.c.look_at > then)
            .values(look_at=then)
        )


@transaction
async def absent(ledger: Ledger, request_id: str, asked_at: int, gap_s: float) -> bool:
    """Remember that a list which was asked for at `asked_at` does not show the job of a doubtful order.

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
async def unsure(ledger: Ledger, request_id: str) -> None:
    """Forget a first "absent": what was answered since is no proof, so two new lists are needed."""
    async with ledger.write() as conn:
        await conn.execute(
            update(videos)
            .where(videos.c.request_id == request_id, videos.c.absent_at.is_not(None))
            .values(absent_at=None)
        )


@transaction
async def late(
    ledger: Ledger, after_s: float, within_s: float, most: int, providers: Collection[str]
) -> list[Video]:
    """Orders that ended unpaid after a send, or wait for a person, and are due for another look.

    Args:
        ledger: Where they stand.
        after_s: Since they came to that state, at least.
        within_s: And at most.
        most: Of so many, those that have waited longest.
        providers: And whose, by name: what nobody can ask about must not take the place of the others.
    """
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        query = (
            select(videos)
            .where(
                videos.c.state.in_(_LATE),
                videos.c.submits > 0,
                videos.c.provider.in_(providers),
                videos.c.updated_at > now - int(within_s * 1000),
                videos.c.updated_at <= now - int(after_s * 1000),
                videos.c.look_at <= now,
            )
            .order_by(videos.c.look_at, videos.c.updated_at)
        )
        return [Video.of(row) for row in await conn.execute(query.limit(most))]


@transaction
async def rivals(ledger: Ledger, video: Video, states: Collection[VideoState]) -> int:
    """Count the other orders in `states` to which a job that looks like this order's could belong."""
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
