"""What a person who waits wants to know: how long a video usually takes, and how many orders are ahead."""

from functools import cache
from statistics import median
from typing import Any, Final

from sqlalchemy import bindparam, func, select, text

from ledger.database import Ledger, transaction
from ledger.models import Video, VideoState
from ledger.schema import DELIVERED_ORDERS, transitions, videos

_LATEST: Final = 20
_MOST_AHEAD: Final = 100
_LEAST: Final = 3
"""Fewer videos of a model say nothing about the next one."""


@transaction
async def usual_seconds(ledger: Ledger, model: str) -> float | None:
    """Return the median time from acceptance to the finished file of this model's latest twenty videos.

    In seconds; None while there are fewer than three.
    """
    async with ledger.read() as conn:
        took = [(row.at - row.accepted_at) / 1000 for row in await conn.execute(_took(), {"model": model})]
    return median(took) if len(took) >= _LEAST else None


@cache
def _took() -> Any:
    latest = (
        select(videos.c.request_id, videos.c.accepted_at)
        .where(videos.c.model == bindparam("model"), text(DELIVERED_ORDERS))
        .order_by(videos.c.accepted_at.desc())
        .limit(_LATEST)
        .subquery()
    )
    finished = (transitions.c.subject == "video", transitions.c.to_state == VideoState.SUCCEEDED)
    return select(latest.c.accepted_at, transitions.c.at).where(
        transitions.c.request_id == latest.c.request_id, *finished
    )


@transaction
async def orders_ahead(ledger: Ledger, video: Video) -> int:
    """Return how many orders of the same account wait in the queue and were ordered earlier; at most 100."""
    async with ledger.read() as conn:
        ahead = (
            select(videos.c.request_id)
            .where(
                videos.c.state == VideoState.QUEUED,
                videos.c.due_at.is_not(None),
                videos.c.account == video.account,
                videos.c.ordered_at < video.ordered_at,
            )
            .limit(_MOST_AHEAD)
        )
        count = await conn.scalar(select(func.count()).select_from(ahead.subquery()))
    return int(count or 0)
