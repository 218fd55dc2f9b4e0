"""Every way to ask for a video, in three languages: each message is answered once, no text is an order."""

import random
from dataclasses import replace

import pytest

from chat import replies
from chat.handlers.user import COMMANDS
from chat.i18n import LANGUAGES, translator
from chat.ideas import edit_distance, is_question, nearest_command
from evals.environment import QUICK_EDIT_LIMITS
from ledger import requests
from sandbox.telegram import Fault
from tests.support.app_harness import (
    GROUP,
    count_requests,
    push_update,
    sent_texts,
    wait_for_confirmed,
    wait_for_texts,
)

YES, NO = 0, 1
"""Places of the buttons under a question about an idea."""

languages = pytest.mark.parametrize("language", LANGUAGES)


async def only_idea(env, user_id: int) -> str:
    """Return the idea of this user's only request."""
    [(request, _)] = await requests.list_for_user(env.app.ledger, user_id)
    return request.idea


async def question(person, text: str):
    """Return the bot's message that asks about an idea."""
    return await person.wait_for(lambda bubble: not bubble.mine and bubble.text == plain(text))


def plain(html: str) -> str:
    return html.replace("<code>", "").replace("</code>", "").replace("<i>", "").replace("</i>", "")


@languages
async def test_a_bare_command_asks_for_the_idea_and_takes_it(front, language):
    """/create alone asks; the next message is the idea, once. The request is that message's."""
    ana, t = front.user(language=language), translator(language)
    await ana.send("/create")
    assert await wait_for_texts(front, 1) == [t("ask_idea")]
    [call] = front.api.calls.of("sendMessage")
    assert '"force_reply":true' in call.params["reply_markup"].replace(" ", "")
    idea = await ana.send("a lighthouse")
    await wait_for_confirmed(front)
    [(request, _)] = await requests.list_for_user(front.app.ledger, ana.id)
    assert (request.idea, request.message_id) == ("a lighthouse", idea.id)
    await ana.send("a second lighthouse by the sea")
    assert (await wait_for_texts(front, 2))[1] == t("confirm_idea")
    assert await count_requests(front) == 1


async def test_a_command_ends_the_question(front):
    """After another command the next text is no idea; a bare /create again asks again."""
    ana, t = front.user(), translator("en")
    for text in ("/create", "/status", "one word"):
        await ana.send(text)
    assert (await wait_for_texts(front, 3))[2] == t("chatter")
    await ana.send("/create")
    await ana.send("one word")
    await wait_for_confirmed(front)
    assert await only_idea(front, ana.id) == "one word"


async def test_a_question_in_a_group_takes_only_a_reply_of_its_asker(front):
    """In a group the idea is the asker's reply to the bot; another person's waits for a tap."""
    group, ana, eva = front.api.group(GROUP), front.user(), front.user(2)
    await ana.send("/create", chat=group)
    asked = await ana.wait_for(lambda bubble: not bubble.mine, chat=group)
    await eva.send("a market of mine", chat=group, reply_to=asked.id)
    await ana.send("good morning everyone", chat=group)
    await wait_for_confirmed(front)
    assert await count_requests(front) == 0
    await ana.send("a market at dawn", chat=group, reply_to=asked.id)
    await wait_for_confirmed(front)
    assert await only_idea(front, ana.id) == "a market at dawn"
    assert sent_texts(front, GROUP)[1:] == [translator("en")("confirm_idea")], "Eva's words wait for her tap"


async def test_without_redis_an_idea_is_asked_about_once_more(front, monkeypatch):
    """A question that is not remembered loses no idea: it is offered for a tap."""
    ana, t = front.user(), translator("en")

    async def away(command):
        command.close()

    monkeypatch.setattr(front.app.chat.conversations, "_ask", away)
    await ana.send("/create")
    await ana.send("a lighthouse by the sea")
    assert await wait_for_texts(front, 2) == [t("ask_idea"), t("confirm_idea")]


