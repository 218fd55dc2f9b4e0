"""Admission on a real Redis: one call per request is admitted; a check reserves nothing."""

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from guardrails.admission import RESERVATION_GRACE_S, Admission, AdmissionRequest, RedisKeys
from guardrails.limits import EVERYONE, Limits, user_scope
from guardrails.money import Money
from ledger import breaker, orders
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from ledger.models import VideoState
from tests.support.counters import Held, held, is_complete
from tests.support.factories import LIMITS, NO_LIMITS, ORDER_PRICE, PAID_TOOL, Opener, order_for, ordered, put


def ask(
    request_id: str, call_id: str = "c1", user_id: int = 7, attempt: int = 1, limits: Limits = LIMITS
) -> AdmissionRequest:
    return AdmissionRequest(PAID_TOOL, request_id, user_id, attempt, call_id, ORDER_PRICE, limits)


async def words(admission: Admission, *asks: AdmissionRequest) -> list[str]:
    return [(await admission.reserve(one)).word for one in asks]


async def test_thirteen_parallel_calls_admit_one(admission: Admission):
    """Of thirteen different calls of one request at once, one is admitted and twelve are replays."""
    found = [
        one.word for one in await asyncio.gather(*(admission.reserve(ask("r1", f"c{n}")) for n in range(13)))
    ]
    assert sorted(found) == ["admitted", *["replay"] * 12]


async def test_the_same_call_passes_again(admission: Admission):
    """A guard may run twice for one call: the second time changes nothing and is admitted."""
    assert await words(admission, ask("r1"), ask("r1")) == ["admitted", "admitted"]


async def test_a_later_attempt_takes_over(admission: Admission):
    """The next attempt takes over a crashed run's reservation; the earlier attempt loses it."""
    assert await words(
        admission, ask("r1", "c1"), ask("r1", "c9", attempt=2), ask("r1", "c1", attempt=1)
    ) == [
        "admitted",
        "admitted",
        "replay",
    ]


async def test_a_takeover_counts_once(admission: Admission, redis: Redis):
    """Three attempts at one request count once, with the time of the first, and one price."""
    names = KEYS.counters(PAID_TOOL, LIMITS)
    await admission.reserve(ask("r1"))
    first = await redis.hgetall(names.user(7))
    for attempt in (2, 3):
        assert await words(admission, ask("r1", attempt=attempt)) == ["admitted"]
    assert await redis.hgetall(names.user(7)) == first
    for user in (7, None):
        assert (await held(redis, user)).micros == ORDER_PRICE.micros


@pytest.mark.parametrize(
    ("what", "following", "again"),
    [
        ("quota", "cooldown", "replay"),
        ("unpaid", "admitted", "replay"),
        ("all", "admitted", "admitted"),
    ],
)
async def test_each_kind_of_release_frees_its_part(
    admission: Admission, redis: Redis, what, following: str, again: str
):
    """A charged failure keeps the cooldown; proof of no charge gives back everything but `once`; without an
    order the request itself may call again. A second release changes nothing.
    """
    await admission.reserve(ask("r1"))
    for _ in range(2):
        await admission.release(PAID_TOOL, "r1", 7, what)
    assert (await admission.check(ask("r2"))).word == following
    assert await words(admission, ask("r1", "other call")) == [again]
    await admission.release(PAID_TOOL, "r1", 7, what)
    assert (await held(redis, 7)).takes == 0


async def test_a_second_release_frees_no_other_place(admission: Admission):
    """A late second release of one request does not free the place of the next request."""
    one = replace(LIMITS, quota=1, cooldown_s=None)
    await admission.reserve(ask("r1", limits=one))
    await admission.release(PAID_TOOL, "r1", 7, "unpaid")
    assert await words(admission, ask("r2", limits=one)) == ["admitted"]
    await admission.release(PAID_TOOL, "r1", 7, "unpaid")
    assert await words(admission, ask("r3", limits=one)) == ["quota"]


async def test_a_check_reserves_nothing(admission: Admission, redis: Redis):
    """Any number of checks writes nothing."""
    await admission.check(ask("r1"))
    before = sorted([key async for key in redis.scan_iter(f"{{{RedisKeys().prefix}}}*")])
    for _ in range(10):
        assert (await admission.check(ask("r1"))).word == "admitted"
    assert sorted([key async for key in redis.scan_iter(f"{{{RedisKeys().prefix}}}*")]) == before
    assert await words(admission, ask("r2")) == ["admitted"]


