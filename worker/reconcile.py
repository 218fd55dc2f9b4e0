"""Resolves unknown outcomes by asking the provider; finds late charges."""

import asyncio
from collections.abc import Collection
from typing import Final

from ledger import pending_work, transitions
from ledger.models import ADOPTABLE_STATES, Video, VideoState
from ledger.transitions import JobTaken
from providers.base import (
    Absent,
    BadAsset,
    Found,
    Gone,
    Job,
    JobFailed,
    Provider,
    Reconciled,
    Transient,
    Unsure,
    VideoRequest,
)
from telemetry import semconv
from telemetry.logs import get_logger
from telemetry.metrics import RECONCILIATIONS
from tools.text import storable
from worker.context import DETAIL_CHARACTERS, WorkerContext, boot_clock
from worker.submit import build_video_request
from worker.tracing import video_step

log = get_logger(__name__)

_UNRESOLVED: Final = ADOPTABLE_STATES - {VideoState.FAILED_UNPAID}


async def reconcile(ctx: WorkerContext, video: Video) -> None:
    """Resolve one unknown outcome as far as its provider allows; one process checks at a time.

    Found: the job is linked to the order. Absent from two lists far enough apart, the second after the settle
    time: proof of no charge. Otherwise the order stays IN_DOUBT until the settle time is over, then HOLD.
    """
    clock = boot_clock()
    provider = await ctx.provider_of(video)
    if provider is None:
        return
    asked_at = await ctx.now_ms()
    age = (asked_at - (video.sent_at or 0)) / 1000
    if age < provider.capabilities.grace_s or video.look_at > asked_at:
        return
    claimed = await transitions.claimed_jobs(ctx.ledger, provider.name)
    video_request = await build_video_request(ctx, video)
    # The check is claimed for as long as it may last: a replay is a POST, and two must never run at once.
    claim_s = provider.capabilities.submit_timeout_s + ctx.timeouts.slack_s
    pause_s = ctx.timeouts.reconcile_pause_s(age)
    if not await pending_work.claim_check(ctx.ledger, video, max(pause_s, claim_s)):
        return
    if boot_clock() - clock > ctx.timeouts.slack_s / 2:
        # This process was paused since it read the order. The provider may have forgotten the key since, and
        # another process may have resolved the order. So it does not ask; the next check reads the ledger.
        log.warning("too late to ask", request=video.request_id)
        return
    result = await _ask_provider(ctx, provider, video, video_request, asked_at, claimed)
    await _apply(ctx, provider, video, result, asked_at, over=age >= provider.capabilities.settle_s)
    await pending_work.finish_check(ctx.ledger, video, pause_s)


async def _apply(
    ctx: WorkerContext, provider: Provider, video: Video, result: Reconciled, asked_at: int, *, over: bool
) -> None:
    if isinstance(result, Found):
        unsure = await _adopt(ctx, video, result.job)
        if unsure is None:
            return
        result = unsure
    await _apply_without_job(ctx, provider, video, result, asked_at, over=over)


async def _apply_without_job(
    ctx: WorkerContext,
    provider: Provider,
    video: Video,
    result: Absent | Unsure,
    asked_at: int,
    *,
    over: bool,
) -> None:
    """Act on an answer without a job. It is stored in SQL, so the next check counts it, in any process."""
    RECONCILIATIONS.add(outcome="unsure" if isinstance(result, Unsure) else "absent")
    if isinstance(result, Unsure):
        await pending_work.clear_absent(ctx.ledger, video.request_id)
        if over:
            await _end_doubt(ctx, video, VideoState.HOLD, "in_doubt", result.why)
        return
    gap_s = provider.capabilities.absent_gap_s
    proved = await pending_work.record_absent(ctx.ledger, video.request_id, asked_at, gap_s)
    if proved and over:
        why = f"absent from two lists {gap_s:g} s apart, after the settle time"
        await _end_doubt(ctx, video, VideoState.FAILED_UNPAID, "absent", why)


async def _adopt(ctx: WorkerContext, video: Video, job: Job) -> Unsure | None:
    try:
        adopted = await transitions.adopt_job(
            ctx.ledger, video.request_id, job.job_id, "reconcile", job.billed
        )
    except JobTaken as error:
        return Unsure(str(error))  # linked to another request since the list was read
    log.warning("outcome reconciled: job found", request=video.request_id)
    RECONCILIATIONS.add(outcome="adopted")
    await ctx.apply_effects(adopted)
    return None


async def _ask_provider(
    ctx: WorkerContext,
    provider: Provider,
    video: Video,
    video_request: VideoRequest,
    asked_at: int,
    claimed: Collection[str],
) -> Reconciled:
    """Ask in a child of the request's `video` span. No answer marks it as an error: that happened before."""
    with video_step(semconv.RECONCILE, video.request_id, provider=video.provider) as span:
        result = await _replay_or_lookup(ctx, provider, video, video_request, asked_at, claimed)
        span.add_event(semconv.FINDING_EVENT, {semconv.FINDING: type(result).__name__.lower()})
    return result


