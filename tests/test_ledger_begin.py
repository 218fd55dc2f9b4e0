"""The point of no return: who may begin to send, when, and when the breaker stops everybody."""

import asyncio

import pytest
from lives import NO_RATES, Opener, begun, order_for, ordered, put, video_of

from ledger import breaker, orders, transitions
from ledger.breaker import BreakerRates, StartRate
from ledger.database import Ledger
from ledger.limits import LimitExceeded, Limits
from ledger.models import EVERYONE, VideoState, user_scope

V = VideoState
pytestmark = pytest.mark.any_ledger


async def start(ledger: Ledger, request: str, rates: BreakerRates = NO_RATES):
    return await transitions.begin_submit(ledger, request, "f", 30, rates)


async def test_an_order_is_begun_by_one(ledger: Ledger, opened: Opener):
    """Of eight workers that begin one order at once, one holds it; the row carries its fence and deadline."""
    request = await ordered(ledger, opened)
    results = await asyncio.gather(
        *(transitions.begin_submit(ledger, request, f"f{n}", 30, NO_RATES) for n in range(8))
    )
    held = [one for one in results if one]
    assert len(held) == 1
    video = await video_of(ledger, request)
    assert (video.state, video.fence, video.submits) == (V.SUBMITTING, held[0].fence, 1)
    assert video.submitted_at
    assert video.deadline_at == video.submitted_at + 30_000


@pytest.mark.parametrize("state", sorted(set(V) - {V.QUEUED}))
async def test_only_what_is_queued_is_begun(ledger: Ledger, opened: Opener, state: VideoState):
    """No other state may be sent, and an unknown request neither."""
    request = await ordered(ledger, opened)
    await put(ledger, request, state)
    assert await start(ledger, request) is None
    assert await start(ledger, "tg:unknown") is None


@pytest.mark.parametrize("scope", [EVERYONE, user_scope(7)])
async def test_nothing_begins_while_a_breaker_is_open(ledger: Ledger, opened: Opener, scope: str):
    """An open breaker stops the starts of its scope, its orders too, until an operator closes it."""
    request, other = await ordered(ledger, opened), await ordered(ledger, opened, user_id=8)
    async with ledger.write() as conn:
        await breaker.open_for_everyone(ledger, conn, "law", "tried", 1)
        await breaker._set(conn, EVERYONE, "closed", "law", "", 1)
        await breaker._set(conn, scope, "open", "law", "tried", 1)
    assert await start(ledger, request) is None
    assert await orders.place(ledger, order_for(await opened()), Limits()) == LimitExceeded("breaker")
    assert bool(await start(ledger, other)) == (scope != EVERYONE)
    assert [one.scope for one in await breaker.open_breakers(ledger)] == [scope]
    assert await breaker.close(ledger, scope, "operator")
    assert not await breaker.close(ledger, scope, "operator")
    assert await start(ledger, request)


@pytest.mark.parametrize(
    ("rates", "scope"),
    [
        (BreakerRates(user=StartRate(3, 300)), user_scope(7)),
        (BreakerRates(everyone=StartRate(3, 300)), EVERYONE),
    ],
    ids=["user", "everyone"],
)
async def test_more_starts_than_the_rate_open_it(
    ledger: Ledger, opened: Opener, rates: BreakerRates, scope: str
):
    """Three in five minutes begin; the fourth opens the breaker, and it stays open."""
    ids = [await ordered(ledger, opened) for _ in range(5)]
    results = await asyncio.gather(*(start(ledger, one, rates) for one in ids))
    assert sum(one is not None for one in results) == 3
    found = await breaker.open_breakers(ledger)
    assert [(one.scope, one.why) for one in found] == [(scope, "4 paid starts in 300 s, allowed 3")]
    assert await start(ledger, left_waiting(ids, results), BreakerRates()) is None


def left_waiting(ids, results) -> str:
    return next(one for one, held in zip(ids, results, strict=True) if held is None)


async def test_the_breakers_window_rolls(ledger: Ledger, ledger_url: str, opened: Opener):
    """Starts that are older than the window do not count."""
    rates = BreakerRates(user=StartRate(1, 300))
    first, second = [await ordered(ledger, opened) for _ in range(2)]
    assert await start(ledger, first, rates)
    later = Ledger(ledger_url, shift=301)
    assert await start(later, second, rates)
    assert await breaker.open_breakers(ledger) == []
    await later.close()


async def test_another_users_starts_open_nothing_of_mine(ledger: Ledger, opened: Opener):
    """The user's rate counts the user's own starts."""
    rates = BreakerRates(user=StartRate(1, 300))
    for user in range(1, 5):
        assert await start(ledger, await ordered(ledger, opened, user_id=user), rates)
    assert await breaker.open_breakers(ledger) == []


async def test_a_second_entry_is_no_first_start(ledger: Ledger, opened: Opener):
    """An order that comes back proved unsent is sent again without counting once more."""
    request, rates = (
        await ordered(ledger, opened),
        BreakerRates(user=StartRate(1, 300), everyone=StartRate(1, 300)),
    )
    for turn in range(1, 5):
        video = await start(ledger, request, rates)
        assert video
        assert video.submits == turn
        await transitions.transition(ledger, request, V.SUBMITTING, V.QUEUED, "law", "not sent", fence="f")
    assert await breaker.open_breakers(ledger) == []


async def test_nothing_begins_before_its_time_or_after_its_end(
    ledger: Ledger, ledger_url: str, opened: Opener
):
    """`retry_at` holds an order back, `expires_at` ends it."""
    request = await begun(ledger, opened)
    now = (await video_of(ledger, request)).updated_at
    await transitions.transition(
        ledger, request, V.SUBMITTING, V.QUEUED, "law", "429", fence="f1", retry_at=now + 60_000
    )
    assert await start(ledger, request) is None
    for shift, begins in ((1801, False), (61, True)):
        later = Ledger(ledger_url, shift=shift)
        assert bool(await start(later, request)) is begins
        await later.close()


async def test_orders_and_starts_lock_in_one_order(ledger: Ledger, opened: Opener):
    """Orders, starts, late jobs and cancels of many users at once end without a deadlock or a locked file."""
    ids = [await ordered(ledger, opened, user_id=user) for user in range(1, 9)]
    fresh = [await opened(user_id=user) for user in range(1, 9)]
    await asyncio.gather(
        *(orders.place(ledger, order_for(one), Limits(quota=9)) for one in fresh),
        *(
            start(ledger, one, BreakerRates(user=StartRate(9, 300), everyone=StartRate(99, 300)))
            for one in ids
        ),
        *(transitions.cancel(ledger, one, user) for user, one in enumerate(ids, start=1)),
        *(transitions.adopt_job(ledger, one, f"job-{one}", "law", None) for one in ids),
    )