async def test_a_free_tool_takes_no_place_of_the_paid_one(admission: Admission, redis: Redis):
    """A caption has its own `once`: it counts toward no video quota and changes no price."""
    caption = AdmissionRequest("generate_caption", "r1", 7, 1, "c2", limits=NO_LIMITS)
    assert await words(admission, ask("r1"), caption, caption) == ["admitted"] * 3
    assert await held(redis, 7) == Held(1, 1, ORDER_PRICE.micros)
    other = AdmissionRequest("generate_caption", "r2", 8, 1, "c3", limits=NO_LIMITS)
    assert await words(admission, other, ask("r3", user_id=8)) == ["admitted"] * 2


async def test_the_last_free_place_goes_to_one(redis: Redis, ledger: Ledger):
    """Twenty requests from four replicas with 4 of 5 used: exactly one is admitted."""
    replicas = [Admission(redis, LedgerCounters(ledger), RedisKeys(), LIMITS, PAID_TOOL) for _ in range(4)]
    five = Limits(quota=5)
    for n in range(4):
        assert await words(replicas[n], ask(f"old{n}", limits=five)) == ["admitted"]
    found = await asyncio.gather(*(replicas[n % 4].reserve(ask(f"r{n}", limits=five)) for n in range(20)))
    assert sorted(one.word for one in found) == ["admitted", *["quota"] * 19]
    denied = next(one for one in found if one.word == "quota")
    assert (denied.used, denied.limit) == (5, 5)


async def test_the_last_three_dollars_go_to_one(admission: Admission):
    """Ten users want the last $3 of everyone's budget at once: one is admitted."""
    last = Limits(everyone_budget=Money.parse("$3"))
    found = await asyncio.gather(
        *(admission.reserve(ask(f"r{user}", user_id=user, limits=last)) for user in range(1, 11))
    )
    assert sorted(one.word for one in found) == ["admitted", *["budget"] * 9]


async def test_users_do_not_share_limits(admission: Admission):
    """One user's calls do not count toward another user's limits."""
    asks = [ask(f"r{user}", user_id=user) for user in (1, 2, 3)]
    assert await words(admission, *asks) == ["admitted"] * 3


async def test_no_call_reads_the_answer_of_a_cancelled_one(admission: Admission):
    """Calls cancelled at any moment never make a later call read their answer."""
    await admission.check(ask("r0"))
    for n in range(30):
        task = asyncio.create_task(admission.reserve(ask(f"r{n}", user_id=n + 1)))
        for _ in range(n % 6):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        again, other = await asyncio.gather(
            admission.reserve(ask(f"r{n}", user_id=n + 1)),
            admission.check(ask(f"other{n}", user_id=n + 1)),
        )
        assert again.word == "admitted"
        assert other.word in ("admitted", "cooldown")


async def test_an_ordered_request_is_replayed_after_a_refresh(admission: Admission, ledger: Ledger, opened):
    """Once its order is in the counters, no call of any attempt is admitted again, not even the same one."""
    request = await opened()
    await admission.reserve(ask(request))
    await orders.place(ledger, order_for(request), LIMITS)
    await admission.refresh()
    assert await words(admission, ask(request), ask(request, "c2", attempt=9)) == ["replay", "replay"]


V = VideoState
KEYS = RedisKeys()


async def counters(redis: Redis) -> dict[str, object]:
    """Return everything in our keys, except epoch, position and the times of breakers."""
    found: dict[str, object] = {}
    async for key in redis.scan_iter(f"{{{KEYS.prefix}}}*"):
        if await redis.type(key) == "zset":
            found[key] = await redis.zrange(key, 0, -1)
        elif await redis.type(key) == "hash":
            fields = await redis.hgetall(key)
            found[key] = {
                name: fields[name] for name in fields if name not in ("epoch", "position", "synced")
            }
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
    """Five replicas that find Redis empty at once rebuild the ledger's counters, not five times those."""
    for state in (V.QUEUED, V.DELIVERED, V.FAILED_PAID, V.FAILED_UNPAID, V.CANCELLED):
        await put(ledger, await ordered(ledger, opened), state)
    await Admission(redis, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL).refresh()
    alone = await counters(redis)
    assert await held(redis, 7) == Held(2, 3, 3 * ORDER_PRICE.micros)
    assert (await held(redis, None)).micros == 3 * ORDER_PRICE.micros
    await redis.flushall()
    replicas = [Admission(redis, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL) for _ in range(5)]
    answers = await asyncio.gather(*(one.check(ask("r", user_id=7)) for one in replicas for _ in range(3)))
    assert {one.word for one in answers} == {"cooldown"}
    assert await counters(redis) == alone