async def _replay_or_lookup(
    ctx: WorkerContext,
    provider: Provider,
    video: Video,
    video_request: VideoRequest,
    asked_at: int,
    claimed: Collection[str],
) -> Reconciled:
    """Replay the POST while the provider surely remembers the key; else use a lookup, which makes no job."""
    known = provider.capabilities
    # From the first POST, as no provider documents where a key's lifetime starts, to the end of the replay.
    key_age_s = (asked_at - (video.submitted_at or 0)) / 1000 + known.submit_timeout_s
    ask = provider.reconcile if known.replay and key_age_s < known.replay_for_s else provider.lookup
    try:
        async with asyncio.timeout(known.submit_timeout_s):
            result = await ask(
                video_request, (video.sent_at or 0) / 1000, claimed.__contains__, asked_at / 1000
            )
    except Exception as error:  # noqa: BLE001 - an adapter that fails has not answered
        return Unsure(f"{type(error).__name__}: {error}")
    return await reject_ambiguous(ctx, video, result, _UNRESOLVED)


async def reject_ambiguous(
    ctx: WorkerContext, video: Video, result: Reconciled, states: Collection[VideoState]
) -> Reconciled:
    """Accept a job that was matched by its prompt only if no other order in `states` has the same prompt.

    With two unknown outcomes of one prompt and one job, the first check would take a job that another user
    may have paid for.
    """
    if isinstance(result, Found) and result.by == "likeness":
        rivals = await pending_work.similar_orders(ctx.ledger, video, states)
        if rivals:
            return Unsure(f"job {result.job.job_id} may belong to {rivals} other orders with the same prompt")
    return result


async def _end_doubt(ctx: WorkerContext, video: Video, to: VideoState, failure: str, why: str) -> None:
    why = storable(why, DETAIL_CHARACTERS)
    log.warning("outcome reconciled", request=video.request_id, to=to)
    await ctx.apply_effects(
        await transitions.transition(
            ctx.ledger, video.request_id, VideoState.IN_DOUBT, to, "reconcile", why,
            failure=failure, failure_detail=why,
        )
    )  # fmt: skip


_MAX_CONCURRENT_CHECKS: Final = 4


async def check_late_charges(ctx: WorkerContext) -> None:
    """Check each order that is due once, a few at a time; an error in one does not affect the others."""
    timeouts = ctx.timeouts
    known = tuple(ctx.providers)
    due = await pending_work.late_checks_due(
        ctx.ledger, timeouts.late_s, timeouts.late_for_s, timeouts.late_most, known
    )
    semaphore = asyncio.Semaphore(_MAX_CONCURRENT_CHECKS)

    async def check(video: Video) -> None:
        async with semaphore:
            try:
                await _check_order(ctx, video)
            except Exception as error:  # noqa: BLE001 - it is checked again
                log.warning("late-charge check failed", request=video.request_id, error=type(error).__name__)

    await asyncio.gather(*map(check, due))


async def _check_order(ctx: WorkerContext, video: Video) -> None:
    """Claim this check, so that no other process runs it; link the job that it finds."""
    now = await ctx.now_ms()
    pause_s = ctx.timeouts.late_check_pause_s((now - video.updated_at) / 1000)
    if not await pending_work.claim_check(ctx.ledger, video, pause_s):
        return
    provider = ctx.providers[video.provider]  # `late_checks_due` returns only orders of known providers
    job = await (
        _find_in_list(ctx, provider, video, now)
        if video.job_id is None
        else _check_known_job(ctx, provider, video)
    )
    if job is None:
        return
    log.error("late charge found", request=video.request_id, state=video.state, job=job.job_id)
    await ctx.apply_effects(
        await transitions.adopt_job(ctx.ledger, video.request_id, job.job_id, "late", job.billed)
    )


async def _find_in_list(ctx: WorkerContext, provider: Provider, video: Video, now: int) -> Job | None:
    """Search the provider's list for a job of this order, created at any time since its POST."""
    claimed = await transitions.claimed_jobs(ctx.ledger, provider.name)
    video_request, sent_at = await build_video_request(ctx, video), (video.sent_at or 0) / 1000
    async with asyncio.timeout(provider.capabilities.submit_timeout_s):
        result = await provider.lookup(
            video_request, sent_at, claimed.__contains__, now / 1000, until=now / 1000
        )
    result = await reject_ambiguous(ctx, video, result, ADOPTABLE_STATES)
    return result.job if isinstance(result, Found) else None


async def _check_known_job(ctx: WorkerContext, provider: Provider, video: Video) -> Job | None:
    """Ask about the job that is already linked; return it if polling can now bring it to an end.

    A held job is returned only if it has ended: its file is downloaded, or the provider says that it failed.
    Otherwise it would alternate between ACCEPTED and HOLD.
    """
    job_id, held = video.job_id or "", video.state is VideoState.HOLD
    try:
        status = await provider.state(job_id)
        if held and status.phase == "succeeded":
            await provider.fetch(job_id, ctx.asset_path(video))
    except JobFailed as error:
        ends = held or error.billing == "billed"
        return Job(job_id) if ends else None
    except (BadAsset, Gone, Transient):
        return None
    alive = status.phase == "succeeded" or (not held and status.phase in ("queued", "running"))
    return Job(job_id, status.billed) if alive else None
