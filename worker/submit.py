"""Step `submit`: pays for one order. The only caller of `Provider.submit`."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Unpack
from uuid import uuid4

import stamina

from ledger import due_work, forgotten_sends, models, transitions
from ledger.due_work import ClaimedVideo
from ledger.failures import Failure, explanation
from ledger.models import VIDEO_TOOL, Video, VideoState
from ledger.transitions import BegunSubmit, JobTaken, VideoColumns
from providers.base import Job, NotSent, Provider, Rejected, Throttled, VideoRequest, was_not_sent
from telemetry.clocks import boot_clock
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from telemetry.metrics import VIOLATIONS
from telemetry.semconv import JOB, SUBMIT
from tools.text import storable
from worker import pictures
from worker.context import DETAIL_CHARACTERS, WorkerContext
from worker.outages import is_outage
from worker.tracing import mark_submit, video_step, write_wait
from worker.witness import Send, WitnessUnavailable

log = get_logger(__name__)


_BOOK_TIMEOUT_S: Final = 10.0
"""How long booking an answer is retried while SQL is unavailable; then the order is reconciled."""


def build_video_request(order: ClaimedVideo) -> VideoRequest:
    """Return what is sent for this order, its picture apart (`worker.pictures`). It depends only on the
    ledger, so a replay sends the same.
    """
    video = order.video
    return VideoRequest(
        request_id=video.request_id,
        key=models.provider_key(video.request_id),
        model=video.model,
        prompt=video.prompt,
        seconds=video.seconds,
        size=video.size,
        seed=models.seed(video.request_id),
        caption=order.idea,
        sound=video.with_sound,
        avoid=video.avoid or "",
        style=video.style or "",
    )


async def submit(ctx: WorkerContext, order: ClaimedVideo) -> None:
    """Submit an order that is QUEUED: commit SUBMITTING, check the deadline, send one POST.

    One that has expired is ended. One that may not begin, as while a breaker is open, is put back.
    """
    video, provider = order.video, ctx.provider_of(order.video)
    if order.now >= video.expires_at:
        await _end_expired(ctx, video)
        return
    if provider is None:
        await ctx.leave_to_others(order)
        return
    if await _is_put_off(ctx, provider, order):
        return
    if ctx.witness is not None and not await ctx.witness.ready():
        log.warning("order waits: redis does not answer", request=video.request_id)
        await _wait(ctx, order)
        return
    video_request = await _with_picture(ctx, provider, order)
    if video_request is None:
        return
    await failpoint("before_submitting")
    begun = await _begin(ctx, provider, video)
    if begun is None:
        await _wait(ctx, order)
        return
    write_wait("submit", video.updated_at, begun.video.updated_at)
    if await _prepare(ctx, provider, begun):
        await _post(ctx, provider, begun.video, video_request)


async def _with_picture(ctx: WorkerContext, provider: Provider, order: ClaimedVideo) -> VideoRequest | None:
    """Return what is sent; None, after ending the order unpaid, if its picture cannot be sent along."""
    try:
        return await pictures.with_picture(ctx, provider, order, build_video_request(order))
    except pictures.PictureGone as error:
        log.warning(
            "order ended unpaid", request=order.video.request_id, why=explanation(Failure.PICTURE_GONE)
        )
        await ctx.apply_effects(
            await transitions.transition(
                ctx.ledger, order.video.request_id, VideoState.QUEUED, VideoState.EXPIRED, "shoot",
                str(error), failure=Failure.PICTURE_GONE, failure_detail=str(error),
            )
        )  # fmt: skip
        return None


async def _begin(ctx: WorkerContext, provider: Provider, video: Video) -> BegunSubmit | None:
    """Commit SUBMITTING. If that is cancelled or fails, and was committed all the same, take it back."""
    fence = f"{_fence_mark(video)}{uuid4().hex}"
    deadline_s = provider.capabilities.submit_timeout_s + ctx.timeouts.slack_s
    begin = asyncio.ensure_future(
        transitions.begin_submit(ctx.ledger, video.request_id, fence, deadline_s, ctx.rates_of(video))
    )
    try:
        return await asyncio.shield(begin)
    except asyncio.CancelledError:
        await _finish_despite_cancel(_take_back(ctx, video.request_id, fence, "cancelled", begin))
        raise
    except Exception:
        await _finish_despite_cancel(_take_back(ctx, video.request_id, fence, "commit not confirmed", begin))
        raise


def _fence_mark(video: Video) -> str:
    """Return how the fence begins, by which a database knows that this worker sends the order as it is."""
    if video.tool != VIDEO_TOOL:
        return transitions.TOOL_FENCE
    return "" if video.picture is None else transitions.PICTURE_FENCE


async def _prepare(ctx: WorkerContext, provider: Provider, begun: BegunSubmit) -> bool:
    """Return whether the POST may be sent; if not, the order is back in the queue."""
    video = begun.video
    try:
        await failpoint("submitting")
        known = await _testify(ctx, video)
    except asyncio.CancelledError:
        await _finish_despite_cancel(_take_back(ctx, video.request_id, video.fence or "", "cancelled"))
        raise
    except WitnessUnavailable as error:
        await _finish_despite_cancel(_requeue_unwitnessed(ctx, video, str(error)))
        return False
    if known is not None:
        await _finish_despite_cancel(_doubt_forgotten_send(ctx, video, known))
        return False
    log.info("submitting order", request=video.request_id, provider=provider.name, quote=str(video.quote))
    if boot_clock() - begun.clock > ctx.timeouts.slack_s / 2:
        # This process was paused since it set the deadline. Its POST could end after the deadline, when
        # another process may already reconcile the order. So nothing is sent.
        log.warning("too late to send", request=video.request_id)
        await _finish_despite_cancel(_take_back(ctx, video.request_id, video.fence or "", "too late to send"))
        return False
    return True


async def _testify(ctx: WorkerContext, video: Video) -> Send | None:
    """Have the send remembered outside of the ledger; return one that the ledger has lost."""
    if ctx.witness is None:
        return None
    send = Send(video.submits, video.submitted_at or 0, video.sent_at or 0)
    return await ctx.witness.testify(video.request_id, send)


async def _requeue_unwitnessed(ctx: WorkerContext, video: Video, error: str) -> None:
    """Without the second witness nothing is sent: the order waits until Redis answers, or it expires."""
    log.warning("order requeued: no second witness", request=video.request_id, error=error)
    why = f"nothing was sent: Redis did not answer ({error})"
    pause_s = ctx.timeouts.pause_s(min(video.submits, 5))
    await _leave_submitting(ctx, video, video.fence or "", VideoState.QUEUED, why, wait_s=pause_s)


async def _doubt_forgotten_send(ctx: WorkerContext, video: Video, known: Send) -> None:
    VIOLATIONS.add(kind="forgotten_send")
    log.error("in doubt: the ledger lost a send", request=video.request_id, submit=known.number)
    await ctx.apply_effects(
        await transitions.doubt_forgotten_send(
            ctx.ledger, video.request_id, video.fence or "", known.number, known.first_at, known.at
        )
    )


async def _take_back(
    ctx: WorkerContext, request_id: str, fence: str, why: str, begin: "asyncio.Future[Any] | None" = None
) -> None:
    """Return an order of which no byte was sent to the queue, by its fence; nothing if it has ended since.

    Args:
        ctx: The parts.
        request_id: Whose order.
        fence: What `begin_submit` was given.
        why: Why nothing was sent.
        begin: A `begin_submit` that may still commit: it is waited for.
    """
    if begin is not None:
        await asyncio.wait({begin})
        begin.exception()  # its caller knows, or does not wait for it any more
    try:
        moved = await transitions.transition(
            ctx.ledger, request_id, VideoState.SUBMITTING, VideoState.QUEUED, "shoot",
            f"nothing was sent: {why}", fence=fence,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - whatever keeps it there
        # Its deadline ends it: the outcome is then unknown, and the provider is asked.
        log.warning("submit not taken back", request=request_id, error=type(error).__name__)
        return
    if moved is not None:
        log.warning("order requeued", request=request_id, why=why)
        await ctx.queue.wake("submit", request_id)


async def _end_expired(ctx: WorkerContext, video: Video) -> None:
    """End an order unpaid whose time is over; ask about it where a send is known that the ledger lost."""
    known = await _recall(ctx, video)
    if known is None:
        await expire_queued(ctx, video)
        return
    VIOLATIONS.add(kind="forgotten_send")
    log.error("in doubt: the ledger lost a send", request=video.request_id, submit=known.number)
    await ctx.apply_effects(
        await forgotten_sends.doubt_expired_send(ctx.ledger, video, known.number, known.first_at, known.at)
    )


async def _recall(ctx: WorkerContext, video: Video) -> Send | None:
    """Return a send that the ledger has lost; where Redis does not answer, the ledger stands alone."""
    if ctx.witness is None:
        return None
    try:
        return await ctx.witness.recall(video.request_id, video.submits + 1)
    except WitnessUnavailable:
        return None


async def expire_queued(ctx: WorkerContext, video: Video, why: str = "no worker in time") -> None:
    """End an order unpaid that no worker has sent in time."""
    frm, to = VideoState.QUEUED, VideoState.EXPIRED
    await ctx.apply_effects(await transitions.transition(ctx.ledger, video.request_id, frm, to, "sweep", why))


async def _is_put_off(ctx: WorkerContext, provider: Provider, order: ClaimedVideo) -> bool:
    """Put back or end an order that must not be paid now: it cannot be stored, or its price has changed."""
    video = order.video
    if fault := await ctx.media_probe.fault():
        # Nothing is paid that cannot be stored. The user reads it once, operators are alerted.
        if await due_work.mark_blocked(ctx.ledger, video, Failure.DISK, f"MEDIA_DIR: {fault}"):
            log.error("order waits", request=video.request_id, fault=fault, why=explanation(Failure.DISK))
            await due_work.make_notification_due(ctx.ledger, video.request_id)
            await ctx.queue.wake("notify", video.request_id)
        await _put_off(ctx, order)
        return True
    if video.failure == Failure.DISK and await due_work.mark_blocked(ctx.ledger, video, None):
        # It may wait for something else now.
        await due_work.make_notification_due(ctx.ledger, video.request_id)
        await ctx.queue.wake("notify", video.request_id)
    if why := price_change(provider, video):
        await _end_or_leave_repriced(ctx, order, why)
        return True
    return False


def price_change(provider: Provider, video: Video) -> str:
    """Return why an order can no longer be sent at the price that its user was shown; empty if it can."""
    try:
        now = provider.quote(video.model, video.seconds, video.size, sound=video.with_sound)
    except ValueError as error:
        return str(error)
    return "" if now == video.quote else f"quoted {video.quote}, now {now}"


async def _end_or_leave_repriced(ctx: WorkerContext, order: ClaimedVideo, why: str) -> None:
    """End an order whose price has changed; a young one may be another process's, as during a rollout."""
    video = order.video
    if order.now < video.ordered_at + ctx.timeouts.absent_s * 1000:
        await _put_off(ctx, order)
        return
    why = storable(why, DETAIL_CHARACTERS)
    log.error("order ended unpaid", request=video.request_id, why=explanation(Failure.PRICE_CHANGED))
    await ctx.apply_effects(
        await transitions.transition(
            ctx.ledger, video.request_id, VideoState.QUEUED, VideoState.EXPIRED, "shoot", why,
            failure=Failure.PRICE_CHANGED, failure_detail=why,
        )
    )  # fmt: skip


