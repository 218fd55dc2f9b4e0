"""Groups: topics, two people, migration, and a bot that is removed, silenced and back."""

from dataclasses import replace

import pytest

from chat.i18n import LANGUAGES, translator
from evals.environment import PRICE, QUICK_EDIT_LIMITS, set_status_message
from guardrails.limits import Limits
from ledger import orders, requests
from ledger.models import CHAT_REFUSED, VideoState, provider_key
from ledger.orders import Order
from tests.support.app_harness import (
    GROUP,
    chat_only,
    sent_texts,
    wait_for_confirmed,
    wait_for_state,
    wait_for_texts,
)
from tests.support.crash_env import is_offer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.representative

EVA, ANA, BEN = 1, 1001, 1002
EN = translator("en")
CREATE = "/create a quiet market at dawn"
BASIC = -4321
languages = pytest.mark.parametrize("language", LANGUAGES)


@pytest.fixture
async def asking(app_env):
    """The whole app, which asks for a tap, with an admin."""
    env = await app_env(changes={"approval": "always"}, settings={"admins": frozenset({EVA})})
    await env.user(EVA, "Eva").send("/start")
    return env


@pytest.fixture
async def env(app_env):
    made = await app_env(
        settings={"admins": frozenset({EVA})}, edit_limits=replace(QUICK_EDIT_LIMITS, retry_s=0.2)
    )
    await made.user(EVA, "Eva").send("/start")
    return made


def videos_in(env, chat_id):
    return [record for record in env.api.world.messages.of(chat_id) if "video" in record.message]


async def being_made(env, person, chat):
    """Ask for a video in a group, and wait until it is paid and being made."""
    env.fake_provider.polls = 500
    await person.send(CREATE, chat=chat)
    await person.wait_for(lambda one: "being made" in one.text, chat=chat)


@pytest.mark.slow
@languages
async def test_an_offer_is_its_askers_alone(asking, language):
    """Another person's taps in the group are answered and change nothing; then the asker's orders once."""
    env, t = asking, translator(language)
    group = env.api.group(GROUP)
    ana, ben = env.user(ANA, language=language), env.user(BEN, "Ben", language)
    await ana.send(CREATE, chat=group)
    offer = await ana.wait_for(is_offer, chat=group)
    await wait_for_state(env, VideoState.AWAITING_APPROVAL)
    make = offer.button_texts[0]
    for button in offer.button_texts:
        answer = await ben.wait_for_answer(await ben.tap(offer.id, button, chat=group))
        assert answer["text"] == t("tap_not_yours")
    assert (await env.latest())[1].state is VideoState.AWAITING_APPROVAL
    assert env.fake_provider.posts() == []
    await ana.wait_for_answer(await ana.tap(offer.id, make, chat=group))
    await wait_for_state(env, VideoState.DELIVERED)
    assert len(env.fake_provider.posts()) == 1
    assert len(videos_in(env, group)) == 1


@pytest.mark.parametrize(
    "text", ["/create", "/status", "/report", "/help", "/cancel", "/invite", "/stats", "/create a b?"]
)
async def test_answers_go_to_the_topic_they_came_from(app_env, text):
    env = await app_env(wake=chat_only)
    ana, group = env.user(), env.api.group(GROUP)
    topic = await ana.create_topic(group, "Videos")
    await ana.send(text, chat=group, topic=topic)
    [call] = [one for one in await _sent(env, 1) if int(one.params["chat_id"]) == group]
    assert int(call.params["message_thread_id"]) == topic


async def _sent(env, count):
    await wait_for_texts(env, count)
    return env.api.calls.of("sendMessage")


@pytest.mark.slow
async def test_everything_of_a_request_stays_in_its_topic(asking):
    """Offer, video and ready message; the words for a tap are on the screen alone."""
    env = asking
    ana, group = env.user(), env.api.group(GROUP)
    topic = await ana.create_topic(group, "Videos")
    await ana.send(CREATE, chat=group, topic=topic)
    offer = await ana.wait_for(is_offer, chat=group)
    await ana.tap(offer.id, offer.button_texts[0], chat=group)
    await wait_for_state(env, VideoState.DELIVERED)
    ours = [one.message for one in env.api.world.messages.of(group) if one.message["from"]["is_bot"]]
    assert {message.get("message_thread_id") for message in ours} == {topic}


@pytest.mark.slow
async def test_a_group_that_becomes_a_supergroup_gets_its_video(env):
    """The new chat gets the status and the video; the request's id and the provider's key stay."""
    ana = env.user()
    group = await ana.create_group(BASIC, basic=True)
    await being_made(env, ana, group)
    before, _ = await env.latest()
    moved = await ana.migrate(group)
    await ana.wait_for(lambda one: "being made" in one.text, chat=moved)
    env.fake_provider.polls = 1
    await ana.wait_for(lambda one: one.media is not None, chat=moved)
    await wait_for_state(env, VideoState.DELIVERED)
    after, video = await env.latest()
    assert (after.request_id, after.chat_id) == (before.request_id, moved)
    [posted] = env.fake_provider.posts()
    assert provider_key(video.request_id) in str(posted)
    assert sent_texts(env, ANA) == []


@pytest.mark.slow
async def test_an_offer_moves_with_its_group(asking):
    """It is shown again in the supergroup, and its tap orders one video."""
    env = asking
    ana = env.user()
    group = await ana.create_group(BASIC, basic=True)
    await ana.send(CREATE, chat=group)
    await ana.wait_for(is_offer, chat=group)
    await wait_for_state(env, VideoState.AWAITING_APPROVAL)
    moved = await ana.migrate(group)
    offer = await ana.wait_for(is_offer, chat=moved)
    await ana.tap(offer.id, offer.button_texts[0], chat=moved)
    await wait_for_state(env, VideoState.DELIVERED)
    assert len(env.fake_provider.posts()) == 1
    assert len(videos_in(env, moved)) == 1


