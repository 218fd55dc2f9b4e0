"""Choices on an open offer: row, price and button change at once, and an old button orders nothing."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import update

from guardrails.limits import Limits
from guardrails.money import Money
from ledger import offers, options, people, requests
from ledger.database import Ledger
from ledger.models import Video, VideoState
from ledger.offers import Approval, Terms
from ledger.options import Choice, Option, Wanted
from ledger.schema import videos
from tests.ledger.test_offers import TERMS, offered, open_one, tap
from tests.support.factories import (
    NO_LIMITS,
    ORDER_PRICE,
    Opener,
    booked,
    history,
    put,
    update_fields,
    video_of,
)

V = VideoState
CHEAP = replace(TERMS, quote=Money.parse("$1.50"))
DEAR = replace(TERMS, quote=Money.parse("$4.50"))
BY_SECONDS = {4: CHEAP, 8: TERMS, 12: DEAR}
pytestmark = pytest.mark.any_ledger


def becomes(**changes):
    """Return what an offer becomes: itself, but for `changes`; its price follows its length."""

    def wanted(video: Video) -> Wanted:
        now = Wanted(video.seconds, video.size, None, video.style, video.style_prompt, video.prompt, TERMS)
        new = replace(now, **changes)
        return replace(new, terms=BY_SECONDS[new.seconds])

    return wanted


async def choose(
    ledger: Ledger, request: str, option: Option = "seconds", user_id: int = 7, bounds: Limits = NO_LIMITS,
    wanted=None, **changes,
) -> Choice:  # fmt: skip
    wanted = wanted or becomes(**changes)
    return await options.choose(ledger, request, user_id, option, wanted, bounds, valid_s=900)


async def test_a_choice_changes_row_price_and_button(ledger: Ledger, opened: Opener):
    """The old [Make it] orders nothing, at no price; the new one orders what it shows."""
    request = await offered(ledger, opened)
    before = await video_of(ledger, request)
    choice = await choose(ledger, request, seconds=4)
    assert choice.video is not None
    video = choice.video
    assert (choice.outcome, video.seconds, video.quote, video.offered) == ("chosen", 4, CHEAP.quote, None)
    assert video.nonce not in (None, "n")
    assert video.version > before.version
    assert (await tap(ledger, "n", terms=CHEAP)).outcome == "gone"
    assert await booked(ledger, request) == {}
    assert (await tap(ledger, video.nonce, terms=CHEAP)).outcome == "approved"
    assert await booked(ledger, request) == {"hold": [CHEAP.quote.micros]}
    assert (await history(ledger, request))[-1] == (V.AWAITING_APPROVAL, V.QUEUED, "user:7")


async def test_what_it_is_already_changes_nothing(ledger: Ledger, opened: Opener):
    request = await offered(ledger, opened)
    assert (await choose(ledger, request)).outcome == "same"
    assert (await tap(ledger)).outcome == "approved"


async def test_only_its_user_chooses_while_it_is_open(ledger: Ledger, ledger_url: str, opened: Opener):
    """Another person, an ended or expired offer, what is not on offer: each is said, nothing changes."""
    request = await offered(ledger, opened)
    assert (await choose(ledger, "tg:1:-:7:none", seconds=4)).outcome == "gone"
    assert (await choose(ledger, request, user_id=8, seconds=4)).outcome == "not_yours"
    assert (await choose(ledger, request, wanted=lambda _: None)).outcome == "not_offered"
    later = Ledger(ledger_url, shift=901)
    assert (await choose(later, request, seconds=4)).outcome == "gone"
    assert (await options.show(later, request, 7, shown=True)).outcome == "gone"
    await later.close()
    assert (await tap(ledger)).outcome == "approved"
    assert (await choose(ledger, request, seconds=4)).outcome == "gone"
    assert (await video_of(ledger, request)).quote == ORDER_PRICE


async def test_a_choice_counts_nothing_and_says_what_is_over(ledger: Ledger, opened: Opener):
    """Limits are looked at with the new price; the offer changes, and only the tap is refused."""
    request = await offered(ledger, opened)
    bounds = Limits(user_budget=Money.parse("$4"))
    fine = await choose(ledger, request, bounds=bounds, seconds=4)
    over = await choose(ledger, request, bounds=bounds, seconds=12)
    assert (fine.denied, over.outcome) == (None, "chosen")
    assert over.denied is not None
    assert over.denied.verdict == "budget"
    assert over.video is not None
    refused = await tap(ledger, over.video.nonce or "", terms=DEAR, bounds=bounds)
    assert refused.outcome == "refused"
    again = await choose(ledger, request, bounds=bounds, seconds=8)
    assert again.video is not None
    assert (await tap(ledger, again.video.nonce or "", bounds=bounds)).outcome == "approved"


async def test_choices_at_once_all_apply(ledger: Ledger, opened: Opener):
    """Each is made on what the others left; the last button shows the price of all of them."""
    request = await offered(ledger, opened)
    found = await asyncio.gather(
        choose(ledger, request, "seconds", seconds=12),
        choose(ledger, request, "shape", size="1280x720"),
        choose(ledger, request, "style", style="anime", style_prompt="S.", prompt="a cat S."),
    )
    assert [one.outcome for one in found] == ["chosen"] * 3
    video = await video_of(ledger, request)
    assert (video.seconds, video.size, video.style, video.quote) == (12, "1280x720", "anime", DEAR.quote)
    assert video.chosen == "seconds shape style"
    assert (video.prompt, video.own_prompt) == ("a cat S.", "a cat")
    assert [one.video.nonce for one in found if one.video].count(video.nonce) == 1


@pytest.mark.parametrize("round_", range(8))
async def test_a_choice_against_a_tap_never_makes_another_price(ledger: Ledger, opened: Opener, round_: int):
    """Whichever comes first: what is ordered costs what the tapped button showed, or nothing is ordered."""
    request = await offered(ledger, opened)

    async def approve() -> Approval:
        return await tap(ledger)

    async def change() -> Choice:
        return await choose(ledger, request, seconds=12)

    both = (approve(), change()) if round_ % 2 else (change(), approve())
    await asyncio.gather(*both)
    video = await video_of(ledger, request)
    if video.state is V.QUEUED:
        assert (video.seconds, video.quote) == (8, ORDER_PRICE)
        assert await booked(ledger, request) == {"hold": [ORDER_PRICE.micros]}
    else:
        assert (video.state, video.seconds, video.quote) == (V.AWAITING_APPROVAL, 12, DEAR.quote)
        assert await booked(ledger, request) == {}


async def test_what_was_chosen_is_kept_with_the_tap(ledger: Ledger, opened: Opener):
    """Not with the choice, not with what was not chosen, and a style that was taken back is forgotten."""
    await people.save(ledger, 7, default_size="1280x720", style="anime", ask_below=Money.parse("$1"))
    request = await offered(ledger, opened)
    async with ledger.write() as conn:
        await conn.execute(update(videos).values(style="anime", style_prompt="S."))
    await choose(ledger, request, "seconds", seconds=4)
    video = (await choose(ledger, request, "style", style=None, style_prompt=None, seconds=4)).video
    assert video is not None
    assert (await people.find(ledger, 7)).default_seconds is None
    await tap(ledger, video.nonce or "", terms=CHEAP)
    person = await people.find(ledger, 7)
    assert (person.default_seconds, person.default_size, person.style) == (4, "1280x720", None)
    assert (person.ask_below, person.sound) == (Money.parse("$1"), None)


async def test_buttons_are_shown_and_hidden_without_a_new_price(ledger: Ledger, opened: Opener):
    """[Options] leaves [Make it] as it is, so that both may be tapped at once."""
    request = await offered(ledger, opened)
    assert (await options.show(ledger, request, 8, shown=True)).outcome == "not_yours"
    assert (await options.show(ledger, request, 7, shown=True)).outcome == "chosen"
    assert (await options.show(ledger, request, 7, shown=True)).outcome == "same"
    video = await video_of(ledger, request)
    assert (video.options_open, video.nonce) == (1, "n")
    assert (await options.show(ledger, request, 7, shown=False)).outcome == "chosen"
    assert (await tap(ledger)).outcome == "approved"


async def test_an_open_offer_is_found_by_its_message(ledger: Ledger, ledger_url: str, opened: Opener):
    """Also after its button has changed; not for another person, chat or message, nor once it has ended."""
    request = await offered(ledger, opened)
    await update_fields(ledger, request, status_message_id=55)
    await choose(ledger, request, seconds=4)
    row = await requests.find(ledger, request)
    assert row is not None
    chat_id = row.chat_id
    found = await options.find_open(ledger, 7, chat_id, 55)
    assert found is not None
    assert found.request_id == request
    assert await options.find_open(ledger, 8, chat_id, 55) is None
    assert await options.find_open(ledger, 7, chat_id + 1, 55) is None
    assert await options.find_open(ledger, 7, chat_id, 56) is None
    later = Ledger(ledger_url, shift=901)
    assert await options.find_open(later, 7, chat_id, 55) is None
    await later.close()
    await put(ledger, request, V.CANCELLED)
    assert await options.find_open(ledger, 7, chat_id, 55) is None


async def test_a_newer_request_withdraws_a_changed_offer(ledger: Ledger, opened: Opener):
    request = await offered(ledger, opened)
    video = (await choose(ledger, request, seconds=4)).video
    assert video is not None
    await open_one(ledger)
    assert (await tap(ledger, video.nonce or "", terms=CHEAP)).outcome == "gone"
    assert (await choose(ledger, request, seconds=12)).outcome == "gone"


async def test_other_terms_are_taken_over(ledger: Ledger, opened: Opener):
    """A provider that was replaced meanwhile: the choice is made on the terms of the new one."""
    request = await offered(ledger, opened)
    moved = Terms("fal", "seedance", "fal:1", Money.parse("$2"))
    wanted = becomes(seconds=4)
    choice = await choose(ledger, request, wanted=lambda video: replace(wanted(video), terms=moved))
    assert choice.video is not None
    assert (choice.video.provider, choice.video.account) == ("fal", "fal:1")
    assert (await offers.find(ledger, choice.video.nonce or "")) == choice.video
