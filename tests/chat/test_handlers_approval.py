"""Approval: nothing is paid before the right person taps, once, in time."""

import asyncio

import pytest
from sqlalchemy import update

from chat.i18n import LANGUAGES, translator
from evals.environment import PRICE
from guardrails.money import Money
from ledger.models import VideoState
from ledger.schema import videos
from sandbox.telegram import Fault
from tests.support.app_harness import APPROVE, DECLINE, offer_of, serve_webhook, wait_for_state, worker_only
from tests.support.crash_env import is_offer
from tests.support.waiting import wait_until

EN = translator("en")
ENDS = (VideoState.DELIVERED, VideoState.CANCELLED)


@pytest.fixture
async def offered(app_env):
    """An app that asks for approval, and Ana's offer in it."""
    env = await app_env(changes={"approval": "always"})
    return env, await offer_of(env)


@pytest.mark.slow
async def test_a_tap_makes_it(offered):
    """The offer names the price and nothing is paid; the tap pays that price, and the buttons are gone."""
    env, offer = offered
    ana = env.user()
    see = EN("button_still", price=Money.parse("$0.04"))
    assert offer.button_texts == [APPROVE, see, EN("button_options"), EN("button_change"), DECLINE]
    assert str(PRICE) in offer.text
    assert all(len(button.data.encode()) <= 64 for row in offer.buttons for button in row)
    assert env.fake_provider.posts() == []
    query = await ana.tap(offer.id, APPROVE)
    assert (await ana.wait_for_answer(query))["text"] == EN("tap_approved")
    await wait_for_state(env, VideoState.DELIVERED)
    assert list(env.fake_provider.net().values()) == [PRICE.micros]
    assert not any(map(is_offer, ana.history()))


SHOWN = {
    "en": ("a quiet market, 20 seconds long, square video", "20 s is not on offer", "4 of 5 videos"),
    "es": ("un mercado de 20 segundos, video cuadrado", "No se ofrecen 20 s", "4 de 5 videos"),
    "pt": ("um mercado de 20 segundos, vídeo quadrado", "20 s não está", "4 de 5 vídeos"),
}


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
async def test_an_offer_shows_what_is_bought(app_env, language):
    """Prompt, length, shape, price, what is left, what is not possible, and how long it is open."""
    env = await app_env(changes={"approval": "always"})
    ana, t = env.user(language=language), translator(language)
    idea, *shown = SHOWN[language]
    await ana.send(f"/create {idea}")
    offer = await ana.wait_for(is_offer)
    _, video = await env.latest()
    left = Money.parse("$15") - video.quote
    shown += [
        t("offer_seconds", seconds=video.seconds),
        t("shape_upright"),
        t.money(video.quote),
        t.money(left),
    ]
    assert [part for part in shown if part not in offer.text] == []
    assert video.prompt[:100] in offer.text
    assert t("offer_not_shape", wished=t("shape_square"), shape=t("shape_upright")) in offer.text
    assert t("offer_open", minutes=15) in offer.text
    assert env.fake_provider.posts() == []


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
async def test_change_asks_for_other_words(app_env, language):
    """[Change] asks for the idea again; what is written is a new request, which withdraws the offer."""
    env = await app_env(changes={"approval": "always"})
    ana, t = env.user(language=language), translator(language)
    await ana.send("/create a quiet market at dawn")
    offer = await ana.wait_for(is_offer)
    await ana.wait_for_answer(await ana.tap(offer.id, t("button_change")))
    await ana.send("a quiet market at noon")
    newer = await ana.wait_for(lambda bubble: is_offer(bubble) and bubble.id > offer.id)
    withdrawn = await ana.wait_for(lambda bubble: bubble.id == offer.id and not bubble.buttons)
    assert t("cancelled_withdrawn") in withdrawn.text
    assert "noon" in newer.text
    assert env.fake_provider.posts() == []


@pytest.mark.slow
async def test_a_refused_tap_says_why_and_leaves_the_offer(app_env):
    """Two offers, and a budget for one video: the second tap is refused in the words of a refusal."""
    env = await app_env(changes={"approval": "always", "cooldown": None, "budget": "{everyone: $1/day}"})
    ana, eva = env.user(), env.user(2)
    offers = [await offer_of(env, person.id) for person in (ana, eva)]
    await ana.wait_for_answer(await ana.tap(offers[0].id, APPROVE))
    said = await eva.wait_for_answer(await eva.tap(offers[1].id, APPROVE))
    assert "budget" in said["text"]
    assert (await env.latest(2))[1].state is VideoState.AWAITING_APPROVAL
    assert len(env.fake_provider.charges()) <= 1


