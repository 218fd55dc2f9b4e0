"""Offers in admission: a request that is offered is held and counts nothing, until its tap is confirmed."""

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from guardrails.admission import Admission, AdmissionRequest, RedisKeys
from guardrails.limits import Limits
from guardrails.memory import InMemoryStore
from guardrails.money import Money
from tests.support.counters import Held, held
from tests.support.factories import PAID_TOOL

PRICE = Money(3_000_000)
BOUNDS = Limits(quota=2, cooldown_s=600, user_budget=Money(9_000_000), everyone_budget=Money(9_000_000))
ONE = Held(1, 1, PRICE.micros)
NONE = Held()


def ask(request: str = "tg:1", attempt: int = 1, call: str = "a", **more) -> AdmissionRequest:
    return replace(AdmissionRequest(PAID_TOOL, request, 7, attempt, call, PRICE, BOUNDS), **more)


@pytest.fixture
def store() -> InMemoryStore:
    return InMemoryStore()


@pytest.fixture
async def admission(redis: Redis, store: InMemoryStore) -> Admission:
    face = Admission(redis, store, RedisKeys(), BOUNDS, PAID_TOOL)
    await face.load()
    return face


async def counted(redis: Redis) -> tuple[Held, Held]:
    return await held(redis, 7, BOUNDS), await held(redis, None, BOUNDS)


async def test_an_offer_holds_its_request_and_counts_nothing(redis: Redis, admission: Admission):
    """Every later call of it is a replay; another request is admitted as if there were no offer."""
    assert (await admission.offer(ask())).word == "admitted"
    assert await counted(redis) == (NONE, NONE)
    for again in (ask(call="b"), ask()):
        assert (await admission.offer(again)).word == ("admitted" if again.call_id == "a" else "replay")
        assert (await admission.reserve(again)).word == ("admitted" if again.call_id == "a" else "replay")
    assert (await admission.reserve(ask("tg:2"))).word == "admitted"


async def test_what_would_be_refused_is_not_offered(admission: Admission):
    assert (await admission.reserve(ask("tg:2"))).word == "admitted"
    assert (await admission.offer(ask())).word == "cooldown"
    assert (await admission.offer(ask(limits=replace(BOUNDS, cooldown_s=None, quota=0)))).word == "quota"


async def test_a_later_attempt_changes_what_an_earlier_one_held(redis: Redis, admission: Admission):
    """An offer after a reservation gives it back, and a reservation after an offer counts."""
    assert (await admission.reserve(ask())).word == "admitted"
    assert (await admission.offer(ask(attempt=2))).word == "admitted"
    assert await counted(redis) == (NONE, NONE)
    assert (await admission.reserve(ask(attempt=3))).word == "admitted"
    assert (await counted(redis))[0].takes == 1


@pytest.mark.parametrize("synced", [False, True])
async def test_a_tap_is_counted_once(redis: Redis, admission: Admission, store: InMemoryStore, synced: bool):
    """Confirmed by two processes at once, and again: counted once, also where the offer is projected late."""
    await admission.offer(ask())
    store.add_order("tg:1", 7, PRICE, offered=True)
    if synced:
        await admission.refresh()
    for _ in range(2):
        found = await asyncio.gather(*(admission.confirm(ask(), 0) for _ in range(3)))
        assert {one.word for one in found} == {"admitted"}
        assert (await held(redis, 7, BOUNDS)) == ONE
        await admission.refresh()
    store.approve_order("tg:1")
    await admission.refresh()
    assert await counted(redis) == (ONE, Held(0, 0, PRICE.micros))
    assert (await admission.reserve(ask(call="b", attempt=9))).word == "replay"


async def test_a_refused_tap_is_given_back_and_may_come_again(
    redis: Redis, admission: Admission, store: InMemoryStore
):
    """The ledger refused: nothing counts, the request stays held, and the next tap counts."""
    await admission.offer(ask())
    store.add_order("tg:1", 7, PRICE, offered=True)
    for _ in range(2):
        assert (await admission.confirm(ask(), 0)).word == "admitted"
        await admission.release(PAID_TOOL, "tg:1", 7, "offer", 0)
        assert await counted(redis) == (NONE, NONE)
        assert (await admission.offer(ask(call="b"))).word == "replay"
    assert (await admission.confirm(ask(), 0)).word == "admitted"
    assert (await held(redis, 7, BOUNDS)) == ONE


