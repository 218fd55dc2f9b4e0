"""When nothing more happens by itself, and whether our books are then the provider's."""

from collections import Counter
from typing import Final

from sqlalchemy import func, select

from ledger.database import Ledger
from ledger.models import Request, Video
from ledger.schema import entries, videos
from ledger.words import SETTLED, RequestState, VideoState
from sandbox.video_api.charge_log import Books

_UNSETTLED: Final = (VideoState.SUBMITTING, VideoState.IN_DOUBT, VideoState.HOLD)


def rests(request: Request, video: Video | None) -> bool:
    """Say whether nothing more will become of a request by itself, and its user knows."""
    if video is None:
        return (
            request.state not in (RequestState.OPEN, RequestState.ORDERED) and request.told == request.state
        )
    return (
        video.state in SETTLED | {VideoState.HOLD, VideoState.AWAITING_APPROVAL}
        and request.told == video.state
    )


async def books_agree(ledger: Ledger, peer: Books) -> None:
    """The ledger's charges less its credits are what the provider kept, job by job.

    A job may be missing from the books only while a video waits for somebody to say whose it is.
    """
    query = select(entries).where(entries.c.kind.in_(("charge", "credit")))
    unsettled = select(func.count()).where(videos.c.state.in_(_UNSETTLED))
    booked: Counter[str] = Counter()
    async with ledger.read() as conn:
        for row in await conn.execute(query):
            booked[row.cause.partition(" (")[0]] += row.micros if row.kind == "charge" else -row.micros
        waiting = await conn.scalar(unsettled) or 0
    net = peer.net()
    unbooked = net.keys() - booked.keys()
    assert {job: micros for job, micros in booked.items() if micros} == {
        job: micros for job, micros in net.items() if job not in unbooked
    }, "the ledger and the provider's own charge log disagree"
    assert len(unbooked) <= waiting, f"charged and in nobody's books: {unbooked}"
