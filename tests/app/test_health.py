"""Readiness writes to the stores; liveness fails where only a restart helps."""

import asyncio
from functools import partial

import pytest
from aiohttp import ClientSession

from app import health
from app.health import StuckError, WriteCheck, dispatcher_alive, write_checks
from app.processes import _http_app
from guardrails.redis_client import connect
from ledger import health as ledger_health
from ledger import heartbeats
from ledger.database import Ledger
from tests.support.app_harness import worker_only
from tests.support.statement_counts import count_statements
from tests.support.waiting import wait_until
from web.server import serve
from worker.heartbeat import run_heartbeat


class Store:
    """Counts writes, and refuses them while `down`."""

    def __init__(self) -> None:
        self.down, self.writes, self.free = False, 0, asyncio.Event()
        self.free.set()

    async def write(self) -> None:
        self.writes += 1
        await self.free.wait()
        if self.down:
            raise OSError("read only")


async def test_many_who_ask_make_one_write():
    """A thousand questions at once, and those that come while the result is young, cost one write."""
    store = Store()
    check = WriteCheck("it", store.write, store.write, every_s=60)
    store.free.clear()
    asked = [asyncio.create_task(check.ready()) for _ in range(1000)]
    await asyncio.sleep(0)
    store.free.set()
    await asyncio.gather(*asked)
    await check.ready()
    assert store.writes == 1


async def test_readiness_follows_the_writes():
    """Not ready with the error of the write; ready again after one that succeeded."""
    store = Store()
    check = WriteCheck("it", store.write, store.write, every_s=0)
    await check.ready()
    store.down = True
    with pytest.raises(OSError, match="read only"):
        await check.ready()
    store.down = False
    await check.ready()


async def _outcomes(check: WriteCheck, count: int = 30) -> set[str]:
    found = set()
    for _ in range(count):
        try:
            await check.alive()
            found.add("alive")
        except StuckError:
            found.add("stuck")
        await asyncio.sleep(0.005)
    return found


async def test_only_what_a_restart_mends_is_stuck():
    """A store that refuses everyone is no reason to restart; one that refuses only this process is."""
    own, fresh = Store(), Store()
    check = WriteCheck("it", own.write, fresh.write, every_s=0, unhealed_s=0.02)
    assert await _outcomes(check) == {"alive"}
    own.down = fresh.down = True
    assert await _outcomes(check) == {"alive"}
    fresh.down = False
    assert "stuck" in await _outcomes(check)
    own.down = False
    await _outcomes(check, 3)
    assert await _outcomes(check) == {"alive"}


async def test_a_write_that_hangs_does_not_delay_liveness():
    """Liveness answers at once, whatever the store does."""
    store = Store()
    store.free.clear()
    check = WriteCheck("it", store.write, store.write, every_s=0)
    async with asyncio.timeout(5):
        assert await _outcomes(check) == {"alive"}
    store.free.set()


@pytest.mark.any_ledger
async def test_the_ledgers_check_commits(ledger: Ledger):
    """It is one row, however often it is written, and few statements."""
    with count_statements(ledger) as counts:
        await ledger_health.write(ledger)
        await ledger_health.write(ledger)
    assert len(counts.statements) == 4
    async with ledger.read() as conn:
        rows = (await conn.exec_driver_sql("SELECT subject, free_at FROM news")).all()
    assert [one.subject for one in rows] == [ledger_health.SUBJECT]
    assert rows[0].free_at > 0


async def _get(session: ClientSession, url: str) -> tuple[int, dict[str, object]]:
    async with session.get(url) as answer:
        body = await answer.json()
        return answer.status, {name: body[name] for name in body if name not in ("workers", "bots")}


@pytest.mark.slow
async def test_readiness_shows_workers_and_needs_none(app_env):
    """A bot without workers stays in service, and says so; one that beats is seen, one that ends is not."""
    env = await app_env(wake=lambda _: ())
    ledger, bot_id = env.app.ledger, env.app.bot.id
    async with ClientSession() as session:

        async def counts() -> tuple[int, int, int]:
            async with (
                serve(_http_app(env.app), "127.0.0.1", 0) as url,
                session.get(f"{url}/readyz") as answer,
            ):
                body = await answer.json()
                return answer.status, body["workers"], body["bots"]

        assert await counts() == (200, 0, 0)
        works = [False]
        beating = asyncio.create_task(run_heartbeat(ledger, "worker", bot_id, lambda: works[0], 0.05))
        await heartbeats.beat(ledger, "other", "worker", bot_id + 1)
        await asyncio.sleep(0.2)
        assert await counts() == (200, 0, 0), "it runs, and does not work"
        works[0] = True

        async def seen() -> bool:
            return await counts() == (200, 1, 0)

        await wait_until(seen, 20, "the worker")
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        assert await counts() == (200, 0, 0)


@pytest.mark.slow
async def test_a_redis_that_refuses_writes_is_not_ready(app_env, valkey, redis, monkeypatch):
    """A server that answers PING and refuses every write is not ready, and alive; then ready again."""
    monkeypatch.setattr("app.health.WriteCheck", partial(WriteCheck, every_s=0))
    env = await app_env(wake=worker_only)
    async with serve(_http_app(env.app), "127.0.0.1", 0) as url, ClientSession() as session:
        assert await _get(session, f"{url}/readyz") == (200, {"ledger": True, "redis": True})
        await redis.config_set("min-replicas-to-write", 1)
        try:
            assert await redis.ping()
            assert await _get(session, f"{url}/readyz") == (503, {"ledger": True, "redis": False})
            assert await _get(session, f"{url}/healthz") == (200, {"alive": True})
        finally:
            await redis.config_set("min-replicas-to-write", 0)

        async def ready() -> bool:  # the write that /healthz began may still be refused
            return await _get(session, f"{url}/readyz") == (200, {"ledger": True, "redis": True})

        await wait_until(ready, what="a Redis that takes writes")


@pytest.mark.slow
async def test_a_process_that_lost_its_redis_is_restarted(app_env, valkey, monkeypatch):
    """Its own connections go nowhere while a new one works: `/healthz` says so, and what is stuck."""
    monkeypatch.setattr("app.health.WriteCheck", partial(WriteCheck, every_s=0, unhealed_s=0.1))
    env = await app_env(wake=worker_only)
    admission, lost = env.app.chat.admission, connect("redis://127.0.0.1:1")
    async with serve(_http_app(env.app), "127.0.0.1", 0) as url, ClientSession() as session:
        assert (await _get(session, f"{url}/healthz"))[0] == 200
        monkeypatch.setattr(admission, "_redis", lost)

        async def stuck() -> bool:
            return await _get(session, f"{url}/healthz") == (503, {"alive": False, "stuck": ["redis"]})

        await wait_until(stuck, 20, "a failing /healthz")
    await lost.aclose()


async def test_a_stalled_dispatcher_is_stuck(app_env, monkeypatch):
    """One that runs is alive, also where there is nothing to do; one that stopped looking is not."""
    env = await app_env(wake=worker_only)

    async def runs() -> bool:
        return env.app.dispatcher.idle_s() is not None

    await wait_until(runs)
    await dispatcher_alive(env.app)
    monkeypatch.setattr(health, "STALLED_S", -1.0)
    with pytest.raises(StuckError, match="dispatcher"):
        await dispatcher_alive(env.app)


async def test_a_new_connection_is_tried(app_env):
    """Both stores are written to over connections of their own, which are closed."""
    env = await app_env(wake=lambda _: ())
    for check in write_checks(env.app).values():
        await check._anew._write()
