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
from tools.context import storable
from worker.context import DETAIL_CHARACTERS, WorkerContext, boot_clock
from worker.submit import build_video_request
from worker.tracing import video_step

log = get_logger(__name__)

_UNRESOLVED: Final = ADOPTABLE_STATES - {VideoState.FAILED_UNPAID}


async def reconcile(ctx: WorkerContext, video: Video) -> None:
    """Settle one doubtful order as far as its provider allows; one process asks at a time.

    Found: adopted. Absent in two lists that lie far enough apart, the second after the settle time: proof of
    no charge. Otherwise it stays in doubt until the settle time is over, and then waits for a person (HOLD).
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
    # The look is taken for as long as the question may last: a replay is a POST, and never are two on their
    # way at once.
    lasts_s = provider.capabilities.submit_timeout_s + ctx.timeouts.slack_s
    pause_s = ctx.timeouts.reconcile_pause_s(age)
    if not await pending_work.claim_check(ctx.ledger, video, max(pause_s, lasts_s)):
        return
    if boot_clock() - clock > ctx.timeouts.slack_s / 2:
        # This process was stopped since it looked. What it knows is old: the key may be forgotten by now, and
        # another may have settled the doubt; so it asks nothing, and the next look is a fresh one.
        log.warning("too late to ask", request=video.request_id)
        return
    result = await _ask_provider(ctx, provider, video, video_request, asked_at, claimed)
    await _apply(ctx, provider, video, result, asked_at, over=age >= provider.capabilities.settle_s)
    await pending_work.finish_check(ctx.ledger, video, pause_s)


async def _apply(
    ctx: WorkerContext, provider: Provider, video: Video, result: Reconciled, asked_at: int, *, over: bool
) -> None:
    if isinstance(result, Found):
        taken = await _adopt(ctx, video, result.job)
        if taken is None:
            return
        result = taken
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
    """Act on an answer that names no job; what it says is remembered in SQL, whoever asks next."""
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
        return Unsure(str(error))  # another request took it since the list was read
    log.warning("doubt settled: the provider has it", request=video.request_id)
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
    """Ask below the request's `video` span. No finding is an error: the doubt was there before."""
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
    """Ask by replay while the key is surely remembered, else by what cannot make a job."""
    known = provider.capabilities
    # From the first POST, since nobody documents which one a key's life counts from; and to the replay's end.
    ends_s = (asked_at - (video.submitted_at or 0)) / 1000 + known.submit_timeout_s
    ask = provider.reconcile if known.replay and ends_s < known.replay_for_s else provider.lookup
    try:
        async with asyncio.timeout(known.submit_timeout_s):
            result = await ask(
                video_request, (video.sent_at or 0) / 1000, claimed.__contains__, asked_at / 1000
            )
    except Exception as error:  # noqa: BLE001 - an adapter that fails to ask has not answered
        return Unsure(f"{type(error).__name__}: {error}")
    return await reject_ambiguous(ctx, video, result, _UNRESOLVED)


async def reject_ambiguous(
    ctx: WorkerContext, video: Video, result: Reconciled, states: Collection[VideoState]
) -> Reconciled:
    """Let a job pass that was recognised by its words alone only if no other order in `states` says the same.

    Two doubtful orders of one prompt, and one job: whoever asked first would take what another user pays for.
    """
    if isinstance(result, Found) and result.by == "likeness":
        rivals = await pending_work.similar_orders(ctx.ledger, video, states)
        if rivals:
            return Unsure(f"job {result.job.job_id} may be that of {rivals} other orders of the same words")
    return result


async def _end_doubt(ctx: WorkerContext, video: Video, to: VideoState, failure: str, why: str) -> None:
    why = storable(why, DETAIL_CHARACTERS)
    log.warning("doubt settled", request=video.request_id, to=to)
    await ctx.apply_effects(
        await transitions.transition(
            ctx.ledger, video.request_id, VideoState.IN_DOUBT, to, "reconcile", why,
            failure=failure, failure_detail=why,
        )
    )  # fmt: skip


_MAX_CONCURRENT_CHECKS: Final = 4


async def check_late_charges(ctx: WorkerContext) -> None:
    """Look once at each order that is due, a few at a time; one that fails takes no other with it."""
    timeouts = ctx.timeouts
    known = tuple(ctx.providers)
    due = await pending_work.late_checks_due(
        ctx.ledger, timeouts.late_s, timeouts.late_for_s, timeouts.late_most, known
    )
    room = asyncio.Semaphore(_MAX_CONCURRENT_CHECKS)

    async def look(video: Video) -> None:
        async with room:
            try:
                await _check_order(ctx, video)
            except Exception as error:  # noqa: BLE001 - its next look comes
                log.warning("a late look failed", request=video.request_id, error=type(error).__name__)

    await asyncio.gather(*map(look, due))


async def _check_order(ctx: WorkerContext, video: Video) -> None:
    """Take this look, so that no other process does; adopt the job that it finds."""
    now = await ctx.now_ms()
    pause_s = ctx.timeouts.late_check_pause_s((now - video.updated_at) / 1000)
    if not await pending_work.claim_check(ctx.ledger, video, pause_s):
        return
    provider = ctx.providers[video.provider]  # `looks.late` names orders of known ones alone
    job = await (
        _find_in_list(ctx, provider, video, now)
        if video.job_id is None
        else _check_known_job(ctx, provider, video)
    )
    if job is None:
        return
    log.error("a late job turned up", request=video.request_id, state=video.state, job=job.job_id)
    await ctx.apply_effects(
        await transitions.adopt_job(ctx.ledger, video.request_id, job.job_id, "late", job.billed)
    )


async def _find_in_list(ctx: WorkerContext, provider: Provider, video: Video, now: int) -> Job | None:
    """Search the list for a job of this order, made at any time since its POST."""
    claimed = await transitions.claimed_jobs(ctx.ledger, provider.name)
    video_request, sent_at = await build_video_request(ctx, video), (video.sent_at or 0) / 1000
    async with asyncio.timeout(provider.capabilities.submit_timeout_s):
        result = await provider.lookup(
            video_request, sent_at, claimed.__contains__, now / 1000, until=now / 1000
        )
    result = await reject_ambiguous(ctx, video, result, ADOPTABLE_STATES)
    return result.job if isinstance(result, Found) else None


async def _check_known_job(ctx: WorkerContext, provider: Provider, video: Video) -> Job | None:
    """Ask about the job that is known already; return it if `watch` can now bring it to an end.

    A held job must have an end: its file is really here, or it is said to have failed. Otherwise it would
    go back and forth between being made and being held.
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
