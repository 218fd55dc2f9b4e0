"""SQL, the Lua scripts and the store in memory count alike: rolling windows, refunds, races, wrong clocks."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from unittest.mock import AsyncMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from sqlalchemy import select, update

from guardrails.admission import Admission, AdmissionRequest, Decision, RedisKeys
from guardrails.limits import LimitExceeded, Limits, RollingWindow
from guardrails.memory import InMemoryStore
from guardrails.money import Money
from guardrails.redis_client import connect
from ledger import limits as counting
from ledger import orders, transitions
from ledger.database import Ledger
from ledger.entries import add_entry
from ledger.guard_stores import LedgerCounters
from ledger.models import QUOTA_FREE_STATES, UNCOUNTED_STATES, Video, VideoState
from ledger.orders import Placed
from ledger.schema import videos
from tests.support.counters import held
from tests.support.factories import (
    NO_LIMITS,
    ORDER_PRICE,
    OVER_STORES,
    PAID_TOOL,
    Opener,
    accepted,
    new_job,
    order_for,
    ordered,
    put,
)
from tests.support.services import wipe

V = VideoState
WINDOWS = (60, 600, 3600, 86_400, 7 * 86_400)
DAY_MS = 86_400_000
HISTORY = st.lists(
    st.tuples(
        st.sampled_from([7, 7, 8]),
        st.one_of(*(st.integers(window - 40, window + 40) for window in WINDOWS), st.integers(0, 100_000)),
        st.sampled_from([0, 1_000_000, 3_000_000, 4_500_000]),
        st.sampled_from(list(V)),
        st.sampled_from([0, 0, 1_000_000, 3_000_000, 7_000_000]),
    ),
    max_size=7,
)
BILLS = Limits(user_budget=Money(10 * ORDER_PRICE.micros), everyone_budget=Money(10 * ORDER_PRICE.micros))
WINDOW = st.sampled_from(WINDOWS)
"""One of each width of a bucket, and more."""
BUDGET = st.none() | st.integers(0, 12).map(lambda dollars: Money(dollars * 1_000_000))
LIMITS = st.builds(
    Limits,
    quota=st.none() | st.integers(0, 4),
    quota_window_s=WINDOW,
    cooldown_s=st.none() | st.just(0) | WINDOW,
    user_budget=BUDGET,
    user_window_s=WINDOW,
    everyone_budget=BUDGET,
    everyone_window_s=WINDOW,
)


async def written(ledger: Ledger, opened: Opener, history) -> None:
    """Write orders of given ages and bills."""
    for user, age_s, micros, state, billed in history:
        request = await ordered(ledger, opened, user, quote=Money(micros))
        async with ledger.write() as conn:
            at = await ledger.now(conn) - age_s * 1000 - 500
            await conn.execute(
                update(videos).where(videos.c.request_id == request).values(ordered_at=at, state=state)
            )
            if billed:
                video = Video.from_row(
                    (await conn.execute(select(videos).where(videos.c.request_id == request))).one()
                )
                await add_entry(ledger, conn, video, "charge", Money(billed), at, new_job())


def in_memory(history, now: int) -> InMemoryStore:
    """Return a store that holds the same orders."""
    clock = [0.0]
    store = InMemoryStore(lambda: clock[0])
    for number, (user, age_s, micros, state, billed) in enumerate(history):
        clock[0] = (now - age_s * 1000 - 500) / 1000
        store.add_order(f"r{number}", user, Money(micros))
        counts, cools = state not in QUOTA_FREE_STATES, state not in UNCOUNTED_STATES
        store.end_order(f"r{number}", counts=counts, cools=cools)
        store.bill_order(f"r{number}", Money(billed))
    clock[0] = now / 1000
    return store


def plainly(history, price: Money, bounds: Limits, *, longer: bool = False) -> str:
    """Return the verdict by the plainest count, over the windows themselves or a bucket longer."""

    def inside(age_s: float, window_s: int) -> bool:
        # A second more, because the counts are not made at one moment.
        return age_s + 0.5 < window_s + (RollingWindow(window_s).width_s + 1 if longer else 0)

    mine = [one for one in history if one[0] == 7]

    def cools(one) -> bool:
        return one[3] not in UNCOUNTED_STATES

    if bounds.cooldown_s and any(cools(one) and inside(one[1], bounds.cooldown_s) for one in mine):
        return "cooldown"
    counted = sum(one[3] not in QUOTA_FREE_STATES and inside(one[1], bounds.quota_window_s) for one in mine)
    if bounds.quota is not None and counted >= bounds.quota:
        return "quota"
    for budget, window_s, among in (
        (bounds.user_budget, bounds.user_window_s, mine),
        (bounds.everyone_budget, bounds.everyone_window_s, history),
    ):
        used = sum(max(one[2], one[4]) for one in among if cools(one) and inside(one[1], window_s))
        if budget is not None and used + price.micros > budget.micros:
            return "budget"
    return "admitted"


async def recounted(ledger: Ledger, price: Money, bounds: Limits) -> tuple[object, ...]:
    async with ledger.read() as conn:
        denied = await counting.recount(conn, 7, price, bounds, await ledger.now(conn))
    return (
        ("admitted", None, 0, 0)
        if denied is None
        else (denied.verdict, denied.until, denied.used, denied.limit)
    )


@settings(OVER_STORES, max_examples=40)
@given(history=HISTORY, bounds=LIMITS, dollars=st.integers(0, 5))
async def test_the_script_and_sql_count_alike(
    ledger: Ledger, redis: Redis, opened: Opener, history, bounds, dollars
):
    """For any history and limits, the check on rebuilt counters, the recount in SQL and the store in memory
    give the same verdict, time and figures; so do counters that are refreshed. What the windows themselves
    refuse is refused; what windows that are a bucket longer admit is admitted.
    """
    await wipe(ledger)
    await redis.flushall()
    await written(ledger, opened, history)
    price = Money(dollars * 1_000_000)
    admission = Admission(redis, LedgerCounters(ledger), RedisKeys(), bounds, PAID_TOOL)
    for _ in range(2):
        seen, expected = await same_moment(
            lambda: admission.check(AdmissionRequest(PAID_TOOL, "tg:new", 7, 1, "c", price, bounds)),
            lambda: recounted(ledger, price, bounds),
        )
        assert (seen.word, seen.until, seen.used, seen.limit) == expected
        await admission.refresh()
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        usage = await counting.current_usage(conn, 7, price, bounds, now)
        stored = (await conn.execute(select(videos).order_by(videos.c.ordered_at.desc()))).all()
    exact = [
        (row.user_id, (now - row.ordered_at) / 1000 - 0.5, row.quote_micros, row.state, row.cost_micros)
        for row in stored
    ]
    assert (await in_memory(exact, now).usage(7, price, bounds))[1] == usage
    if plainly(exact, price, bounds) != "admitted":
        assert expected[0] != "admitted"
    if plainly(exact, price, bounds, longer=True) == "admitted":
        assert expected[0] == "admitted"


async def same_moment(*reads):
    """Read twice until both rounds agree: between two reads a bucket may leave its window."""
    found = [await read() for read in reads]
    for _ in range(5):
        again = [await read() for read in reads]
        if [replace(one, at=0) if isinstance(one, Decision) else one for one in again] == [
            replace(one, at=0) if isinstance(one, Decision) else one for one in found
        ]:
            break
        found = again
    return found


@pytest.mark.any_ledger
async def test_the_counters_follow_a_bill(ledger: Ledger, redis: Redis, opened: Opener):
    """Counters that were complete before a second job was billed count its bill with the next refresh, and
    no late page takes it back.
    """
    admission = Admission(redis, LedgerCounters(ledger), RedisKeys(), BILLS, PAID_TOOL)
    request = await accepted(ledger, opened, new_job())
    await admission.refresh()
    stale = await counting.orders_of(ledger, [request])
    await transitions.adopt_job(ledger, request, new_job(), "test", ORDER_PRICE)
    late = LedgerCounters(ledger)
    late.orders_changed_since = AsyncMock(side_effect=[stale, []])  # what was read before that bill
    for source in (LedgerCounters(ledger), late):
        await Admission(redis, source, RedisKeys(), BILLS, PAID_TOOL).refresh()
        async with ledger.read() as conn:
            now = await ledger.now(conn)
            usage = await counting.current_usage(conn, 7, ORDER_PRICE, BILLS, now)
        both = 2 * ORDER_PRICE.micros
        assert usage.spent == Money(both)
        assert [(await held(redis, user, BILLS)).micros for user in (7, None)] == [both, both]


@settings(OVER_STORES, max_examples=15)
@given(
    bounds=LIMITS, users=st.lists(st.sampled_from([7, 8]), min_size=1, max_size=8), seed=st.integers(0, 99)
)
async def test_reservations_count_like_orders(
    ledger: Ledger, redis: Redis, opened: Opener, bounds, users, seed
):
    """Calls that are admitted and ordered one by one: the script and SQL always give the same verdict."""
    await wipe(ledger)
    await redis.flushall()
    admission = Admission(redis, LedgerCounters(ledger), RedisKeys(), bounds, PAID_TOOL)
    dice = random.Random(seed)
    for user in users:
        request, price = await opened(user_id=user), Money(dice.choice([0, 1_000_000, 3_000_000]))
        decision = await admission.reserve(AdmissionRequest(PAID_TOOL, request, user, 1, "c", price, bounds))
        placed = await orders.place(ledger, order_for(request, price), bounds)
        word = "admitted" if isinstance(placed, Placed) else placed.verdict
        assert decision.word == word
        if isinstance(placed, Placed) and dice.random() < 0.4:
            await put(ledger, request, V.FAILED_UNPAID)
            await admission.release(PAID_TOOL, request, user, "unpaid")
        elif isinstance(placed, Placed) and dice.random() < 0.4:
            await put(ledger, request, V.FAILED_PAID)
            await admission.release(PAID_TOOL, request, user, "quota")


async def at(url: str, redis: Redis, ms: int, bounds: Limits) -> tuple[Ledger, Admission]:
    """Open ledger and admission with their clocks set to `ms`, to the second."""
    real = Ledger(url)
    async with real.read() as conn:
        shift = (ms - await real.now(conn)) // 1000
    await real.close()
    ledger = Ledger(url, shift=shift)
    return ledger, Admission(redis, LedgerCounters(ledger), RedisKeys(), bounds, PAID_TOOL)


@pytest.mark.any_ledger
async def test_the_day_rolls_over_midnight(ledger: Ledger, ledger_url: str, redis: Redis, opened: Opener):
    """Ordered half a minute before midnight: midnight frees nothing; a day after that minute it is free."""
    bounds = Limits(quota=1)
    async with ledger.read() as conn:
        midnight = (await ledger.now(conn) // DAY_MS + 2) * DAY_MS
    for seconds, word in ((-30, "admitted"), (30, "quota"), (86_360, "quota"), (86_430, "admitted")):
        store, admission = await at(ledger_url, redis, midnight + seconds * 1000, bounds)
        request = await opened(user_id=7)
        decision = await admission.check(AdmissionRequest(PAID_TOOL, request, 7, 1, "c", ORDER_PRICE, bounds))
        placed = await orders.place(store, order_for(request), bounds)
        assert decision.word == word, f"{seconds} s from midnight"
        assert isinstance(placed, Placed) == (word == "admitted")
        if isinstance(placed, LimitExceeded):
            for until in (decision.until, placed.until):  # two stores read their clocks one after the other
                assert until == midnight + DAY_MS  # the end of the order's minute, a day later
        else:
            await admission.reserve(AdmissionRequest(PAID_TOOL, request, 7, 1, "c", ORDER_PRICE, bounds))
        await store.close()


@pytest.mark.any_ledger
@pytest.mark.parametrize(
    ("state", "words"),
    [
        (V.QUEUED, ["cooldown", "quota", "budget"]),
        (V.HOLD, ["cooldown", "quota", "budget"]),
        (V.DELIVERED, ["cooldown", "quota", "budget"]),
        (V.FAILED_PAID, ["cooldown", None, "budget"]),
        (V.FAILED_UNPAID, [None, None, None]),
        (V.CANCELLED, [None, None, None]),
        (V.EXPIRED, [None, None, None]),
    ],
)
async def test_each_final_state_frees_its_part(ledger: Ledger, opened: Opener, state: VideoState, words):
    """Proof of no charge gives everything back; a charged failure gives back the quota only."""
    await put(ledger, await ordered(ledger, opened), state)
    for bounds, word in zip(
        (Limits(cooldown_s=600), Limits(quota=1), Limits(user_budget=ORDER_PRICE)), words, strict=True
    ):
        found = await recounted(ledger, ORDER_PRICE, bounds)
        assert found[0] == (word or "admitted")


@pytest.mark.any_ledger
async def test_usage_says_what_is_left(ledger: Ledger, opened: Opener):
    """For `/quota`: what counts, its cost, each limit that refuses and until when; a quota of 0 works."""
    for state in (V.DELIVERED, V.FAILED_PAID, V.FAILED_UNPAID):
        await put(ledger, await ordered(ledger, opened), state)
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        usage = await counting.current_usage(conn, 7, ORDER_PRICE, Limits(quota=1, cooldown_s=600), now)
        no_quota = await counting.current_usage(conn, 7, ORDER_PRICE, Limits(quota=0), now)
        other = await counting.current_usage(conn, 8, ORDER_PRICE, NO_LIMITS, now)
    assert (usage.used, usage.spent) == (1, Money(6_000_000))
    assert [one.verdict for one in usage.exceeded] == ["cooldown", "quota"]
    assert all(one.until for one in usage.exceeded)
    assert [(one.verdict, one.until) for one in no_quota.exceeded] == [("quota", None)]
    assert (other.used, other.spent, other.exceeded) == (0, Money(0), ())


FIVE = Limits(quota=5)
LAST_DOLLARS = Limits(everyone_budget=Money.parse("$9"))
SKEWS = (-600, 600, -599, 601)
"""Seconds by which the clocks of the four replicas are wrong."""

_skew: ContextVar[float] = ContextVar("skew", default=0)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each task the wall clock of its machine: the right time plus the task's skew."""
    right, right_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: right() + _skew.get())
    monkeypatch.setattr(time, "time_ns", lambda: right_ns() + int(_skew.get() * 1e9))