@pytest.mark.slow
async def test_two_taps_at_once_pay_once(offered):
    """A double tap has two callback ids and is one act; each tap is answered."""
    env, offer = offered
    ana = env.user()
    queries = [await ana.tap(offer.id, APPROVE) for _ in range(2)]
    said = [(await ana.wait_for_answer(query))["text"] for query in queries]
    assert sorted(said) == sorted([EN("tap_approved"), EN("tap_already")])
    await wait_for_state(env, VideoState.DELIVERED)
    assert len(env.fake_provider.posts()) == 1


@pytest.mark.slow
async def test_another_persons_tap_is_refused(offered):
    """Another person can neither approve nor cancel, and reads so; the offer stays open."""
    env, offer = offered
    for number, button in enumerate(button for row in offer.buttons for button in row):
        eva = {"id": 2, "is_bot": False, "first_name": "Eva"}
        query = {"id": str(number), "from": eva, "chat_instance": "1", "data": button.data}
        env.api.world.updates.push("callback_query", query, "tap:2", 60)
        answer = await env.api.calls.wait_for(
            lambda call, number=number: call.params.get("callback_query_id") == str(number)
        )
        assert answer.params["text"] == EN("tap_not_yours")
    assert (await env.latest())[1].state is VideoState.AWAITING_APPROVAL
    assert env.fake_provider.posts() == []


@pytest.mark.slow
async def test_cancel_ends_the_offer(offered):
    """[Cancel] ends it unpaid and removes the buttons; a later [Make it] on an old screen is refused."""
    env, offer = offered
    ana = env.user()
    query = await ana.tap(offer.id, DECLINE)
    assert (await ana.wait_for_answer(query))["text"] == EN("tap_done")
    await wait_for_state(env, VideoState.CANCELLED)
    ended = await ana.wait_for(lambda bubble: EN("cancelled") in bubble.text)
    assert (ended.id, ended.buttons) == (offer.id, [])
    late = {"id": "77", "from": ana.user.user(), "chat_instance": "1", "data": offer.buttons[0][0].data}
    env.api.world.updates.push("callback_query", late, "tap:1", 60)
    call = await env.api.calls.wait_for(lambda call: call.params.get("callback_query_id") == "77")
    assert call.params["text"] == EN("tap_gone")
    assert env.fake_provider.posts() == []
    assert await offer_of(env), "quota and cooldown were released"


@pytest.mark.slow
async def test_an_offer_expires(offered):
    """After its time the tap is refused, the user reads that it expired, and nothing was paid."""
    env, offer = offered
    ana = env.user()
    async with env.app.ledger.write() as conn:
        await conn.execute(update(videos).values(expires_at=1, due_at=1))
    query = await ana.tap(offer.id, APPROVE)
    assert (await ana.wait_for_answer(query))["text"] == EN("tap_gone")
    await wait_for_state(env, VideoState.EXPIRED)
    ended = await ana.wait_for(lambda bubble: EN("expired_approval") in bubble.text)
    assert (ended.id, ended.buttons) == (offer.id, [])
    assert env.fake_provider.posts() == []


@pytest.mark.slow
async def test_a_redelivered_or_late_tap_is_one_approval(app_env):
    """A tap delivered six times, its answers too old or lost: one charge, and no update fails."""
    env = await app_env(wake=worker_only, changes={"approval": "always"})
    ana = env.user()
    async with serve_webhook(env):
        offer = await offer_of(env)
        env.api.fail("answerCallbackQuery", Fault.server_error())
        await ana.tap(offer.id, APPROVE)
        found = await env.api.redeliver(ana.last_update.id, times=5)
        assert {one.status for one in found} == {200}
        await wait_for_state(env, VideoState.DELIVERED)
    assert len(env.fake_provider.posts()) == 1
    refused = [call for call in env.api.calls.of("answerCallbackQuery") if call.status == 400]
    assert refused, "some answers came too late, which is not a failure"


@pytest.mark.slow
async def test_a_cancel_and_a_tap_have_one_outcome(app_env):
    """/cancel against [Make it]: either it is cancelled and unpaid, or paid once and delivered."""
    env = await app_env(changes={"approval": "always"})
    paid = 0
    for user in (1, 2, 3):
        offer, ana = await offer_of(env, user), env.user(user)
        await asyncio.gather(ana.tap(offer.id, APPROVE), ana.send("/cancel"))

        async def ended(user=user):
            request, video = await env.latest(user)
            return request.told == video.state and video.state in ENDS

        await wait_until(ended, 15, "an outcome")
        made = (await env.latest(user))[1].state is VideoState.DELIVERED
        paid += made
        said = [bubble.text for bubble in ana.history() if "is cancelled" in bubble.text]
        assert len(said) == (0 if made else 1)
    assert len(env.fake_provider.posts()) == paid
