"""Task `poll`: asks for the state of an accepted job and downloads the finished video."""

import asyncio
import time
from typing import Final

from guardrails.money import Money
from ledger import requests, transitions
from ledger.models import Video, VideoState
from providers.base import BadAsset, Gone, JobFailed, JobModerated, Provider
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from telemetry.semconv import FETCH
from tools.text import storable
from worker.context import DETAIL_CHARACTERS, WorkerContext
from worker.tracing import video_step

log = get_logger(__name__)

_MAX_BAD_FETCHES: Final = 3
"""A downloaded file that is not a video may be complete next time; after so many the order is held."""


async def poll(ctx: WorkerContext, request_id: str) -> None:
    """Poll one accepted job until it ends, or for `shift_s`. Polls are free and may be repeated."""
    misses = bad = 0
    deadline = time.monotonic() + ctx.timeouts.shift_s
    while bad or time.monotonic() < deadline:
        found = await requests.find_with_video(ctx.ledger, request_id)
        if found is None or found[1] is None or found[1].state is not VideoState.ACCEPTED:
            return
        video = found[1]
        provider = await ctx.provider_of(video)
        if provider is None:
            return
        try:
            ended = await _poll_once(ctx, provider, video)
            misses = bad = 0
        except Exception as error:  # noqa: BLE001 - Transient, and errors that no adapter means to raise: poll again
            misses += 1
            bad += isinstance(error, BadAsset)
            log.warning("poll failed", request=request_id, error=type(error).__name__, misses=misses)
            ended = bad >= _MAX_BAD_FETCHES and await _hold(ctx, video, "bad_asset", str(error))
        if ended or await _hold_if_overdue(ctx, provider, video):
            return
        pause = provider.capabilities.poll_s * (1 + misses)
        await asyncio.sleep(min(pause, ctx.timeouts.poll_most_s))


async def _poll_once(ctx: WorkerContext, provider: Provider, video: Video) -> bool:
    """Poll once; return whether the job has ended, with or without a video."""
    job_id = video.job_id or ""
    try:
        status = await provider.state(job_id)
        await failpoint("polling")
        if status.phase == "succeeded":
            await _download(ctx, provider, video, status.billed)
            return True
    except JobFailed as error:
        await _failed(ctx, video, error)
        return True
    except Gone as error:
        return await _hold(ctx, video, "gone", str(error))
    if status.progress is not None:
        await transitions.set_progress(ctx.ledger, video.request_id, status.progress)
    return False


async def _hold_if_overdue(ctx: WorkerContext, provider: Provider, video: Video) -> bool:
    """Hold a job that is not finished in time, whatever the provider answers, and if it does not answer."""
    overdue_s = provider.capabilities.overdue_s
    if await ctx.now_ms() <= (video.accepted_at or 0) + overdue_s * 1000:
        return False
    return await _hold(ctx, video, "overdue", f"not finished after {overdue_s:.0f} s")


async def _download(ctx: WorkerContext, provider: Provider, video: Video, billed: Money | None) -> None:
    """Download the video. If the provider names a price for the whole job, that price is booked."""
    with video_step(FETCH, video.request_id, provider=provider.name):
        asset = await provider.fetch(video.job_id or "", ctx.asset_path(video))
    await failpoint("fetched")
    log.info("video downloaded", request=video.request_id, bytes=asset.bytes, seconds=round(asset.seconds, 2))
    await ctx.apply_effects(
        await transitions.transition(
            ctx.ledger, video.request_id, VideoState.ACCEPTED, VideoState.SUCCEEDED, "watch", "fetched",
            asset_path=str(asset.path),
            asset_seconds=round(asset.seconds),
            progress=100,
            billed=billed,
        )
    )  # fmt: skip


async def _failed(ctx: WorkerContext, video: Video, error: JobFailed) -> None:
    """End a failed job. It counts as paid unless the provider states that it is not billed."""
    to = VideoState.FAILED_UNPAID if error.billing == "unbilled" else VideoState.FAILED_PAID
    failure = "moderated" if isinstance(error, JobModerated) else "failed"
    log.warning("job failed", request=video.request_id, failure=failure, billing=error.billing)
    await ctx.apply_effects(
        await transitions.transition(
            ctx.ledger, video.request_id, VideoState.ACCEPTED, to, "watch", f"{failure}, {error.billing}",
            failure=failure, failure_detail=storable(str(error), DETAIL_CHARACTERS),
        )
    )  # fmt: skip


async def _hold(ctx: WorkerContext, video: Video, failure: str, why: str) -> bool:
    why = storable(why, DETAIL_CHARACTERS)
    log.error("order held", request=video.request_id, failure=failure)
    await ctx.apply_effects(
        await transitions.transition(
            ctx.ledger, video.request_id, VideoState.ACCEPTED, VideoState.HOLD,
            "watch", f"{failure}: {why}", failure=failure, failure_detail=why,
        )
    )  # fmt: skip
    return True
