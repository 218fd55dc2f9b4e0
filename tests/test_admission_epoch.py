"""Redis may be emptied at any time: the counters come back from the ledger, whole, and never twice."""

import asyncio

import pytest
from lives import LIMITS, NO_LIMITS, Opener, order_for, ordered, put
from redis.asyncio import Redis
from redis.crc import key_slot
from test_admission import ask

from guardrails.admission import PAID_TOOL, RESERVATION_GRACE_S, Admission, RedisKeys
from ledger import breaker, orders
from ledger.database import Ledger
from ledger.limits import Limits
from ledger.models import EVERYONE, VideoState, user_scope

V = VideoState
KEYS = RedisKeys()


async def counters(redis: Redis) -> dict[str, object]:
    """Everything that Redis holds for us but the epoch's name."""
    found: dict[str, object] = {}
    async for key in redis.scan_iter(f"{{{KEYS.prefix}}}*"):
        match await redis.type(key):
            case "zset":
                found[key] = await redis.zrange(key, 0, -1, withscores=True)
            case "hash":
                found[key] = await redis.hgetall(key)
            case _:
                found[key] = "there"
    return found


async def test_an_emptied_redis_is_filled_from_the_ledger(admission, ledger, redis, opened):
    """FLUSHALL between two calls of a request: the second one is still a replay."""
    request = await opened()
    assert (await admission.reserve(ask(request))).word == "admitted"
    await orders.place(ledger, order_for(request), LIMITS)
    await redis.flushall()
    assert (await admission.reserve(ask(request, "c2"))).word == "replay"
    assert (await admission.reserve(ask(await opened(), "c3"))).word == "cooldown"


@pytest.mark.any_ledger
async def test_five_replicas_rebuild_at_once(ledger: Ledger, redis: Redis, opened: Opener):
    """Five replicas that find Redis empty at once fill it to what the ledger says, not five times that."""
    for state in (V.QUEUED, V.DELIVERED, V.FAILED_PAID, V.FAILED_UNPAID, V.CANCELLED):
        await put(ledger, await ordered(ledger, opened), state)
    await Admission(redis, ledger, KEYS, LIMITS).refresh()
    alone = await counters(redis)
    assert [len(alone[key]) for key in (KEYS.takes(PAID_TOOL, 7), KEYS.starts(PAID_TOOL, 7))] == [2, 3]
    assert len(alone[KEYS.all_money(PAID_TOOL)]) == 3
    await redis.flushall()
    replicas = [Admission(redis, ledger, KEYS, LIMITS) for _ in range(5)]
    answers = await asyncio.gather(*(one.check(ask("r", user_id=7)) for one in replicas for _ in range(3)))
    assert {one.word for one in answers} == {"cooldown"}
    assert await counters(redis) == alone


async def test_a_rebuild_does_nothing_where_the_epoch_stands(
    admission: Admission, redis: Redis, opened, ledger
):
    """Members and epoch come in one script: a late rebuild finds the epoch and changes nothing."""
    assert await admission._sync_counters("rebuild")
    before = await counters(redis)
    await ordered(ledger, opened)
    assert not await admission._sync_counters("rebuild")
    assert await counters(redis) == before


async def test_a_refresh_does_not_pretend_to_be_complete(admission: Admission, redis: Redis):
    """Without an epoch a refresh fills the counters as a rebuild; it never merely renews them."""
    assert not await admission._sync_counters("refresh")
    await admission.refresh()
    assert await redis.exists(KEYS.epoch)


async def test_a_refresh_keeps_a_fresh_reservation(admission: Admission, opened: Opener):
    """A reservation younger than the grace may still become an order: it stays."""
    await admission.reserve(ask(await opened()))
    await admission.refresh()
    assert (await admission.check(ask("next"))).word == "cooldown"


