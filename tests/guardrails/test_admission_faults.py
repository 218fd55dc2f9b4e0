"""A store that cannot answer means `closed`: quickly, without an exception, and nothing is counted twice."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import TimeoutError as RedisTimeout

from guardrails.admission import Admission, AdmissionRequest, Decision, RedisKeys
from guardrails.limits import Limits
from guardrails.redis_client import connect
from ledger import limits, orders
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from sandbox.proxy import Proxy, ProxyMode
from tests.support.counters import Held, held, is_complete
from tests.support.factories import LIMITS, ORDER_PRICE, PAID_TOOL, Opener, order_for
from tests.support.waiting import Stopwatch, wait_until

pytestmark = pytest.mark.app_timeouts
KEYS = RedisKeys()


def ask(request_id: str, call_id: str = "c1", limits: Limits = LIMITS) -> AdmissionRequest:
    return AdmissionRequest(PAID_TOOL, request_id, 7, 1, call_id, ORDER_PRICE, limits)


async def timed(decision) -> tuple[Decision, float]:
    async with Stopwatch() as stopwatch:
        return await decision, stopwatch.seconds


@pytest.fixture
async def proxy(valkey, redis: Redis) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", valkey.port) as one:
        yield one


@pytest.fixture
async def far(proxy: Proxy, ledger: Ledger) -> AsyncIterator[Admission]:
    """Admission that uses its Redis through the proxy; its counters are complete."""
    client = connect(f"redis://127.0.0.1:{proxy.port}")
    admission = Admission(client, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL)
    await admission.load()
    await admission.refresh()
    yield admission
    proxy.cut()
    await client.aclose()


async def test_a_refused_connection_closes(ledger: Ledger):
    """The connection is refused: `closed` at once, and a release raises nothing."""
    client = connect("redis://127.0.0.1:1")
    admission = Admission(client, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL)
    for decide in (admission.check, admission.reserve):
        decision, lasted = await timed(decide(ask("r1")))
        assert (decision.word, decision.layer) == ("closed", "redis")
        assert lasted < 1.5
    await admission.release(PAID_TOOL, "r1", 7, "all")
    await client.aclose()


@pytest.mark.slow
async def test_a_hanging_redis_closes(far: Admission, proxy: Proxy, redis: Redis):
    """Redis accepts and never answers: thirteen calls are all `closed` within the guard's time."""
    proxy.mode = "hang"
    found = await asyncio.gather(*(timed(far.reserve(ask(f"r{n}"))) for n in range(13)))
    assert {(one.word, one.layer) for one, _ in found} == {("closed", "redis")}
    assert max(lasted for _, lasted in found) < 1.5
    _, lasted = await timed(far.release(PAID_TOOL, "r1", 7, "all"))
    assert lasted < 1.5
    assert await held(redis, 7) == Held()


@pytest.mark.representative
@pytest.mark.parametrize("mode", ["swallow", "swallow once"])
async def test_a_lost_answer_reserves_once(far: Admission, proxy: Proxy, redis: Redis, mode: ProxyMode):
    """The script ran and its answer was lost: `closed`, sent once, one reservation. The same call is admitted
    again as the same call, and another call of the request is a duplicate.
    """
    await far.check(ask("warm"))
    proxy.sent, proxy.mode = bytearray(), mode
    decision, lasted = await timed(far.reserve(ask("r1")))
    assert (decision.word, decision.layer) == ("closed", "redis")
    assert lasted < 1.5
    assert proxy.sent.count(b"EVALSHA") == 1
    assert (await held(redis, 7)).takes == 1
    proxy.mode = "pass"
    again, other = await far.reserve(ask("r1")), await far.reserve(ask("r1", "c2"))
    assert (again.word, again.why, other.word) == ("admitted", "same call", "replay")
    assert await held(redis, 7) == Held(1, 1, ORDER_PRICE.micros)


async def test_a_guards_client_sends_once(proxy: Proxy, redis: Redis):
    """A command whose answer is lost raises; redis-py does not send it again."""
    client = connect(f"redis://127.0.0.1:{proxy.port}")
    await client.ping()
    proxy.mode = "swallow once"
    with pytest.raises(RedisTimeout):
        await client.incrby("sent", 1)
    assert await redis.get("sent") == "1"
    await client.aclose()