@languages
async def test_a_plain_text_is_offered_for_a_tap(front, language):
    """Three words in private are asked about; the tap opens one request, however often it comes."""
    ana, t = front.user(language=language), translator(language)
    idea = await ana.send("a lighthouse by the sea")
    asked = await question(ana, t("confirm_idea"))
    assert list(asked.button_texts) == [t("button_yes_show"), t("button_no")]
    assert await count_requests(front) == 0
    for _ in range(2):
        await ana.wait_for_answer(await ana.tap(asked.id, asked.button_texts[YES]))
    [(request, _)] = await requests.list_for_user(front.app.ledger, ana.id)
    assert (request.idea, request.message_id) == ("a lighthouse by the sea", idea.id)
    assert request.status_message_id == asked.id


@languages
async def test_no_makes_nothing(front, language):
    """[No] takes the buttons away and says that nothing was made."""
    ana, t = front.user(language=language), translator(language)
    await ana.send("a lighthouse by the sea")
    asked = await question(ana, t("confirm_idea"))
    await ana.wait_for_answer(await ana.tap(asked.id, asked.button_texts[NO]))
    said = await question(ana, t("idea_declined"))
    assert (said.id, said.buttons) == (asked.id, [])
    assert await count_requests(front) == 0


async def test_a_question_about_a_deleted_message_says_so(front):
    """Where the idea is gone the tap is answered, and nothing is made."""
    ana, t = front.user(), translator("en")
    await ana.send("a lighthouse by the sea")
    asked = await question(ana, t("confirm_idea"))
    front.api.world.messages.find(ana.id, asked.id).pop("reply_to_message")
    answer = await ana.wait_for_answer(await ana.tap(asked.id, asked.button_texts[YES]))
    assert answer["text"] == t("idea_gone")
    assert await count_requests(front) == 0


QUESTIONS = {
    "en": ("how much does it cost?", "can you make two videos", "what is this bot"),
    "es": ("¿cuánto cuesta un video?", "cómo funciona este bot", "puedo pedir dos videos"),
    "pt": ("quanto custa um vídeo?", "como posso pedir outro", "o que você faz aqui"),
}


@languages
async def test_a_question_is_never_an_order(front, language):
    """A question in private gets help; after /create it is asked about first. Nothing is made."""
    t = translator(language)
    for user, text in enumerate(QUESTIONS[language], start=1):
        person = front.user(user, language=language)
        await person.send(text)
        await person.send(f"/create {text}")
        await question(person, t("confirm_question"))
        assert "/quota" in sent_texts(front, user)[0]
    assert await count_requests(front) == 0


@pytest.mark.parametrize(
    "text",
    [
        "when the sun sets over the sea a boat comes home",
        "como um barco no mar ao amanhecer",
        "where the river meets the sea, a heron",
    ],
)
def test_an_idea_is_no_question(text):
    assert not is_question(text)


@languages
async def test_a_mistyped_command_is_understood(front, language):
    """Up to two typing errors name the command that was meant; a misspelt /create keeps its idea."""
    ana, t = front.user(language=language), translator(language)
    await ana.send("/crate a lighthouse by the sea")
    asked = await question(ana, t("did_you_mean_create"))
    await ana.send("/statsu")
    await ana.send("/unknown idea")
    texts = await wait_for_texts(front, 3)
    assert texts[1:] == [t("did_you_mean", command="status"), t("unknown_command")]
    await ana.wait_for_answer(await ana.tap(asked.id, asked.button_texts[YES]))
    assert await only_idea(front, ana.id) == "a lighthouse by the sea"


def test_two_typing_errors_and_no_more():
    """Letters that are left out, added, replaced or swapped; a short word may have one error."""
    cases = {
        "/craete": "create", "/creat": "create", "/cretae x": "create", "/hlep": "help",
        "/histroy": "history",
        "/qouta": "quota", "/cancle #1": "cancel", "/movies": None, "/x": None, "hello": None,
    }  # fmt: skip
    assert {text: nearest_command(text, COMMANDS) for text in cases} == cases
    distances = {("", "ab"): 2, ("ab", "ba"): 1, ("abc", "abc"): 0, ("kitten", "sitting"): 3}
    assert {pair: edit_distance(*pair) for pair in distances} == distances


