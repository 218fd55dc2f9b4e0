"""Counters follow their source: in chunks, by one leader, and no late page undoes what is newer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from guardrails import counters
from guardrails.admission import Admission, AdmissionRequest, RedisKeys
from guardrails.counters import CounterKeys
from guardrails.limits import EVERYONE, CountedOrder, Limits, user_scope
from guardrails.memory import InMemoryStore
from guardrails.policy import GuardPolicy, limits_of
from ledger import breaker, orders, transitions
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from ledger.models import VideoState
from tests.support.counters import Held, held, is_complete
from tests.support.factories import LIMITS, ORDER_PRICE, PAID_TOOL, Opener, order_for, ordered, put
from tests.support.waiting import Stopwatch, wait_until

V = VideoState
KEYS = RedisKeys()
ROOMY = Limits(
    quota=10**6, cooldown_s=600, user_budget=ORDER_PRICE * 10**6, everyone_budget=ORDER_PRICE * 10**6
)
FREE_COOLDOWN = Limits(quota=10**6, user_budget=ORDER_PRICE * 10**6, everyone_budget=ORDER_PRICE * 10**6)


def names() -> CounterKeys:
    """Return the keys of this test; on a shared Redis each has a prefix of its own."""
    return KEYS.counters(PAID_TOOL, LIMITS)


def ask(request_id: str, call_id: str = "c1", user_id: int = 7, limits: Limits = LIMITS) -> AdmissionRequest:
    return AdmissionRequest(PAID_TOOL, request_id, user_id, 1, call_id, ORDER_PRICE, limits)


class Meanwhile(LedgerCounters):
    """A source whose next answer is late: `act` happens between its reading and its use."""

    def __init__(self, ledger: Ledger, name: str, act: Callable[[], Awaitable[object]]) -> None:
        super().__init__(ledger)
        real = getattr(self, name)

        async def late(*args: Any) -> Any:
            found = await real(*args)
            setattr(self, name, real)
            await act()
            return found

        setattr(self, name, late)


def store_of(count: int, users: int = 50, age_s: int = 3000) -> InMemoryStore:
    """Return a store with `count` orders of the last `age_s` seconds, and no breakers."""
    store, now = InMemoryStore(), int(time.time() * 1000)
    for n in range(count):
        at = now - age_s * 1000 * (count - n) // count
        order = CountedOrder(f"old{n}", n % users + 100, at, 1000, counts=True, cools=True, changed_at=at)
        store._orders[order.request_id] = order
    return store


async def test_a_late_page_does_not_undo_a_release(redis: Redis, ledger: Ledger, opened: Opener):
    """An order is cancelled after a refresh read it and before the refresh applied it: it stays released."""
    request = await opened()
    admission = Admission(redis, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL)
    await admission.reserve(ask(request))
    await orders.place(ledger, order_for(request), LIMITS)

    async def cancel() -> None:
        assert (await transitions.cancel(ledger, request, 7)).state is V.CANCELLED
        await admission.release(PAID_TOOL, request, 7, "unpaid", 1)

    await Admission(
        redis, Meanwhile(ledger, "orders_changed_since", cancel), KEYS, LIMITS, PAID_TOOL
    ).refresh()
    assert await held(redis, 7) == Held()
    assert (await admission.check(ask("next"))).word == "admitted"


async def test_a_late_page_does_not_undo_a_release_of_an_unknown_order(
    redis: Redis, ledger: Ledger, opened: Opener
):
    """The same where Redis was emptied, and knows nothing of the order when it is released."""
    request = await ordered(ledger, opened)
    admission = Admission(redis, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL)

    async def cancel() -> None:
        assert (await transitions.cancel(ledger, request, 7)).state is V.CANCELLED
        await admission.release(PAID_TOOL, request, 7, "unpaid", 1)

    await Admission(redis, Meanwhile(ledger, "orders_since", cancel), KEYS, LIMITS, PAID_TOOL).refresh()
    assert await held(redis, 7) == Held()
    assert (await admission.check(ask("next"))).word == "admitted"


@pytest.mark.parametrize("version", [None, 1])
async def test_a_charge_after_a_release_counts_again(
    redis: Redis, ledger: Ledger, opened: Opener, version: int | None
):
    """Released as unpaid, any number of times, then the job turns up: the next refresh counts it again."""
    request = await opened()
    admission = Admission(redis, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL)
    await admission.reserve(ask(request))
    await orders.place(ledger, order_for(request), LIMITS)
    await put(ledger, request, V.FAILED_UNPAID)
    for _ in range(4):
        await admission.release(PAID_TOOL, request, 7, "unpaid", version)
    assert await held(redis, 7) == Held()
    await put(ledger, request, V.ACCEPTED)
    await admission.refresh()
    assert await held(redis, 7) == Held(1, 1, ORDER_PRICE.micros)


@pytest.mark.parametrize("scope", [EVERYONE, user_scope(7)])
async def test_a_late_copy_does_not_reopen_a_breaker(redis: Redis, ledger: Ledger, scope: str):
    """A breaker is closed, and that is copied, while an older copy is on its way: it stays closed."""
    async with ledger.write() as conn:
        await breaker.lock(ledger, conn, 7)
        await breaker._set(conn, scope, "open", "test", "tried", await ledger.now(conn))
    admission = Admission(redis, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL)

    async def close() -> None:
        assert await breaker.close(ledger, scope, "operator")
        await admission.copy_breakers()

    await Admission(redis, Meanwhile(ledger, "breakers", close), KEYS, LIMITS, PAID_TOOL).refresh()
    assert (await admission.check(ask("r1"))).word == "admitted"


@pytest.mark.any_ledger
async def test_two_changes_of_a_breaker_in_one_millisecond_have_two_times(ledger: Ledger):
    """The time of a breaker's change only grows, because it is the version of the copies."""
    found = []
    for state in ("open", "closed", "open"):
        async with ledger.write() as conn:
            await breaker.lock(ledger, conn, 7)
            await breaker._set(conn, EVERYONE, state, "test", "tried", 1000)
        found += [one.changed_at for one in await breaker.current_states(ledger, 10**9)]
    assert found == sorted(set(found))


