"""[See a still first]: a tap orders one still at the price on the button, delivered as a photo."""

import asyncio

import pytest

from chat.i18n import translator
from guardrails.money import Money
from ledger import requests
from ledger.models import VideoState, order_id
from tests.support.app_harness import APPROVE, offer_of
from tests.support.text_checks import read
from tests.support.waiting import wait_until
from tools.registry import GENERATE_IMAGE

EN = translator("en")
PRICE = Money.parse("$0.04")
SEE = EN("button_still", price=PRICE)


async def still_of(env, request_id):
    return await requests.find_with_video(env.app.ledger, order_id(request_id, GENERATE_IMAGE))


async def test_a_tap_orders_one_still(app_env):
    """Three taps are one still: a photo with its price and number; the offer waits on, without the button."""
    env = await app_env(changes={"approval": "always"})
    offer = await offer_of(env)
    request, _ = await env.latest()
    ana = env.user()
    assert offer.button_texts[:2] == [APPROVE, SEE]
    queries = [await ana.tap(offer.id, SEE) for _ in range(3)]
    answers = await asyncio.gather(*map(ana.wait_for_answer, queries))
    assert sorted(one["text"] for one in answers) == sorted([EN("tap_still"), *[EN("tap_already")] * 2])

    async def delivered() -> bool:
        found = await still_of(env, request.request_id)
        return found is not None and found[1].state is VideoState.DELIVERED

    await wait_until(delivered, what="the still")
    shown, _ = await still_of(env, request.request_id)
    photo = await ana.wait_for(lambda one: one.media is not None and one.media.kind == "photo")
    assert EN("still_delivered_preview", id=shown.short_id, price=PRICE) in photo.text
    assert photo.button_texts == [EN("button_file"), EN("button_delete")]
    waits = await ana.wait_for(lambda one: one.id == offer.id and SEE not in one.button_texts)
    assert APPROVE in waits.button_texts
    assert env.fake_provider.posts() == []
    await ana.wait_for_answer(await ana.tap(offer.id, APPROVE))
    await wait_until(lambda: _made(env, request.request_id), what="the video")


async def _made(env, request_id):
    _, video = await requests.find_with_video(env.app.ledger, request_id)
    return video.state is VideoState.DELIVERED


@pytest.mark.slow
async def test_who_asks_for_a_still_alone_gets_an_offer_of_it(app_env):
    """The agent's call is an offer; its tap makes one still; the request itself says that it has no video."""
    env = await app_env(changes={"approval": "always"})
    ana = env.user()
    await ana.send("/create a poster of a fox in the snow")
    make = EN("button_make", price=PRICE)
    offer = await ana.wait_for(lambda one: make in one.button_texts)
    assert read(EN("still_offer_head")) in offer.text
    assert offer.button_texts == [make, EN("button_cancel")]
    await ana.wait_for(lambda one: EN("no_order_beside") in one.text)
    await ana.wait_for_answer(await ana.tap(offer.id, make))
    photo = await ana.wait_for(lambda one: one.media is not None and one.media.kind == "photo")
    assert photo.id == offer.id
    assert env.fake_provider.posts() == []
