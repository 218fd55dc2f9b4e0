"""The docket queue: opening it, adding tasks, its metrics."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self

from docket import Docket
from redis.asyncio import ConnectionPool
from redis.exceptions import ResponseError

from guardrails.redis_connection import replace_refusing
from guardrails.redis_url import with_option
from ledger import due_work
from ledger.database import Ledger
from telemetry import metrics
from telemetry.logs import get_logger
from worker.outages import is_outage

log = get_logger(__name__)

TaskName = Literal["run_agent", "submit", "poll", "notify", "deliver"]
_WAKE_TIMEOUT_S: Final = 2.0

_NO_GROUP: Final = "NOGROUP"
"""Begins Redis's answer about a queue that no worker has met yet."""

_SENTINEL_TIMEOUT_S: Final = 1.0

HEARTBEAT: Final = timedelta(seconds=10)
READ_TIMEOUT_S: Final = 5
"""An answer that takes longer is lost: no read of the queue waits nearly as long at the server."""


def open_docket(name: str, url: str) -> Docket:
    """Return the queue with a read timeout on its connections and without docket's records of ended tasks.

    docket 0.27 reads without a timeout, so one lost answer would block its worker until cancelled;
    `socket_timeout` in the URL overrides that. The monitor of docket's strike list can lose its cancellation
    in a read of one minute. We strike no tasks, so the monitor is not started.

    Records of ended tasks are off (`execution_ttl` 0): a worker that was paused and runs an ended task again
    writes "running" into the record. If the end is then lost, that task could not be queued again before
    the record expires (15 minutes by docket's default).
    """
    url = with_option(url, "socket_timeout", str(READ_TIMEOUT_S))
    # A heartbeat writes one key for each name of a task: it tells operators which workers are there, no more.
    docket = _Docket(name=name, url=url, execution_ttl=timedelta(0), heartbeat_interval=HEARTBEAT)
    docket.url = ""  # only the strike list still reads it; without an address that list stays local
    return docket


class _Docket(Docket):
    async def __aenter__(self) -> Self:
        """Open the queue; connections whose server refuses are replaced, as those of the guards are."""
        await super().__aenter__()
        redis = self._redis
        for pool in (redis._connection_pool, redis._pubsub_pool):  # noqa: SLF001 - docket 0.27 has no option
            if pool is not None:  # a cluster's client follows its nodes by itself
                replace_refusing(pool)
                _limit_sentinels(pool)
        return self


def _limit_sentinels(pool: ConnectionPool) -> None:
    """Ask the next Sentinel where one does not answer: docket sets no time limit for them."""
    manager = getattr(pool, "sentinel_manager", None)
    for client in manager.sentinels if manager is not None else ():
        client.connection_pool.connection_kwargs.update(
            socket_timeout=_SENTINEL_TIMEOUT_S, socket_connect_timeout=_SENTINEL_TIMEOUT_S
        )


class Queue:
    """Wakes the workers: a step of this process directly, those of others through docket.

    A message says only that something is due; what it is, SQL says. So a lost wake-up does no harm: every
    worker finds the work by itself within `Timeouts.sweep_s`. Messages are keyed `{task}:{request_id}`, and
    docket drops one whose key waits or runs.

    Attributes:
        kick: Set while this process runs a worker; it then takes the wake-up, and docket is not asked.
    """

    def __init__(self, docket: Docket) -> None:
        self._docket = docket
        self.kick: Callable[[str], None] | None = None

    async def wake(self, task: TaskName, request_id: str, *, after_s: float = 0) -> bool:
        """Say that `task` is due for this request, or will be in `after_s` seconds.

        Returns:
            False if no worker could be told.
        """
        if self.kick is not None:
            if after_s:
                asyncio.get_running_loop().call_later(after_s, self.kick, task)
            else:
                self.kick(task)
            return True
        # A later wake-up has a key of its own: docket would drop one that is due now for it.
        key = f"{task}:{request_id}:later" if after_s else f"{task}:{request_id}"
        when = datetime.now(UTC) + timedelta(seconds=after_s) if after_s else None
        try:
            async with asyncio.timeout(_WAKE_TIMEOUT_S):
                await self._docket.add(task, key=key, when=when)(request_id)
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("wake-up not queued", task=task, request=request_id, error=type(error).__name__)
            return False
        return True


async def observe_due(ledger: Ledger, bot_id: int) -> None:
    """Update the gauge of work that is due and waits for a worker."""
    late = await due_work.overdue(ledger, bot_id)
    for step in metrics.DUE_STEPS:
        metrics.OVERDUE.set(late.get(step, 0.0), step=step)


async def observe_queue(docket: Docket) -> None:
    """Update the gauges of the queue."""
    async with docket.redis() as redis:
        running = await _count_running(redis, docket)
        waiting = await redis.xlen(docket.stream_key) - running
        later = await redis.zcard(docket.queue_key)
        oldest = await _oldest_waiting(redis, docket) if waiting > 0 else None
    metrics.QUEUE_DEPTH.set(max(0, waiting), state="waiting")
    metrics.QUEUE_DEPTH.set(running, state="running")
    metrics.QUEUE_DEPTH.set(later, state="later")
    metrics.QUEUE_AGE.set(0 if oldest is None else max(0.0, time.time() - oldest / 1000))
    metrics.STORE_UP.set(1, store="queue")


async def _count_running(redis: Any, docket: Docket) -> int:
    """Return how many entries a worker has read and not finished; the first worker makes their group."""
    try:
        pending = await redis.xpending(docket.stream_key, docket.worker_group_name)
    except ResponseError as error:
        if _NO_GROUP in str(error):
            return 0
        raise
    return int(pending["pending"])


async def _oldest_waiting(redis: Any, docket: Docket) -> int | None:
    """Return when the oldest entry that no worker has read was added, in milliseconds, from its id."""
    first = b"-"  # before the first worker, the oldest of all
    for group in await redis.xinfo_groups(docket.stream_key):
        if group["name"] == docket.worker_group_name.encode():
            first = b"(" + group["last-delivered-id"]
    found = await redis.xrange(docket.stream_key, min=first, count=1)
    return int(found[0][0].split(b"-")[0]) if found else None
