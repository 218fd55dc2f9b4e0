"""The sandbox's flood control refuses what exceeds Telegram's limits, in Telegram's shape."""

import asyncio

import pytest
from aiogram.exceptions import TelegramRetryAfter

from sandbox.telegram.flood import FloodLimits, Window
from sandbox.telegram.server import BotApiServer
from tests.support.bot_api import bot_of

ANA, BEN = 1001, 1002
GROUP = -1001234567890
MANY = Window(1000, 1)


async def refused_at(
    limits: FloodLimits | None,
    chats: list[int],
) -> list[int | None]:
    """Send a message to each of `chats` in turn; return `retry_after` of each, None where it was accepted."""
    found: list[int | None] = []
    async with BotApiServer(flood_limits=limits) as api, bot_of(api) as bot:
        for person in (ANA, BEN):
            await api.user(person).send("/start")
        api.group(GROUP)
        for chat in chats:
            try:
                await bot.send_message(chat, "hello")
                found.append(None)
            except TelegramRetryAfter as error:
                found.append(error.retry_after)
        statuses = [call.status for call in api.calls.of("sendMessage")]
    assert statuses == [200 if one is None else 429 for one in found]
    return found


@pytest.mark.parametrize(
    ("limits", "chats", "refused"),
    [
        (FloodLimits(Window(2, 600), MANY, MANY), [ANA, BEN, ANA], [2]),
        (FloodLimits(MANY, Window(2, 600), MANY), [ANA, BEN, ANA, ANA, BEN, BEN], [3, 5]),
        (FloodLimits(MANY, MANY, Window(1, 600)), [ANA, ANA, GROUP, GROUP], [3]),
        (None, [ANA] * 40, []),
    ],
    ids=["total", "chat", "group", "off"],
)
async def test_each_limit_refuses_what_exceeds_it(limits, chats, refused):
    """429 with the seconds until one more fits; other chats pass; without limits nothing is refused."""
    found = await refused_at(limits, chats)
    assert [n for n, seconds in enumerate(found) if seconds is not None] == refused
    assert all(570 < seconds <= 600 for seconds in found if seconds is not None)


async def test_the_pacing_can_be_switched():
    """Production refuses what exceeds Telegram's limits, fast nothing; a switch begins with a clean count."""
    async with BotApiServer(flood_limits=FloodLimits(MANY, Window(1, 600), MANY)) as api, bot_of(api) as bot:
        await api.user(ANA).send("/start")
        assert api.pacing == "production"
        await bot.send_message(ANA, "one")
        with pytest.raises(TelegramRetryAfter):
            await bot.send_message(ANA, "two")
        api.pace("fast")
        for text in ("two", "three"):
            await bot.send_message(ANA, text)
        api.pace("production")
        await bot.send_message(ANA, "four")
        with pytest.raises(TelegramRetryAfter):
            await bot.send_message(ANA, "five")
    async with BotApiServer() as api:
        assert api.pacing == "fast"


@pytest.mark.slow
async def test_after_the_wait_it_is_accepted():
    """A refused send is not performed and not counted; after `retry_after` it passes. Edits count too."""
    limits = FloodLimits(MANY, Window(2, 1), MANY)
    async with BotApiServer(flood_limits=limits) as api, bot_of(api) as bot:
        await api.user(ANA).send("/start")
        sent = await bot.send_message(ANA, "one")
        await bot.edit_message_text("two", chat_id=ANA, message_id=sent.message_id)
        for _ in range(5):
            await bot.send_chat_action(ANA, "typing")
        with pytest.raises(TelegramRetryAfter) as refused:
            await bot.send_message(ANA, "three")
        await asyncio.sleep(refused.value.retry_after)
        await bot.send_message(ANA, "three")
        assert [call.performed for call in api.calls.of("sendMessage")] == [True, False, True]
