"""Step `poll`: asks once for the state of an accepted job; downloads the finished video.

When it is asked again is the lease of its claim (`worker.steps.claim_polls`): an answer without news writes
nothing. All workers together poll an account at most `Capabilities.poll_per_s` times a second
(`worker.poll_limits`).
"""

import asyncio
import random
from dataclasses import replace
from typing import Final

from guardrails.money import Money
from ledger import due_work, transitions
from ledger.due_work import ClaimedVideo
from ledger.failures import Failure, explanation
from ledger.models import Video, VideoState
from providers.base import (
    AccessRefused,
    Asset,
    BadAsset,
    Gone,
    JobFailed,
    Provider,
    Status,
    StorageFault,
    TooBig,
    Transient,
)
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from telemetry.semconv import FETCH
from tools.text import storable
from worker.context import DETAIL_CHARACTERS, WorkerContext
from worker.job_links import links_of
from worker.stills import begin_with_still
from worker.tracing import note_poll, video_step, write_provider_work

log = get_logger(__name__)

_MIN_DENIALS: Final = 3
"""Times in a row that a provider has to say that a job is not there, or not ours, until that is believed."""

_MAX_BAD_FETCHES: Final = 3
"""A downloaded file that is not a video may be complete next time; after so many the order is held."""
_MAX_DOUBLINGS: Final = 20
_MAX_FETCH_DOUBLINGS: Final = 5
_JITTER: Final = 0.05


def poll_pause_s(ctx: WorkerContext, provider: Provider, failures: int) -> float:
    """Return the pause before the next poll: the provider's interval, doubled for each failure in a row."""
    pause_s = provider.capabilities.poll_s
    if failures:
        pause_s = min(pause_s * 2.0 ** min(failures, _MAX_DOUBLINGS), max(pause_s, ctx.timeouts.poll_most_s))
    return pause_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - jitter needs no secrecy


async def poll(ctx: WorkerContext, order: ClaimedVideo) -> None:
    """Poll one accepted job once. Polls are free and may be repeated.

    The claim has already moved the next poll to the provider's interval, so nothing is written where nothing
    changed.
    """
    video, provider = order.video, ctx.provider_of(order.video)
    if provider is None:
        await ctx.leave_to_others(order)
        return
    try:
        status = await _ask(ctx, provider, video)
    except Exception as error:  # noqa: BLE001 - Transient, and errors that no adapter means to raise: poll again
        await poll_failed(ctx, order, error)
        return
    if status is None:
        return
    note_poll(video, order.now, status.phase, status.progress)
    if status.phase == "succeeded":
        await _download(ctx, provider, order, status.billed)
        return
    if status.progress is not None and status.progress > video.progress:
        await transitions.set_progress(ctx.ledger, video.request_id, status.progress)
    if not await _hold_if_overdue(ctx, provider, order) and video.due_failures:
        await due_work.put_back(ctx.ledger, video, poll_pause_s(ctx, provider, 0))


async def poll_failed(ctx: WorkerContext, order: ClaimedVideo, error: Exception) -> None:
    """Poll again after a growing pause, or hold the job: see `_held_for`."""
    video, provider = order.video, ctx.provider_of(order.video)
    failures = video.due_failures + 1
    log.warning("poll failed", request=video.request_id, error=type(error).__name__, misses=failures)
    note_poll(video, order.now, type(error).__name__)
    if (failure := _held_for(ctx, provider, order, error)) is not None:
        await _hold(ctx, video, failure, str(error))
        return
    await _mark_blocked(ctx, video, error)
    known_s = ctx.timeouts.pause_s(failures)
    await due_work.put_back(
        ctx.ledger,
        video,
        known_s if provider is None else poll_pause_s(ctx, provider, failures),
        failed=True,
        bad_asset=isinstance(error, BadAsset),
        denied=isinstance(error, _DENIALS),
        even_if_due=True,
    )


_DENIALS: Final = (Gone, AccessRefused)


def _held_for(
    ctx: WorkerContext, provider: Provider | None, order: ClaimedVideo, error: Exception
) -> Failure | None:
    """Return why a job is held now that asking about it, or its download, has failed; None: ask again."""
    video, timeouts = order.video, ctx.timeouts
    known = {
        TooBig: (Failure.TOO_BIG, True),
        BadAsset: (Failure.BAD_ASSET, video.bad_assets + 1 >= _MAX_BAD_FETCHES),
        Gone: (Failure.GONE, _was_denied(order, timeouts.gone_s)),
        AccessRefused: (Failure.ACCESS_REFUSED, _was_denied(order, timeouts.refused_s)),
        StorageFault: (Failure.DISK, False),
        Transient: (Failure.NO_ANSWER, False),
    }
    kind = next((kind for kind in known if isinstance(error, kind)), None)
    failure, held = (Failure.OVERDUE, False) if kind is None else known[kind]
    if isinstance(error, Gone) and error.final:
        held = True
    overdue = provider is not None and _is_overdue(ctx, provider, order)
    return failure if held or overdue else None


def _was_denied(order: ClaimedVideo, for_s: float) -> bool:
    """Return whether this denial makes enough in a row, over enough time."""
    video = order.video
    first = order.now if video.denied_at is None else video.denied_at
    return video.denials + 1 >= _MIN_DENIALS and order.now - first >= for_s * 1000


