"""An offer counts and holds nothing; the tap checks everything, once, and a newer request withdraws it."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import select

from guardrails.limits import LimitExceeded, Limits
from guardrails.money import Money
from ledger import breaker, history, offers, orders, requests, transitions
from ledger.database import Ledger
from ledger.entries import add_entry
from ledger.failures import Failure
from ledger.models import RequestState, Video, VideoState
from ledger.offers import Approval, Terms
from ledger.orders import Placed
from ledger.requests import NewRequest
from ledger.schema import requests as request_rows
from ledger.schema import videos
from tests.ledger.test_limits import counted, stored
from tests.ledger.test_totals import recount, stored_totals, without_zeros
from tests.support.factories import (
    LIMITS,
    NO_LIMITS,
    NO_RATES,
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
TERMS = Terms("local", "preview", "local", ORDER_PRICE)
pytestmark = pytest.mark.any_ledger


async def offered(ledger: Ledger, opened: Opener, nonce: str = "n", user_id: int = 7, **more) -> str:
    return await ordered(ledger, opened, user_id, approval_nonce=nonce, valid_s=900, account="local", **more)


async def tap(
    ledger: Ledger,
    nonce: str = "n",
    user_id: int = 7,
    terms: Terms | None = TERMS,
    bounds: Limits = NO_LIMITS,
) -> Approval:
    return await offers.approve(ledger, nonce, user_id, terms, bounds, valid_s=1800, offer_valid_s=900)


async def open_one(ledger: Ledger, user_id: int = 7, bot_id: int = 1, most: int | None = None):
    new = NewRequest(f"tg:{bot_id}:-:{user_id}:{uuid4().int % 10**9}", bot_id, user_id, 1, user_id, "en", "x")
    return (await requests.open_request(ledger, new, most))[0]


async def test_an_offer_counts_and_holds_nothing(ledger: Ledger, opened: Opener):
    """Six offers without a tap take nothing of a quota of five, a cooldown or a budget; the tap does."""
    made = [await opened() for _ in range(6)]
    for n, request in enumerate(made):
        order = order_for(request, approval_nonce=f"n{n}")
        assert isinstance(await orders.place(ledger, order, LIMITS), Placed)
        assert await booked(ledger, request) == {}
    assert await stored(ledger) == await counted(ledger) == {}
    approved = await tap(ledger, "n0", bounds=LIMITS)
    assert approved.outcome == "approved"
    assert await booked(ledger, made[0]) == {"hold": [ORDER_PRICE.micros]}
    assert await stored(ledger) == await counted(ledger) != {}


async def test_what_would_be_refused_is_not_offered(ledger: Ledger, opened: Opener):
    """A limit refuses an offer in the words in which it refuses an order."""
    bounds = Limits(cooldown_s=600)
    assert isinstance(await orders.place(ledger, order_for(await opened()), bounds), Placed)
    refused = await orders.place(ledger, order_for(await opened(), approval_nonce="n"), bounds)
    assert isinstance(refused, LimitExceeded)
    assert refused.verdict == "cooldown"


async def test_a_tap_orders_from_now_on(ledger: Ledger, ledger_url: str, opened: Opener):
    """The order's windows, its time limit and its start count from the tap, not from the offer."""
    request = await offered(ledger, opened)
    later = Ledger(ledger_url, shift=600)
    before = (await video_of(ledger, request)).ordered_at
    approved = await tap(later)
    assert approved.video is not None
    video = approved.video
    assert (approved.outcome, video.state, video.nonce) == ("approved", V.QUEUED, None)
    assert video.ordered_at - before >= 600_000
    assert video.expires_at == video.ordered_at + 1_800_000
    assert video.due_at == video.ordered_at
    await later.close()


async def test_an_order_without_a_status_message_waits_for_it(ledger: Ledger, opened: Opener):
    request = await offered(ledger, opened)
    await update_fields(ledger, request, status_message_id=None)
    video = (await tap(ledger)).video
    assert video is not None
    assert video.due_at is not None
    assert video.due_at > video.ordered_at


async def test_six_taps_order_once(ledger: Ledger, opened: Opener):
    """At once or later, the taps after the first find that it is ordered already; one hold is written."""
    request = await offered(ledger, opened)
    taps = await asyncio.gather(*(tap(ledger) for _ in range(6)))
    assert sorted(one.outcome for one in taps) == ["already"] * 5 + ["approved"]
    await put(ledger, request, V.SUBMITTING)
    assert (await tap(ledger)).outcome == "already"
    assert (await offers.find(ledger, "n")) == await video_of(ledger, request)
    assert await booked(ledger, request) == {"hold": [ORDER_PRICE.micros]}


