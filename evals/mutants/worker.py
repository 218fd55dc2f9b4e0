"""Studios that fail: they send again, take again, or call failed what may have been charged."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final
from unittest.mock import patch
from uuid import uuid4

from sqlalchemy import update

from ledger import pending_work
from ledger.models import Video, VideoState
from ledger.schema import videos
from providers.base import InDoubt, Job, Take
from providers.openai_compat import OpenAICompat
from worker import submit
from worker.context import Studio

_TRIES: Final = 3


@contextmanager
def retrying_client() -> Iterator[None]:
    """A client that sends a paid POST up to three times, each as a request of its own: most do by default."""
    once = OpenAICompat.submit

    async def submit(self: OpenAICompat, take: Take) -> Job:
        for _ in range(_TRIES - 1):
            try:
                return await once(self, take)
            except InDoubt:
                take = replace(take, key=str(uuid4()))
        return await once(self, take)

    with patch.object(OpenAICompat, "submit", submit):
        yield


@contextmanager
def submitting_retaken() -> Iterator[None]:
    """An order in SUBMITTING is taken for left behind by its worker, and sent anew under a new key."""
    take_of = submit.take_of

    async def take_back(studio: Studio) -> None:
        for video in await pending_work.in_state(studio.ledger, VideoState.SUBMITTING):
            async with studio.ledger.write() as conn:
                mine = (videos.c.request_id == video.request_id, videos.c.state == VideoState.SUBMITTING)
                await conn.execute(update(videos).where(*mine).values(state=VideoState.QUEUED))
            await studio.queue.wake("shoot", video.request_id)

    async def keyed_by_send(studio: Studio, video: Video) -> Take:
        take = await take_of(studio, video)
        return take if not video.submits else replace(take, key=str(uuid4()))

    with (
        patch("worker.sweeper._late", take_back),
        patch("worker.submit.take_of", keyed_by_send),
    ):
        yield


@contextmanager
def server_error_is_failure() -> Iterator[None]:
    """An answer of 5xx, or none that can be read, is taken for proof that nothing was charged."""

    async def failed(studio: Studio, video: Video, fence: str, why: str) -> None:
        await submit._unpaid(studio, video, fence, "invalid", why)  # noqa: SLF001 - the bug is this very call

    with patch("worker.submit._doubt", failed):
        yield
