"""The limits: SQL and the script count alike, windows roll, and what is given back is given back."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import NO_LIMITS, OVER_STORES, PRICE, Opener, order_for, ordered, put
from redis.asyncio import Redis
from services import wipe
from sqlalchemy import update

from guardrails.admission import PAID_TOOL, Admission, AdmissionRequest, RedisKeys
from ledger import limits as counting
from ledger import orders
from ledger.database import Ledger
from ledger.limits import LimitExceeded, Limits
from ledger.models import VideoState
from ledger.money import Money
from ledger.orders import Placed
from ledger.schema import videos

V = VideoState
WINDOWS = (60, 600, 3600, 86_400)
DAY_MS = 86_400_000
HISTORY = st.lists(
    st.tuples(
        st.sampled_from([7, 7, 8]),
        st.one_of(*(st.integers(window - 40, window + 40) for window in WINDOWS), st.integers(0, 100_000)),
        st.sampled_from([0, 1_000_000, 3_000_000, 4_500_000]),
        st.sampled_from(list(V)),
    ),
    max_size=7,
)
WINDOW = st.sampled_from(WINDOWS)
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
    """Write orders of given ages. Half a second keeps each clear of every window's edge."""
    for user, age_s, micros, state in history:
        request = await ordered(ledger, opened, user, quote=Money(micros))
        async with ledger.write() as conn:
            at = await ledger.now(conn) - age_s * 1000 - 500
            await conn.execute(
                update(videos).where(videos.c.request_id == request).values(ordered_at=at, state=state)
            )


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
    """For any history and any limits, a look at the projected counters and the recount in SQL give one word,
    one time, and the same figures; and so do counters that were already there and are refreshed.
    """
    await wipe(ledger)
    await redis.flushall()
    await written(ledger, opened, history)
    price = Money(dollars * 1_000_000)
    admission = Admission(redis, ledger, RedisKeys(), Limits())  # keeps a day: the longest of WINDOWS
    expected = await recounted(ledger, price, bounds)
    for _ in range(2):
        seen = await admission.check(AdmissionRequest(PAID_TOOL, "tg:new", 7, 1, "c", price, bounds))
        assert (seen.word, seen.until, seen.used, seen.limit) == expected
        await admission.refresh()


@settings(OVER_STORES, max_examples=15)
@given(
    bounds=LIMITS, users=st.lists(st.sampled_from([7, 8]), min_size=1, max_size=8), seed=st.integers(0, 99)
)
async def test_reservations_count_like_orders(
    ledger: Ledger, redis: Redis, opened: Opener, bounds, users, seed
):
    """Calls that are admitted and ordered one by one: the script never refuses what SQL would take, nor takes
    what SQL refuses.
    """
    await wipe(ledger)
    await redis.flushall()
    admission, dice = Admission(redis, ledger, RedisKeys(), Limits()), random.Random(seed)
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


async def at(url: str, redis: Redis, ms: int) -> tuple[Ledger, Admission]:
    """Open ledger and admission whose clocks stand at `ms`, to the second."""
    real = Ledger(url)
    async with real.read() as conn:
        shift = (ms - await real.now(conn)) // 1000
    await real.close()
    ledger = Ledger(url, shift=shift)
    return ledger, Admission(redis, ledger, RedisKeys(), Limits())


@pytest.mark.any_ledger
async def test_the_day_rolls_over_midnight(ledger: Ledger, ledger_url: str, redis: Redis, opened: Opener):
    """Ordered half a minute before midnight: no new day begins at midnight; 24 hours later it is free."""
    bounds = Limits(quota=1)
    async with ledger.read() as conn:
        midnight = (await ledger.now(conn) // DAY_MS + 2) * DAY_MS
    for seconds, word in ((-30, "admitted"), (30, "quota"), (86_360, "quota"), (86_380, "admitted")):
        store, admission = await at(ledger_url, redis, midnight + seconds * 1000)
        request = await opened(user_id=7)
        decision = await admission.check(AdmissionRequest(PAID_TOOL, request, 7, 1, "c", PRICE, bounds))
        placed = await orders.place(store, order_for(request), bounds)
        assert decision.word == word, f"{seconds} s from midnight"
        assert isinstance(placed, Placed) == (word == "admitted")
        if isinstance(placed, LimitExceeded):
            for until in (decision.until, placed.until):  # two stores read their clocks one after the other
                assert abs((until or 0) - (midnight - 30_000 + DAY_MS)) < 5000
        else:
            await admission.reserve(AdmissionRequest(PAID_TOOL, request, 7, 1, "c", PRICE, bounds))
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
async def test_what_each_end_gives_back(ledger: Ledger, opened: Opener, state: VideoState, words):
    """Proof of no charge gives all back; a paid failure gives the quota back and keeps cooldown and money."""
    await put(ledger, await ordered(ledger, opened), state)
    for bounds, word in zip(
        (Limits(cooldown_s=600), Limits(quota=1), Limits(user_budget=PRICE)), words, strict=True
    ):
        found = await recounted(ledger, PRICE, bounds)
        assert found[0] == (word or "admitted")


@pytest.mark.any_ledger
async def test_standing_says_what_is_left(ledger: Ledger, opened: Opener):
    """`/quota`: what counts, its cost, each limit that refuses and until when; a quota of 0 is no crash."""
    for state in (V.DELIVERED, V.FAILED_PAID, V.FAILED_UNPAID):
        await put(ledger, await ordered(ledger, opened), state)
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        standing = await counting.current_usage(conn, 7, PRICE, Limits(quota=1, cooldown_s=600), now)
        nothing = await counting.current_usage(conn, 7, PRICE, Limits(quota=0), now)
        nobody = await counting.current_usage(conn, 8, PRICE, NO_LIMITS, now)
    assert (standing.used, standing.spent) == (1, Money(6_000_000))
    assert [one.verdict for one in standing.exceeded] == ["cooldown", "quota"]
    assert all(one.until for one in standing.exceeded)
    assert [(one.verdict, one.until) for one in nothing.exceeded] == [("quota", None)]
    assert (nobody.used, nobody.spent, nobody.exceeded) == (0, Money(0), ())