async def _mark_blocked(ctx: WorkerContext, video: Video, error: Exception) -> None:
    """Write that our own disk keeps the video from being stored, or no longer does."""
    if isinstance(error, StorageFault):
        if await due_work.mark_blocked(
            ctx.ledger, video, Failure.DISK, storable(str(error), DETAIL_CHARACTERS)
        ):
            log.error("media folder refuses a file", request=video.request_id, why=explanation(Failure.DISK))
    else:
        await due_work.mark_blocked(ctx.ledger, video, None)


async def _ask(ctx: WorkerContext, provider: Provider, video: Video) -> Status | None:
    """Return the state of a job; None if it has ended without a video, which is then written."""
    try:
        links = links_of(video)
        asked = provider.state(video.job_id or "", links) if links else provider.state(video.job_id or "")
        status = await asked
        await failpoint("polling")
    except JobFailed as error:
        await _failed(ctx, video, error)
        return None
    return status


def _is_overdue(ctx: WorkerContext, provider: Provider, order: ClaimedVideo) -> bool:
    age_s = (order.now - (order.video.accepted_at or 0)) / 1000
    if ctx.clocks is not None:
        age_s = ctx.clocks.known_age_s(age_s)
    return age_s > provider.capabilities.overdue_s


async def _hold_if_overdue(ctx: WorkerContext, provider: Provider, order: ClaimedVideo) -> bool:
    """Hold a job that the provider has not finished in time."""
    if not _is_overdue(ctx, provider, order):
        return False
    overdue_s = provider.capabilities.overdue_s
    return await _hold(ctx, order.video, Failure.OVERDUE, f"not finished after {overdue_s:.0f} s")


async def _download(
    ctx: WorkerContext, provider: Provider, order: ClaimedVideo, billed: Money | None
) -> None:
    """Download the video under a longer lease than a poll's.

    It counts as a failure until it has ended: a download that kills its worker, or outlasts its lease, is
    repeated after a growing pause.
    """
    video = order.video
    lease_s = ctx.timeouts.fetch_s * 2.0 ** min(video.due_failures, _MAX_FETCH_DOUBLINGS)
    held = await due_work.put_back(ctx.ledger, video, lease_s, failed=True, even_if_due=True)
    if held is None:
        return  # it has ended meanwhile
    try:
        await _fetch(ctx, provider, held, billed)
    except asyncio.CancelledError:
        await due_work.put_back(ctx.ledger, held, 0)
        raise
    except JobFailed as error:
        await _failed(ctx, video, error)
    except Exception as error:  # noqa: BLE001 - see `poll`
        counted = replace(held, due_failures=video.due_failures)
        await poll_failed(ctx, replace(order, video=counted), error)


async def _fetch(ctx: WorkerContext, provider: Provider, video: Video, billed: Money | None) -> None:
    """Download the video. If the provider names a price for the whole job, that price is booked."""
    with video_step(FETCH, provider=provider.name):
        asset = await fetch_video(ctx, provider, video)
    await failpoint("fetched")
    log.info("video downloaded", request=video.request_id, bytes=asset.bytes, seconds=round(asset.seconds, 2))
    late = Failure.LATE if video.failure == Failure.LATE else None
    moved = await transitions.transition(
        ctx.ledger, video.request_id, VideoState.ACCEPTED, VideoState.SUCCEEDED, "watch", "fetched",
        failure=late, failure_detail=None,
        asset_path=str(asset.path),
        asset_seconds=max(1, round(asset.seconds)),
        asset_width=asset.width,
        asset_height=asset.height,
        progress=100,
        billed=billed,
    )  # fmt: skip
    await _end_work(ctx, video, moved)
    if moved is not None:
        await begin_with_still(ctx, moved)


async def _end_work(
    ctx: WorkerContext, video: Video, moved: Video | None, failure: Failure | None = None
) -> None:
    """Apply the end of a job, if this call wrote it, and trace how long the provider took."""
    if moved is not None:
        write_provider_work(video, moved.updated_at, str(moved.state).lower(), failure)
    await ctx.apply_effects(moved)


async def fetch_video(ctx: WorkerContext, provider: Provider, video: Video) -> Asset:
    """Download a finished video to its path; see `Provider.fetch` for what it raises."""
    job_id, path, links = video.job_id or "", ctx.asset_path(video), links_of(video)
    return await (provider.fetch(job_id, path, links) if links else provider.fetch(job_id, path))


async def _failed(ctx: WorkerContext, video: Video, error: JobFailed) -> None:
    """End a failed job. It counts as paid unless the provider states that it is not billed."""
    to = VideoState.FAILED_UNPAID if error.billing == "unbilled" else VideoState.FAILED_PAID
    failure = Failure(error.ended_as)
    log.warning(
        "job failed",
        request=video.request_id,
        failure=failure,
        billing=error.billing,
        why=explanation(failure),
    )
    moved = await transitions.transition(
        ctx.ledger, video.request_id, VideoState.ACCEPTED, to, "watch", f"{failure}, {error.billing}",
        failure=failure, failure_detail=storable(str(error), DETAIL_CHARACTERS), billed=error.billed,
    )  # fmt: skip
    await _end_work(ctx, video, moved, failure)


async def _hold(ctx: WorkerContext, video: Video, failure: Failure, why: str) -> bool:
    why = storable(why, DETAIL_CHARACTERS)
    log.error("order held", request=video.request_id, failure=failure, why=explanation(failure))
    moved = await transitions.transition(
        ctx.ledger, video.request_id, VideoState.ACCEPTED, VideoState.HOLD,
        "watch", f"{failure}: {why}", failure=failure, failure_detail=why,
    )  # fmt: skip
    await _end_work(ctx, video, moved, failure)
    return True
