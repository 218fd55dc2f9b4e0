"""Cancel and approve: only by the request's user, once, in time, and before the order is sent."""

import asyncio

import pytest

from guardrails.limits import LimitExceeded
from ledger import due_work, orders, requests, transitions
from ledger.database import Ledger
from ledger.models import CANCELLABLE_STATES, RequestState, VideoState
from ledger.orders import Placed
from ledger.transitions import Cancellation
from tests.support.factories import (
    NO_LIMITS,
    NO_RATES,
    Opener,
    begun,
    booked,
    order_for,
    ordered,
    put,
    video_of,
)

V = VideoState
pytestmark = pytest.mark.any_ledger


@pytest.mark.slow
async def test_cancel_and_order_race_on_one_row(ledger: Ledger, opened: Opener):
    """Cancelled or ordered (and then cancelled): request and video never contradict each other."""
    for _ in range(15):
        request = await opened()
        placed, answer = await asyncio.gather(
            orders.place(ledger, order_for(request), NO_LIMITS), transitions.cancel(ledger, request, 7)
        )
        found = await requests.find_with_video(ledger, request)
        assert found
        assert answer.state == "CANCELLED"
        if isinstance(placed, LimitExceeded):
            assert placed == LimitExceeded("closed")
            assert (found[0].state, found[1]) == (RequestState.CANCELLED, None)
        else:
            assert placed.created
            assert found[1]
            assert (found[0].state, found[1].state) == (RequestState.ORDERED, V.CANCELLED)
            assert await booked(ledger, request) == {"hold": [3_000_000], "release": [3_000_000]}


async def test_cancel_and_start_race_on_one_row(ledger: Ledger, opened: Opener):
    """Either the worker holds the order and the user reads so, or it is cancelled and never sent."""
    for _ in range(15):
        request = await ordered(ledger, opened)
        begins, answer = await asyncio.gather(
            transitions.begin_submit(ledger, request, "f", 30, NO_RATES),
            transitions.cancel(ledger, request, 7),
        )
        assert answer.state is (V.SUBMITTING if begins else V.CANCELLED)
        assert await video_of(ledger, request) == answer.video


@pytest.mark.slow
async def test_cancel_and_approve_race_on_one_row(ledger: Ledger, opened: Opener):
    """[Make it] and [Cancel] tapped at once: it ends cancelled, with its money back once."""
    for n in range(10):
        request = await ordered(ledger, opened, approval_nonce=f"n{n}")
        _, answer = await asyncio.gather(
            transitions.approve(ledger, f"n{n}", 7, 1800), transitions.cancel(ledger, request, 7)
        )
        assert answer.state is V.CANCELLED
        assert (await video_of(ledger, request)).state is V.CANCELLED
        assert (await booked(ledger, request))["release"] == [3_000_000]


@pytest.mark.representative
@pytest.mark.parametrize("state", list(V))
async def test_cancel_says_when_it_is_too_late(ledger: Ledger, opened: Opener, state: VideoState):
    """What waits is cancelled; for anything else the answer is the state in which it is."""
    request = await ordered(ledger, opened)
    await put(ledger, request, state)
    answer = await transitions.cancel(ledger, request, 7)
    assert answer.state is (V.CANCELLED if state in CANCELLABLE_STATES else state)
    assert ("release" in await booked(ledger, request)) == (state in CANCELLABLE_STATES)


async def test_a_user_cannot_cancel_for_another(ledger: Ledger, opened: Opener):
    """Another user's request, and one that does not exist, are treated alike: None, and nothing changes."""
    for request in (await opened(), await ordered(ledger, opened)):
        assert await transitions.cancel(ledger, request, 8) == Cancellation(None)
        assert (await transitions.cancel(ledger, request, 7)).state == "CANCELLED"
    assert await transitions.cancel(ledger, "tg:none", 7) == Cancellation(None)