async def _put_off(ctx: WorkerContext, order: ClaimedVideo) -> None:
    """Put back an order that must not be sent yet: after 1 s, 2 s, 4 s and so on, or when it expires."""
    video = order.video
    left_s = (video.expires_at - order.now) / 1000
    pause_s = min(ctx.timeouts.pause_s(video.due_failures + 1), left_s)
    await due_work.put_back(ctx.ledger, video, pause_s, failed=True)


async def _wait(ctx: WorkerContext, order: ClaimedVideo) -> None:
    """Put back an order that may not begin yet: after 1 s, 2 s, 4 s and so on, or when it may, or expires."""
    video = order.video
    pause_s = ctx.timeouts.pause_s(video.due_failures + 1)
    if video.retry_at > order.now:
        pause_s = (video.retry_at - order.now) / 1000
    left_s = (video.expires_at - order.now) / 1000
    waits = await due_work.put_back(ctx.ledger, video, min(pause_s, left_s), failed=True)
    if waits is not None and waits.due_failures == 1:  # the user reads that paid work is stopped
        await due_work.make_notification_due(ctx.ledger, video.request_id)
        await ctx.queue.wake("notify", video.request_id)


async def _post(ctx: WorkerContext, provider: Provider, video: Video, video_request: VideoRequest) -> None:
    """Send the one POST and write what its answer means, even if this worker is stopping meanwhile."""
    try:
        mark_submit(video)
        with video_step(SUBMIT, provider=provider.name, model=video.model, submits=video.submits) as span:
            async with asyncio.timeout(provider.capabilities.submit_timeout_s):
                job = await provider.submit(video_request)
            span.set_attribute(JOB, job.job_id)
    except asyncio.CancelledError as error:
        await _finish_despite_cancel(_cancelled(ctx, video, error))
        raise
    except Exception as error:  # noqa: BLE001 - `_not_accepted` tells proof from doubt
        await _finish_despite_cancel(_not_accepted(ctx, video, error))
    else:
        await _finish_despite_cancel(_book_job(ctx, video, video.fence or "", job))