WEEKS = {
    "1/7day": {0: "admitted", 2: "quota", 6: "quota", 8: "admitted"},
    # A take in between keeps the earlier one counted.
    "2/7day": {0: "admitted", 2: "admitted", 4: "quota", 6: "quota", 8: "admitted"},
}


@pytest.mark.parametrize("quota", WEEKS)
async def test_a_quota_of_a_week_counts_a_week(redis: Redis, ledger: Ledger, ledger_url: str, quota: str):
    """A quota on another tool than the paid one counts over its own window, and its keys live as long."""
    limits = limits_of(GuardPolicy(once="per_request", quota=quota))
    for days, word in WEEKS[quota].items():
        later = Ledger(ledger_url, shift=days * 86_400)
        admission = Admission(redis, LedgerCounters(later), KEYS, LIMITS, PAID_TOOL)
        await admission.refresh()
        call = AdmissionRequest("generate_caption", f"r{days}", 7, 1, "c", limits=limits)
        assert (await admission.reserve(call)).word == word, f"day {days}"
        caption = KEYS.counters("generate_caption", limits)
        for key in (caption.user(7), caption.seen("r0")):
            if days == 0:
                assert await redis.ttl(key) > 7 * 86_400
        await later.close()


async def test_a_changed_window_counts_in_its_own_keys(redis: Redis, ledger: Ledger, opened: Opener):
    """A declaration with another window is counted from the ledger, and leaves the old counters alone."""
    await ordered(ledger, opened)
    old, new = Limits(quota=1), Limits(quota=1, quota_window_s=3600)
    for limits in (old, new):
        admission = Admission(redis, LedgerCounters(ledger), KEYS, limits, PAID_TOOL)
        assert (await admission.check(ask("next", limits=limits))).word == "quota"
    assert KEYS.counters(PAID_TOOL, old).base != KEYS.counters(PAID_TOOL, new).base


