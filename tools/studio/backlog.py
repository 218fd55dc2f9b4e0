"""What waits in the queue, and for how long; read from docket's own stream and schedule."""

import time
from typing import Any

from docket import Docket

from telemetry import instruments as shown


async def observe(docket: Docket) -> None:
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
