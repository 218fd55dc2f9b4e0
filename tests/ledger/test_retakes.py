"""Another take is a request of its own with an offer, opened once by its button; a refusal leaves nothing."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from guardrails.limits import LimitExceeded, Limits
from ledger import due_work, offers, orders, requests, retakes
from ledger.database import Ledger
from ledger.models import RequestState, VideoState, provider_key
from ledger.offers import Terms
from ledger.orders import Placed
from ledger.requests import NewRequest
from ledger.schema import requests as request_rows
from tests.support.factories import (
    LIMITS,
    NO_LIMITS,
    ORDER_PRICE,
    Opener,
    booked,
    order_for,
    ordered,
    put,
    update_fields,
    video_of,
)

V = VideoState
pytestmark = pytest.mark.any_ledger


async def parent_of_a_take(ledger: Ledger, opened: Opener, user_id: int = 7) -> str:
    parent = await ordered(ledger, opened, user_id)
    await put(ledger, parent, V.DELIVERED, file_id="file")
    await update_fields(ledger, parent, caption="A market wakes up")
    return parent


def take_of(parent: str, number: int = 1, kind: retakes.TakeKind = "again", user_id: int = 7) -> NewRequest:
    return NewRequest(
        retakes.take_id(parent, kind, number), 1, user_id, 2, user_id, "en", "a market", parent_id=parent
    )


async def open_take(ledger: Ledger, new: NewRequest, nonce: str = "n", bounds: Limits = NO_LIMITS, most=3):
    order = order_for(new.request_id, approval_nonce=nonce, valid_s=900, account="local")
    return await retakes.open_take(ledger, new, order, bounds, most)


async def count(ledger: Ledger) -> int:
    async with ledger.read() as conn:
        return int(await conn.scalar(select(func.count()).select_from(request_rows)) or 0)


async def test_thirteen_taps_open_one_request(ledger: Ledger, opened: Opener):
    """Taps at once, on any number of replicas, get the same request and the same offer."""
    parent = await parent_of_a_take(ledger, opened)
    found = await asyncio.gather(*(open_take(ledger, take_of(parent), f"n{n}") for n in range(13)))
    assert len({(request.request_id, video.nonce) for request, video in found}) == 1
    assert await count(ledger) == 2
    request, video = found[0]
    assert (request.state, video.state) == (RequestState.ORDERED, V.AWAITING_APPROVAL)
    assert (request.parent_id, request.caption) == (parent, "A market wakes up")
    assert await booked(ledger, request.request_id) == {}
    assert provider_key(request.request_id) != provider_key(parent)


async def test_no_agent_runs_for_a_take(ledger: Ledger, opened: Opener):
    """There is no moment at which a worker could claim it: request and offer are one transaction."""
    await open_take(ledger, take_of(await parent_of_a_take(ledger, opened)))
    assert await due_work.claim_runs(ledger, 10, 60) == []


async def test_each_button_is_another_request(ledger: Ledger, opened: Opener):
    """Kind and number make the id; the number of a new button is one that no take of the parent has."""
    parent = await parent_of_a_take(ledger, opened)
    ids = {retakes.take_id(parent, kind, n) for kind in ("again", "upright", "wide") for n in (1, 2)}
    assert len(ids) == 6
    assert await retakes.next_number(ledger, parent) == 1
    beside = replace(order_for(parent, tool="generate_image"), seconds=0)
    assert isinstance(await orders.place(ledger, beside, NO_LIMITS), Placed)
    assert await retakes.next_number(ledger, parent) == 1  # a still beside it is no take
    await open_take(ledger, take_of(parent))
    assert await retakes.next_number(ledger, parent) == 2
    other = await parent_of_a_take(ledger, opened)
    assert retakes.take_id(other, "again", 1) not in ids
    assert await retakes.next_number(ledger, other) == 1


@pytest.mark.parametrize("why", ["cooldown", "quota"])
async def test_what_a_limit_refuses_leaves_nothing(ledger: Ledger, opened: Opener, why: str):
    """The refusal says from when; no request is written, and the same button works afterwards."""
    parent = await parent_of_a_take(ledger, opened)
    bounds = Limits(cooldown_s=600) if why == "cooldown" else Limits(quota=1)
    refused = await open_take(ledger, take_of(parent), bounds=bounds)
    assert isinstance(refused, LimitExceeded)
    assert (refused.verdict, refused.until is not None, refused.at > 0) == (why, True, True)
    assert await count(ledger) == 1
    assert await retakes.next_number(ledger, parent) == 1
    opened_now = await open_take(ledger, take_of(parent))
    assert not isinstance(opened_now, LimitExceeded | str)


async def test_too_many_that_wait_are_busy(ledger: Ledger, opened: Opener):
    """As for a command: so many requests of one person may wait at once."""
    parent = await parent_of_a_take(ledger, opened)
    await ordered(ledger, opened)
    assert await open_take(ledger, take_of(parent), most=1) == "busy"
    assert await count(ledger) == 2


async def test_a_take_withdraws_an_older_offer_and_a_newer_command_the_take(ledger: Ledger, opened: Opener):
    """There is one open offer of a person at a time."""
    parent = await parent_of_a_take(ledger, opened)
    older = await ordered(ledger, opened, approval_nonce="old", valid_s=900)
    request, _ = await open_take(ledger, take_of(parent))
    assert (await video_of(ledger, older)).state is V.CANCELLED
    await requests.open_request(ledger, NewRequest("tg:1:-:7:99", 1, 7, 1, 7, "en", "x"), 3)
    assert (await video_of(ledger, request.request_id)).state is V.CANCELLED


async def test_the_tap_on_a_take_is_recounted(ledger: Ledger, opened: Opener):
    """A take counts with [Make it], as every order: quota, cooldown, budget."""
    parent = await parent_of_a_take(ledger, opened)
    request, video = await open_take(ledger, take_of(parent))
    terms = Terms("local", "preview", "local", ORDER_PRICE)
    tap = {"valid_s": 1800, "offer_valid_s": 900}
    refused = await offers.approve(ledger, video.nonce, 7, terms, LIMITS, **tap)
    assert (refused.outcome, refused.denied.verdict) == ("refused", "cooldown")
    approved = await offers.approve(ledger, video.nonce, 7, terms, NO_LIMITS, **tap)
    assert approved.outcome == "approved"
    assert await booked(ledger, request.request_id) == {"hold": [ORDER_PRICE.micros]}
    placed = await orders.place(ledger, order_for(request.request_id), NO_LIMITS)
    assert not placed.created
