"""Shared rates: one arithmetic in Redis and in a process, all limits or none, local without Redis."""

import asyncio
import random
from bisect import bisect_left
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as NoConnection

from guardrails.redis_client import connect
from sandbox.proxy import Proxy
from telemetry.metrics import LOCAL_GRANTS, exposition
from tests.support.metric_values import value
from worker import rate_limits
from worker.rate_limits import Grant, LocalLimiter, Rate, RateLimiter

HOUR = 3600.0
"""The interval of rates in which nothing becomes free during a test."""


@pytest.fixture
def limiter(redis: Redis, prefix: str) -> RateLimiter:
    return RateLimiter(redis, prefix)


@pytest.fixture
async def cut_off(redis_url: str, prefix: str):
    """A limiter behind a proxy that the test may cut, and the proxy."""
    host, _, port = redis_url.removeprefix("redis://").partition("/")[0].partition(":")
    async with Proxy(host, int(port)) as proxy:
        client = connect(f"redis://127.0.0.1:{proxy.port}")
        yield RateLimiter(client, prefix), proxy
        await client.aclose()


def most_seen(times: list[int], seconds: float) -> int:
    """Return the largest number of `times`, in microseconds, in any span of `seconds`, its end excluded."""
    return max(bisect_left(times, start + round(seconds * 1e6)) - n for n, start in enumerate(times))


