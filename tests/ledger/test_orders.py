"""One request has one order, and the ledger's own recount decides whether it may be written."""

import asyncio

import pytest

from guardrails.limits import LimitExceeded, Limits
from guardrails.money import Money
from ledger import orders
from ledger.orders import Order, Placed
from tests.support.factories import LIMITS, booked

PRICE = Money.parse("$3")
pytestmark = pytest.mark.any_ledger


def order(request_id: str, quote: Money = PRICE) -> Order:
    return Order(request_id, "local", "preview", "a market", 8, "720x1280", quote)


@pytest.mark.slow
async def test_one_request_has_one_order(ledger, opened):
    """Thirteen orders for one request at once: one row is created, twelve get the recorded one back."""
    request = await opened()
    placed = await asyncio.gather(*(orders.place(ledger, order(request), LIMITS) for _ in range(13)))
    assert [one.created for one in placed].count(True) == 1
    assert {one.video.request_id for one in placed} == {request}


async def test_two_requests_of_one_user_meet_the_cooldown(ledger, opened):
    """The ledger refuses a second order within the cooldown by itself, and says until when."""
    await orders.place(ledger, order(await opened()), LIMITS)
    denied = await orders.place(ledger, order(await opened()), LIMITS)
    assert isinstance(denied, LimitExceeded)
    assert denied.verdict == "cooldown"
    assert denied.until


async def test_a_refused_order_leaves_the_request_open(ledger, opened):
    """What the recount refuses is rolled back whole: the request may be ordered later."""
    await orders.place(ledger, order(await opened()), Limits(quota=1))
    second = await opened()
    assert isinstance(await orders.place(ledger, order(second), Limits(quota=1)), LimitExceeded)
    assert isinstance(await orders.place(ledger, order(second), Limits(quota=2)), Placed)


@pytest.mark.parametrize("users", [10])
async def test_the_last_three_dollars_go_to_one(ledger, opened, users):
    """Ten users race for the last $3 of everyone's day: one order."""
    bounds = Limits(everyone_budget=Money.parse("$3"))
    ids = [await opened(user_id=user) for user in range(1, users + 1)]
    results = await asyncio.gather(*(orders.place(ledger, order(one), bounds) for one in ids))
    assert sum(isinstance(one, Placed) for one in results) == 1
    assert {one.verdict for one in results if isinstance(one, LimitExceeded)} == {"budget"}


async def test_a_repeat_changes_nothing_that_was_ordered(ledger, opened):
    """A second order with other arguments gets the first one back: one row, one hold, the first price."""
    request = await opened()
    await orders.place(ledger, order(request), LIMITS)
    again = await orders.place(ledger, order(request, Money.parse("$9")), LIMITS)
    assert isinstance(again, Placed)
    assert (again.created, again.video.quote) == (False, PRICE)
    assert await booked(ledger, request) == {"hold": [PRICE.micros]}


async def test_a_repeat_is_answered_at_any_limit(ledger, opened):
    """An order that exists is not counted again: a repeat is no new order, so no limit can refuse it."""
    request = await opened()
    await orders.place(ledger, order(request), LIMITS)
    assert isinstance(await orders.place(ledger, order(request), Limits(quota=0)), Placed)
    assert isinstance(await orders.place(ledger, order(await opened()), Limits(quota=0)), LimitExceeded)


@pytest.mark.slow
async def test_one_free_place_of_five_goes_to_one(ledger, opened):
    """Twenty requests of one user at 4 of 5 at once: exactly one order is written."""
    for _ in range(4):
        await orders.place(ledger, order(await opened()), Limits(quota=5))
    ids = [await opened() for _ in range(20)]
    results = await asyncio.gather(*(orders.place(ledger, order(one), Limits(quota=5)) for one in ids))
    assert sum(isinstance(one, Placed) for one in results) == 1
    assert {one.used for one in results if isinstance(one, LimitExceeded)} == {5}