async def test_a_rebuild_comes_in_chunks_and_admits_nothing_before_its_end(redis: Redis, monkeypatch):
    """While the pages are applied every verdict is `closed`; then the counters are those of all orders."""
    monkeypatch.setattr(counters, "PAGE", 30)
    monkeypatch.setattr(counters, "CHUNK", 20)
    store, words = store_of(100), []
    admission = Admission(redis, store, KEYS, ROOMY, PAID_TOOL)
    other = Admission(redis, store, KEYS, ROOMY, PAID_TOOL)
    page = store.orders_since

    async def watched(*args: Any) -> Any:
        found = await page(*args)
        decision, _ = await other._run_admit(
            other._group(PAID_TOOL, ROOMY), ask("new", limits=ROOMY), "reserve", 1
        )
        words.append((decision.word, decision.why))
        return found

    monkeypatch.setattr(store, "orders_since", watched)
    assert (await admission.reserve(ask("new", limits=ROOMY))).word == "admitted"
    assert words == [("closed", "epoch")] * 5
    assert (await held(redis, None, ROOMY)).micros == 100 * 1000 + ORDER_PRICE.micros
    assert (await held(redis, 101, ROOMY)).takes == 2


async def test_a_rebuild_is_continued_by_another_process(redis: Redis, monkeypatch):
    """The leader's source fails after some pages: the next leader continues where it stopped."""
    monkeypatch.setattr(counters, "PAGE", 10)
    store, read = store_of(50), []
    page = store.orders_since

    async def failing(*args: Any) -> Any:
        read.append(1)
        if len(read) == 4:
            raise OSError("the ledger is gone")
        return await page(*args)

    monkeypatch.setattr(store, "orders_since", failing)
    with pytest.raises(OSError, match="gone"):
        await Admission(redis, store, KEYS, ROOMY, PAID_TOOL).refresh()
    assert not await is_complete(redis, ROOMY)
    await Admission(redis, store, KEYS, ROOMY, PAID_TOOL).refresh()
    assert len(read) == 4 + 3
    assert (await held(redis, None, ROOMY)).micros == 50 * 1000


async def test_a_redis_emptied_during_a_rebuild_is_rebuilt_from_the_beginning(redis: Redis, monkeypatch):
    """Redis is emptied between two pages: no half of the orders is taken for all of them."""
    monkeypatch.setattr(counters, "PAGE", 10)
    store, read = store_of(50), []
    page = store.orders_since

    async def emptied(*args: Any) -> Any:
        read.append(1)
        if len(read) == 4:
            await redis.flushall()
        return await page(*args)

    monkeypatch.setattr(store, "orders_since", emptied)
    await Admission(redis, store, KEYS, ROOMY, PAID_TOOL).refresh()
    assert (await held(redis, None, ROOMY)).micros == 50 * 1000


async def test_a_redis_that_went_back_in_time_is_brought_up_again(redis: Redis, monkeypatch):
    """A failover loses pages of a rebuild, and the position with them: they are applied again."""
    monkeypatch.setattr(counters, "PAGE", 10)
    steps, saved, step = [], {}, counters._Leader.step
    everyone = KEYS.counters(PAID_TOOL, ROOMY).everyone

    async def hashes() -> list[str]:
        return [key async for key in redis.scan_iter("{*") if await redis.type(key) == "hash"]

    async def back(leader: Any, *args: Any, **more: Any) -> None:
        await step(leader, *args, **more)
        steps.append(1)
        if len(steps) == 2:
            saved.update({key: await redis.hgetall(key) for key in await hashes()})
        if len(steps) == 4:
            await redis.delete(*await hashes())
            for key, fields in saved.items():
                await redis.hset(key, mapping=fields)
                await redis.expire(key, 3600)

    monkeypatch.setattr(counters._Leader, "step", back)
    await Admission(redis, store_of(50), KEYS, ROOMY, PAID_TOOL).refresh()
    assert (await redis.hget(everyone, "position")).startswith("changed|")
    assert (await held(redis, None, ROOMY)).micros == 50 * 1000
    assert (await held(redis, 101, ROOMY)).takes == 1


