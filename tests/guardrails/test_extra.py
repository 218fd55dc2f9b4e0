"""Calls above the quota: Redis, SQL and the store in memory agree on what they count and what they refuse."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from sqlalchemy import update

from guardrails.admission import Admission, AdmissionRequest, Decision, RedisKeys, with_extra
from guardrails.limits import Limits
from guardrails.memory import InMemoryStore
from guardrails.money import Money
from ledger import limits as counting
from ledger import video_credits
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from ledger.models import QUOTA_FREE_STATES, Credit, VideoState
from ledger.schema import videos
from ledger.video_credits import Grant
from tests.guardrails.test_limits_parity import same_moment
from tests.support.counters import Held, held
from tests.support.factories import ORDER_PRICE, OVER_STORES, PAID_TOOL, Opener, ordered
from tests.support.services import wipe

QUOTA = Limits(quota=2, cooldown_s=60, user_budget=Money(ORDER_PRICE.micros * 4))
BOUNDS = st.sampled_from([QUOTA, Limits(quota=1), Limits(quota=0)])
HISTORY = st.lists(
    st.tuples(
        st.integers(0, 7200), st.sampled_from(sorted(VideoState)), st.sampled_from([Credit.NONE, Credit.HELD])
    ),
    max_size=6,
)


def ask(request: str, bounds: Limits = QUOTA, extra: int = 0, call: str = "c") -> AdmissionRequest:
    return AdmissionRequest(PAID_TOOL, request, 7, 1, call, ORDER_PRICE, bounds, extra)


@pytest.mark.any_ledger
@settings(OVER_STORES, max_examples=25)
@given(
    history=HISTORY,
    extra=st.integers(0, 1),
    bounds=st.sampled_from([QUOTA, Limits(quota=1), Limits(quota=0)]),
)
async def test_the_script_and_sql_agree(ledger: Ledger, redis: Redis, opened: Opener, history, extra, bounds):
    """For any orders, some of which hold a credit, with and without a credit left: one verdict and figure."""
    await wipe(ledger)
    await redis.flushall()
    await video_credits.grant(ledger, Grant("g", 1, 7, 99, "admin:1", "", "en"))
    for age_s, state, credit in history:
        request = await ordered(ledger, opened)
        async with ledger.write() as conn:
            at = await ledger.now(conn) - age_s * 1000 - 500
            held_by = "grant:g" if credit == Credit.HELD else None
            values = {"ordered_at": at, "credit": credit, "credit_lot": held_by}
            mine = update(videos).where(videos.c.request_id == request)
            await conn.execute(mine.values(**values))
            await conn.execute(mine.values(state=state))
    admission = Admission(redis, LedgerCounters(ledger), RedisKeys(), bounds, PAID_TOOL)

    async def recounted():
        async with ledger.read() as conn:
            now = await ledger.now(conn)
            denied = await counting.recount(conn, 7, ORDER_PRICE, bounds, now, extra)
        return "admitted" if denied is None else (denied.verdict, denied.used, denied.limit)

    async def decided():
        found = await admission.check(ask("tg:new", bounds, extra))
        return "admitted" if found.word == "admitted" else (found.word, found.used, found.limit)

    for _ in range(2):
        seen, expected = await same_moment(decided, recounted)
        assert seen == expected
        await admission.refresh()
    taken = sum(state not in QUOTA_FREE_STATES and credit != Credit.HELD for _, state, credit in history)
    assert (await held(redis, 7, bounds)).takes == taken


async def test_an_extra_call_counts_toward_all_but_the_quota(redis: Redis):
    """Reserved above the quota: cooldown and budget count it, the quota does not; a release gives it back."""
    store = InMemoryStore()
    bounds = replace(QUOTA, quota=1, cooldown_s=None)
    admission = Admission(redis, store, RedisKeys(), bounds, PAID_TOOL)
    assert (await admission.reserve(ask("a", bounds))).word == "admitted"
    assert (await admission.reserve(ask("b", bounds))).word == "quota"
    assert (await admission.reserve(ask("b", bounds, 1))).word == "admitted"
    assert (await held(redis, 7, bounds)) == Held(1, 0, 2 * ORDER_PRICE.micros)
    assert (await admission.reserve(ask("b", bounds, 1))).why == "same call"
    assert (await admission.reserve(ask("b", bounds, 1, "other"))).word == "replay"
    await admission.release(PAID_TOOL, "b", 7, "all")
    assert (await held(redis, 7, bounds)) == Held(1, 0, ORDER_PRICE.micros)
    refused = await admission.reserve(ask("c", replace(bounds, user_budget=ORDER_PRICE), 1))
    assert refused.word == "budget"


async def test_a_tap_with_an_extra_is_counted_once(redis: Redis):
    """However often it is confirmed, and by whom; and what is known later as the store says."""
    store = InMemoryStore()
    bounds = Limits(quota=0, cooldown_s=600)
    admission = Admission(redis, store, RedisKeys(), bounds, PAID_TOOL)
    assert (await admission.offer(ask("a", bounds, 1))).word == "admitted"
    store.add_order("a", 7, ORDER_PRICE, offered=True)
    assert (await admission.confirm(ask("a", bounds), 0)).word == "quota"
    for _ in range(3):
        assert (await admission.confirm(ask("a", bounds, 1), 0)).word == "admitted"
    assert await held(redis, 7, bounds) == Held(0, 1, 0)
    await admission.refresh()
    assert await held(redis, 7, bounds) == Held(0, 1, 0), "a tap that is not written yet stays"
    version = store.approve_order("a", extra=True)
    await admission.release(PAID_TOOL, "a", 7, "quota", version)
    await admission.refresh()
    assert await held(redis, 7, bounds) == Held(0, 1, 0)
    assert (await admission.confirm(ask("a", bounds, 1), 0)).word == "replay"
    await redis.flushall()
    await admission.refresh()
    assert await held(redis, 7, bounds) == Held(0, 1, 0)


async def test_an_order_that_needed_no_extra_after_all_counts(redis: Redis):
    """Redis thought that the quota was full, the store did not: the next refresh counts it."""
    store = InMemoryStore()
    bounds = Limits(quota=0)
    admission = Admission(redis, store, RedisKeys(), bounds, PAID_TOOL)
    assert (await admission.reserve(ask("a", bounds, 1))).word == "admitted"
    store.add_order("a", 7, ORDER_PRICE)
    await admission.refresh()
    assert await held(redis, 7, bounds) == Held(1, 0, 0)


@pytest.mark.parametrize(
    ("word", "more", "decided", "read"),
    [("admitted", 3, 1, 0), ("budget", 3, 1, 0), ("quota", 0, 1, 1), ("quota", 3, 2, 1)],
)
async def test_extra_is_read_only_where_the_quota_refuses(word, more, decided, read):
    """It costs a question to a store."""
    extras, asked = [], []

    async def decide(one: AdmissionRequest) -> Decision:
        extras.append(one.extra)
        return Decision("admitted" if one.extra else word)

    async def extra() -> int:
        asked.append(1)
        return more

    await with_extra(decide, ask("a"), extra)
    assert (len(extras), len(asked)) == (decided, read)