async def test_a_reply_with_the_command_films_the_text(front):
    """/create as a reply takes the text that it replies to; its own words come first; not the bot's text."""
    group, ana, eva = front.api.group(GROUP), front.user(), front.user(2)
    told = await eva.send("a heron where the river meets the sea", chat=group)
    await ana.send("/create", chat=group, reply_to=told.id)
    await wait_for_confirmed(front)
    assert await only_idea(front, ana.id) == "a heron where the river meets the sea"
    await eva.send("/create my own words", chat=group, reply_to=told.id)
    await wait_for_confirmed(front)
    assert await only_idea(front, eva.id) == "my own words"
    mia = front.user(3)
    await mia.send("/quota")
    [shown] = await _answers(mia, 1)
    await mia.send("/create", reply_to=shown.id)
    assert (await wait_for_texts(front, 2, mia.id))[1] == translator("en")("ask_idea")


async def _answers(person, wanted: int):
    await person.wait_for(lambda bubble: sum(not one.mine for one in person.history()) >= wanted)
    return [one for one in person.history() if not one.mine]


@languages
async def test_a_picture_is_not_paid_and_ignored(front, language):
    """Where pictures are not used, a caption is not ordered: the words alone are offered for a tap."""
    ana, t = front.user(language=language), translator(language)
    await ana.photo("/create a market at dawn")
    asked = await question(ana, t("no_pictures_words"))
    assert await count_requests(front) == 0
    await ana.wait_for_answer(await ana.tap(asked.id, asked.button_texts[YES]))
    assert await only_idea(front, ana.id) == "a market at dawn"
    await ana.photo()
    assert (await wait_for_texts(front, 2))[1] == t("no_pictures")


@pytest.mark.parametrize("captions", [("/create a market", "", ""), ("", "", "/create a market")])
async def test_an_album_is_one_act(front, captions):
    """Of an album its caption is asked about once, and its other pictures are at most one answer."""
    ana, t = front.user(), translator("en")
    for caption in captions:
        await ana.photo(caption, album="77")
    await wait_for_confirmed(front)
    texts = sent_texts(front)
    assert texts.count(t("no_pictures_words")) == 1
    assert len(texts) == (1 if captions[0] else 2)
    assert await count_requests(front) == 0


async def test_a_split_text_is_answered_once(front):
    """Parts that an app splits off a long text are not answered; a text of two seconds later is."""
    ana, t = front.user(), translator("en")
    await ana.send_long("a market at dawn " * 600)
    await wait_for_confirmed(front)
    assert len(sent_texts(front)) == 1
    for _ in range(4):  # the chat's clock runs faster than ours
        await front.user(2).send("/status")
        await wait_for_confirmed(front)
    push_update(front, text="a lighthouse by the sea", date=int(front.api.world.clock.now()) + 5)
    assert (await wait_for_texts(front, 2, ana.id))[1] == t("confirm_idea")


REFUSED = {
    "en": {"real_person": "Donald Trump dances", "copyrighted_character": "a fight of Rambo and a bear"},
    "es": {"real_person": "Donald Trump baila", "copyrighted_character": "una pelea de Rambo con un oso"},
    "pt": {"real_person": "Donald Trump dançando", "copyrighted_character": "uma luta de Rambo com um urso"},
}


@languages
async def test_a_refusal_names_the_word_and_can_be_repaired(app_env, language):
    """Rules and limits are read in the handler: one message, at once, with the word and [Change idea]."""
    env = await app_env(changes={"approval": "always"}, edit_limits=replace(QUICK_EDIT_LIMITS, quiet_s=60))
    t = translator(language)
    for user, (category, idea) in enumerate(REFUSED[language].items(), start=1):
        ana = env.user(user, language=language)
        await ana.send(f"/create {idea}")
        refused = await ana.wait_for(lambda bubble: bool(bubble.buttons))
        word = "Rambo" if category == "copyrighted_character" else "Donald Trump"
        said = t(
            "refused_word", word=word, category=t(f"category_{category}"), repair=t(f"repair_{category}")
        )
        assert said in refused.text
        assert len(sent_texts(env, user)) == 1
        await ana.wait_for_answer(await ana.tap(refused.id, t("button_change_idea")))
        [_, asks] = await wait_for_texts(env, 2, user)
        assert idea in asks
        await ana.send("two words" if category == "real_person" else "another bear by a lake")
        await wait_for_confirmed(env)
        [(request, _), _] = await requests.list_for_user(env.app.ledger, user)
        assert request.idea in ("two words", "another bear by a lake")


