"""The sweeper: a periodic loop in every worker that finds unfinished work from the ledger alone.

It reads SQL and queues tasks that are safe to run twice, so it needs no leader and survives an emptied Redis.
"""

import asyncio
from collections.abc import Awaitable, Callable
from logging import ERROR, WARNING
from typing import Final

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from ledger import history, pending_work, requests, transitions
from ledger.models import RequestState, Video, VideoState
from telemetry.logs import get_logger
from tools.registry import GENERATE_VIDEO
from worker.context import WorkerContext
from worker.queue import TaskName
from worker.reconcile import check_late_charges, reconcile
from worker.tracing import report_outcome, request_scope

log = get_logger(__name__)

_STATE_TASKS: Final[tuple[tuple[VideoState, TaskName], ...]] = (
    (VideoState.QUEUED, "submit"),
    (VideoState.ACCEPTED, "poll"),
)
_STORE_ERRORS: Final = (SQLAlchemyError, RedisError, OSError, TimeoutError)
_MAX_CONCURRENT: Final = 8


async def run_sweeper(ctx: WorkerContext) -> None:
    """Sweep until cancelled. An unavailable store is logged once per pause, and tried again.

    Reconciliation and late-charge checks run in loops of their own: a provider that does not answer must not
    delay other work.
    """
    timeouts = ctx.timeouts
    await asyncio.gather(
        _repeat(sweep, ctx, timeouts.sweep_s),
        _repeat(reconcile_all, ctx, timeouts.sweep_s),
        _repeat(check_late_charges, ctx, timeouts.sweep_s),
        _repeat(_refresh, ctx, timeouts.refresh_s),
    )


async def _repeat(
    step: Callable[[WorkerContext], Awaitable[None]], ctx: WorkerContext, pause_s: float
) -> None:
    while True:
        try:
            await step(ctx)
        except Exception as error:  # noqa: BLE001 - this loop must survive every error
            unavailable = isinstance(error, _STORE_ERRORS)
            event = "store unavailable during sweep" if unavailable else "sweep failed"
            log.log(WARNING if unavailable else ERROR, event, error=type(error).__name__)
        await asyncio.sleep(pause_s)


async def sweep(ctx: WorkerContext) -> None:
    """Queue, expire or end everything that waits, once."""
    await _requeue_requests(ctx)
    await _expire_orders(ctx)
    await _end_overdue_submits(ctx)
    for state, task in _STATE_TASKS:
        for video in await pending_work.in_state(ctx.ledger, state):
            await ctx.queue.wake(task, video.request_id)
            if state is VideoState.ACCEPTED:
                await ctx.queue.wake("notify", video.request_id)
    for request_id in await pending_work.to_notify(ctx.ledger):
        await ctx.queue.wake("notify", request_id)


async def reconcile_all(ctx: WorkerContext) -> None:
    """Check every unknown outcome once, several at a time; an error in one does not affect the others."""
    semaphore = asyncio.Semaphore(_MAX_CONCURRENT)

    async def check(video: Video) -> None:
        async with semaphore:
            try:
                async with request_scope(ctx.ledger, video.request_id):
                    await reconcile(ctx, video)
            except Exception as error:  # noqa: BLE001 - the next sweep checks again
                log.error("reconciliation failed", request=video.request_id, error=type(error).__name__)

    unknown = await pending_work.in_state(ctx.ledger, VideoState.IN_DOUBT)
    await asyncio.gather(*map(check, unknown))


async def _refresh(ctx: WorkerContext) -> None:
    for request_id in await history.unreported(ctx.ledger):
        await report_outcome(ctx.ledger, request_id)
    await ctx.admission.refresh()


async def _requeue_requests(ctx: WorkerContext) -> None:
    timeouts = ctx.timeouts
    for request_id in await pending_work.exhausted(ctx.ledger, timeouts.attempts, timeouts.stale_s):
        log.warning("request closed without an order", request=request_id)
        ended = RequestState.NO_ORDER
        if await requests.close_request(ctx.ledger, request_id, ended, "sweep", "gave_up"):
            request = await requests.find(ctx.ledger, request_id)
            if request is not None:
                await ctx.admission.release(GENERATE_VIDEO, request_id, request.user_id, "all")
    for request_id in await pending_work.to_run(ctx.ledger, timeouts.attempts):
        await ctx.queue.wake("run_agent", request_id)


async def _expire_orders(ctx: WorkerContext) -> None:
    for video in await pending_work.expired(ctx.ledger):
        why = "no tap in time" if video.state is VideoState.AWAITING_APPROVAL else "no worker in time"
        await ctx.apply_effects(
            await transitions.transition(
                ctx.ledger, video.request_id, video.state, VideoState.EXPIRED, "sweep", why
            )
        )


async def _end_overdue_submits(ctx: WorkerContext) -> None:
    for video in await pending_work.in_state(ctx.ledger, VideoState.SUBMITTING, past_deadline=True):
        why = "no answer by the deadline"
        frm, to = VideoState.SUBMITTING, VideoState.IN_DOUBT
        await ctx.apply_effects(
            await transitions.transition(ctx.ledger, video.request_id, frm, to, "sweep", why)
        )
