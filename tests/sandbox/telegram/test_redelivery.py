"""Tests of redelivery and faults: like Telegram, the sandbox repeats what was not accepted."""

import asyncio
import random

import pytest
from aiogram import Dispatcher
from aiogram.exceptions import TelegramNetworkError, TelegramRetryAfter, TelegramServerError
from aiogram.types import Message
from aiogram.webhook.aiohttp_server import SimpleRequestHandler
from aiohttp import web

from sandbox.telegram import BotApiServer, Fault
from sandbox.telegram.updates import SECRET_HEADER, Backoff
from tests.support.bot_api import bot_of, recorder, webhook


async def until(condition, timeout=5.0):
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


def test_backoff():
    """At once, then 2, 4, 8 … s, capped at a random 60 to 120 s: the 13th delivery comes after minutes."""
    backoff = Backoff(random.Random(1))
    waits = [backoff.after_failure() for _ in range(13)]
    assert waits[:6] == [0, 2, 4, 8, 16, 32]
    assert all(60 <= wait <= 120 for wait in waits[6:])
    assert 5 * 60 < sum(waits[:12]) < 13 * 60


def test_retry_after_is_honored():
    """The bot's Retry-After replaces the wait, up to an hour, and does not lengthen the next one."""
    backoff = Backoff(random.Random(1))
    assert [backoff.after_failure(7), backoff.after_failure(9999), backoff.after_failure()] == [7, 3600, 2]


async def test_thirteen_failures_bring_one_update_fourteen_times():
    """A handler that keeps failing gets the same update, same id, until it accepts."""
    seen = []
    async with (
        BotApiServer(clock_scale=2000) as api,
        bot_of(api) as bot,
        webhook(recorder([500] * 13, seen)) as url,
    ):
        await bot.set_webhook(url, secret_token="abc")
        await api.user(1001).send("/create")
        await until(lambda: not api.pending_updates)
        assert len(seen) == 14
        assert len({update["update_id"] for update in seen}) == 1
        info = await bot.get_webhook_info()
        assert (info.pending_update_count, info.last_error_message) == (
            0,
            "Wrong response from the webhook: 500 Internal Server Error",
        )


async def test_a_chat_is_one_serial_queue_and_others_continue():
    """While one chat's update fails, its next one waits and another chat's is delivered."""
    seen, open_now = [], asyncio.Event()

    async def handle(request):
        update = await request.json()
        seen.append(update["message"]["text"])
        return web.Response(
            status=200 if open_now.is_set() or update["message"]["chat"]["id"] != 1001 else 503
        )

    async with BotApiServer(clock_scale=500) as api, bot_of(api) as bot, webhook(handle) as url:
        await bot.set_webhook(url)
        await api.user(1001).send("first")
        await api.user(1001).send("second")
        await api.user(1002).send("other")
        await until(lambda: "other" in seen and seen.count("first") > 2)
        assert "second" not in seen
        open_now.set()
        await until(lambda: not api.pending_updates)
        assert seen[-1] == "second"


@pytest.mark.parametrize("fault", ["drop", "hang", "redirect"])
async def test_no_answer_is_no_acceptance(fault):
    """A dropped connection, no answer within 60 s and a redirect bring the update again."""
    seen = []

    async def handle(request):
        seen.append((await request.json())["update_id"])
        if len(seen) > 1:
            return web.Response()
        if fault == "redirect":
            return web.Response(status=302, headers={"Location": "/elsewhere"})
        if fault == "hang":
            await asyncio.Event().wait()
        request.transport.abort()
        return web.Response()

    async with (
        BotApiServer(clock_scale=1000, min_time_limit=0.2) as api,
        bot_of(api) as bot,
        webhook(handle) as url,
    ):
        await bot.set_webhook(url)
        await api.user(1001).send("/create")
        await until(lambda: not api.pending_updates)
        assert len(seen) == 2
        assert seen[0] == seen[1]


async def test_after_a_day_an_update_is_dropped():
    """An update that was not accepted within 24 h is not delivered again."""
    seen = []
    async with (
        BotApiServer(clock_scale=86_400 / 0.3) as api,
        bot_of(api) as bot,
        webhook(recorder([500] * 10_000, seen)) as url,
    ):
        await bot.set_webhook(url)
        await api.user(1001).send("/create")
        await until(lambda: not api.pending_updates)
        assert len(seen) > 13