@pytest.mark.slow
async def test_a_migration_of_which_no_message_came_is_followed(env):
    """The error of a call names the new chat as well."""
    ana = env.user()
    group = await ana.create_group(BASIC, basic=True)
    await being_made(env, ana, group)
    await wait_for_confirmed(env)
    known = {update.id for update in env.api.pending_updates}
    assert not known
    env.api.world.updates.push = lambda *_, **__: None  # what is pushed now is lost
    moved = await ana.migrate(group)
    env.fake_provider.polls = 1
    await ana.wait_for(lambda one: one.media is not None, chat=moved)
    assert (await env.latest())[0].chat_id == moved


@pytest.mark.slow
@languages
@pytest.mark.parametrize("status", ["kicked", "left", "restricted"])
async def test_a_removed_or_silenced_bot_ends_what_is_not_paid(asking, language, status):
    """At once, and not when the next message fails: its person reads so in private; nothing is paid."""
    env, t = asking, translator(language)
    ana, group = env.user(ANA, language=language), env.api.group(GROUP)
    await ana.send("/start")
    await ana.send(CREATE, chat=group)
    await ana.wait_for(is_offer, chat=group)
    await wait_for_state(env, VideoState.AWAITING_APPROVAL)
    await ana.set_bot_status(group, status)
    await ana.wait_for(lambda one: t("cancelled_chat_refused") in one.text)
    _, video = await env.latest()
    assert (video.state, video.failure) == (VideoState.CANCELLED, CHAT_REFUSED)
    assert env.fake_provider.posts() == []


async def test_a_queued_order_is_not_paid_once_the_bot_is_gone(app_env):
    """Although its status message stands in the group; a request that is only read ends as well."""
    env = await app_env(wake=chat_only)
    ana, group = env.user(), env.api.group(GROUP)
    for _ in range(2):
        await ana.send(CREATE, chat=group)
    await wait_for_confirmed(env)
    read, queued = [request for request, _ in await requests.list_for_user(env.app.ledger, ANA)]
    offer = env.app.chat.offer
    order = Order(
        queued.request_id, offer.provider, offer.model, "a market", 8, "720x1280", PRICE, offer.account
    )
    placed = await orders.place(env.app.ledger, order, Limits())
    assert placed.video.state is VideoState.QUEUED
    await set_status_message(env.app.ledger, queued.request_id)
    await ana.set_bot_status(group, "kicked")
    await wait_for_confirmed(env)
    found = await requests.list_for_user(env.app.ledger, ANA)
    assert [(video or request).state for request, video in found] == ["CANCELLED", "CANCELLED"]
    assert {request.chat_id for request, _ in found} == {ANA}
    assert found[0][0].reason == found[1][1].failure == CHAT_REFUSED
    assert read.request_id == found[0][0].request_id


@pytest.mark.slow
async def test_a_paid_video_waits_for_the_bot_to_be_back(env):
    """Its person has no private chat with the bot: an operator is alerted, and the group gets it later."""
    ana, group = env.user(), env.api.group(GROUP)
    await being_made(env, ana, group)
    await ana.set_bot_status(group, "kicked")
    env.fake_provider.polls = 1
    await env.user(EVA).wait_for(lambda one: "paid and not delivered" in one.text, 20)

    async def postponed():
        request, video = await env.latest()
        return video.state is VideoState.SUCCEEDED and request.notify_failures > 1

    await wait_until(postponed, 20, "a video that cannot be delivered")
    assert (await env.latest())[0].chat_id == ANA
    await ana.set_bot_status(group, "member")
    await ana.wait_for(lambda one: one.media is not None, chat=group)
    await wait_for_state(env, VideoState.DELIVERED)
    assert len(videos_in(env, group)) == len(env.fake_provider.posts()) == 1


@pytest.mark.slow
async def test_a_paid_video_of_a_lost_group_is_delivered_in_private(env):
    """Its person has pressed Start; when the bot is back, the group gets nothing twice."""
    ana, group = env.user(), env.api.group(GROUP)
    await ana.send("/start")
    await being_made(env, ana, group)
    await ana.set_bot_status(group, "restricted")
    env.fake_provider.polls = 1
    await ana.wait_for(lambda one: one.media is not None)
    await wait_for_state(env, VideoState.DELIVERED)
    await ana.set_bot_status(group, "member")
    await wait_for_confirmed(env)
    assert len(videos_in(env, ANA)) == 1
    assert videos_in(env, group) == []


@pytest.mark.slow
async def test_an_unblocked_bot_delivers_at_once(env):
    """A person who blocked the bot and lets it write again need not write first."""
    ana = env.user()
    await ana.send("/start")
    env.fake_provider.polls = 500
    await ana.send(CREATE)
    await ana.wait_for(lambda one: "being made" in one.text)
    await ana.block()
    env.fake_provider.polls = 1
    await env.user(EVA).wait_for(lambda one: "paid and not delivered" in one.text, 20)

    async def postponed():
        return (await env.latest())[0].notify_failures > 1

    await wait_until(postponed, 20, "a person who cannot be reached")
    await ana.unblock()
    await ana.wait_for(lambda one: one.media is not None)
    await wait_for_state(env, VideoState.DELIVERED)
    assert len(videos_in(env, ANA)) == 1