@dataclass(frozen=True)
class Replica:
    """One machine: its own admission, its own connections to SQL, its own clock."""

    ledger: Ledger
    admission: Admission
    skew: float

    async def order(self, request: str, user: int, bounds: Limits) -> str:
        """Do what a tool call does, guard and body; return the deciding verdict."""
        _skew.set(self.skew)
        decision = await self.admission.reserve(
            AdmissionRequest(PAID_TOOL, request, user, 1, "c", ORDER_PRICE, bounds)
        )
        if decision.word != "admitted":
            return decision.word
        placed = await orders.place(self.ledger, order_for(request), bounds)
        if isinstance(placed, Placed):
            return "placed"
        await self.admission.release(PAID_TOOL, request, user, "all")
        return f"{placed.verdict} by SQL"


@pytest.fixture
async def replicas(
    clocks, monkeypatch, redis: Redis, redis_url: str, ledger: Ledger, ledger_url: str
) -> AsyncIterator[list[Replica]]:
    stores = [Ledger(ledger_url) for _ in SKEWS]
    # Time limits are tested elsewhere.
    monkeypatch.setattr("guardrails.admission.DECISION_TIMEOUT_S", 10)
    monkeypatch.setattr("guardrails.redis_client.COMMAND_TIMEOUT_S", 10)
    client = connect(redis_url)
    yield [
        Replica(store, Admission(client, LedgerCounters(store), RedisKeys(), FIVE, PAID_TOOL), skew)
        for store, skew in zip(stores, SKEWS, strict=True)
    ]
    await client.aclose()
    for store in stores:
        await store.close()