@languages
async def test_a_refusal_about_minors_names_no_word(front, language):
    """What sexualises a child is refused at once, and not told how to be said otherwise."""
    idea = {"en": "a sexy schoolgirl", "es": "una colegiala sexy", "pt": "uma novinha pelada"}[language]
    ana = front.user(language=language)
    await ana.send(f"/create {idea}")
    await wait_for_confirmed(front)
    [(request, _)] = await requests.list_for_user(front.app.ledger, ana.id)
    assert (request.state, request.reason, request.reason_quote) == ("REFUSED", "content:minor", None)


@languages
async def test_an_idea_with_a_child_that_is_not_plainly_harmless_accuses_nobody(app_env, language):
    """Not to be sure is no accusation; another idea may be tried."""
    idea = {"en": "a boy", "es": "un niño", "pt": "um menino"}[language]
    env, t = await app_env(), translator(language)
    ana = env.user(language=language)
    await ana.send(f"/create {idea}")
    shown = await ana.wait_for(lambda bubble: t("refused_minor") in bubble.text)
    assert shown.button_texts == [t("button_change_idea")]


KINDS = (
    "/status",
    "/statsu",
    "/create",
    "one",
    "a market at dawn",
    "how much is it?",
    "photo",
    "voice",
    "sticker",
)
SIZE = {"width": 9, "height": 9}
STICKER = {"file_id": "s", "file_unique_id": "s", "type": "regular", "is_animated": False, "is_video": False}
BODIES = {
    "photo": {"photo": [{"file_id": "p", "file_unique_id": "p", **SIZE}]},
    "voice": {"voice": {"file_id": "v", "file_unique_id": "u", "duration": 1}},
    "sticker": {"sticker": STICKER | SIZE},
}


def say(env, user_id: int, kind: str, at: int):
    """Queue one message of this kind, sent at this second; return its update."""
    body = BODIES.get(kind, {"text": kind})
    person = {"id": user_id, "is_bot": False, "first_name": "A", "language_code": "en"}
    return push_update(
        env, chat={"id": user_id, "type": "private", "first_name": "A"}, date=at, **{"from": person}, **body
    )


@pytest.mark.representative
async def test_every_message_gets_exactly_one_answer(front):
    """200 random pairs of messages, up to 12 s apart: each is answered once, whatever came before it."""
    rng, pairs = random.Random(13), 200
    for user_id in range(1, pairs + 1):
        front.user(user_id).user.started = True
        at, kinds = int(front.api.world.clock.now()), rng.choices(KINDS, k=2)
        if kinds[0] == "/create" and " " not in kinds[1] and not kinds[1].startswith("/"):
            kinds[1] = "photo"  # a text would be the idea, whose answer is the request
        if kinds[0] == "/create" and " " in kinds[1]:
            kinds = kinds[::-1]
        for kind, after in zip(kinds, (0, rng.randint(0, 12)), strict=True):
            say(front, user_id, kind, at + after)
    await wait_for_texts(front, 2 * pairs, seconds=60)
    await wait_for_confirmed(front)
    counts = {user_id: len(sent_texts(front, user_id)) for user_id in range(1, pairs + 1)}
    assert {user: found for user, found in counts.items() if found != 2} == {}


async def test_a_failed_answer_is_no_silence_for_the_next(front):
    """A reply that Telegram refuses silences no other message."""
    ana = front.user()
    front.api.fail("sendMessage", Fault.server_error())
    await ana.send("one")
    await wait_for_confirmed(front)
    await ana.send("one")
    assert await wait_for_texts(front, 1) == [translator("en")("chatter")]