async def _cancelled(ctx: WorkerContext, video: Video, error: asyncio.CancelledError) -> None:
    fence = video.fence or ""
    if was_not_sent(error):
        await _take_back(ctx, video.request_id, fence, "cancelled")
    else:
        await _mark_in_doubt(ctx, video, fence, "cancelled while sending")


async def _not_accepted(ctx: WorkerContext, video: Video, error: Exception) -> None:
    fence, backoff_s = video.fence or "", ctx.timeouts.backoff_s * video.submits
    match error:
        case NotSent():
            await _requeue(ctx, video, fence, f"not sent: {error}", backoff_s)
        case Throttled():
            await _requeue(ctx, video, fence, "throttled by the provider", error.retry_after)
        case Rejected():
            await _fail_unpaid(ctx, video, fence, Failure(error.reason), str(error))
        case _ if was_not_sent(error.__cause__):  # our own timeout cancelled it
            await _requeue(ctx, video, fence, "not sent: no connection in time", backoff_s)
        case _:  # no other error proves that nothing was charged
            await _mark_in_doubt(ctx, video, fence, f"{type(error).__name__}: {error}")


async def _finish_despite_cancel(write: Coroutine[Any, Any, None]) -> None:
    """Finish a ledger write even if this worker is stopping; then raise the cancellation."""
    task = asyncio.ensure_future(write)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _book_job(ctx: WorkerContext, video: Video, fence: str, job: Job) -> None:
    """Book the job, however late. If SQL is unavailable for longer, the order is reconciled later."""
    await failpoint("answered")
    try:
        links = (job.links.status, job.links.result) if job.links else None
        adopted = await _until_written(
            lambda: transitions.adopt_job(
                ctx.ledger, video.request_id, job.job_id, "shoot", job.billed, job.sends, links
            )
        )
        await failpoint("accepted")
        await ctx.apply_effects(adopted)
    except JobTaken as error:
        VIOLATIONS.add(kind="job_taken")
        await _mark_in_doubt(ctx, video, fence, str(error))
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being booked
        # This log line is the only place where an operator can still read the job id.
        VIOLATIONS.add(kind="not_booked")
        log.error(
            "job accepted but not booked",
            request=video.request_id,
            job=job.job_id,
            error=type(error).__name__,
        )


