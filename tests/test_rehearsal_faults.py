"""Faults on demand: what the caller sees, and whether it happened all the same."""

import asyncio

import pytest
from aiogram.exceptions import TelegramNetworkError, TelegramRetryAfter, TelegramServerError
from telegram_rehearsal import bot_of

from sandbox.telegram import BotApiServer, Fault


@pytest.fixture
async def api():
    async with BotApiServer() as running:
        await running.user(1001, "Ana").send("/start")
        yield running


@pytest.fixture
async def bot(api):
    async with bot_of(api, timeout=0.3) as made:
        yield made


def said(api):
    return [bubble.text for bubble in api.user(1001).history() if not bubble.mine]


@pytest.mark.parametrize(
    ("fault", "error", "happened"),
    [
        (Fault.throttled(retry_after=3), TelegramRetryAfter, False),
        (Fault.server_error(500), TelegramServerError, False),
        (Fault.server_error(502), TelegramServerError, False),
        (Fault.drop(), TelegramNetworkError, False),
        (Fault.hang(), TelegramNetworkError, False),
        (Fault.lost_answer(), TelegramNetworkError, True),
        (Fault.lost_answer("hang"), TelegramNetworkError, True),
        (Fault.lost_answer("502"), TelegramServerError, True),
    ],
)
async def test_a_fault_happens_as_often_as_asked(api, bot, fault, error, happened):
    """The caller sees the fault once; the chat and the record of calls tell what really happened."""
    api.fail("sendMessage", fault)
    with pytest.raises(error) as seen:
        await bot.send_message(1001, "one")
    if error is TelegramRetryAfter:
        assert seen.value.retry_after == 3
    assert said(api) == (["one"] if happened else [])
    await bot.send_message(1001, "two")
    assert said(api)[-1] == "two"
    assert [call.performed for call in api.calls.of("sendMessage")] == [happened, True]


async def test_a_standing_fault_ends_when_healed(api, bot):
    """times=None breaks every call of every method until heal."""
    api.fail("*", Fault.server_error(), times=None)
    for _ in range(3):
        with pytest.raises(TelegramServerError):
            await bot.get_me()
    api.heal()
    assert (await bot.get_me()).is_bot


async def test_a_hanging_call_is_let_go(api):
    """heal cuts the calls that hang, so that a test ends when it wants to."""
    async with bot_of(api, timeout=30) as patient:
        api.fail("sendMessage", Fault.hang())
        call = asyncio.create_task(patient.send_message(1001, "one"))
        await api.calls.wait_for(lambda call: call.method == "sendMessage" and call.description == "hang")
        api.heal()
        with pytest.raises(TelegramNetworkError):
            await call
    assert said(api) == []


async def test_the_record_tells_what_was_asked(api, bot):
    """Every call is on record with its fields, its outcome and Telegram's words."""
    with pytest.raises(Exception, match="chat not found"):
        await bot.send_message(4, "x")
    (call,) = api.calls.of("sendMessage")
    assert (call.params["chat_id"], call.params["text"], call.performed, call.status) == (
        "4",
        "x",
        False,
        400,
    )
    assert call.description == "Bad Request: chat not found"
