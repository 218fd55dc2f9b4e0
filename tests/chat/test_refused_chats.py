"""Chats that refuse the bot: nothing is paid that cannot be spoken of, and its user learns why elsewhere."""

import asyncio
import json
from dataclasses import replace

import pytest
from aiogram.exceptions import TelegramBadRequest, TelegramForbiddenError, TelegramNotFound
from aiogram.methods import SendMessage

from chat.i18n import LANGUAGES, translator
from chat.telegram_errors import refuses_chat
from evals.environment import QUICK_EDIT_LIMITS
from ledger import pending_work, requests
from ledger.models import CHAT_REFUSED, RequestState, VideoState
from sandbox.telegram import Fault
from tests.support.app_harness import (
    GROUP,
    chat_only,
    count_requests,
    sent_texts,
    wait_for_confirmed,
    wait_for_state,
)
from tests.support.crash_env import is_offer
from tests.support.waiting import wait_until

EN = translator("en")
EVA = 1
CREATE = "/create a quiet market at dawn"
NO_RIGHTS = "not enough rights to send text messages to the chat"


@pytest.fixture
async def env(app_env):
    made = await app_env(settings={"admins": frozenset({EVA})})
    await made.user(EVA, "Eva").send("/start")
    return made


async def wait_cancelled(env, user_id=1001):
    """Wait until the user's request, or its order, is cancelled because of its chat; return both."""

    async def check():
        found = await env.latest(user_id)
        return found is not None and (found[1] or found[0]).state == VideoState.CANCELLED

    await wait_until(check, 15, "the cancellation")
    request, video = await env.latest(user_id)
    assert (request.reason if video is None else video.failure) == CHAT_REFUSED
    return request, video


def videos_in(env, chat_id):
    return [record for record in env.api.world.messages.of(chat_id) if "video" in record.message]


@pytest.mark.parametrize(
    ("error", "words", "expected"),
    [
        (TelegramForbiddenError, "Forbidden: bot was blocked by the user", True),
        (TelegramForbiddenError, "Forbidden: bot was kicked from the supergroup chat", True),
        (TelegramForbiddenError, "Forbidden: user is deactivated", True),
        (TelegramForbiddenError, "Forbidden: CHAT_WRITE_FORBIDDEN", True),
        (TelegramBadRequest, f"Bad Request: {NO_RIGHTS}", True),
        (TelegramBadRequest, "Bad Request: have no rights to send a message", True),
        (TelegramBadRequest, "Bad Request: TOPIC_CLOSED", True),
        (TelegramBadRequest, "Bad Request: CHAT_RESTRICTED", True),
        (TelegramBadRequest, "Bad Request: CHAT_SEND_PLAIN_FORBIDDEN", True),
        (TelegramBadRequest, "Bad Request: chat not found", True),
        (TelegramBadRequest, "Bad Request: group chat was upgraded to a supergroup chat", True),
        (TelegramBadRequest, "Bad Request: message to edit not found", False),
        (TelegramBadRequest, "Bad Request: can't parse entities: unclosed start tag", False),
        (TelegramBadRequest, "Bad Request: wrong file identifier/HTTP URL specified", False),
        (TelegramNotFound, "Not Found", False),
    ],
)
def test_errors_about_the_chat_are_told_from_others(error, words, expected):
    """A refused chat is recognised by the Bot API server's own words; an error of the message is none."""
    assert refuses_chat(error(SendMessage(chat_id=1, text="x"), words)) is expected


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize(
    "change",
    [{"muted": True}, {"refusal": "CHAT_RESTRICTED"}, {"refusal": "chat not found"}, {"kicked": True}],
    ids=["muted", "restricted", "gone", "kicked"],
)
async def test_a_group_that_refuses_messages_costs_nothing(env, change):
    """The order is cancelled unpaid, its reservation is released, and its user reads why in private."""
    ana, group = env.user(), env.api.group(GROUP)
    await ana.send("/start")
    await ana.send(CREATE, chat=group)
    env.api.change_group(group, **change)  # before the bot can answer: who is not in a group gets no command
    bubble = await ana.wait_for(lambda one: EN("cancelled_chat_refused") in one.text)
    request, _ = await wait_cancelled(env)
    assert f"#{request.short_id}" in bubble.text
    assert env.fake_provider.posts() == []
    assert sent_texts(env, group) == []
    await wait_for_state(env, RequestState.CANCELLED)
    usage = await env.app.chat.admission.availability(
        1001, env.app.chat.offer.cheapest(), env.app.chat.limits
    )
    assert (usage.word, usage.usage.used) == ("admitted", 0)
    await ana.send(CREATE)  # here it is made
    await wait_for_state(env, VideoState.DELIVERED)


