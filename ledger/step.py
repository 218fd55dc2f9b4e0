"""One step of a video's life: compare-and-set along `words.EDGES`, with its money and its line in the log."""

from typing import Any

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger import entries
from ledger.database import Ledger, LedgerError
from ledger.models import Video
from ledger.money import Money
from ledger.requests import log
from ledger.schema import videos
from ledger.words import EDGES, HOLDERS, VideoState


class NoSuchEdge(ValueError):
    """A move that the life of a video does not know: a defect in the caller."""


class JobTaken(LedgerError):
    """A provider's job that belongs to another request already: it cannot be booked twice."""


async def step(
    ledger: Ledger,
    conn: AsyncConnection,
    request_id: str,
    frm: VideoState,
    to: VideoState,
    who: str,
    why: str,
    *,
    columns: dict[str, Any],
    fence: str | None = None,
    billed: Money | None = None,
) -> Video | None:
    """Take one step in the caller's transaction: nothing else writes a video's state. See `moves.move`."""
    _check_edge(frm, to, fence)
    now = await ledger.now(conn)
    query = update(videos).where(videos.c.request_id == request_id, videos.c.state == frm)
    if fence is not None:
        query = query.where(videos.c.fence == fence)
    elif to is VideoState.IN_DOUBT:
        query = query.where(videos.c.deadline_at <= now)  # before it the holder alone knows what it sent
    if to is VideoState.ACCEPTED:
        columns = {"accepted_at": now} | columns
    try:
        row = (
            await conn.execute(query.values(state=to, updated_at=now, **columns).returning(videos))
        ).first()
    except IntegrityError as error:
        raise JobTaken(
            f"job {columns.get('job_id')!r} belongs to another request than {request_id}"
        ) from error
    if row is None:
        return None
    video = Video.of(row)
    if to is VideoState.ACCEPTED and video.job_id is None:
        raise NoSuchEdge(f"a video in {frm} may move to {to} with a job id, and {request_id} has none")
    await entries.book_move(ledger, conn, video, frm, billed, now)
    await log(conn, request_id, "video", frm, to, who, why, now)
    return video


def _check_edge(frm: VideoState, to: VideoState, fence: str | None) -> None:
    if to not in EDGES[frm]:
        known = ", ".join(sorted(EDGES[frm])) or "nothing"
        raise NoSuchEdge(f"a video in {frm} may move to {known}, not to {to}")
    if (frm, to) in HOLDERS and fence is None:
        raise NoSuchEdge(f"only the holder of {frm} may move a video to {to}: give its fence")