async def test_a_refresh_without_counters_rebuilds(admission: Admission, redis: Redis, opened, ledger):
    """Without a position the counters are incomplete: a refresh rebuilds them, a second changes nothing."""
    await ordered(ledger, opened)
    await admission.refresh()
    assert await is_complete(redis)
    before = await counters(redis)
    await admission.refresh()
    assert await counters(redis) == before
    assert await held(redis, 7) == Held(1, 1, ORDER_PRICE.micros)


async def test_a_refresh_keeps_a_fresh_reservation(admission: Admission, opened: Opener):
    """A reservation younger than the grace period may still become an order: it is kept."""
    await admission.reserve(ask(await opened()))
    await admission.refresh()
    assert (await admission.check(ask("next"))).word == "cooldown"


async def test_a_refresh_drops_a_stale_reservation(admission, ledger_url: str, redis: Redis, opened: Opener):
    """A reservation without an order is dropped from every counter after the grace period."""
    await admission.reserve(ask(await opened()))
    later = Ledger(ledger_url, shift=RESERVATION_GRACE_S + 5)
    await Admission(redis, LedgerCounters(later), KEYS, LIMITS, PAID_TOOL).refresh()
    await later.close()
    for user in (7, None):
        assert await held(redis, user) == Held()
    assert not await redis.zcard(KEYS.counters(PAID_TOOL, LIMITS).pending)


@pytest.mark.parametrize(("state", "word"), [(V.FAILED_UNPAID, "admitted"), (V.FAILED_PAID, "cooldown")])
async def test_a_refresh_gives_back_at_once(
    admission: Admission, ledger: Ledger, opened: Opener, state: VideoState, word: str
):
    """A release that was lost while Redis was unavailable is done by the next refresh, without grace."""
    request = await opened()
    await admission.reserve(ask(request))
    await orders.place(ledger, order_for(request), NO_LIMITS)
    await put(ledger, request, state)
    await admission.refresh()
    assert (await admission.check(ask("next"))).word == word
    assert (await admission.check(ask("next", limits=Limits(quota=1)))).word == "admitted"
    assert (await admission.reserve(ask(request, "c2"))).word == "replay"


@pytest.mark.parametrize("scope", [EVERYONE, user_scope(7)])
async def test_a_refresh_copies_the_breaker(
    admission: Admission, ledger: Ledger, ledger_url: str, redis, scope: str
):
    """An open breaker refuses in Redis too; the next refresh after a close removes it, also for a user
    without a recent request.
    """
    async with ledger.write() as conn:
        await breaker.lock(ledger, conn, 7)
        await breaker._set(conn, scope, "open", "test", "tried", await ledger.now(conn))
    await admission.refresh()
    assert (await admission.check(ask("r1"))).word == "breaker"
    assert (await admission.check(ask("r1", user_id=8))).word == (
        "breaker" if scope == EVERYONE else "admitted"
    )
    assert await breaker.close(ledger, scope, "operator")
    await admission.refresh()
    assert (await admission.check(ask("r1"))).word == "admitted"


async def test_keys_share_a_slot_and_end(admission: Admission, ledger: Ledger, redis: Redis, opened: Opener):
    """All our keys are in one cluster slot and have a TTL."""
    async with ledger.write() as conn:
        await breaker.lock(ledger, conn, 7)
        await breaker._set(conn, EVERYONE, "open", "test", "tried", 1)
        await breaker._set(conn, user_scope(7), "open", "test", "tried", 1)
    await put(ledger, await opened_order(ledger, opened), V.QUEUED)
    await admission.refresh()
    await admission.reserve(ask("r1", limits=NO_LIMITS))
    assert await breaker.close(ledger, EVERYONE, "operator")
    assert await breaker.close(ledger, user_scope(7), "operator")
    await admission.copy_breakers()
    await admission.reserve(ask("r1"))
    await admission.refresh()
    found = [key async for key in redis.scan_iter(f"{{{KEYS.prefix}}}*")]
    assert len(found) >= 6
    assert len({key_slot(key.encode()) for key in found}) == 1
    assert all([await redis.ttl(key) > 0 for key in found])


async def opened_order(ledger: Ledger, opened: Opener) -> str:
    async with ledger.write() as conn:
        await breaker._set(conn, EVERYONE, "closed", "test", "", 1)
    request = await ordered(ledger, opened, user_id=9)
    async with ledger.write() as conn:
        await breaker._set(conn, EVERYONE, "open", "test", "tried", 1)
    return request