async def test_a_person_who_was_never_written_to_reads_it_when_they_come(env):
    """A group's person who never pressed Start cannot be told now; they are at their first message."""
    ana, group = env.user(), env.api.group(GROUP)
    env.api.change_group(group, muted=True)
    await ana.send(CREATE, chat=group)
    await wait_cancelled(env)

    async def postponed():
        return bool(await pending_work.postponed(env.app.ledger, ana.id, 86_400))

    await wait_until(postponed, 15, "a person who cannot be reached")
    assert [call for call in env.api.calls if call.status == 403]
    await ana.send("/start")
    await ana.wait_for(lambda one: EN("cancelled_chat_refused") in one.text)
    assert env.fake_provider.posts() == []


@pytest.mark.slow
async def test_a_closed_topic_costs_nothing(env):
    """The same for a forum's closed topic; an open one gets everything, in its thread."""
    ana, group = env.user(), env.api.group(GROUP)
    await ana.send("/start")
    closed, opened = env.api.topic(group, 7, closed=True), env.api.topic(group, 8)
    await ana.send(CREATE, chat=group, topic=closed)
    await ana.wait_for(lambda one: EN("cancelled_chat_refused") in one.text)
    assert env.fake_provider.posts() == []
    await ana.send(CREATE, chat=group, topic=opened)
    await wait_for_state(env, VideoState.DELIVERED)
    theirs = [
        record.message for record in env.api.world.messages.of(group) if record.message["from"]["is_bot"]
    ]
    assert {message.get("message_thread_id") for message in theirs} == {opened}


async def test_an_order_waits_for_its_status_message(app_env):
    """While Telegram only asks to wait nothing is paid; when the message can be sent, the video is made."""
    env = await app_env(edit_limits=replace(QUICK_EDIT_LIMITS, retry_s=0.1))
    env.api.fail("sendMessage", Fault.server_error(), times=None)
    await env.user().send(CREATE)

    async def tried():
        found = await env.latest()
        refused = [call for call in env.api.calls.of("sendMessage") if call.status == 500]
        return found is not None and found[1] is not None and len(refused) >= 4

    await wait_until(tried, 15, "an order, and tries to speak of it")
    (_, video) = await env.latest()
    assert video.state is VideoState.QUEUED
    assert env.fake_provider.posts() == []
    env.api.heal()
    await wait_for_state(env, VideoState.DELIVERED)
    assert len(env.fake_provider.posts()) == 1


async def test_an_order_of_which_nobody_could_be_told_expires(app_env):
    """Telegram is away for longer than an order may wait: it ends unpaid, and its user reads so."""
    env = await app_env(edit_limits=replace(QUICK_EDIT_LIMITS, retry_s=0.1))
    env.api.fail("sendMessage", Fault.drop(), times=None)
    await env.user().send(CREATE)

    async def ordered():
        found = await env.latest()
        return found is not None and found[1] is not None

    await wait_until(ordered, 15, "the order")
    env.app.ledger.shift += 1801

    async def expired():
        return (await env.latest())[1].state is VideoState.EXPIRED

    await wait_until(expired, 15, "the end")
    env.api.heal()
    await env.user().wait_for(lambda one: EN("expired_queue") in one.text)
    assert env.fake_provider.posts() == []