async def race(replicas: list[Replica], acts: list[tuple[str, int]], bounds: Limits) -> list[str]:
    """Send each order to the next replica, all at once."""
    return await asyncio.gather(
        *(replicas[n % 4].order(request, user, bounds) for n, (request, user) in enumerate(acts))
    )


@pytest.mark.slow
@pytest.mark.any_ledger
@pytest.mark.parametrize("wiped", [False, True], ids=["", "counters wiped halfway"])
async def test_the_last_place_goes_to_one(replicas, redis: Redis, opened: Opener, wiped: bool):
    """Twenty requests of one user from four replicas with 4 of 5 used, clocks wrong by ten minutes: exactly
    one is placed; also when the counters are wiped meanwhile.
    """
    for n in range(4):
        assert await replicas[n].order(await opened(), 7, FIVE) == "placed"
    acts = [(await opened(), 7) for _ in range(20)]
    orders_task = asyncio.create_task(race(replicas, acts, FIVE))
    if wiped:
        await asyncio.sleep(0)
        for _ in range(3):
            await redis.flushall()
    found = await orders_task
    assert found.count("placed") == 1
    assert set(found) <= {"placed", "quota", "quota by SQL"}


@pytest.mark.slow
@pytest.mark.any_ledger
@pytest.mark.parametrize("wiped", [False, True], ids=["", "counters wiped halfway"])
async def test_the_last_dollars_go_to_one(replicas, redis: Redis, opened: Opener, wiped: bool):
    """Ten users on four replicas want the last $3 of everyone's budget: one is placed."""
    for user in (1, 2):
        assert await replicas[user].order(await opened(user_id=user), user, LAST_DOLLARS) == "placed"
    acts = [(await opened(user_id=user), user) for user in range(3, 13)]
    orders_task = asyncio.create_task(race(replicas, acts, LAST_DOLLARS))
    if wiped:
        await asyncio.sleep(0)
        for _ in range(3):
            await redis.flushall()
    found = await orders_task
    assert found.count("placed") == 1
    assert set(found) <= {"placed", "budget", "budget by SQL"}


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_without_counters_sql_alone_enforces_the_limit(replicas, redis: Redis, opened: Opener):
    """Every counter but the epoch is lost, as by a failover or an eviction: admission admits all, and the
    recount in SQL still places one.
    """
    for n in range(4):
        assert await replicas[n].order(await opened(), 7, FIVE) == "placed"
    names = RedisKeys().counters(PAID_TOOL, FIVE)
    kept = await redis.hmget(names.everyone, "epoch", "position")
    await redis.delete(*[key async for key in redis.scan_iter(f"{names.base}:*")])
    await redis.hset(names.everyone, mapping=dict(zip(("epoch", "position"), kept, strict=True)))
    await redis.expire(names.everyone, 3600)
    found = await race(replicas, [(await opened(), 7) for _ in range(20)], FIVE)
    assert found.count("placed") == 1
    await replicas[0].admission.refresh()
    assert (await held(redis, 7, FIVE)).takes == 5


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_a_wrong_local_clock_moves_no_window(replicas, opened: Opener):
    """Replicas whose clocks differ by hours give one order the same time and count it alike."""
    bounds = Limits(quota=1, cooldown_s=600)
    assert await replicas[0].order(await opened(), 7, bounds) == "placed"

    async def seen(replica: Replica, skew: float) -> Decision:
        _skew.set(skew)
        return await replica.admission.check(
            AdmissionRequest(PAID_TOOL, "next", 7, 1, "c", ORDER_PRICE, bounds)
        )

    found = await asyncio.gather(
        *(seen(one, skew) for one, skew in zip(replicas, (-1800, 1800, 0, 86_400), strict=True))
    )
    assert {one.word for one in found} == {"cooldown"}
    assert len({one.until for one in found}) == 1
    async with replicas[3].ledger.read() as conn:
        now = await replicas[3].ledger.now(conn)
        denied = await counting.recount(conn, 7, ORDER_PRICE, bounds, now)
    assert denied is not None
    assert abs((denied.until or 0) - (found[0].until or 0)) < 2000


