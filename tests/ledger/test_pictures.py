"""The picture of a request is part of its order; no order is made or sent without its person's word."""

from dataclasses import replace

import pytest
from sqlalchemy.exc import DBAPIError

from ledger import due_work, offers, orders, requests, transitions
from ledger.database import Ledger
from ledger.failures import Failure
from ledger.models import Video, VideoState
from ledger.offers import Terms
from ledger.orders import Placed
from ledger.requests import NewRequest
from ledger.transitions import PICTURE_FENCE, JobTaken
from tests.support.factories import NO_LIMITS, NO_RATES, ORDER_PRICE, order_for, update_fields, video_of

V = VideoState
TERMS = Terms("local", "preview", "local", ORDER_PRICE)
HASH = "a" * 64
pytestmark = pytest.mark.any_ledger


async def pictured(ledger: Ledger, number: int = 1, user_id: int = 7, picture: str = HASH) -> str:
    new = NewRequest(f"tg:1:-:{user_id}:{number}", 1, user_id, number, user_id, "en", "it waves", None)
    await requests.open_request(ledger, replace(new, picture=picture))
    await update_fields(ledger, new.request_id, status_message_id=2)
    return new.request_id


async def offered(ledger: Ledger, request: str, nonce: str = "n") -> Video:
    order = order_for(request, approval_nonce=nonce, valid_s=900, account="local")
    placed = await orders.place(ledger, order, NO_LIMITS)
    assert isinstance(placed, Placed)
    return placed.video


async def tap(ledger: Ledger, nonce: str = "n", terms: Terms | None = TERMS):
    return await offers.approve(ledger, nonce, 7, terms, NO_LIMITS, valid_s=1800, offer_valid_s=900)


async def test_the_picture_of_the_request_is_that_of_the_order(ledger: Ledger):
    """The tool cannot lose or change it; a second opening of the request changes nothing."""
    request = await pictured(ledger)
    await pictured(ledger, picture="b" * 64)
    video = await offered(ledger, request)
    assert (video.picture, video.picture_format, video.picture_allowed_at) == (HASH, "jpeg", None)
    found = await requests.find(ledger, request)
    assert found is not None
    assert found.picture == HASH


async def test_no_order_of_a_picture_is_made_without_a_tap(ledger: Ledger):
    """An order that would go straight to the queue is refused, and the request stays open."""
    request = await pictured(ledger)
    with pytest.raises(ValueError, match="must tap"):
        await orders.place(ledger, order_for(request, account="local"), NO_LIMITS)
    found = await requests.find_with_video(ledger, request)
    assert found is not None
    assert (found[0].state, found[1]) == ("OPEN", None)


async def test_make_it_orders_nothing_before_this_is_me(ledger: Ledger):
    """[Make it] under a picture orders only after its person's own tap, which shows the offer again."""
    request = await pictured(ledger)
    await offered(ledger, request)
    assert (await tap(ledger)).outcome == "rights"
    assert await offers.allow_picture(ledger, "n", 8) == "not_yours"
    assert await offers.allow_picture(ledger, "other", 7) == "gone"
    assert (await video_of(ledger, request)).asks_for_rights
    assert await offers.allow_picture(ledger, "n", 7) == "allowed"
    shown = await requests.find(ledger, request)
    assert shown is not None
    assert shown.shown.startswith("?")
    assert await offers.allow_picture(ledger, "n", 7) == "already"
    assert (await tap(ledger)).outcome == "approved"
    assert await offers.allow_picture(ledger, "n", 7) == "gone"


async def test_a_changed_offer_keeps_its_picture(ledger: Ledger):
    """Other terms ask for another tap, with the same picture and what was said of it."""
    request = await pictured(ledger)
    await offered(ledger, request)
    await offers.allow_picture(ledger, "n", 7)
    changed = await tap(ledger, terms=replace(TERMS, quote=ORDER_PRICE * 2))
    assert changed.outcome == "changed"
    assert changed.video is not None
    assert (changed.video.picture, changed.video.asks_for_rights) == (HASH, False)


async def test_it_is_asked_once_for_each_picture_and_person(ledger: Ledger):
    """The same picture is not asked about again; another one is, and so is another person."""
    await offered(ledger, await pictured(ledger))
    await offers.allow_picture(ledger, "n", 7)
    assert not (await offered(ledger, await pictured(ledger, 2), "n2")).asks_for_rights
    assert (await offered(ledger, await pictured(ledger, 3, picture="b" * 64), "n3")).asks_for_rights
    assert (await offered(ledger, await pictured(ledger, 4, user_id=8), "n4")).asks_for_rights


async def test_only_a_worker_that_sends_pictures_may_begin(ledger: Ledger):
    """A worker of the version before cannot pay for an order without its picture; words alone are sent."""
    request = await pictured(ledger)
    await offered(ledger, request)
    await offers.allow_picture(ledger, "n", 7)
    await tap(ledger)
    with pytest.raises((DBAPIError, JobTaken)):  # as SQLite's word for it is read
        await transitions.begin_submit(ledger, request, "f" * 32, 30, NO_RATES)
    assert (await video_of(ledger, request)).state is V.QUEUED
    assert await transitions.begin_submit(ledger, request, f"{PICTURE_FENCE}{'f' * 32}", 30, NO_RATES)
    assert (await video_of(ledger, request)).state is V.SUBMITTING


async def test_a_worker_sees_the_requests_picture(ledger: Ledger):
    """Also where the version before has placed the order, without it."""
    request = await pictured(ledger)
    await offered(ledger, request)
    claimed = await due_work.claim_video(ledger, request, V.AWAITING_APPROVAL, 5)
    assert claimed is not None
    assert (claimed.picture, claimed.video.picture) == (HASH, HASH)


async def test_its_end_has_a_reason(ledger: Ledger):
    request = await pictured(ledger)
    await offered(ledger, request)
    await offers.allow_picture(ledger, "n", 7)
    await tap(ledger)
    ended = await transitions.transition(
        ledger, request, V.QUEUED, V.EXPIRED, "shoot", "gone", failure=Failure.PICTURE_GONE
    )
    assert ended is not None
    assert ended.failure == "picture_gone"