async def test_only_what_changed_is_read_again(redis: Redis, ledger: Ledger, opened: Opener, monkeypatch):
    """A refresh of complete counters reads the orders that changed since the last one, and no other."""
    old, new = await ordered(ledger, opened), await ordered(ledger, opened, user_id=8)
    async with ledger.write() as conn:
        from sqlalchemy import update

        from ledger.schema import videos

        await conn.execute(
            update(videos).where(videos.c.request_id == old).values(updated_at=videos.c.updated_at - 10**6)
        )
    source, seen = LedgerCounters(ledger), []
    admission = Admission(redis, source, KEYS, LIMITS, PAID_TOOL)
    await admission.refresh()
    page = source.orders_changed_since

    async def watched(*args: Any) -> Any:
        found = await page(*args)
        seen.extend(one.request_id for one in found)
        return found

    monkeypatch.setattr(source, "orders_changed_since", watched)
    await admission.refresh()
    assert seen == [new]


async def test_processes_refresh_in_turn(redis: Redis, ledger: Ledger, monkeypatch):
    """Of five processes that refresh every minute, one does so; the others find it done."""
    led = []
    bring = counters._Leader.bring_up_to_date

    async def counted(leader: Any) -> None:
        led.append(1)
        await bring(leader)

    monkeypatch.setattr(counters._Leader, "bring_up_to_date", counted)
    replicas = [Admission(redis, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL) for _ in range(5)]
    await asyncio.gather(*(one.refresh(60) for one in replicas))
    await replicas[0].refresh(60)
    assert len(led) == 1
    await replicas[0].refresh()
    assert len(led) == 2


async def test_old_sums_are_dropped_after_a_refresh_by_no_leader(redis: Redis, ledger: Ledger, monkeypatch):
    """A rebuild, for which calls wait, drops nothing. Of processes that refresh in turn one drops, when
    others may lead again.
    """
    source, seen = LedgerCounters(ledger), []

    async def drop() -> None:
        seen.append((await redis.exists(names().lock), await is_complete(redis)))

    monkeypatch.setattr(source, "drop_old_sums", drop)
    replicas = [Admission(redis, source, KEYS, LIMITS, PAID_TOOL) for _ in range(3)]
    assert (await replicas[0].reserve(ask("r1"))).word == "admitted"
    assert seen == []
    await asyncio.gather(*(one.refresh() for one in replicas[:1]), *(one.refresh(60) for one in replicas[1:]))
    assert seen == [(0, True)]


async def test_a_dead_leader_is_replaced(redis: Redis, ledger: Ledger, monkeypatch):
    """A leader that died holds the lock until it expires; then the next one leads."""
    await redis.set(names().lock, "dead", px=300)
    admission = Admission(redis, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL)
    await admission.refresh()
    assert await is_complete(redis)
    assert not await redis.exists(names().lock)


@pytest.mark.slow
async def test_five_hundred_callers_at_once_are_all_decided(redis: Redis, ledger: Ledger):
    """Waiting for our own connections is not an unavailable Redis: none of 500 is `closed`."""
    admission = Admission(redis, LedgerCounters(ledger), KEYS, ROOMY, PAID_TOOL)
    await admission.refresh()
    found = await asyncio.gather(
        *(admission.reserve(ask(f"r{n}", user_id=n, limits=ROOMY)) for n in range(500))
    )
    assert {one.word for one in found} == {"admitted"}


@pytest.mark.usefixtures("valkey")  # it counts the commands of all clients
@pytest.mark.parametrize("limits", [LIMITS, FREE_COOLDOWN], ids=["refused", "admitted"])
async def test_the_cost_of_a_decision_does_not_grow(redis: Redis, limits: Limits):
    """With 10 orders and with 4,000, of others and of one's own, a decision is as many commands on Redis.

    Up to four more read the buckets of this minute, if there are any.
    """
    costs = []
    for count in (10, 4000):
        await redis.flushall()
        admission = Admission(redis, store_of(count, users=1), KEYS, limits, PAID_TOOL)

        async def filled(admission: Admission = admission) -> bool:
            with suppress(RedisError):  # a busy machine's Redis may answer late: the next refresh continues
                await admission.refresh()
                return True
            return False

        await wait_until(filled, 60, "the counters to be filled")
        for user in (100, 101):
            await admission.check(ask("warm", user_id=user, limits=limits))
            await redis.config_resetstat()
            await admission.check(ask("next", user_id=user, limits=limits))
            await admission.reserve(ask(f"new{user}", user_id=user, limits=limits))
            costs.append(await commands(redis))
    for few, many in zip(costs[:2], costs[2:], strict=True):
        assert abs(many - few) <= 4


