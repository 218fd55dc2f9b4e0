"""Late charges: an order that ended unpaid, or waits for a person, may have a job after all.

A worker that slept between its last look at the clock and the first byte sends when nobody expects it; a list
shows a job after its settle time; a person errs. For a day such orders are asked about, more and more seldom,
and by nothing that could make a job: lists, one job's state, its file. Never by a replay.
"""

import asyncio
from typing import Final

from ledger import looks, transitions
from ledger.models import Video
from ledger.words import DOUBTFUL, VideoState
from providers.base import BadAsset, Found, Gone, Job, JobFailed, Provider, Transient
from telemetry.logs import get_logger
from worker.context import Studio
from worker.reconcile import only_ours
from worker.submit import take_of

log = get_logger(__name__)

_AT_ONCE: Final = 4


async def look_late(studio: Studio) -> None:
    """Look once at each order that is due, a few at a time; one that fails takes no other with it."""
    pace = studio.pace
    known = tuple(studio.providers)
    due = await looks.late(studio.ledger, pace.late_s, pace.late_for_s, pace.late_most, known)
    room = asyncio.Semaphore(_AT_ONCE)

    async def look(video: Video) -> None:
        async with room:
            try:
                await _look(studio, video)
            except Exception as error:  # noqa: BLE001 - its next look comes
                log.warning("a late look failed", request=video.request_id, error=type(error).__name__)

    await asyncio.gather(*map(look, due))


async def _look(studio: Studio, video: Video) -> None:
    """Take this look, so that no other process does; adopt the job that it finds."""
    now = await studio.now_ms()
    pause_s = studio.pace.looks_again_s((now - video.updated_at) / 1000)
    if not await looks.take(studio.ledger, video, pause_s):
        return
    provider = studio.providers[video.provider]  # `looks.late` names orders of known ones alone
    job = await (
        _lost(studio, provider, video, now) if video.job_id is None else _own(studio, provider, video)
    )
    if job is None:
        return
    log.error("a late job turned up", request=video.request_id, state=video.state, job=job.job_id)
    await studio.follow(
        await transitions.adopt(studio.ledger, video.request_id, job.job_id, "late", job.billed)
    )


async def _lost(studio: Studio, provider: Provider, video: Video, now: int) -> Job | None:
    """Search the list for a job of this order, made at any time since its POST."""
    claimed = await transitions.job_claimed(studio.ledger, provider.name)
    take, sent_at = await take_of(studio, video), (video.sent_at or 0) / 1000
    async with asyncio.timeout(provider.capabilities.submit_timeout_s):
        result = await provider.lookup(take, sent_at, claimed.__contains__, now / 1000, until=now / 1000)
    result = await only_ours(studio, video, result, DOUBTFUL)
    return result.job if isinstance(result, Found) else None


async def _own(studio: Studio, provider: Provider, video: Video) -> Job | None:
    """Ask about the job that is known already; return it if `watch` can now bring it to an end.

    A held job must have an end: its file is really here, or it is said to have failed. Otherwise it would
    go back and forth between being made and being held.
    """
    job_id, held = video.job_id or "", video.state is VideoState.HOLD
    try:
        status = await provider.state(job_id)
        if held and status.phase == "succeeded":
            await provider.fetch(job_id, studio.asset_path(video))
    except JobFailed as error:
        ends = held or error.billing == "billed"
        return Job(job_id) if ends else None
    except (BadAsset, Gone, Transient):
        return None
    alive = status.phase == "succeeded" or (not held and status.phase in ("queued", "running"))
    return Job(job_id, status.billed) if alive else None
