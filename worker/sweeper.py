"""`sweep`: anything stuck, doubtful or forgotten, from the ledger alone. A plain loop in every worker.

It reads SQL and wakes tasks that are safe to run twice, so it needs no leader and survives an emptied Redis.
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
from tools import generate_video
from worker.context import WorkerContext
from worker.queue import TaskName
from worker.reconcile import check_late_charges, reconcile
from worker.tracing import report_outcome, request_scope

log = get_logger(__name__)

_STATE_TASKS: Final[tuple[tuple[VideoState, TaskName], ...]] = (
    (VideoState.QUEUED, "shoot"),
    (VideoState.ACCEPTED, "watch"),
)
_STORE_ERRORS: Final = (SQLAlchemyError, RedisError, OSError, TimeoutError)
_MAX_CONCURRENT: Final = 8


async def run_sweeper(studio: WorkerContext) -> None:
    """Sweep until cancelled. A store that is away is reported once per pause, and asked again.

    Doubts are settled beside the sweep, and late charges beside both: asking a provider that hangs must keep
    nobody else waiting.
    """
    pace = studio.pace
    await asyncio.gather(
        _repeat(sweep, studio, pace.sweep_s),
        _repeat(reconcile_all, studio, pace.sweep_s),
        _repeat(check_late_charges, studio, pace.sweep_s),
        _repeat(_refresh, studio, pace.refresh_s),
    )


async def _repeat(
    look: Callable[[WorkerContext], Awaitable[None]], studio: WorkerContext, pause_s: float
) -> None:
    while True:
        try:
            await look(studio)
        except Exception as error:  # noqa: BLE001 - the loop that finds the lost must not get lost
            away = isinstance(error, _STORE_ERRORS)
            words = "sweep cannot reach a store" if away else "sweep failed"
            log.log(WARNING if away else ERROR, words, error=type(error).__name__)
        await asyncio.sleep(pause_s)


async def sweep(studio: WorkerContext) -> None:
    """Look once at everything that waits."""
    await _requeue_requests(studio)
    await _expire_orders(studio)
    await _end_overdue_submits(studio)
    for state, task in _STATE_TASKS:
        for video in await pending_work.in_state(studio.ledger, state):
            await studio.queue.wake(task, video.request_id)
            if state is VideoState.ACCEPTED:
                await studio.queue.wake("tell", video.request_id)
    for request_id in await pending_work.to_notify(studio.ledger):
        await studio.queue.wake("tell", request_id)


async def reconcile_all(studio: WorkerContext) -> None:
    """Ask once about every doubtful order, several at a time; one that fails takes no other with it."""
    room = asyncio.Semaphore(_MAX_CONCURRENT)

    async def settle(video: Video) -> None:
        async with room:
            try:
                async with request_scope(studio.ledger, video.request_id):
                    await reconcile(studio, video)
            except Exception as error:  # noqa: BLE001 - the next sweep asks again
                log.error("a doubt is not settled", request=video.request_id, error=type(error).__name__)

    doubts = await pending_work.in_state(studio.ledger, VideoState.IN_DOUBT)
    await asyncio.gather(*map(settle, doubts))


async def _refresh(studio: WorkerContext) -> None:
    for request_id in await history.unreported(studio.ledger):
        await report_outcome(studio.ledger, request_id)
    await studio.admission.refresh()


async def _requeue_requests(studio: WorkerContext) -> None:
    pace = studio.pace
    for request_id in await pending_work.exhausted(studio.ledger, pace.attempts, pace.stale_s):
        log.warning("request ends without an order", request=request_id)
        ended = RequestState.NO_ORDER
        if await requests.close_request(studio.ledger, request_id, ended, "sweep", "gave_up"):
            request = await requests.find(studio.ledger, request_id)
            if request is not None:
                await studio.admission.release(generate_video.NAME, request_id, request.user_id, "all")
    for request_id in await pending_work.to_run(studio.ledger, pace.attempts):
        await studio.queue.wake("direct", request_id)


async def _expire_orders(studio: WorkerContext) -> None:
    for video in await pending_work.expired(studio.ledger):
        why = "nobody tapped in time" if video.state is VideoState.AWAITING_APPROVAL else "no worker in time"
        await studio.follow(
            await transitions.transition(
                studio.ledger, video.request_id, video.state, VideoState.EXPIRED, "sweep", why
            )
        )


async def _end_overdue_submits(studio: WorkerContext) -> None:
    for video in await pending_work.in_state(studio.ledger, VideoState.SUBMITTING, past_deadline=True):
        why = "no answer by the deadline"
        frm, to = VideoState.SUBMITTING, VideoState.IN_DOUBT
        await studio.follow(
            await transitions.transition(studio.ledger, video.request_id, frm, to, "sweep", why)
        )