async def commands(redis: Redis) -> int:
    """Return how many commands ran since CONFIG RESETSTAT, those inside scripts included."""
    stats = await redis.info("commandstats")
    return sum(
        one["calls"]
        for name, one in stats.items()
        if name.partition("_")[2] not in ("info", "config|resetstat")
    )


async def test_buckets_that_left_are_removed(redis: Redis, ledger: Ledger, ledger_url: str, opened: Opener):
    """A user's next order, days later, leaves no field of the orders that no window reaches."""
    admission = Admission(redis, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL)
    await admission.reserve(ask("r1"))
    later = Ledger(ledger_url, shift=3 * 86_400)
    admission = Admission(redis, LedgerCounters(later), KEYS, LIMITS, PAID_TOOL)
    await admission.reserve(ask("r2"))
    await later.close()
    for user, micros in ((7, ORDER_PRICE.micros), (None, ORDER_PRICE.micros)):
        assert (await held(redis, user)).micros == micros
    fields = await redis.hkeys(names().user(7))
    assert len([name for name in fields if name[1:].isdigit()]) == 3


async def test_callers_that_wait_for_a_silent_redis_do_not_queue_up(ledger: Ledger, monkeypatch):
    """Redis accepts and never answers: of 100 callers all are `closed` in the time of about two decisions."""

    class Silent:
        async def execute_command(self, *_: Any) -> None:
            await asyncio.sleep(60)

    monkeypatch.setattr("guardrails.admission.DECISION_TIMEOUT_S", 0.2)
    admission = Admission(Silent(), LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL)
    async with Stopwatch() as stopwatch:
        found = await asyncio.gather(*(admission.reserve(ask(f"r{n}")) for n in range(100)))
    assert {(one.word, one.why) for one in found} == {("closed", "TimeoutError")}
    assert stopwatch.seconds < 2


async def test_a_free_tools_counters_are_complete_at_once(redis: Redis, ledger: Ledger):
    """A tool without durable orders needs no rebuild; what it counted stays when its epoch expires."""
    limits, call = (
        Limits(quota=1),
        AdmissionRequest("generate_caption", "r1", 7, 1, "c", limits=Limits(quota=1)),
    )
    admission = Admission(redis, LedgerCounters(ledger), KEYS, LIMITS, PAID_TOOL)
    assert (await admission.reserve(call)).word == "admitted"
    caption = KEYS.counters("generate_caption", limits)
    await redis.hdel(caption.everyone, "epoch")
    again = AdmissionRequest("generate_caption", "r2", 7, 1, "c", limits=limits)
    assert (await admission.reserve(again)).word == "quota"


async def rebuilt(redis: Redis) -> bool:
    return await is_complete(redis)


async def test_an_admission_starts_the_rebuild_and_others_wait_for_it(
    redis: Redis, ledger: Ledger, monkeypatch
):
    """Two processes find Redis empty: one rebuilds, both answer, and neither reads the orders twice."""
    reads = []
    sources = [LedgerCounters(ledger) for _ in range(2)]
    for source in sources:
        page = source.orders_since

        async def watched(*args: Any, page=page) -> Any:
            reads.append(1)
            return await page(*args)

        monkeypatch.setattr(source, "orders_since", watched)
    replicas = [Admission(redis, source, KEYS, LIMITS, PAID_TOOL) for source in sources]
    found = await asyncio.gather(*(one.check(ask("r1")) for one in replicas))
    assert [one.word for one in found] == ["admitted"] * 2
    assert len(reads) == 1
    await wait_until(lambda: rebuilt(redis), what="the rebuild")