async def test_a_cancelled_request_cannot_be_ordered(ledger: Ledger, opened: Opener):
    """After /cancel the tool's order is refused, and so is one for a request that does not exist."""
    request = await opened()
    assert await transitions.cancel(ledger, request, 7) == Cancellation(RequestState.CANCELLED)
    assert await orders.place(ledger, order_for(request), NO_LIMITS) == LimitExceeded("closed")
    assert await orders.place(ledger, order_for("tg:none"), NO_LIMITS) == LimitExceeded("closed")


@pytest.mark.parametrize("end", [RequestState.REFUSED, RequestState.NO_ORDER])
async def test_a_closed_request_stays_closed(ledger: Ledger, opened: Opener, end: RequestState):
    """OPEN ends once: an ended request is not ended again, not run, not ordered; cancel says how it ended."""
    request = await opened()
    closed = await asyncio.gather(
        *(requests.close_request(ledger, request, end, "test", "quota") for _ in range(5))
    )
    assert sum(closed) == 1
    assert await due_work.claim_runs(ledger, 9, 120) == []
    assert await orders.place(ledger, order_for(request), NO_LIMITS) == LimitExceeded("closed")
    assert await transitions.cancel(ledger, request, 7) == Cancellation(end)


async def test_a_double_tap_approves_once(ledger: Ledger, opened: Opener):
    """Six taps on [Make it] at once: one moves it to the queue, with a new time limit."""
    request = await ordered(ledger, opened, approval_nonce="n", valid_s=900)
    assert (await video_of(ledger, request)).state is V.AWAITING_APPROVAL
    taps = await asyncio.gather(*(transitions.approve(ledger, "n", 7, 1800) for _ in range(6)))
    won = [one for one in taps if one]
    assert len(won) == 1
    assert won[0].state is V.QUEUED
    assert 0 <= won[0].updated_at + 1_800_000 - won[0].expires_at < 1000


async def test_only_the_user_approves(ledger: Ledger, opened: Opener):
    """Another user's tap and an unknown button change nothing."""
    request = await ordered(ledger, opened, approval_nonce="n")
    assert await transitions.approve(ledger, "n", 8, 1800) is None
    assert await transitions.approve(ledger, "m", 7, 1800) is None
    assert (await video_of(ledger, request)).state is V.AWAITING_APPROVAL
    assert await transitions.begin_submit(ledger, request, "f", 30, NO_RATES) is None


async def test_an_approval_expires(ledger: Ledger, ledger_url: str, opened: Opener):
    """After its time a tap changes nothing."""
    await ordered(ledger, opened, approval_nonce="n", valid_s=900)
    later = Ledger(ledger_url, shift=901)
    assert await transitions.approve(later, "n", 7, 1800) is None
    await later.close()


async def test_requests_open_once(ledger: Ledger, opened: Opener):
    """One update delivered ten times at once is one request."""
    ids = await asyncio.gather(*(opened(request_id="tg:1:-:7:5") for _ in range(10)))
    assert set(ids) == {"tg:1:-:7:5"}
    assert len(await requests.list_for_user(ledger, 7)) == 1


async def test_attempts_are_counted_in_sql(ledger: Ledger, ledger_url: str, opened: Opener):
    """Eight workers at once claim one attempt; the next is claimed when its time is over."""
    await opened()
    attempts = []
    for turn in range(3):
        store = Ledger(ledger_url, shift=turn * 121)
        claims = await asyncio.gather(*(due_work.claim_runs(store, 9, 120) for _ in range(8)))
        attempts.append([one.attempts for claimed in claims for one in claimed])
        await store.close()
    assert attempts == [[1], [2], [3]]


async def test_only_its_owner_returns_an_order_to_the_queue(ledger: Ledger, opened: Opener):
    """A user cannot cancel what is being sent; once it came back unsent, the user can."""
    request = await begun(ledger, opened)
    assert (await transitions.cancel(ledger, request, 7)).state is V.SUBMITTING
    await transitions.transition(ledger, request, V.SUBMITTING, V.QUEUED, "test", "not sent", fence="f1")
    assert (await transitions.cancel(ledger, request, 7)).state is V.CANCELLED
    placed = await orders.place(ledger, order_for(request), NO_LIMITS)
    assert isinstance(placed, Placed)
    assert not placed.created
