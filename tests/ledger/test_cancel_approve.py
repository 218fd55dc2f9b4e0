"""Cancel and approve: only by the request's user, once, in time, and before the order is sent."""

import asyncio

import pytest

from guardrails.limits import LimitExceeded
from guardrails.money import Money
from ledger import due_work, offers, orders, requests, transitions
from ledger.database import Ledger
from ledger.models import CANCELLABLE_STATES, RequestState, VideoState
from ledger.offers import Terms
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
TERMS = Terms("local", "preview", "local", Money.parse("$3"))
pytestmark = pytest.mark.any_ledger


async def tap(ledger: Ledger, nonce: str) -> str:
    found = await offers.approve(ledger, nonce, 7, TERMS, NO_LIMITS, valid_s=1800, offer_valid_s=900)
    return found.outcome


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
    """[Make it] and [Cancel] tapped at once: it ends cancelled, with its money back if it was held."""
    for n in range(10):
        request = await ordered(ledger, opened, approval_nonce=f"n{n}")
        tapped, answer = await asyncio.gather(tap(ledger, f"n{n}"), transitions.cancel(ledger, request, 7))
        assert answer.state is V.CANCELLED
        assert (await video_of(ledger, request)).state is V.CANCELLED
        held = [3_000_000] if tapped == "approved" else []
        found = await booked(ledger, request)
        assert (found.get("hold", []), found.get("release", [])) == (held, held)


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
