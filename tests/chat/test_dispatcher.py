"""Menus by scope and language, and the descriptions of the bot, as Telegram would show them."""

import asyncio
from unittest.mock import patch

import pytest
from aiogram.types import BotCommandScopeChat

from app import processes
from app.processes import run_polling
from chat.dispatcher import ADMIN_MENU, MENU, publish_admin_menu, publish_descriptions, publish_menu
from chat.i18n import LANGUAGES, translator
from sandbox.telegram import Fault
from tests.support.app_harness import chat_only, wait_for_confirmed
from tests.support.waiting import wait_until

EVA, ANA = 1, 1001
languages = pytest.mark.parametrize("language", LANGUAGES)


@pytest.fixture
async def started(front):
    """The handlers alone, once what is published at the start is there."""

    async def published() -> bool:
        return len(front.api.calls.of("setMyShortDescription")) == len(LANGUAGES)

    await wait_until(published, 30, "the bot's profile")
    return front


async def test_nobody_waits_for_the_profile(app_env):
    """Messages are answered while menus and descriptions are still being published."""
    env = await app_env(wake=lambda app: (_started_late(app),))
    await env.user().send("/status")
    await env.user().wait_for(lambda one: not one.mine)
    assert not env.api.calls.of("setMyDescription")


async def _started_late(app) -> None:
    """Poll with a Telegram that does not answer the first call of the profile."""
    with patch.object(processes, "publish_menu", lambda *_, **__: asyncio.Event().wait()):
        await run_polling(app)


@languages
async def test_descriptions_are_in_the_persons_language(started, language):
    """The long one stands above [Start], the short one on the profile; other languages read English."""
    bot, t = started.app.bot, translator(language)
    assert (await bot.get_my_description(language)).description == t("bot_description")
    assert (await bot.get_my_short_description(language)).short_description == t("bot_short_description")
    assert (await bot.get_my_description()).description == translator("en")("bot_description")
    assert (await bot.get_my_description("fi")).description == translator("en")("bot_description")


async def test_only_what_differs_is_written(started):
    """At the next start nothing is, and a text that someone changed is written again."""
    bot, calls = started.app.bot, started.api.calls
    first = len(calls.of("setMyDescription", "setMyShortDescription"))
    assert first == 2 * (1 + len(LANGUAGES)) - 2, "English is that of every other language"
    await publish_descriptions(bot)
    assert len(calls.of("setMyDescription", "setMyShortDescription")) == first
    await bot.set_my_description("another", "es")
    await publish_descriptions(bot)
    assert (await bot.get_my_description("es")).description == translator("es")("bot_description")


async def test_a_refused_description_stops_nothing(front):
    front.api.fail("getMyDescription", Fault.throttled(3600))
    await publish_descriptions(front.app.bot)
    await front.user().send("/status")
    await front.user().wait_for(lambda one: not one.mine)


@languages
async def test_an_admin_sees_the_admins_commands(app_env, language):
    """From the first /start on; nobody else does."""
    env = await app_env(wake=chat_only, settings={"admins": frozenset({EVA})})
    eva, ana, bot, t = env.user(EVA, "Eva"), env.user(ANA), env.app.bot, translator(language)
    for person in (eva, ana):
        await person.send("/start")
    await wait_for_confirmed(env)
    shown = await bot.get_my_commands(BotCommandScopeChat(chat_id=EVA), language)
    assert [(one.command, one.description) for one in shown] == [
        (name, t(f"menu_{name}")) for name in (*MENU, *ADMIN_MENU)
    ]
    assert await bot.get_my_commands(BotCommandScopeChat(chat_id=ANA), language) == []
    usual = await bot.get_my_commands(language_code=language)
    assert [one.command for one in usual] == list(MENU)


async def test_an_admin_who_never_started_costs_the_others_nothing(front):
    """Telegram refuses their menu; everyone's, and the next admin's, is published."""
    await front.user(EVA, "Eva").send("/start")
    await wait_for_confirmed(front)
    await publish_menu(front.app.bot, [999_999, EVA])
    assert await front.app.bot.get_my_commands(BotCommandScopeChat(chat_id=EVA))
    await publish_admin_menu(front.app.bot, 999_999)
    assert await front.app.bot.get_my_commands()