async def test_aiograms_own_webhook_handler_with_its_secret():
    """aiogram's handler accepts our POST with the secret; a handler that raises gets it again."""
    ran = []
    dispatcher = Dispatcher()

    @dispatcher.message()
    async def handle(message: Message) -> None:
        ran.append(message.text)
        if len(ran) < 3:
            raise RuntimeError("not yet")

    async with BotApiServer(clock_scale=1000) as api, bot_of(api) as bot:
        handler = SimpleRequestHandler(dispatcher, bot, handle_in_background=False, secret_token="s3cret")
        async with webhook(handler.handle) as url:
            await bot.set_webhook(url, secret_token="s3cret")
            await api.user(1001).send("/create")
            await until(lambda: not api.pending_updates)
    assert ran == ["/create"] * 3
    assert [delivery.status for delivery in api.deliveries] == [500, 500, 200]


async def test_a_forced_redelivery_comes_at_once_and_in_parallel():
    """redeliver sends an accepted update `times` times, past the queue."""
    secrets, parallel = [], asyncio.Event()

    async def handle(request):
        secrets.append(request.headers.get(SECRET_HEADER))
        if 1 < len(secrets) < 6:
            await parallel.wait()  # only set if calls run in parallel
        parallel.set()
        return web.Response()

    async with BotApiServer() as api, bot_of(api) as bot, webhook(handle) as url:
        await bot.set_webhook(url, secret_token="x-1")
        ana = api.user(1001)
        await ana.send("/create")
        await until(lambda: not api.pending_updates)
        deliveries = await api.redeliver(ana.last_update.id, times=5)
        assert [delivery.status for delivery in deliveries] == [200] * 5
        assert secrets == ["x-1"] * 6


async def test_a_forced_redelivery_while_polling():
    """With polling the copies are in the next answer, whatever the offset."""
    async with BotApiServer() as api, bot_of(api) as bot:
        ana = api.user(1001)
        await ana.send("/create")
        (update,) = await bot.get_updates()
        await api.redeliver(update.update_id, times=3)
        again = await bot.get_updates(offset=update.update_id + 1)
        assert [u.update_id for u in again] == [update.update_id] * 3


async def test_unaccepted_updates_survive_delete_webhook():
    """deleteWebhook keeps what was not accepted for the next poll."""
    async with BotApiServer() as api, bot_of(api) as bot, webhook(recorder([500] * 99, [])) as url:
        await bot.set_webhook(url)
        await api.user(1001).send("/create")
        await until(lambda: api.deliveries)
        await bot.delete_webhook()
        assert [update.message.text for update in await bot.get_updates()] == ["/create"]


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
async def test_a_fault_happens_once(api, bot, fault, error, happened):
    """The caller sees the fault once; the chat and the call log show what really happened."""
    api.fail("sendMessage", fault)
    with pytest.raises(error) as seen:
        await bot.send_message(1001, "one")
    if error is TelegramRetryAfter:
        assert seen.value.retry_after == 3
    assert said(api) == (["one"] if happened else [])
    await bot.send_message(1001, "two")
    assert said(api)[-1] == "two"
    assert [call.performed for call in api.calls.of("sendMessage")] == [happened, True]


async def test_a_permanent_fault_ends_with_heal(api, bot):
    """times=None fails every call of every method until heal."""
    api.fail("*", Fault.server_error(), times=None)
    for _ in range(3):
        with pytest.raises(TelegramServerError):
            await bot.get_me()
    api.heal()
    assert (await bot.get_me()).is_bot


async def test_a_hanging_call_is_released(api):
    """heal cuts the calls that hang."""
    async with bot_of(api, timeout=30) as slow_bot:
        api.fail("sendMessage", Fault.hang())
        call = asyncio.create_task(slow_bot.send_message(1001, "one"))
        await api.calls.wait_for(lambda call: call.method == "sendMessage" and call.description == "hang")
        api.heal()
        with pytest.raises(TelegramNetworkError):
            await call
    assert said(api) == []


async def test_the_call_log(api, bot):
    """Every call is logged with its fields, its outcome and Telegram's description."""
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