@pytest.mark.slow
async def test_an_order_placed_before_its_message_is_submitted_with_it(app_env):
    """The message makes the order due: it does not wait for the next look at the queue."""
    env = await app_env()
    hung = Fault.hang()
    env.api.fail("sendMessage", hung)
    await env.user().send(CREATE)

    async def ordered():
        found = await env.latest()
        return found is not None and found[1] is not None

    await wait_until(ordered, 15, "the order")
    (request, video) = await env.latest()
    assert (request.status_message_id, video.state) == (None, VideoState.QUEUED)
    assert video.due_at > video.ordered_at
    env.api.heal()
    await wait_for_state(env, VideoState.DELIVERED)
    assert len(env.fake_provider.posts()) == 1


@pytest.mark.slow
async def test_a_bot_that_is_removed_while_it_works_delivers_in_private(env):
    """A paid video whose group removed the bot is sent to its user, without an alarm."""
    ana, group = env.user(), env.api.group(GROUP)
    await ana.send("/start")
    env.fake_provider.polls = 20
    await ana.send(CREATE, chat=group)
    await ana.wait_for(lambda one: "being made" in one.text, chat=group)
    env.api.kick(group)
    env.fake_provider.polls = 1
    await ana.wait_for(lambda one: one.media is not None)
    await wait_for_state(env, VideoState.DELIVERED)
    assert len(env.fake_provider.posts()) == 1
    assert not [one for one in env.user(EVA).history() if "not delivered" in one.text]


@pytest.mark.slow
async def test_a_paid_video_of_a_user_who_blocked_the_bot_is_kept(env):
    """An operator is alerted at the second refusal; the file is kept and sent when its user writes again."""
    ana = env.user()
    env.fake_provider.polls = 30
    await ana.send(CREATE)
    await ana.wait_for(lambda one: "being made" in one.text)
    await ana.block()
    await env.api.calls.wait_for(lambda call: call.status == 403)
    env.fake_provider.polls = 1
    alert = await env.user(EVA).wait_for(lambda one: "paid and not delivered" in one.text)
    assert "when they write to the bot again" in alert.text
    request, video = await env.latest()
    assert video.state is VideoState.SUCCEEDED
    assert env.app.worker.asset_path(video).exists()
    tried = len(env.api.calls.of("sendVideo", "editMessageMedia"))
    assert tried <= 2
    assert len([call for call in env.api.calls if call.status == 403]) >= 2, "one refusal is no alarm"
    await asyncio.sleep(1)  # several times as long as a retry takes
    assert len(env.api.calls.of("sendVideo", "editMessageMedia")) == tried
    await ana.send("/start")
    await wait_for_state(env, VideoState.DELIVERED)
    await ana.wait_for(lambda one: EN("ready", id=request.short_id) in one.text)
    assert len(videos_in(env, 1001)) == len(env.fake_provider.posts()) == 1


@pytest.mark.slow
async def test_one_refused_upload_is_no_alarm(env):
    """A video that Telegram refuses once and takes the next time reaches its user, and nobody is alarmed."""
    refused = Fault.refused(400, "Bad Request: wrong file")
    env.api.fail("editMessageMedia", refused)
    env.api.fail("sendVideo", refused)
    await env.user().send(CREATE)
    await wait_for_state(env, VideoState.DELIVERED)
    assert len(env.api.calls.of("sendVideo")) == 1
    assert not [one for one in env.user(EVA).history() if "not delivered" in one.text]
    assert not [one for one in env.user().history() if "was charged for it" in one.text]


@pytest.mark.slow
async def test_the_replaced_status_message_is_removed(env):
    """Where the video could not take its place, the status message does not stay to say that it is coming."""
    env.fake_provider.polls = 10
    ana = env.user()
    env.api.fail("editMessageMedia", Fault.refused(400, "Bad Request: message can't be edited"), times=None)
    await ana.send(CREATE)
    first = await ana.wait_for(lambda one: not one.mine)
    await wait_for_state(env, VideoState.DELIVERED)
    assert first.id not in [one.id for one in ana.history()]
    assert len(videos_in(env, 1001)) == 1