@languages
async def test_no_after_yes_cancels_what_was_asked_for(front, language):
    """[No] never says that nothing was made while a request runs: it stops that request."""
    ana, t = front.user(language=language), translator(language)
    await ana.send("a lighthouse by the sea")
    asked = await question(ana, t("confirm_idea"))
    await ana.wait_for_answer(await ana.tap(asked.id, asked.button_texts[YES]))
    said = await ana.wait_for_answer(await ana.tap(asked.id, asked.button_texts[NO]))
    [(request, _)] = await requests.list_for_user(front.app.ledger, ana.id)
    assert said["text"] == t("cancel_done", id=request.short_id)
    assert request.state == "CANCELLED"


async def test_a_question_that_is_replied_to_is_filmed(front):
    """/create as a reply to a question opens a request: a tap would not find the words."""
    ana, eva, group = front.user(), front.user(2), front.api.group(GROUP)
    asked = await eva.send("what would happen if cats ruled the sea?", chat=group)
    await ana.send("/create", chat=group, reply_to=asked.id)
    await wait_for_confirmed(front)
    assert await only_idea(front, ana.id) == "what would happen if cats ruled the sea?"


async def test_a_late_answer_in_a_group_is_not_met_by_silence(front, monkeypatch):
    """The question is forgotten after ten minutes: a reply to it is asked about."""
    ana, group, t = front.user(), front.api.group(GROUP), translator("en")
    await ana.send("/create", chat=group)
    asked = await ana.wait_for(lambda bubble: not bubble.mine, chat=group)
    await front.app.chat.conversations.end(group, ana.id)
    await ana.send("a market at dawn", chat=group, reply_to=asked.id)
    assert (await wait_for_texts(front, 2, GROUP))[1] == t("confirm_idea")
    await ana.send("thank you", chat=group, reply_to=ana.history(chat=group)[-1].id)
    await wait_for_confirmed(front)
    assert len(sent_texts(front, GROUP)) == 2


async def test_a_tap_ends_the_question(front):
    """Who taps [No] after /create has not asked for the next thing they write."""
    ana, t = front.user(), translator("en")
    await ana.send("a lighthouse by the sea")
    asked = await question(ana, t("confirm_idea"))
    await ana.send("/create")
    await ana.wait_for_answer(await ana.tap(asked.id, asked.button_texts[NO]))
    await ana.send("thanks")
    assert (await wait_for_texts(front, 3))[2] == t("chatter")
    assert await count_requests(front) == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_that_comes_again_has_its_answer(front, kind):
    """Telegram delivers again what it saw no confirmation of: the person reads one answer."""
    front.user(1).user.started = True
    update = say(front, 1, kind, int(front.api.world.clock.now()))
    await wait_for_texts(front, 1, seconds=60)
    await wait_for_confirmed(front)
    await front.api.redeliver(update.id, 3)
    await wait_for_confirmed(front)
    await front.user(2).send("/help")
    await wait_for_texts(front, 1, 2, seconds=60)
    assert len(sent_texts(front, 1)) == 1


async def test_a_throttled_answer_is_sent_again(front):
    """A 429 proves that nothing was sent: the answer follows when Telegram allows it, once."""
    front.api.fail("sendMessage", Fault.throttled(1), times=2)
    await front.user().send("one")
    assert await wait_for_texts(front, 1) == [translator("en")("chatter")]
    await wait_for_confirmed(front)
    assert len(sent_texts(front)) == 1


async def test_an_answer_that_must_wait_longer_delays_no_update(front, monkeypatch):
    """One that Telegram allows after the handler's time is sent by then; other people are answered before."""
    monkeypatch.setattr(replies, "REPLY_TIMEOUT_S", 0.5)
    front.api.fail("sendMessage", Fault.throttled(3))
    await front.user(1001).send("one")
    await wait_for_confirmed(front)
    assert await wait_for_texts(front, 1, 1001) == [translator("en")("chatter")]
    assert len(front.api.calls.of("sendMessage")) == 2


async def test_an_answer_nobody_waits_for_is_dropped(front, monkeypatch):
    """What Telegram holds back for minutes is not sent to a person who has gone."""
    monkeypatch.setattr(replies, "REPLY_TIMEOUT_S", 0.5)
    front.api.fail("sendMessage", Fault.throttled(replies._LATEST_S + 1))
    await front.user().send("one")
    await wait_for_confirmed(front)
    assert replies._late == set()
    assert sent_texts(front) == []
