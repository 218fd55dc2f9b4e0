"""A logout ends the session in every replica, and is not forgotten while Redis is away."""

import time

import pytest
from redis.asyncio import Redis

from guardrails.redis_client import connect
from tests.support.admin_page import open_admin_page
from web.login import COOKIE
from web.revocations import Revocations

AN_HOUR_S = 3600


@pytest.fixture
async def lost():
    """A client whose server does not answer."""
    client = connect("redis://127.0.0.1:1/0")
    yield client
    await client.aclose()


async def test_a_logout_ends_the_session_in_every_replica(redis: Redis, prefix: str):
    """Two replicas share it through Redis; it is forgotten when the session would have ended anyway."""
    one, other = Revocations(redis, prefix), Revocations(redis, prefix)
    until_s = int(time.time()) + AN_HOUR_S
    assert not await other.contain("a.cookie")
    await one.add("a.cookie", until_s)
    assert await other.contain("a.cookie")
    assert not await other.contain("another.cookie")
    [key] = [key async for key in redis.scan_iter(f"{{{prefix}}}:logout:*")]
    assert await redis.expiretime(key) == until_s
    assert "a.cookie" not in key


async def test_an_installation_keeps_its_own_logouts(redis: Redis, prefix: str):
    """Two installations on one Redis do not end each other's sessions."""
    await Revocations(redis, prefix).add("a.cookie", int(time.time()) + AN_HOUR_S)
    assert not await Revocations(redis, f"{prefix}-other").contain("a.cookie")


async def test_a_logout_while_redis_is_away_is_shared_later(redis: Redis, prefix: str, lost: Redis):
    """It holds at once where it was made, and everywhere with the next look after Redis is back."""
    revocations, other = Revocations(lost, prefix), Revocations(redis, prefix)
    await revocations.add("a.cookie", int(time.time()) + AN_HOUR_S)
    assert await revocations.contain("a.cookie")
    assert not await other.contain("a.cookie")
    revocations._redis = redis
    assert await revocations.contain("a.cookie")
    assert await other.contain("a.cookie")


async def test_the_page_opens_while_redis_is_away(ledger, lost: Redis):
    """Operators need the page when a store is away: a session is good until its own logout."""
    async with open_admin_page(ledger, redis=lost) as browser:
        await browser.log_in()
        await browser.page()
        cookie = browser.cookie
        assert (await browser.post("/admin/logout", form=await browser.form()))[0] == 303
        headers = {"Cookie": f"{COOKIE}={cookie}"}
        assert (await browser.get("/api/admin/costs", headers=headers))[0] == 401