async def _until_written(write: Callable[[], Awaitable[Video | None]]) -> Video | None:
    """Write what the provider said, again and again while the ledger is away, for `_BOOK_TIMEOUT_S`.

    If it is lost, the provider must be asked, and not every provider can be.
    """
    # Not stamina's decorator: it would log its arguments, and a video holds the prompt.
    async for attempt in stamina.retry_context(on=is_outage, attempts=5, timeout=_BOOK_TIMEOUT_S, wait_max=2):
        with attempt:
            return await write()
    return None


async def _leave_submitting(
    ctx: WorkerContext, video: Video, fence: str, to: VideoState, why: str, *,
    wait_s: float | None = None, **columns: Unpack[VideoColumns],
) -> Video | None:  # fmt: skip
    """Move an order on by its fence; `wait_s` is the pause before it may be sent again."""

    async def write() -> Video | None:
        if wait_s is not None:
            columns["retry_at"] = await ctx.now_ms() + int(wait_s * 1000)
        return await transitions.transition(
            ctx.ledger, video.request_id, VideoState.SUBMITTING, to, "shoot", why, fence=fence, **columns
        )

    return await _until_written(write)


async def _requeue(ctx: WorkerContext, video: Video, fence: str, why: str, wait_s: float) -> None:
    """Return the order to the queue on proof that nothing was charged; after `resends`, fail it unpaid."""
    why = storable(why, DETAIL_CHARACTERS)
    if video.submits > ctx.timeouts.resends:
        await _fail_unpaid(ctx, video, fence, Failure.UNREACHABLE, why)
        return
    moved = await _leave_submitting(ctx, video, fence, VideoState.QUEUED, why, wait_s=wait_s)
    if moved is not None:
        log.warning("order requeued", request=video.request_id, wait_s=round(wait_s, 1))
        await ctx.queue.wake("submit", video.request_id)


async def _fail_unpaid(ctx: WorkerContext, video: Video, fence: str, failure: Failure, detail: str) -> None:
    log.warning(
        "order rejected, not charged", request=video.request_id, failure=failure, why=explanation(failure)
    )
    detail = storable(detail, DETAIL_CHARACTERS)
    to = VideoState.FAILED_UNPAID
    await ctx.apply_effects(
        await _leave_submitting(ctx, video, fence, to, failure, failure=failure, failure_detail=detail)
    )


async def _mark_in_doubt(ctx: WorkerContext, video: Video, fence: str, why: str) -> None:
    log.error("in doubt: it may have been charged", request=video.request_id, error=why.partition(":")[0])
    why = storable(why, DETAIL_CHARACTERS)
    await ctx.apply_effects(await _leave_submitting(ctx, video, fence, VideoState.IN_DOUBT, why))
