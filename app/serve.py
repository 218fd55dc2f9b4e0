"""Runs the house: updates in, a worker, the sweep; until a signal ends it in order."""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from docket import Worker
from redis.exceptions import RedisError

from app.house import House
from chat.alerts import watch_news
from chat.dispatch import build_dispatcher, poll, publish_menu
from telemetry.logs import get_logger
from worker.sweeper import sweep_for_ever

log = get_logger(__name__)

REDELIVERY_S = 10.0

GRACE_S = 8.0
"""What is being paid or run when a signal comes has this long to end; then it is cancelled, in doubt."""
_END_S = 25.0


async def run_worker(house: House, redelivery_s: float = REDELIVERY_S) -> None:
    """Run tasks and the sweep until cancelled.

    Args:
        house: The parts.
        redelivery_s: A task whose worker stopped renewing its lease is given to another after this.
    """
    try:
        await house.desk.admission.load()
    except (RedisError, OSError) as error:
        log.warning("scripts are loaded at first use", error=type(error).__name__)
    async with asyncio.TaskGroup() as group:
        group.create_task(sweep_for_ever(house.studio))
        group.create_task(watch_news(house.desk))
        group.create_task(_work(house, redelivery_s))


async def _work(house: House, redelivery_s: float) -> None:
    async with Worker(
        house.docket,
        concurrency=house.settings.worker_concurrency,
        redelivery_timeout=timedelta(seconds=redelivery_s),
        reconnection_delay=timedelta(seconds=1),
        minimum_check_interval=timedelta(milliseconds=50),
        scheduling_resolution=timedelta(milliseconds=100),
    ) as worker:
        run = asyncio.ensure_future(worker.run_forever())
        try:
            await asyncio.shield(run)
        except asyncio.CancelledError:
            await _go_home(house, run)
            raise


async def _go_home(house: House, run: "asyncio.Future[None]") -> None:
    """End the worker's run in order: who only looks goes at once, who pays may finish within the grace time.

    docket's first cancellation waits for its tasks, without a limit; its second one cancels them.
    """
    house.stopping.set()
    for _ in range(2):
        run.cancel()
        done, _pending = await asyncio.wait({run}, timeout=GRACE_S)
        if done:
            return


async def run_polling(house: House) -> None:
    """Take Telegram's updates by polling until cancelled."""
    await publish_menu(house.bot)
    await poll(build_dispatcher(house.desk), house.bot)


@asynccontextmanager
async def running(*parts: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Future[list[None]]"]:
    """Run `parts` beside the block; yield a future that ends if one of them does. All end with the block."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    together = asyncio.gather(*tasks)
    try:
        yield together
    finally:
        await _end(tasks)
        await asyncio.gather(together, return_exceptions=True)


async def _end(tasks: "list[asyncio.Task[None]]") -> None:
    """Cancel until all have ended: a worker that is only just starting loses its first cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_END_S)
    await asyncio.gather(*tasks, return_exceptions=True)


async def until_signal(*parts: Coroutine[Any, Any, None]) -> None:
    """Run `parts` until SIGINT or SIGTERM, or until one of them fails, which is raised."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, stop.set)
    async with running(*parts) as together:
        stopped = asyncio.ensure_future(stop.wait())
        either: list[asyncio.Future[Any]] = [stopped, together]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if together.done():
            together.result()
        log.info("stopping")