@pytest.mark.slow
@pytest.mark.any_ledger
@pytest.mark.parametrize("seed", range(4))
async def test_refunds_may_come_twice_and_in_any_order(replicas, redis, opened: Opener, seed: int):
    """One of five orders ends unpaid. Its releases arrive several times, in any order, among refreshes and
    new orders: one place is freed and used once, and the counters end equal to the ledger.
    """
    first = [await opened() for _ in range(5)]
    for n, request in enumerate(first):
        assert await replicas[n % 4].order(request, 7, FIVE) == "placed"
    await put(replicas[0].ledger, first[2], VideoState.FAILED_UNPAID)
    dice = random.Random(seed)
    arriving = [*itertools.repeat("unpaid", 2), "quota", "refresh", "order", "order", "order"]
    dice.shuffle(arriving)
    placed = 0
    for n, what in enumerate([*arriving, "refresh", "order", "unpaid", "order"]):
        replica = replicas[n % 4]
        match what:
            case "refresh":
                await replica.admission.refresh()
            case "order":
                placed += await replica.order(await opened(), 7, FIVE) == "placed"
            case _:
                await replica.admission.release(PAID_TOOL, first[2], 7, what)
    assert placed == 1
    assert (await held(redis, 7, FIVE)).takes == 5


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_refunds_of_a_charge_that_turns_up_late(replicas, redis, opened: Opener):
    """Released as unpaid, then the charge turns up: it counts again from the next refresh, and another
    release frees no place in SQL.
    """
    request = await opened()
    assert await replicas[0].order(request, 7, Limits(quota=1)) == "placed"
    for state, word in ((VideoState.FAILED_UNPAID, "admitted"), (VideoState.ACCEPTED, "quota")):
        await put(replicas[1].ledger, request, state)
        await replicas[1].admission.release(PAID_TOOL, request, 7, "unpaid")
        if state is VideoState.ACCEPTED:
            assert await replicas[2].order(await opened(), 7, Limits(quota=1)) == "quota by SQL"
        await replicas[1].admission.refresh()
        seen = await replicas[3].admission.check(
            AdmissionRequest(PAID_TOOL, "next", 7, 1, "c", ORDER_PRICE, Limits(quota=1))
        )
        assert seen.word == word


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set this process to a time zone with daylight saving time."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