async def test_only_its_user_taps_in_time(ledger: Ledger, ledger_url: str, opened: Opener):
    """Another person, an unknown button, an offer that has expired, was cancelled: nothing changes."""
    request = await offered(ledger, opened)
    assert (await tap(ledger, user_id=8)).outcome == "not_yours"
    assert (await tap(ledger, "m")).outcome == "gone"
    later = Ledger(ledger_url, shift=901)
    assert (await tap(later)).outcome == "gone"
    await later.close()
    assert await transitions.begin_submit(ledger, request, "f", 30, NO_RATES) is None
    assert (await video_of(ledger, request)).state is V.AWAITING_APPROVAL
    await transitions.cancel(ledger, request, 7)
    assert (await tap(ledger)).outcome == "gone"
    assert await booked(ledger, request) == {}


async def test_an_approved_order_that_was_cancelled_is_gone(ledger: Ledger, opened: Opener):
    request = await offered(ledger, opened)
    await tap(ledger)
    await transitions.cancel(ledger, request, 7)
    assert (await tap(ledger)).outcome == "gone"
    assert await booked(ledger, request) == {k: [ORDER_PRICE.micros] for k in ("hold", "release")}


@pytest.mark.parametrize("limit", ["quota", "cooldown", "budget", "breaker", "content"])
async def test_a_tap_is_refused_in_the_same_words(ledger: Ledger, opened: Opener, limit: str):
    """What would refuse an order now refuses the tap; the offer stays open, for when it works again."""
    other, request = await opened(), await offered(ledger, opened)
    bounds = {
        "quota": Limits(quota=1),
        "cooldown": Limits(cooldown_s=600),
        "budget": Limits(user_budget=Money(ORDER_PRICE.micros * 2 - 1)),
    }.get(limit, NO_LIMITS)
    if limit in ("quota", "cooldown", "budget"):
        await orders.place(ledger, order_for(other), NO_LIMITS)
    elif limit == "breaker":
        async with ledger.write() as conn:
            await breaker.open_for_everyone(ledger, conn, "operator:ana", "a test", await ledger.now(conn))
    else:
        await history.record_refused_call(ledger, request, "generate_video", "content", "content", ())
    refused = await tap(ledger, bounds=bounds)
    assert refused.outcome == "refused"
    assert refused.denied is not None
    assert refused.denied.verdict == limit
    assert refused.denied.at > 0
    assert (await video_of(ledger, request)).state is V.AWAITING_APPROVAL
    assert await booked(ledger, request) == {}
    if limit not in ("content", "breaker"):
        assert (await tap(ledger)).outcome == "approved"


@pytest.mark.parametrize(
    "changes",
    [{"quote": Money.parse("$2.50")}, {"model": "newer"}, {"account": "other", "provider": "fal"}],
    ids=["price", "model", "account"],
)
async def test_changed_terms_are_offered_again(ledger: Ledger, opened: Opener, changes):
    """Another price, model or account: nothing is ordered; the new offer has a button and a time of its own,
    and its user is notified. The old button is dead.
    """
    request = await offered(ledger, opened)
    await update_fields(ledger, request, notify_at=None, shown="digest", told="AWAITING_APPROVAL")
    await history.record_refused_call(ledger, request, "generate_video", "replay", "redis", ())
    before, terms = await video_of(ledger, request), replace(TERMS, **changes)
    again = await tap(ledger, terms=terms)
    video = again.video
    assert video is not None
    assert (again.outcome, video.state) == ("changed", V.AWAITING_APPROVAL)
    assert terms.are_those_of(video)
    assert video.offered == (None if terms.quote == ORDER_PRICE else ORDER_PRICE)
    assert video.version == before.version + 1
    assert video.nonce not in (None, "n")
    assert video.due_at == video.expires_at > before.expires_at
    shown = await requests.find(ledger, request)
    assert shown is not None
    assert shown.notify_at is not None
    assert shown.shown != "digest"
    assert (await tap(ledger, terms=terms)).outcome == "gone"
    assert (await tap(ledger, video.nonce, terms=terms)).outcome == "approved"
    assert await booked(ledger, request) == {"hold": [terms.quote.micros]}
    assert await stored(ledger) == await counted(ledger)
    found, totals = await recount(ledger), without_zeros(await stored_totals(ledger))
    assert {key: value for key, value in totals.items() if key[0] != "30d"} == without_zeros(found.found)


