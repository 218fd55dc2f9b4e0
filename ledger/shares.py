"""The videos that a person may send to another chat: their own, delivered and not erased."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from ledger.database import Ledger, transaction
from ledger.models import VideoState
from ledger.schema import requests, videos
from telemetry.redaction import short_id


@dataclass(frozen=True, slots=True)
class SharedVideo:
    """One delivered video. `file_id` is Telegram's, good for the bot that sent it alone."""

    request_id: str
    idea: str
    caption: str | None
    file_id: str

    @property
    def short_id(self) -> str:
        """The six letters by which people name the request."""
        return short_id(self.request_id)


@transaction
async def own_videos(
    ledger: Ledger, user_id: int, bot_id: int, wanted: str = "", most: int = 10
) -> Sequence[SharedVideo]:
    """Return a person's delivered videos whose six letters begin with `wanted`, newest first."""
    if wanted and not (wanted.isascii() and wanted.isalnum()):
        return []
    query = (
        select(requests.c.request_id, requests.c.idea, requests.c.caption, videos.c.file_id)
        .join(videos, videos.c.request_id == requests.c.request_id)
        .where(
            requests.c.user_id == user_id,
            requests.c.bot_id == bot_id,
            requests.c.erasure.is_(None),
            videos.c.state == VideoState.DELIVERED,
            videos.c.file_id.is_not(None),
            videos.c.seconds > 0,  # Telegram sends a file by its id as what it is
        )
        .order_by(requests.c.created_at.desc(), requests.c.request_id.desc())
        .limit(most)
    )
    if wanted:
        query = query.where(requests.c.short_id.startswith(wanted))
    async with ledger.read() as conn:
        return [SharedVideo(*row) for row in await conn.execute(query)]