@pytest.mark.parametrize("rate", [Rate("total", 6, 0.04), Rate("chat", 3, 1), Rate("group", 6, 4)])
def test_no_span_has_more_than_the_rate_says(rate: Rate):
    """Callers that ask all the time, or in bursts after pauses, reach `most_in` and never exceed it."""
    rng, now, granted = random.Random(4), 0, []
    limiter, every = LocalLimiter(lambda: now / 1e6), rate.every_us
    for _ in range(4000):
        now += rng.choice([0, every // 7, every // 3, every * rng.choice([1, 1, 20])])
        if limiter.ask([rate], 1).units:
            granted.append(now)
    for seconds in (rate.every_s, 1, 7 * rate.every_s, 60):
        assert most_seen(granted, seconds) <= rate.most_in(seconds)
    assert most_seen(granted, rate.every_s) == rate.burst


def test_a_wait_is_as_long_as_needed_and_no_longer():
    """After `wait_s` a unit is free, a moment before it is not."""
    now = 0.0
    limiter, rate = LocalLimiter(lambda: now), Rate("chat", 3, 1)
    assert [limiter.ask([rate], 1).units for _ in range(3)] == [1, 1, 1]
    now = 0.25
    refused = limiter.ask([rate], 1)
    assert refused == Grant(0, 0.75, "chat")
    now += refused.wait_s - 0.001
    assert not limiter.ask([rate], 1).units
    now += 0.001
    assert limiter.ask([rate], 1).units == 1


@pytest.mark.parametrize("seed", range(5))
async def test_redis_and_process_decide_alike(seed: int, limiter: RateLimiter):
    """The script and `LocalLimiter` grant the same units and name the same limit for any calls."""
    rng, local = random.Random(seed), LocalLimiter()
    known = [Rate(name, burst, HOUR * burst) for name, burst in (("a", 2), ("b", 7), ("c", 30))]
    for _ in range(60):
        rates = [replace(one, keep=rng.randrange(one.burst)) for one in rng.sample(known, rng.randint(1, 3))]
        most = rng.choice([1, 1, 1, 4])
        if rng.random() < 0.05:
            held, wider = rng.sample(known, 2)
            assert await limiter.hold(held, 5, wider=wider) == local.hold(held, 5, wider)
        shared, alone = await limiter.ask(rates, most), local.ask(rates, most)
        assert (shared.units, shared.limit) == (alone.units, alone.limit)
        assert shared.wait_s == pytest.approx(alone.wait_s, abs=30)


async def test_all_limits_are_taken_or_none(limiter: RateLimiter):
    """While one limit is used up, a take of several takes nothing of the others."""
    total, chat = Rate("total", 5, HOUR), Rate("chat", 1, HOUR)
    assert await limiter.take([total, chat]) == 0
    for _ in range(9):
        refused = await limiter.ask([total, chat])
        assert (refused.units, refused.limit) == (0, "chat")
        assert HOUR - 60 < refused.wait_s <= HOUR
    assert await limiter.take_up_to(total, 9) == 4


async def test_units_are_kept_for_more_urgent_takes(limiter: RateLimiter):
    """A take that keeps units free stops earlier; one that keeps none has them at once."""
    urgent = Rate("total", 6, HOUR)
    assert await limiter.take_up_to(replace(urgent, keep=3), 9) == 3
    assert await limiter.take([replace(urgent, keep=3)]) > 0
    assert await limiter.take_up_to(urgent, 9) == 3


async def test_processes_share_a_rate(redis: Redis, redis_url: str, prefix: str):
    """Two clients that ask at once get one burst between them, and each gets its part of a batch."""
    other = connect(redis_url)
    both = [RateLimiter(redis, prefix), RateLimiter(other, prefix)]
    rate, account = Rate("total", 40, HOUR), Rate("account", 100, HOUR)
    waits = await asyncio.gather(*(both[n % 2].take([rate]) for n in range(200)))
    assert sum(wait == 0 for wait in waits) == 40
    parts = await asyncio.gather(*(both[n % 2].take_up_to(account, 30) for n in range(5)))
    assert sorted(parts) == [0, 10, 30, 30, 30]
    assert await both[0].take_up_to(account, 0) == 0
    await other.aclose()


async def test_a_held_limit_grants_nothing_and_comes_back(limiter: RateLimiter):
    """`hold` stops one limit; a second limit within seconds stops the wider one, the same limit does not."""
    total, ana, ben = (Rate(name, 3, 0.1) for name in ("total", "chat:1", "chat:2"))
    assert not await limiter.hold(ana, 20, wider=total)
    assert not await limiter.hold(ana, 20, wider=total)
    assert 18 < await limiter.take([ana]) <= 20
    assert await limiter.take([total, ben]) == 0
    assert await limiter.hold(ben, 30, wider=total)
    assert 28 < await limiter.take([total]) <= 30
    short = Rate("chat:3", 3, 0.1)
    await limiter.hold(short, 0.05, wider=Rate("other", 3, 0.1))
    await asyncio.sleep(0.06)
    assert await limiter.take([short]) == 0


async def test_keys_expire_and_share_a_slot(limiter: RateLimiter, redis: Redis, prefix: str):
    """A key is gone once its limit is free again, and one script may use all of them on a cluster."""
    rates = [Rate("telegram:7:total", 3, 0.02), Rate("telegram:7:chat:-5", 3, 0.02)]
    await limiter.take(rates)
    await limiter.hold(rates[1], 0.02, wider=rates[0])
    keys = [limiter.key(rate.name) for rate in rates]
    assert len({key_slot(key.encode()) for key in keys}) == 1
    assert all(key.startswith(f"{{{prefix}}}:rate:v1:") for key in keys)
    for _ in range(500):
        if not await redis.exists(*keys):
            return
        await asyncio.sleep(0.02)
    pytest.fail("the keys do not expire")


async def test_without_redis_the_process_keeps_the_rate(cut_off, monkeypatch: pytest.MonkeyPatch):
    """Redis gone: the same rates within the process. Redis back: the shared ones again."""
    monkeypatch.setattr(rate_limits, "LOCAL_S", 0.0)
    limiter, proxy = cut_off
    rate = Rate("total", 2, HOUR)
    assert await limiter.take([rate]) == 0
    proxy.refuse()
    before = value(exposition(), LOCAL_GRANTS.name)
    assert [await limiter.take_up_to(rate, 1) for _ in range(4)] == [1, 1, 0, 0]
    assert value(exposition(), LOCAL_GRANTS.name) == before + 4


async def test_a_hold_without_redis_is_kept_by_the_process(cut_off):
    """Telegram's 429 is obeyed by the process that got it, also while Redis is unavailable."""
    limiter, proxy = cut_off
    proxy.refuse()
    total, ana, ben = (Rate(name, 3, 0.1) for name in ("total", "chat:1", "chat:2"))
    assert not await limiter.hold(ana, 20, wider=total)
    assert 18 < await limiter.take([total, ana]) <= 20
    assert await limiter.take([total, ben]) == 0
    assert await limiter.hold(ben, 30, wider=total)
    assert 28 < await limiter.take([total]) <= 30


@pytest.mark.app_timeouts
async def test_a_silent_redis_is_asked_once_in_a_while(prefix: str):
    """A Redis that accepts and never answers delays one take, not each of them."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        await reader.read()
        writer.close()

    accepted: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    client = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    limiter, rate = RateLimiter(client, prefix), Rate("total", 50, HOUR)
    assert [await limiter.take([rate]) for _ in range(50)] == [0] * 50
    assert await limiter.take([rate]) > 0
    assert len(accepted) == 1
    await client.aclose()
    server.close()


async def test_a_cancelled_take_stays_cancelled(limiter: RateLimiter):
    """redis-py may answer a cancellation with a ConnectionError; the caller is cancelled nevertheless."""

    async def lose_cancellation(**_: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise NoConnection from None

    limiter._take = lose_cancellation
    task = asyncio.create_task(limiter.take([Rate("total", 2, HOUR)]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=30)
    assert task.cancelled()


@pytest.mark.parametrize(("burst", "every_s", "keep"), [(0, 1, 0), (3, 1, 3), (3, 1, -1), (3, 0, 0)])
def test_a_rate_that_grants_nothing_is_refused(burst: int, every_s: float, keep: int):
    with pytest.raises(ValueError, match="grants nothing"):
        Rate("total", burst, every_s, keep)
