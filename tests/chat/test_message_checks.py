"""Twenty free messages a minute are answered in words, and nothing that orders or stops is ever left out."""

import json

import pytest

from chat.free_limit import MOST_FREE, FreeLimit
from chat.i18n import LANGUAGES, translator
from guardrails.redis_client import connect
from tests.support.app_harness import (
    GROUP,
    chat_only,
    count_requests,
    forget_answers,
    sent_texts,
    wait_for_confirmed,
    wait_for_texts,
)

pytestmark = pytest.mark.representative

ANA, BEN, EVA = 1001, 1002, 1
languages = pytest.mark.parametrize("language", LANGUAGES)


def reactions(env):
    """Return the marks that the bot set."""
    calls = env.api.calls.of("setMessageReaction")
    return [call for call in calls if json.loads(call.params["reaction"])[0]["emoji"] == "😴"]


async def use_up(env, person):
    for _ in range(MOST_FREE):
        await person.send("/status")
    await wait_for_texts(env, MOST_FREE, person.id, 30)


@pytest.fixture
async def handlers(app_env):
    return await app_env(wake=chat_only, settings={"admins": frozenset({EVA})})


@languages
async def test_the_next_message_is_told_and_later_ones_are_marked(handlers, language):
    """Each of them is answered: one in words, the others by a reaction. Another person is not concerned."""
    env, t = handlers, translator(language)
    ana = env.user(ANA, language=language)
    await use_up(env, ana)
    for text in ("/quota", "hello", "/help"):
        await ana.send(text)
    await wait_for_confirmed(env)
    told = sent_texts(env, ANA)[MOST_FREE:]
    assert told in [[t("slow_down", most=MOST_FREE, seconds=left)] for left in range(61)]
    assert len(reactions(env)) == 2
    await env.user(BEN, "Ben", language).send("/status")
    assert await wait_for_texts(env, 1, BEN) == [t("status_none")]


async def test_ideas_and_cancel_are_never_left_out(handlers):
    """`/create` with an idea, the idea that `/create` asked for, and `/cancel`; `/create` alone is free."""
    env, t = handlers, translator("en")
    ana = env.user(ANA)
    await ana.send("/create")
    for _ in range(MOST_FREE - 1):
        await ana.send("/status")
    await wait_for_texts(env, MOST_FREE, ANA, 30)
    # It ends the question, so the question is asked again by hand.
    await env.app.chat.conversations.ask_for_idea(ANA, ANA)
    await ana.send("a quiet market at dawn")
    await ana.send("/create a paper boat on a rainy street")
    await ana.send("/cancel")
    await ana.wait_for(lambda one: "is cancelled" in one.text)
    assert await count_requests(env) == 2
    await ana.send("/create")
    await ana.wait_for(lambda one: "more than 20 messages" in one.text)
    assert t("status_none") in sent_texts(env, ANA)


async def test_a_message_that_is_delivered_again_is_counted_once(handlers):
    env = handlers
    ana = env.user(ANA)
    await ana.send("/status")
    await wait_for_texts(env, 1, ANA)
    for count in range(2, MOST_FREE + 3):
        await wait_for_confirmed(env)
        await forget_answers(env)
        await env.api.redeliver(ana.last_update.id)
        await wait_for_texts(env, count, ANA)
    await ana.send("/status")
    await wait_for_texts(env, MOST_FREE + 3, ANA)
    assert set(sent_texts(env, ANA)) == {translator("en")("status_none")}


async def test_admins_are_not_limited(handlers):
    """A person who examines an incident needs more than twenty commands."""
    env = handlers
    eva = env.user(EVA, "Eva")
    for _ in range(MOST_FREE + 3):
        await eva.send("/status")
    await wait_for_texts(env, MOST_FREE + 3, EVA, 30)
    assert set(sent_texts(env, EVA)) == {translator("en")("status_none")}


async def test_strangers_are_limited_too(app_env):
    env = await app_env(wake=chat_only, settings={"allowed_users": frozenset({BEN})})
    ana = env.user(ANA)
    for _ in range(MOST_FREE + 3):
        await ana.send("let me in")
    await wait_for_confirmed(env)
    assert len(sent_texts(env, ANA)) == MOST_FREE + 1
    assert len(reactions(env)) == 2


async def test_redis_ends_the_minute_and_its_absence_limits_nothing(redis_url):
    """The 21st after the minute is the first of the next; without Redis every message is the first."""
    redis = connect(redis_url)
    limit = FreeLimit(redis, "free-test", 1)
    await redis.delete("{free-test}:chat:v1:1:free:7")
    found = [await limit.count(7, f"m{number}") for number in range(22)]
    assert [one.is_answered for one in found] == [True] * 20 + [False] * 2
    assert [one.is_first_over for one in found] == [False] * 20 + [True, False]
    assert 1 <= found[-1].wait_s <= 60
    assert (await limit.count(7, "m3")).nth == 4
    await redis.pexpire("{free-test}:chat:v1:1:free:7", 1)
    while await redis.exists("{free-test}:chat:v1:1:free:7"):
        pass
    assert (await limit.count(7, "m30")).nth == 1
    for number in range(300):
        await limit.count(7, f"n{number}")
    assert await redis.hlen("{free-test}:chat:v1:1:free:7") <= 200
    await redis.aclose()
    gone = connect("redis://127.0.0.1:1/0")
    assert (await FreeLimit(gone, "free-test", 1).count(7, "m")).is_answered
    await gone.aclose()


@languages
@pytest.mark.parametrize("text", ["/create a market", "/status", "/report #0f0f0f", "/cancel", "/settings"])
async def test_an_anonymous_admin_is_sent_to_their_own_account(handlers, language, text):
    """With a button that opens the private chat; what is the same for everyone is answered as always."""
    env = handlers
    ana, group = env.user(ANA, language=language), env.api.group(GROUP)
    await ana.promote(group, anonymous=True)
    await ana.send(text, chat=group, anonymous=True)
    said = await ana.wait_for(lambda one: one.text == translator("en")("no_payer"), chat=group)
    [[button]] = said.buttons
    assert (button.text, button.url) == (
        translator("en")("button_open"), "https://t.me/onetake_sandbox_bot?start=create",
    )  # fmt: skip
    await ana.follow(button.url)
    await ana.wait_for(lambda one: translator(language)("button_prices") in one.button_texts)
    assert await count_requests(env) == 0


async def test_an_anonymous_admin_in_a_bot_with_a_list(app_env):
    """Nobody reads the number of Telegram's own bot as theirs."""
    env = await app_env(wake=chat_only, settings={"allowed_users": frozenset({ANA})})
    ana, group = env.user(ANA), env.api.group(GROUP)
    await ana.promote(group, anonymous=True)
    await ana.send("/create a market", chat=group, anonymous=True)
    assert await wait_for_texts(env, 1, group) == [translator("en")("no_payer")]


async def test_help_is_for_everyone(handlers):
    env = handlers
    ana, group = env.user(ANA), env.api.group(GROUP)
    await ana.promote(group, anonymous=True)
    await ana.send("/help", chat=group, anonymous=True)
    await ana.wait_for(lambda one: "Commands" in one.text, chat=group)
