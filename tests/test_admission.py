"""Admission decides in one step: one call of a request passes, a release gives back, a look takes nothing."""

import asyncio

import pytest
from lives import LIMITS, NO_LIMITS, PRICE, order_for
from redis.asyncio import Redis

from guardrails.admission import PAID_TOOL, Admission, AdmissionRequest, RedisKeys
from ledger import orders
from ledger.database import Ledger
from ledger.limits import Limits
from ledger.money import Money


def ask(
    request_id: str, call_id: str = "c1", user_id: int = 7, attempt: int = 1, limits: Limits = LIMITS
) -> AdmissionRequest:
    return AdmissionRequest(PAID_TOOL, request_id, user_id, attempt, call_id, PRICE, limits)


async def words(admission: Admission, *asks: AdmissionRequest) -> list[str]:
    return [(await admission.reserve(one)).word for one in asks]


async def test_thirteen_parallel_calls_admit_one(admission: Admission):
    """Of thirteen different calls of one request at once, one is admitted and twelve are replays."""
    found = [
        one.word for one in await asyncio.gather(*(admission.reserve(ask("r1", f"c{n}")) for n in range(13)))
    ]
    assert sorted(found) == ["admitted", *["replay"] * 12]


async def test_the_same_call_passes_again(admission: Admission):
    """Guards may run twice for one call: the second time changes nothing and passes."""
    assert await words(admission, ask("r1"), ask("r1")) == ["admitted", "admitted"]


async def test_a_later_attempt_takes_over(admission: Admission):
    """A crashed run's reservation belongs to the next attempt, and to the earlier one no more."""
    assert await words(
        admission, ask("r1", "c1"), ask("r1", "c9", attempt=2), ask("r1", "c1", attempt=1)
    ) == [
        "admitted",
        "admitted",
        "replay",
    ]


async def test_a_takeover_counts_once(admission: Admission, redis: Redis):
    """Three attempts of one request hold one place, at the time of the first, and one price."""
    keys = RedisKeys()
    await admission.reserve(ask("r1"))
    first = await redis.zrange(keys.takes(PAID_TOOL, 7), 0, -1, withscores=True)
    for attempt in (2, 3):
        assert await words(admission, ask("r1", attempt=attempt)) == ["admitted"]
    assert await redis.zrange(keys.takes(PAID_TOOL, 7), 0, -1, withscores=True) == first
    assert await redis.hgetall(keys.money(PAID_TOOL, 7)) == {"r1": str(PRICE.micros)}


@pytest.mark.parametrize(
    ("what", "following", "again"),
    [
        ("quota", "cooldown", "replay"),
        ("unpaid", "admitted", "replay"),
        ("all", "admitted", "admitted"),
    ],
)
async def test_each_release_gives_back_its_part(admission: Admission, what, following: str, again: str):
    """A paid failure keeps the cooldown; proof of no charge gives all but `once` back; without an order the
    request itself may call again. A second release of the same changes nothing.
    """
    await admission.reserve(ask("r1"))
    for _ in range(2):
        await admission.release(PAID_TOOL, "r1", 7, what)
    assert (await admission.check(ask("r2"))).word == following
    assert await words(admission, ask("r1", "other call")) == [again]
    no_cooldown = Limits(quota=1)
    await admission.release(PAID_TOOL, "r1", 7, what)
    assert (await admission.check(ask("r3", limits=no_cooldown))).word == "admitted"


async def test_a_second_release_frees_no_one_elses_place(admission: Admission):
    """Refunds of one request that arrive twice and late never free the place that the next one took."""
    one = Limits(quota=1)
    await admission.reserve(ask("r1", limits=one))
    await admission.release(PAID_TOOL, "r1", 7, "unpaid")
    assert await words(admission, ask("r2", limits=one)) == ["admitted"]
    await admission.release(PAID_TOOL, "r1", 7, "unpaid")
    assert await words(admission, ask("r3", limits=one)) == ["quota"]


async def test_a_look_takes_nothing(admission: Admission, redis: Redis):
    """However often it is looked, nothing is written but what the rebuild wrote."""
    await admission.check(ask("r1"))
    before = sorted([key async for key in redis.scan_iter(f"{{{RedisKeys().prefix}}}*")])
    for _ in range(10):
        assert (await admission.check(ask("r1"))).word == "admitted"
    assert sorted([key async for key in redis.scan_iter(f"{{{RedisKeys().prefix}}}*")]) == before
    assert await words(admission, ask("r2")) == ["admitted"]


async def test_a_free_tool_takes_no_place_of_the_paid_one(admission: Admission, redis: Redis):
    """`once` of a caption is its own: it counts toward no quota of videos and changes no price."""
    caption = AdmissionRequest("generate_caption", "r1", 7, 1, "c2", limits=NO_LIMITS)
    assert await words(admission, ask("r1"), caption, caption) == ["admitted"] * 3
    assert await redis.hgetall(RedisKeys().money(PAID_TOOL, 7)) == {"r1": str(PRICE.micros)}
    other = AdmissionRequest("generate_caption", "r2", 8, 1, "c3", limits=NO_LIMITS)
    assert await words(admission, other, ask("r3", user_id=8)) == ["admitted"] * 2


async def test_the_last_free_place_goes_to_one(redis: Redis, ledger: Ledger):
    """Twenty requests from four replicas at 4 of 5: exactly the free place is given."""
    replicas = [Admission(redis, ledger, RedisKeys(), LIMITS) for _ in range(4)]
    five = Limits(quota=5)
    for n in range(4):
        assert await words(replicas[n], ask(f"old{n}", limits=five)) == ["admitted"]
    found = await asyncio.gather(*(replicas[n % 4].reserve(ask(f"r{n}", limits=five)) for n in range(20)))
    assert sorted(one.word for one in found) == ["admitted", *["quota"] * 19]
    denied = next(one for one in found if one.word == "quota")
    assert (denied.used, denied.limit) == (5, 5)


async def test_the_last_three_dollars_go_to_one(admission: Admission):
    """Ten users at once for everyone's last $3: one is admitted."""
    last = Limits(everyone_budget=Money.parse("$3"))
    found = await asyncio.gather(
        *(admission.reserve(ask(f"r{user}", user_id=user, limits=last)) for user in range(1, 11))
    )
    assert sorted(one.word for one in found) == ["admitted", *["budget"] * 9]


async def test_three_users_do_not_meet(admission: Admission):
    """The user's limits are the user's own."""
    asks = [ask(f"r{user}", user_id=user) for user in (1, 2, 3)]
    assert await words(admission, *asks) == ["admitted"] * 3


async def test_a_cancelled_call_leaves_its_answer_to_nobody(admission: Admission):
    """Calls cancelled at any moment never make a later call read their answer."""
    await admission.check(ask("r0"))
    for n in range(30):
        task = asyncio.create_task(admission.reserve(ask(f"r{n}", user_id=n + 1)))
        for _ in range(n % 6):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        again, look = await asyncio.gather(
            admission.reserve(ask(f"r{n}", user_id=n + 1)),
            admission.check(ask(f"other{n}", user_id=n + 1)),
        )
        assert again.word == "admitted"
        assert look.word in ("admitted", "cooldown")


async def test_an_ordered_request_is_replayed_after_a_refresh(admission: Admission, ledger: Ledger, opened):
    """Once its order stands and is projected, no call of any attempt passes again, the same one included."""
    request = await opened()
    await admission.reserve(ask(request))
    await orders.place(ledger, order_for(request), LIMITS)
    await admission.refresh()
    assert await words(admission, ask(request), ask(request, "c2", attempt=9)) == ["replay", "replay"]