async def test_a_late_release_takes_nothing_from_an_order(
    redis: Redis, admission: Admission, store: InMemoryStore
):
    """Another process approved it meanwhile: what the order counts stays."""
    await admission.offer(ask())
    store.add_order("tg:1", 7, PRICE, offered=True)
    await admission.confirm(ask(), 0)
    store.approve_order("tg:1")
    await admission.refresh()
    await admission.release(PAID_TOOL, "tg:1", 7, "offer", 0)
    assert (await held(redis, 7, BOUNDS)) == ONE


@pytest.mark.parametrize("limit", ["quota", "cooldown", "budget", "breaker"])
async def test_a_tap_meets_every_limit(redis: Redis, admission: Admission, store: InMemoryStore, limit: str):
    """As a call does, whatever was free when it was offered."""
    bounds = {
        "quota": replace(BOUNDS, quota=1, cooldown_s=None),
        "cooldown": BOUNDS,
        "budget": replace(BOUNDS, cooldown_s=None, user_budget=Money(PRICE.micros * 2 - 1)),
        "breaker": BOUNDS,
    }[limit]
    face = Admission(redis, store, RedisKeys(), bounds, PAID_TOOL)
    assert (await face.offer(ask(limits=bounds))).word == "admitted"
    store.add_order("tg:1", 7, PRICE, offered=True)
    if limit == "breaker":
        store.open_breaker("everyone")
        await face.copy_breakers()
    else:
        assert (await face.reserve(ask("tg:2", limits=bounds))).word == "admitted"
    refused = await face.confirm(ask(limits=bounds), 0)
    assert refused.word == limit
    assert (await held(redis, 7, bounds)).takes == (limit != "breaker")


async def test_an_order_that_is_past_its_offer_is_left_as_it_is(
    redis: Redis, admission: Admission, store: InMemoryStore
):
    """A tap that was on its way while the offer was withdrawn counts nothing."""
    await admission.offer(ask())
    store.add_order("tg:1", 7, PRICE, offered=True)
    version = store.end_order("tg:1", counts=False, cools=False)
    await admission.release(PAID_TOOL, "tg:1", 7, "unpaid", version)
    assert (await admission.confirm(ask(), version - 1)).word == "replay"
    assert await counted(redis) == (NONE, NONE)


async def test_emptied_counters_are_rebuilt_without_offers(
    redis: Redis, admission: Admission, store: InMemoryStore
):
    """After a flush an offer still holds its request, counts nothing, and can be confirmed."""
    store.add_order("tg:1", 7, PRICE, offered=True)
    await redis.flushall()
    assert (await admission.confirm(ask(), 0)).word == "admitted"
    assert (await held(redis, 7, BOUNDS)) == ONE
    assert (await admission.reserve(ask(call="b", attempt=9))).word == "replay"


async def test_without_redis_a_tap_is_refused(redis: Redis, store: InMemoryStore, monkeypatch):
    """No store, no payment: the tap is `closed`, and the offer can be tapped again."""
    face = Admission(redis, store, RedisKeys(), BOUNDS, PAID_TOOL)

    async def away(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(face, "_run_admit", away)
    assert (await face.confirm(ask(), 0)).word == "closed"


async def test_a_tap_that_was_never_written_is_given_back(
    redis: Redis, admission: Admission, store: InMemoryStore, monkeypatch
):
    """Its process died between Redis and the ledger: the refresh after the grace time takes it back."""
    monkeypatch.setattr("guardrails.counters.RESERVATION_GRACE_S", -1)
    await admission.offer(ask())
    store.add_order("tg:1", 7, PRICE, offered=True)
    await admission.confirm(ask(), 0)
    await admission.refresh()
    assert await counted(redis) == (NONE, NONE)
