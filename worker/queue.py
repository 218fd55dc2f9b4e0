"""The docket queue and its metrics."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from docket import Docket
from redis.exceptions import RedisClusterException, RedisError

from telemetry import metrics as shown
from telemetry.logs import get_logger

log = get_logger(__name__)

TaskName = Literal["run_agent", "submit", "poll", "notify"]
_WAKE_TIMEOUT_S: Final = 2.0

READ_TIMEOUT_S: Final = 5
"""An answer that has not come by then will not: far longer than any read of the queue waits at the server."""


def open_docket(name: str, url: str) -> Docket:
    """Return the queue, whose connections give up an answer that was lost on an open line.

    docket reads without a limit, so one swallowed answer would keep its worker waiting for ever. What a URL
    says about `socket_timeout` goes before docket's own. We strike no tasks, and the strike list's monitor
    can lose its cancellation in a read of a minute, so there is none.

    docket keeps no record of what has ended: a worker that was paused, and takes such a task up once more,
    would write "running" into the record, and if its end is then lost, nobody could wake that task again
    before the record expires (15 minutes by docket's default).
    """
    docket = Docket(name=name, url=_answered_within(url, READ_TIMEOUT_S), execution_ttl=timedelta(0))
    docket.url = ""  # from here on only the strike list is made of it; without an address it stays local
    return docket


def _answered_within(url: str, seconds: int) -> str:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query)) | {"socket_timeout": str(seconds)}
    return urlunsplit(parts._replace(query=urlencode(query)))


class Queue:
    """Adds tasks keyed `{task}:{request_id}`, so that one that waits or runs is not added again.

    A wake-up that is lost is no harm: `sweep` finds the work in SQL and wakes again.
    """

    def __init__(self, docket: Docket) -> None:
        self._docket = docket

    async def wake(self, task: TaskName, request_id: str, after_s: float = 0) -> bool:
        """Ask for `task` to run for this request; False if the queue cannot be reached now."""
        when = datetime.now(UTC) + timedelta(seconds=after_s)
        try:
            async with asyncio.timeout(_WAKE_TIMEOUT_S):
                await self._docket.add(task, when=when, key=f"{task}:{request_id}")(request_id)
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            log.warning(
                "wake-up is left to the next sweep", task=task, request=request_id, error=type(error).__name__
            )
            return False
        return True


async def observe_queue(docket: Docket) -> None:
    """Bring the figures of the queue up to date."""
    async with docket.redis() as redis:
        pending: Any = await redis.xpending(docket.stream_key, docket.worker_group_name)
        running = int(pending["pending"])
        waiting = await redis.xlen(docket.stream_key) - running
        later = await redis.zcard(docket.queue_key)
        oldest = await _oldest_waiting(redis, docket) if waiting > 0 else None
    shown.QUEUE_DEPTH.set(max(0, waiting), state="waiting")
    shown.QUEUE_DEPTH.set(running, state="running")
    shown.QUEUE_DEPTH.set(later, state="later")
    shown.QUEUE_AGE.set(0 if oldest is None else max(0.0, time.time() - oldest / 1000))
    shown.STORE_UP.set(1, store="queue")


async def _oldest_waiting(redis: Any, docket: Docket) -> int | None:
    """Return when the first entry that no worker has taken was added, in milliseconds: its id says so."""
    for group in await redis.xinfo_groups(docket.stream_key):
        if group["name"] == docket.worker_group_name.encode():
            after = group["last-delivered-id"]
            found = await redis.xrange(docket.stream_key, min=b"(" + after, count=1)
            return int(found[0][0].split(b"-")[0]) if found else None
    return None
