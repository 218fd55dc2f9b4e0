"""Limits at the edge: the last free place, the last dollars, refunds that come twice, days of 23 hours.

Twenty requests, ten users, four replicas with clocks of their own: what counts is the stores' clock, and
where the counters are gone, the recount in SQL.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import pytest
from lives import PRICE, Opener, order_for, put
from redis.asyncio import Redis

from guardrails.admission import PAID_TOOL, Admission, AdmissionRequest, Decision, RedisKeys
from guardrails.redis_client import connect
from ledger import limits as counting
from ledger import orders
from ledger.database import Ledger
from ledger.limits import Limits
from ledger.models import VideoState
from ledger.money import Money
from ledger.orders import Placed

FIVE = Limits(quota=5)
LAST_DOLLARS = Limits(everyone_budget=Money.parse("$9"))
SKEWS = (-600, 600, -599, 601)
"""Seconds by which the four replicas' own clocks are wrong."""

_skew: ContextVar[float] = ContextVar("skew", default=0)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each task the wall clock of its machine: right but for the task's skew."""
    right, right_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: right() + _skew.get())
    monkeypatch.setattr(time, "time_ns", lambda: right_ns() + int(_skew.get() * 1e9))


@dataclass(frozen=True)
class Replica:
    """One machine: its own face of admission, its own connections to SQL, its own clock."""

    ledger: Ledger
    admission: Admission
    skew: float

    async def order(self, request: str, user: int, bounds: Limits) -> str:
        """Do what a call of the tool does, guard and body; return the word that decided."""
        _skew.set(self.skew)
        decision = await self.admission.reserve(
            AdmissionRequest(PAID_TOOL, request, user, 1, "c", PRICE, bounds)
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
    for place in ("admission", "redis_client"):  # who waits how long is another law
        monkeypatch.setattr(f"guardrails.{place}.ANSWER_S", 10)
    patient = connect(redis_url)
    yield [
        Replica(store, Admission(patient, store, RedisKeys(), FIVE), skew)
        for store, skew in zip(stores, SKEWS, strict=True)
    ]
    await patient.aclose()
    for store in stores:
        await store.close()


async def race(replicas: list[Replica], acts: list[tuple[str, int]], bounds: Limits) -> list[str]:
    """Let every act go to the next replica, all at once."""
    return await asyncio.gather(
        *(replicas[n % 4].order(request, user, bounds) for n, (request, user) in enumerate(acts))
    )


@pytest.mark.all
@pytest.mark.any_ledger
@pytest.mark.parametrize("wiped", [False, True], ids=["", "counters wiped halfway"])
async def test_the_last_place_goes_to_one(replicas, redis: Redis, opened: Opener, wiped: bool):
    """Twenty requests of one user from four replicas at 4 of 5, clocks wrong by ten minutes either way:
    exactly the free place is given; also when the counters are wiped while they run.
    """
    for n in range(4):
        assert await replicas[n].order(await opened(), 7, FIVE) == "placed"
    acts = [(await opened(), 7) for _ in range(20)]
    storm = asyncio.create_task(race(replicas, acts, FIVE))
    if wiped:
        await asyncio.sleep(0)
        for _ in range(3):
            await redis.flushall()
    found = await storm
    assert found.count("placed") == 1
    assert set(found) <= {"placed", "quota", "quota by SQL"}


@pytest.mark.all
@pytest.mark.any_ledger
@pytest.mark.parametrize("wiped", [False, True], ids=["", "counters wiped halfway"])
async def test_the_last_dollars_go_to_one(replicas, redis: Redis, opened: Opener, wiped: bool):
    """Ten users over four replicas want the last $3 of everyone's day: one gets a video."""
    for user in (1, 2):
        assert await replicas[user].order(await opened(user_id=user), user, LAST_DOLLARS) == "placed"
    acts = [(await opened(user_id=user), user) for user in range(3, 13)]
    storm = asyncio.create_task(race(replicas, acts, LAST_DOLLARS))
    if wiped:
        await asyncio.sleep(0)
        for _ in range(3):
            await redis.flushall()
    found = await storm
    assert found.count("placed") == 1
    assert set(found) <= {"placed", "budget", "budget by SQL"}


@pytest.mark.all
@pytest.mark.any_ledger
async def test_without_counters_sql_alone_holds_the_edge(replicas, redis: Redis, opened: Opener):
    """Every counter but the epoch is lost, as by a failover or an eviction: admission lets all through, and
    the recount still gives the one free place.
    """
    for n in range(4):
        assert await replicas[n].order(await opened(), 7, FIVE) == "placed"
    keys = RedisKeys()
    await redis.delete(
        keys.takes(PAID_TOOL, 7), keys.starts(PAID_TOOL, 7), keys.money(PAID_TOOL, 7),
        keys.all_starts(PAID_TOOL), keys.all_money(PAID_TOOL),
    )  # fmt: skip
    found = await race(replicas, [(await opened(), 7) for _ in range(20)], FIVE)
    assert found.count("placed") == 1
    await replicas[0].admission.refresh()
    assert await redis.zcard(keys.takes(PAID_TOOL, 7)) == 5


@pytest.mark.all
@pytest.mark.any_ledger
async def test_a_wrong_local_clock_moves_no_window(replicas, opened: Opener):
    """What one replica orders, the others, an hour apart by their own clocks, date and count alike."""
    bounds = Limits(quota=1, cooldown_s=600)
    assert await replicas[0].order(await opened(), 7, bounds) == "placed"

    async def seen(replica: Replica, skew: float) -> Decision:
        _skew.set(skew)
        return await replica.admission.check(AdmissionRequest(PAID_TOOL, "next", 7, 1, "c", PRICE, bounds))

    found = await asyncio.gather(
        *(seen(one, skew) for one, skew in zip(replicas, (-1800, 1800, 0, 86_400), strict=True))
    )
    assert {one.word for one in found} == {"cooldown"}
    assert len({one.until for one in found}) == 1
    async with replicas[3].ledger.read() as conn:
        now = await replicas[3].ledger.now(conn)
        denied = await counting.recount(conn, 7, PRICE, bounds, now)
    assert denied is not None
    assert abs((denied.until or 0) - (found[0].until or 0)) < 2000


@pytest.mark.all
@pytest.mark.any_ledger
@pytest.mark.parametrize("seed", range(4))
async def test_refunds_may_come_twice_and_in_any_order(replicas, redis, opened: Opener, seed: int):
    """One of five orders ends unpaid. However often and in whatever order its refunds arrive, among refreshes
    and the next orders, one place is freed and given once; afterwards the counters are the ledger's.
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
    assert await redis.zcard(RedisKeys().takes(PAID_TOOL, 7)) == 5


@pytest.mark.all
@pytest.mark.any_ledger
async def test_refunds_of_a_charge_that_turns_up_late(replicas, redis, opened: Opener):
    """Refunded as unpaid, then the charge turns up: it counts again from the next refresh on, and a refund
    that arrives once more frees no place in SQL.
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
            AdmissionRequest(PAID_TOOL, "next", 7, 1, "c", PRICE, Limits(quota=1))
        )
        assert seen.word == word


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process stands in a zone that changes its clocks."""
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


@pytest.mark.all
@pytest.mark.any_ledger
@pytest.mark.parametrize("change", CHANGES)
async def test_a_day_is_24_hours(
    new_york, redis: Redis, ledger: Ledger, ledger_url: str, opened: Opener, change
):
    """Ordered half a minute before midnight, or before the clocks change, the place is taken for 24 hours: no
    calendar, no time zone and no change of clocks makes that day shorter or longer.
    """
    bounds = Limits(quota=1, everyone_budget=PRICE)
    moment = int(time.mktime((*CHANGES[change], 0, 0, -1)))
    async with ledger.read() as conn:
        here = await ledger.now(conn) // 1000
    for after, word in ((-30, "placed"), (30, "quota"), (86_340, "quota"), (86_400 + 5, "placed")):
        store = Ledger(ledger_url, shift=moment + after - here)
        replica = Replica(store, Admission(redis, store, RedisKeys(), bounds), 0)
        assert await replica.order(await opened(), 7, bounds) == word, f"{after} s after {change}"
        await store.close()