async def test_a_refresh_drops_a_stale_reservation(admission, ledger_url: str, redis: Redis, opened: Opener):
    """A reservation that the ledger never heard of is dropped after the grace, from every counter."""
    await admission.reserve(ask(await opened()))
    later = Ledger(ledger_url, shift=RESERVATION_GRACE_S + 5)
    await Admission(redis, later, KEYS, LIMITS).refresh()
    await later.close()
    held = await counters(redis)
    assert not [key for key in held if key.endswith((":takes", ":starts", ":money"))]


@pytest.mark.parametrize(("state", "word"), [(V.FAILED_UNPAID, "admitted"), (V.FAILED_PAID, "cooldown")])
async def test_a_refresh_gives_back_at_once(
    admission: Admission, ledger: Ledger, opened: Opener, state: VideoState, word: str
):
    """A release that was lost with Redis away is made good by the next refresh, however fresh it is."""
    request = await opened()
    await admission.reserve(ask(request))
    await orders.place(ledger, order_for(request), NO_LIMITS)
    await put(ledger, request, state)
    await admission.refresh()
    assert (await admission.check(ask("next"))).word == word
    assert (await admission.check(ask("next", limits=Limits(quota=1)))).word == "admitted"
    assert (await admission.reserve(ask(request, "c2"))).word == "replay"


@pytest.mark.parametrize("scope", [EVERYONE, user_scope(7)])
async def test_the_breaker_is_projected(
    admission: Admission, ledger: Ledger, ledger_url: str, redis, scope: str
):
    """An open breaker refuses in Redis too; a closed one is taken down by the next refresh, also for a user
    who has asked for nothing since.
    """
    async with ledger.write() as conn:
        await breaker.lock(ledger, conn, 7)
        await breaker._set(conn, scope, "open", "law", "tried", await ledger.now(conn))
    await admission.refresh()
    assert (await admission.check(ask("r1"))).word == "breaker"
    assert (await admission.check(ask("r1", user_id=8))).word == (
        "breaker" if scope == EVERYONE else "admitted"
    )
    assert await breaker.close(ledger, scope, "operator")
    await admission.refresh()
    assert (await admission.check(ask("r1"))).word == "admitted"


async def test_keys_share_a_slot_and_end(admission: Admission, ledger: Ledger, redis: Redis, opened: Opener):
    """Every key of ours lies in one slot of a cluster and has a lifetime."""
    async with ledger.write() as conn:
        await breaker.lock(ledger, conn, 7)
        await breaker._set(conn, EVERYONE, "open", "law", "tried", 1)
        await breaker._set(conn, user_scope(7), "open", "law", "tried", 1)
    await put(ledger, await opened_order(ledger, opened), V.QUEUED)
    await admission.refresh()
    await redis.delete(KEYS.breaker(EVERYONE), KEYS.breaker(user_scope(7)))
    await admission.reserve(ask("r1", limits=NO_LIMITS))
    await admission.refresh()
    found = [key async for key in redis.scan_iter(f"{{{KEYS.prefix}}}*")]
    assert len(found) >= 9
    assert len({key_slot(key.encode()) for key in found}) == 1
    assert all([await redis.ttl(key) > 0 for key in found])


async def opened_order(ledger: Ledger, opened: Opener) -> str:
    async with ledger.write() as conn:
        await breaker._set(conn, EVERYONE, "closed", "law", "", 1)
    request = await ordered(ledger, opened, user_id=9)
    async with ledger.write() as conn:
        await breaker._set(conn, EVERYONE, "open", "law", "tried", 1)
    return request


async def test_a_thousand_orders_are_rebuilt_in_time(
    admission: Admission, ledger: Ledger, redis, opened, monkeypatch
):
    """A rebuild of thousands of orders fits into the time that a guard has for its answer."""
    from ledger.pending_work import CounterMember

    async def many(*_):
        return [
            CounterMember(f"tg:1:-:{n}:1", n % 500 + 1, 1_000_000 + n, 3, counts=True, cools=True)
            for n in range(5000)
        ]

    monkeypatch.setattr("guardrails.admission.pending_work.members", many)
    assert (await admission.check(ask("r", user_id=900))).word == "admitted"
    assert len(await redis.zrange(KEYS.all_starts(PAID_TOOL), 0, -1)) == 5000