@pytest.mark.slow
async def test_a_cut_answer_reserves_at_most_once(far: Admission, proxy: Proxy, redis: Redis):
    """The connection breaks while the answer is awaited, five times: never more than one reservation."""
    for _ in range(5):
        proxy.mode = "swallow"
        task = asyncio.create_task(far.reserve(ask("r1")))

        async def reserved() -> bool:
            return bool((await held(redis, 7)).takes)

        await wait_until(reserved, what="the reservation")
        proxy.cut()
        assert (await task).word in ("closed", "admitted")
        proxy.mode = "pass"
    assert (await held(redis, 7)).takes == 1
    assert (await far.reserve(ask("r1"))).word == "admitted"


async def test_a_connection_that_died_idle_costs_no_call(far: Admission, proxy: Proxy):
    """Redis was restarted between two calls: the next call reconnects and is decided."""
    await far.check(ask("warm"))
    proxy.cut()

    async def noticed() -> bool:
        idle = far._redis.connection_pool._available_connections
        return all(one._reader is None or one._reader.at_eof() for one in idle)

    await wait_until(noticed, what="the end of the idle connections")
    decision, _ = await timed(far.reserve(ask("r1")))
    assert decision.word == "admitted"


async def test_forgotten_scripts_are_loaded_again(far: Admission, redis: Redis):
    """SCRIPT FLUSH between two calls changes no verdict."""
    assert (await far.reserve(ask("r1"))).word == "admitted"
    await redis.script_flush()
    assert (await far.reserve(ask("r1", "c2"))).word == "replay"


async def test_a_redis_that_refuses_writes_closes(far: Admission, valkey, redis: Redis):
    """A full server (noeviction) answers with an error: `closed`, and nothing is half reserved."""
    await redis.config_set("maxmemory", 1)
    try:
        assert (await far.reserve(ask("r1"))).word == "closed"
        assert (await far.check(ask("r1"))).word in ("admitted", "closed")
    finally:
        await redis.config_set("maxmemory", 0)
    assert await held(redis, 7) == Held()


async def test_a_broken_ledger_closes_the_rebuild(redis: Redis, tmp_path):
    """Redis is empty and SQL cannot be read: `closed` by the ledger, and no counter is written."""
    ledger = Ledger(f"sqlite:///{tmp_path}/never/migrated.db")
    decision, lasted = await timed(
        Admission(redis, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL).reserve(ask("r1"))
    )
    assert (decision.word, decision.layer, decision.why) == ("closed", "ledger", "OperationalError")
    assert lasted < 1.5
    assert not await is_complete(redis)
    await ledger.close()


@pytest.mark.any_ledger
async def test_a_slow_ledger_closes_and_the_rebuild_continues(
    redis: Redis, ledger: Ledger, opened: Opener, monkeypatch
):
    """SQL hangs in the rebuild: `closed` in time, by the ledger. One rebuild runs for all callers, continues
    without them, and serves the next call.
    """
    from guardrails import admission as module

    request, freed, asked = await opened(), asyncio.Event(), []
    await orders.place(ledger, order_for(request), LIMITS)
    page = limits.orders_since

    async def slow(*args):
        asked.append(1)
        await freed.wait()
        return await page(*args)

    monkeypatch.setattr(limits, "orders_since", slow)
    monkeypatch.setattr(module, "DECISION_TIMEOUT_S", 0.3)
    admission = Admission(redis, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL)
    found = await asyncio.gather(*(timed(admission.reserve(ask(f"r{n}"))) for n in range(8)))
    assert {(one.word, one.layer, one.why) for one, _ in found} == {("closed", "ledger", "TimeoutError")}
    assert max(lasted for _, lasted in found) < 1.5
    assert len(asked) == 1
    freed.set()

    async def rebuilt() -> bool:
        return await is_complete(redis)

    await wait_until(rebuilt, what="the rebuild")
    assert (await admission.reserve(ask("next"))).word == "cooldown"


async def test_an_unreachable_server_closes_the_rebuild(redis: Redis):
    """PostgreSQL refuses the connection: `closed` by the ledger, in time."""
    ledger = Ledger("postgresql://nobody:secret@127.0.0.1:1/none")
    decision, lasted = await timed(
        Admission(redis, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL).reserve(ask("r1"))
    )
    assert (decision.word, decision.layer) == ("closed", "ledger")
    assert lasted < 1.5
    await ledger.close()
