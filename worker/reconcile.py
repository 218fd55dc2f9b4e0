"""Resolves unknown outcomes by asking the provider; finds late charges."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from collections.abc import Set as AbstractSet
from typing import Final

from ledger import breaker, due_work, pending_work, transitions
from ledger.due_work import ClaimedVideo
from ledger.failures import Failure, explanation
from ledger.models import ADOPTABLE_STATES, Video, VideoState
from ledger.transitions import JobTaken
from providers.base import (
    Absent,
    AccessRefused,
    BadAsset,
    ClaimedCheck,
    Found,
    Gone,
    Job,
    JobFailed,
    Provider,
    Reconciled,
    StorageFault,
    Transient,
    Unsure,
    VideoRequest,
)
from telemetry import semconv
from telemetry.clocks import boot_clock
from telemetry.logs import get_logger
from telemetry.metrics import RECONCILIATIONS
from tools.text import storable
from worker import pictures
from worker.context import DETAIL_CHARACTERS, WorkerContext
from worker.job_links import links_of
from worker.poll import fetch_video
from worker.submit import build_video_request, price_change
from worker.tracing import video_step

log = get_logger(__name__)

_MIN_FAILURES: Final = 3
"""Failures in a row before an order is held: one alone may be a short outage of the ledger."""

_UNRESOLVED: Final = ADOPTABLE_STATES - {VideoState.FAILED_UNPAID}


async def reconcile(ctx: WorkerContext, order: ClaimedVideo) -> None:
    """Ask once about an unknown outcome and resolve it as far as the provider allows.

    The claim's lease outlasts the question, so one process asks at a time. Found: the job is linked to the
    order. Absent from two lists far enough apart, the second after the settle time: proof of no charge.
    Otherwise the order stays IN_DOUBT until the settle time is over, then HOLD.
    """
    video, asked_at = order.video, order.now
    provider = ctx.provider_of(video)
    if provider is None:
        await ctx.leave_to_others(order)
        return
    age = await _known_age_s(ctx, (asked_at - (video.sent_at or 0)) / 1000)
    if age < provider.capabilities.grace_s:
        await due_work.put_back(ctx.ledger, video, provider.capabilities.grace_s - age)
        return
    pause_s = ctx.timeouts.reconcile_pause_s(age)
    replays = _may_replay(ctx, provider, video, asked_at)
    stopped = replays and await _is_stopped(ctx, video)
    if boot_clock() - order.clock > ctx.timeouts.slack_s / 2:
        # This process was paused since it claimed the order. The provider may have forgotten the key since,
        # and another process may have resolved the order. So it does not ask; the next check reads the row.
        await reconcile_failed(ctx, order, TimeoutError("too late to ask"))
        return
    ask = provider.reconcile if replays and not stopped else provider.lookup
    result = await _ask_provider(ctx, provider, ask, order)
    over = age >= provider.capabilities.settle_s
    await _apply(ctx, provider, video, result, asked_at, over=over, waits=stopped)
    await due_work.put_back(ctx.ledger, video, pause_s)


async def _is_stopped(ctx: WorkerContext, video: Video) -> bool:
    """Return whether a replay has to wait, as long as the provider surely remembers the key.

    The replay of a POST that never arrived is a first payment: not while the breaker is open, and not for a
    video that could not be stored.
    """
    if await breaker.stops(ctx.ledger, video.user_id):
        log.info("order waits: the breaker is open", request=video.request_id)
        return True
    if fault := await ctx.media_probe.fault():
        log.error("order waits", request=video.request_id, fault=fault, why=explanation(Failure.DISK))
        return True
    return False


async def _known_age_s(ctx: WorkerContext, age_s: float) -> float:
    if ctx.clocks is None:
        return age_s
    await ctx.clocks.look()
    return ctx.clocks.known_age_s(age_s)


async def reconcile_failed(ctx: WorkerContext, order: ClaimedVideo, error: Exception) -> None:
    """Ask again after a pause; hold an order about which nothing can be asked or written for too long."""
    video, provider = order.video, ctx.provider_of(order.video)
    log.warning("outcome not asked about", request=video.request_id, error=type(error).__name__)
    failures = video.due_failures + 1
    age_s = (order.now - (video.sent_at or 0)) / 1000
    settle_s = 0 if provider is None else provider.capabilities.settle_s
    if failures >= _MIN_FAILURES and age_s >= settle_s + ctx.timeouts.cannot_ask_s:
        why = f"its outcome cannot be checked: {type(error).__name__}: {error}"
        await _end_doubt(ctx, video, VideoState.HOLD, Failure.CANNOT_ASK, why)
        return
    pause_s = max(ctx.timeouts.reconcile_pause_s(age_s), ctx.timeouts.pause_s(failures))
    await due_work.put_back(ctx.ledger, video, pause_s, failed=True)


async def _apply(
    ctx: WorkerContext,
    provider: Provider,
    video: Video,
    result: Reconciled,
    asked_at: int,
    *,
    over: bool,
    waits: bool,
) -> None:
    if isinstance(result, Found):
        unsure = await _adopt(ctx, video, result.job)
        if unsure is None:
            return
        result = unsure
    await _apply_without_job(ctx, provider, video, result, asked_at, over=over, waits=waits)


async def _apply_without_job(
    ctx: WorkerContext,
    provider: Provider,
    video: Video,
    result: Absent | Unsure,
    asked_at: int,
    *,
    over: bool,
    waits: bool,
) -> None:
    """Act on an answer without a job. It is stored in SQL, so the next check counts it, in any process.

    Args:
        ctx: The parts.
        provider: What was asked.
        video: About whose order.
        result: What it answered.
        asked_at: When, on the store's clock in milliseconds.
        over: The settle time is over.
        waits: A better question, the replay, may still be asked: the order is not held yet.
    """
    RECONCILIATIONS.add(outcome="unsure" if isinstance(result, Unsure) else "absent")
    if isinstance(result, Unsure):
        await pending_work.clear_absent(ctx.ledger, video.request_id)
        if over and not waits:
            await _end_doubt(ctx, video, VideoState.HOLD, Failure.IN_DOUBT, result.why)
        return
    gap_s = provider.capabilities.absent_gap_s
    proved = await pending_work.record_absent(ctx.ledger, video.request_id, asked_at, gap_s)
    if proved and over:
        why = f"absent from two lists {gap_s:g} s apart, after the settle time"
        await _end_doubt(ctx, video, VideoState.FAILED_UNPAID, Failure.ABSENT, why)


async def _adopt(ctx: WorkerContext, video: Video, job: Job) -> Unsure | None:
    try:
        adopted = await transitions.adopt_job(
            ctx.ledger, video.request_id, job.job_id, "reconcile", job.billed, job.sends
        )
    except JobTaken as error:
        return Unsure(str(error))  # linked to another request since the list was read
    log.warning("outcome reconciled: job found", request=video.request_id)
    RECONCILIATIONS.add(outcome="adopted")
    await ctx.apply_effects(adopted)
    return None


def _may_replay(ctx: WorkerContext, provider: Provider, video: Video, asked_at: int) -> bool:
    """Return whether a replay would end before the provider may forget the key, and costs what was shown.

    It may be the POST that makes the job: never at another price than its user was shown. The key's age is
    from the first POST, as no provider documents where a key's lifetime starts, to the end of the replay. If
    the store's clock was set since, the key may be older than it says.
    """
    if ctx.clocks is not None and ctx.clocks.voids_key_age(provider, video):
        return False
    known = provider.capabilities
    key_age_s = (asked_at - (video.submitted_at or 0)) / 1000 + known.submit_timeout_s
    return known.replay and key_age_s < known.replay_for_s and not price_change(provider, video)


_Question = Callable[[VideoRequest, float, ClaimedCheck, float], Awaitable[Reconciled]]
"""`Provider.reconcile`, which may replay the POST, or `Provider.lookup`, which makes no job."""


async def _ask_provider(
    ctx: WorkerContext, provider: Provider, ask: _Question, order: ClaimedVideo
) -> Reconciled:
    """Ask in a span of its own. No answer marks it as an error: that happened before."""
    video = order.video
    with video_step(semconv.RECONCILE, provider=video.provider) as span:
        result = await _ask(ctx, provider, ask, order)
        if isinstance(result, Absent) and ctx.clocks is not None:
            void = ctx.clocks.voids_absence(provider, video)
            result = result if void is None else Unsure(void)
        finding = type(result).__name__.lower()
        span.set_attribute(semconv.FINDING, finding)
        span.add_event(semconv.FINDING_EVENT, {semconv.FINDING: finding})
    return result


async def _ask(ctx: WorkerContext, provider: Provider, ask: _Question, order: ClaimedVideo) -> Reconciled:
    """Ask once, within the time of a POST.

    Raises:
        ClaimsUnknown: The ledger did not say whose a listed job is. That is no answer of the provider.
    """
    video, sent_at = order.video, (order.video.sent_at or 0) / 1000
    try:
        video_request = build_video_request(order)
        try:
            video_request = await pictures.with_picture(ctx, provider, order, video_request)
        except pictures.PictureGone:  # without it there is no replay; a list needs none
            ask = provider.lookup
        async with asyncio.timeout(provider.capabilities.submit_timeout_s):
            result = await ask(video_request, sent_at, _claims(ctx, provider), order.now / 1000)
    except ClaimsUnknown:
        raise
    except Exception as error:  # noqa: BLE001 - an adapter that fails has not answered
        return Unsure(f"{type(error).__name__}: {error}")
    return await reject_ambiguous(ctx, video, result, _UNRESOLVED)


class ClaimsUnknown(Exception):
    """The ledger could not be asked which jobs belong to a request; the check is made again."""


def _claims(ctx: WorkerContext, provider: Provider) -> ClaimedCheck:
    """Return the question which of an account's jobs belong to a request, asked for the ids that it lists."""
    names = [*ctx.accounts_of(provider), provider.name]

    async def claimed(job_ids: Collection[str]) -> AbstractSet[str]:
        try:
            return await transitions.claimed_jobs(ctx.ledger, names, job_ids)
        except Exception as error:
            raise ClaimsUnknown(f"{type(error).__name__}: the ledger was not read") from error

    return claimed


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


