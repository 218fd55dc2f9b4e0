"""/settings: the language of every answer, and the price below which no tap is asked for."""

import pytest

from chat.dispatcher import publish_menu
from chat.i18n import LANGUAGES, translator
from evals.environment import PRICE
from guardrails.money import Money
from ledger import people
from ledger.models import VideoState
from tests.support.app_harness import GROUP, chat_only, sent_texts, wait_for_state, wait_for_texts


@pytest.fixture(name="asking")
async def handlers_of_an_asking_bot(app_env):
    """An app of which only the handlers run, whose declaration asks for a tap."""
    return await app_env(wake=chat_only, changes={"approval": "always"})


languages = pytest.mark.parametrize("language", LANGUAGES)


async def shown(person, text: str):
    """Return the bot's message with this line."""
    return await person.wait_for(lambda bubble: not bubble.mine and text in bubble.text)


@languages
async def test_a_chosen_language_is_used_from_now_on(asking, language):
    """Whatever the person's Telegram says; "as in Telegram" takes it back."""
    ana, t = asking.user(language="de"), translator(language)
    await ana.send("/settings")
    menu = await shown(ana, translator("en")("settings_always"))
    name = t(f"language_{language}")
    await ana.wait_for_answer(await ana.tap(menu.id, next(one for one in menu.button_texts if name in one)))
    saved = await shown(ana, t("settings_language", language=name))
    assert f"✓ {name}" in saved.button_texts
    await ana.send("/status")
    assert (await wait_for_texts(asking, 2))[1] == t("status_none")
    await ana.wait_for_answer(await ana.tap(saved.id, t("button_telegram")))
    await ana.send("/history")
    assert (await wait_for_texts(asking, 3))[2] == translator("en")("history_none")


async def test_a_limit_that_is_not_on_offer_is_refused(asking):
    """A tap with a figure of its own sets nothing."""
    ana = asking.user()
    await ana.send("/settings")
    menu = await shown(ana, translator("en")("settings_always"))
    keyboard = asking.api.world.messages.find(ana.id, menu.id)["reply_markup"]["inline_keyboard"]
    keyboard[-1][0]["callback_data"] = "set:ask:999000000"
    query = await ana.tap(menu.id, "set:ask:999000000")
    assert (await ana.wait_for_answer(query))["text"] == translator("en")("tap_gone")
    assert (await people.find(asking.app.ledger, ana.id)).ask_below is None


@pytest.mark.slow
@languages
async def test_below_a_limit_no_tap_is_asked_for(app_env, language):
    """A person who chose so gets a cheap video without a tap, and is asked again when they take it back."""
    env = await app_env(changes={"approval": "always", "cooldown": None})
    ana, t = env.user(language=language), translator(language)
    await ana.send("/settings")
    menu = await shown(ana, t("settings_always"))
    limit = Money.parse("$1")
    assert limit > PRICE
    await ana.wait_for_answer(await ana.tap(menu.id, t("button_ask_below", limit=limit)))
    await ana.send("/create a quiet market at dawn")
    await wait_for_state(env, VideoState.DELIVERED)
    assert len(env.fake_provider.charges()) == 1
    menu = await shown(ana, t("settings_below", limit=limit))
    await ana.wait_for_answer(await ana.tap(menu.id, t("button_ask_always")))
    await ana.send("/create a quiet market at noon")
    await ana.wait_for(lambda bubble: t("button_make", price=PRICE) in bubble.button_texts)
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.parametrize("command", ["status", "history", "quota", "settings"])
@languages
async def test_what_concerns_one_person_is_not_said_in_a_group(front, command, language):
    """In a group there is a link to the private chat, and nothing of another chat."""
    ana, group, t = front.user(language=language), front.api.group(GROUP), translator(language)
    await ana.send("/create a secret lighthouse")
    await ana.send(f"/{command}", chat=group)
    [text] = await wait_for_texts(front, 1, GROUP)
    assert text == t("in_private")
    bubble = await ana.wait_for(lambda one: not one.mine, chat=group)
    assert bubble.buttons[0][0].url.endswith(f"?start={command}")
    before = len(sent_texts(front, ana.id))
    await ana.send(f"/start {command}")
    answer = (await wait_for_texts(front, before + 1, ana.id))[before]
    assert t("start") not in answer
    assert "secret" not in "".join(sent_texts(front, GROUP))


async def test_an_ephemeral_command_is_answered_to_its_sender_alone(front):
    """Where the client can hide a command, its answer is as hidden, and names this chat's requests only."""
    await publish_menu(front.app.bot)
    ana, group = front.user(), front.api.group(GROUP)
    await ana.send("/create a secret lighthouse")
    await ana.send("/create a market for all", chat=group)
    await ana.send("/history", chat=group)
    answer = await ana.wait_for(lambda one: not one.mine and "market for all" in one.text, chat=group)
    assert "secret" not in answer.text
    call = front.api.calls.of("sendMessage")[-1]
    assert str(ana.id) in call.params["ephemeral_message_parameters"]


@languages
async def test_a_hidden_message_is_edited_where_it_is(asking, language):
    """Its id is 0, and it has one of its own: a tap changes what its person alone sees."""
    await publish_menu(asking.app.bot)
    ana, group, t = asking.user(language=language), asking.api.group(GROUP), translator(language)
    await ana.send("/settings", chat=group)
    menu = await ana.wait_for(lambda one: one.ephemeral and t("settings_always") in one.text, chat=group)
    chosen = translator("pt")("settings_language", language="Português")
    await ana.wait_for_answer(await ana.tap(menu.id, "set:language:pt", chat=group))
    changed = await ana.wait_for(lambda one: chosen in one.text, chat=group)
    assert (changed.id, changed.ephemeral) == (menu.id, True)
    assert not [one for one in asking.api.calls.of("editMessageText") if not one.performed]


async def test_a_bot_that_never_asks_promises_nothing(front):
    """Where the declaration asks for no tap no page says that the price is shown first."""
    ana, t = front.user(), translator("en")
    await ana.send("/start")
    await ana.send("/settings")
    texts = "".join(await wait_for_texts(front, 2))
    assert t("start_price") not in texts
    assert t("settings_always") not in texts