@pytest.mark.slow
async def test_a_replaced_status_message_that_cannot_be_removed_is_corrected(env):
    """One that is too old to be deleted says that a newer one follows."""
    env.fake_provider.polls = 10
    ana = env.user()
    env.api.fail("editMessageMedia", Fault.refused(400, "Bad Request: message can't be edited"), times=None)
    env.api.fail("deleteMessage", Fault.refused(400, "Bad Request: message can't be deleted"), times=None)
    await ana.send(CREATE)
    first = await ana.wait_for(lambda one: not one.mine)
    await wait_for_state(env, VideoState.DELIVERED)
    request, _ = await env.latest()
    (left,) = [one for one in ana.history() if one.id == first.id]
    assert left.text == EN("replaced", id=request.short_id)


@pytest.mark.slow
async def test_messages_without_an_id_are_enough(env):
    """Telegram answers 0 where it schedules a message: it counts as shown, and is never edited."""
    ana, group = env.user(), env.api.group(GROUP)
    env.api.change_group(group, unnumbered=True)
    await ana.send(CREATE, chat=group)
    await wait_for_state(env, VideoState.DELIVERED)
    assert len(videos_in(env, group)) == len(env.fake_provider.posts()) == 1
    assert env.api.calls.of("editMessageText", "editMessageMedia", "deleteMessage") == []
    assert (await requests.find(env.app.ledger, (await env.latest())[0].request_id)).status_message_id == 0


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_scheduled_video_is_not_said_to_be_above(env, language):
    """Telegram answers 0 and shows it later: the message after it says so and replies to the command."""
    ana, group, t = env.user(language=language), env.api.group(GROUP), translator(language)
    env.api.change_group(group, unnumbered=True)
    sent = await ana.send(CREATE, chat=group)
    await wait_for_state(env, VideoState.DELIVERED)
    request, _ = await env.latest()
    texts = sent_texts(env, group)
    assert t("ready_scheduled", id=request.short_id) in texts
    assert t("ready", id=request.short_id) not in texts
    last = env.api.calls.of("sendMessage")[-1].params
    assert json.loads(last["reply_parameters"])["message_id"] == sent.id


@pytest.mark.slow
async def test_a_question_that_was_only_scheduled_is_no_status_message(app_env):
    """Its [Yes] opens a request that is spoken of in a message of its own before anything is paid."""
    env = await app_env(changes={"approval": "always"})
    ana, group = env.user(), env.api.group(GROUP)
    await ana.send("/create how much is a market at dawn?", chat=group)
    question = await ana.wait_for(lambda one: EN("confirm_question") in one.text, chat=group)
    message = env.api.world.messages.find(group, question.id)
    query = {
        "id": env.api.world.callbacks.open(ana.id, group), "from": message["reply_to_message"]["from"],
        "message": {**message, "message_id": 0}, "chat_instance": "1", "data": "idea:yes",
    }  # fmt: skip
    env.api.world.updates.push("callback_query", query, "tap:raw", 150)
    await ana.wait_for(is_offer, chat=group)
    await wait_for_state(env, VideoState.AWAITING_APPROVAL)
    assert (await env.latest())[0].status_message_id


@pytest.mark.slow
async def test_an_example_of_a_hidden_welcome_is_one_request_for_each(app_env):
    """Two welcomes have the message id 0; a tap on each is a request of its own."""
    env = await app_env(wake=chat_only)
    ana, group = env.user(), env.api.group(GROUP)
    await ana.send("/start", chat=group)
    welcome = await ana.wait_for(lambda one: not one.mine, chat=group)
    message = env.api.world.messages.find(group, welcome.id)
    for number in (5, 5, 6):
        hidden = {**message, "message_id": 0, "ephemeral_message_id": number}
        query = {
            "id": env.api.world.callbacks.open(ana.id, group), "chat_instance": "1",
            "data": "example:example_1",
            "from": {"id": ana.id, "is_bot": False, "first_name": "Ana"}, "message": hidden,
        }  # fmt: skip
        env.api.world.updates.push("callback_query", query, "tap:raw", 150)
    await wait_for_confirmed(env)
    assert await count_requests(env) == 2