async def test_an_offer_of_what_is_not_made_any_more_ends(ledger: Ledger, opened: Opener):
    request = await offered(ledger, opened)
    ended = await tap(ledger, terms=None)
    assert ended.outcome == "ended"
    video = await video_of(ledger, request)
    assert (video.state, video.failure) == (V.EXPIRED, Failure.NOT_OFFERED)
    assert await booked(ledger, request) == {}


async def test_a_newer_request_withdraws_offers(ledger: Ledger, opened: Opener):
    """Of the same user and bot, unless it is refused as busy; a second delivery withdraws nothing more."""
    mine, queued, others = [await opened(), await opened(), await opened(user_id=8)]
    for n, request in enumerate((mine, others)):
        await orders.place(ledger, order_for(request, approval_nonce=f"n{n}"), NO_LIMITS)
    await orders.place(ledger, order_for(queued), NO_LIMITS)
    assert (await open_one(ledger, bot_id=2)).state is RequestState.OPEN
    assert (await open_one(ledger, most=1)).state is RequestState.REFUSED
    assert (await video_of(ledger, mine)).state is V.AWAITING_APPROVAL
    await update_fields(ledger, mine, notify_at=None)
    newer = await open_one(ledger, most=4)
    video = await video_of(ledger, mine)
    assert (video.state, video.failure) == (V.CANCELLED, Failure.WITHDRAWN)
    assert (await requests.find(ledger, mine)).notify_at is not None
    assert (await video_of(ledger, queued)).state is V.QUEUED
    assert (await video_of(ledger, others)).state is V.AWAITING_APPROVAL
    assert (await tap(ledger, "n0")).outcome == "gone"
    await orders.place(ledger, order_for(newer.request_id, approval_nonce="n9"), NO_LIMITS)
    again = NewRequest(newer.request_id, 1, 7, 1, 7, "en", "x")
    assert not (await requests.open_request(ledger, again))[1]
    assert (await video_of(ledger, newer.request_id)).state is V.AWAITING_APPROVAL


async def test_an_offer_does_not_keep_its_user_busy(ledger: Ledger, opened: Opener):
    """Offers are not among the requests that a user may have at once."""
    for n in range(3):
        await offered(ledger, opened, f"n{n}")
    assert (await open_one(ledger, most=1)).state is RequestState.OPEN


@pytest.mark.slow
async def test_a_tap_and_a_newer_request_race_on_one_row(ledger: Ledger, opened: Opener):
    """Either it is ordered, or withdrawn: never both, and never neither."""
    for n in range(10):
        request = await offered(ledger, opened, f"n{n}")
        tapped, _ = await asyncio.gather(tap(ledger, f"n{n}"), open_one(ledger))
        state = (await video_of(ledger, request)).state
        assert (tapped.outcome, state) in {("approved", V.QUEUED), ("gone", V.CANCELLED)}
        await transitions.cancel(ledger, request, 7)


async def test_an_offer_of_the_version_before_holds_once(ledger: Ledger, opened: Opener):
    """Its hold is not written twice, and ends once: with its charge, or with its release."""
    request, other = await opened(), await opened()
    for nonce, one in (("n", request), ("m", other)):
        await orders.place(ledger, order_for(one, approval_nonce=nonce, valid_s=900), NO_LIMITS)
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        for row in (await conn.execute(select(videos))).all():
            video = Video.from_row(row)
            await add_entry(ledger, conn, video, "hold", video.quote, now)
    assert (await tap(ledger)).outcome == "approved"
    assert await booked(ledger, request) == {"hold": [ORDER_PRICE.micros]}
    cheaper = replace(TERMS, quote=Money(1))
    assert (await tap(ledger, "m", terms=cheaper)).outcome == "changed"
    await transitions.cancel(ledger, other, 7)
    assert await booked(ledger, other) == {k: [ORDER_PRICE.micros] for k in ("hold", "release")}


async def test_a_new_button_is_shown_under_the_same_text(ledger: Ledger, opened: Opener):
    """The digest that a changed offer leaves is no text's: the message is edited for its button alone."""
    request = await offered(ledger, opened)
    await tap(ledger, terms=replace(TERMS, account="other"))
    async with ledger.read() as conn:
        shown = await conn.scalar(select(request_rows.c.shown).where(request_rows.c.request_id == request))
    assert shown.startswith("?")