async def _end_doubt(ctx: WorkerContext, video: Video, to: VideoState, failure: Failure, why: str) -> None:
    why = storable(why, DETAIL_CHARACTERS)
    log.warning("outcome reconciled", request=video.request_id, to=to, why=explanation(failure))
    await ctx.apply_effects(
        await transitions.transition(
            ctx.ledger, video.request_id, VideoState.IN_DOUBT, to, "reconcile", why,
            failure=failure, failure_detail=why,
        )
    )  # fmt: skip


async def check_late_charge(ctx: WorkerContext, order: ClaimedVideo) -> None:
    """Check once whether an order that ended unpaid, or is on HOLD, has a job after all; link it then.

    It is checked until it is `late_for_s` old; without a submit there is nothing to check.
    """
    video, timeouts, age_s = order.video, ctx.timeouts, (order.now - order.video.updated_at) / 1000
    provider = ctx.provider_of(video)
    if not video.submits or age_s >= timeouts.late_for_s:
        await due_work.put_back(ctx.ledger, video, None)
        return
    if age_s < timeouts.late_s:
        await due_work.put_back(ctx.ledger, video, timeouts.late_s - age_s)
        return
    job = None
    if provider is not None:
        job = await (
            _find_in_list(ctx, provider, order)
            if video.job_id is None
            else _check_known_job(ctx, provider, video)
        )
    if job is None:
        await due_work.put_back(ctx.ledger, video, timeouts.late_check_pause_s(age_s))
        return
    log.error("late charge found", request=video.request_id, state=video.state, job=job.job_id)
    await ctx.apply_effects(
        await transitions.adopt_job(ctx.ledger, video.request_id, job.job_id, "late", job.billed)
    )