CHANGES = {
    "midnight": (2027, 1, 15, 0, 0, 0),
    "a day of 23 hours": (2027, 3, 14, 3, 0, 0),
    "a day of 25 hours": (2027, 11, 7, 1, 30, 0),
}


@pytest.mark.slow
@pytest.mark.any_ledger
@pytest.mark.parametrize("change", CHANGES)
async def test_a_day_is_24_hours(
    new_york, redis: Redis, ledger: Ledger, ledger_url: str, opened: Opener, change
):
    """Ordered half a minute before midnight, or before the clocks change, the order counts for 24 hours: no
    calendar day, time zone or change of clocks makes that shorter or longer.
    """
    bounds = Limits(quota=1, everyone_budget=ORDER_PRICE)
    moment = int(time.mktime((*CHANGES[change], 0, 0, -1)))
    async with ledger.read() as conn:
        here = await ledger.now(conn) // 1000
    for after, word in ((-30, "placed"), (30, "quota"), (86_340, "quota"), (86_400 + 65, "placed")):
        store = Ledger(ledger_url, shift=moment + after - here)
        replica = Replica(store, Admission(redis, LedgerCounters(store), RedisKeys(), bounds, PAID_TOOL), 0)
        assert await replica.order(await opened(), 7, bounds) == word, f"{after} s after {change}"
        await store.close()