async def late_check_failed(ctx: WorkerContext, order: ClaimedVideo, error: Exception) -> None:
    """Check again at the usual time."""
    video, age_s = order.video, (order.now - order.video.updated_at) / 1000
    log.warning("late-charge check failed", request=video.request_id, error=type(error).__name__)
    await due_work.put_back(ctx.ledger, video, ctx.timeouts.late_check_pause_s(age_s), failed=True)


async def _find_in_list(ctx: WorkerContext, provider: Provider, order: ClaimedVideo) -> Job | None:
    """Search the provider's list for a job of this order, created at any time since its POST."""
    video, now = order.video, order.now
    video_request, sent_at = build_video_request(order), (video.sent_at or 0) / 1000
    async with asyncio.timeout(provider.capabilities.submit_timeout_s):
        result = await provider.lookup(
            video_request, sent_at, _claims(ctx, provider), now / 1000, until=now / 1000
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
        links = links_of(video)
        status = await (provider.state(job_id, links) if links else provider.state(job_id))
        if held and status.phase == "succeeded":
            await fetch_video(ctx, provider, video)
    except JobFailed as error:
        ends = held or error.billing == "billed"
        return Job(job_id) if ends else None
    except (AccessRefused, BadAsset, Gone, StorageFault, Transient):
        return None
    alive = status.phase == "succeeded" or (not held and status.phase in ("queued", "running"))
    return Job(job_id, status.billed) if alive else None
