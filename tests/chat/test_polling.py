"""Long polling: an update is confirmed once handled, and a failing one does not block the others."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest
from aiogram import Dispatcher
from aiogram.exceptions import TelegramNetworkError, TelegramUnauthorizedError
from aiogram.methods import GetMe
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from chat import polling
from chat.poison import MAX_TRIES
from chat.polling import poll_updates
from chat.updates import read_json
from sandbox.telegram import BotApiServer, Fault
from tests.support.bot_api import bot_of
from tests.support.waiting import wait_until


@pytest.fixture
async def api():
    async with BotApiServer() as server:
        yield server


@asynccontextmanager
async def polled(api, handler):
    """Poll with one handler for every message, until the block ends."""
    dispatcher = Dispatcher()
    dispatcher.message.register(handler)
    async with bot_of(api) as bot:
        bot.session.json_loads = read_json
        task = asyncio.create_task(poll_updates(dispatcher, bot))
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, TelegramUnauthorizedError):
                await task


async def confirmed(api):
    async def empty():
        return not api.pending_updates

    await wait_until(empty, 10, "all updates to be confirmed")


async def test_an_update_is_confirmed_after_it_was_handled(api):
    """While its handler runs, an update is unconfirmed; a process that dies there gets it again."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def handler(message):
        begun.set()
        await go.wait()

    await api.user(1).send("hello")
    async with polled(api, handler):
        await asyncio.wait_for(begun.wait(), 5)
        assert len(api.pending_updates) == 1
        go.set()
        await confirmed(api)


@pytest.mark.representative
@pytest.mark.parametrize("error", [RuntimeError("once"), OperationalError("x", {}, Exception("locked"))])
async def test_a_handler_that_raises_is_retried(api, error):
    """An update whose handler raised is neither confirmed nor lost: it is handled again, until it is done."""
    tries = []

    async def handler(message):
        tries.append(message.text)
        if len(tries) < 3:
            raise error

    await api.user(1).send("hello")
    async with polled(api, handler):
        await confirmed(api)
    assert tries == ["hello"] * 3


@pytest.mark.slow
async def test_an_update_waits_for_the_ledger_without_limit(api):
    """While the ledger is unavailable no update is given up, however often it is tried."""
    tries = []

    async def handler(message):
        tries.append(1)
        if len(tries) <= MAX_TRIES + 1:
            raise OSError("connection refused")

    monkey = pytest.MonkeyPatch()
    monkey.setattr(polling, "_MAX_WAIT_S", 0.2)
    await api.user(1).send("hello")
    async with polled(api, handler):
        await confirmed(api)
    monkey.undo()
    assert len(tries) == MAX_TRIES + 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        DBAPIError("x", {}, Exception("cannot execute UPDATE in a read-only transaction")),
        PoolTimeoutError("no transaction ended"),
        TelegramNetworkError(GetMe(), "reset"),
    ],
)
async def test_what_is_away_is_no_defect(api, monkeypatch, error):
    """An error of a store, of whatever class, or of Telegram never gives an update up."""
    monkeypatch.setattr(polling, "_MAX_WAIT_S", 0.05)
    tries = []

    async def handler(message):
        tries.append(1)
        if len(tries) <= MAX_TRIES + 1:
            raise error

    await api.user(1).send("hello")
    async with polled(api, handler):
        await confirmed(api)
    assert len(tries) == MAX_TRIES + 2


@pytest.mark.slow
async def test_only_the_same_defect_is_counted(api, monkeypatch):
    """Outages, and another defect, between them do not give an update up before one came five times."""
    monkeypatch.setattr(polling, "_MAX_WAIT_S", 0.05)
    tries = []

    async def handler(message):
        tries.append(1)
        if len(tries) % 3 == 0:
            raise KeyError("one")
        if len(tries) % 3 == 1:
            raise ValueError("another")
        raise OSError("no route to host")

    await api.user(1).send("hello")
    async with polled(api, handler):
        await confirmed(api)
    assert len(tries) == 3 * MAX_TRIES - 2


@pytest.mark.slow
async def test_updates_behind_a_waiting_one_are_handled(api, monkeypatch):
    """While one user's update waits for the ledger, the next one is handled, once; none is confirmed."""
    monkeypatch.setattr("chat.polling._BATCH_TIMEOUT_S", 0.1)
    monkeypatch.setattr(polling, "_MAX_WAIT_S", 0.2)
    ledger_back, tries, handled = asyncio.Event(), [], []

    async def handler(message):
        if message.from_user.id == 1 and not ledger_back.is_set():
            tries.append(1)
            raise OSError("connection refused")
        handled.append(message.text)

    async def tried(count):
        async def tried_often():
            return len(tries) >= count

        await wait_until(tried_often, 20, f"{count} tries")

    await api.user(1).send("first")
    async with polled(api, handler):
        await tried(1)
        await api.user(2).send("second")

        async def second():
            return handled == ["second"]

        await wait_until(second, 20, "the update behind it")
        await tried(len(tries) + 2)
        assert len(api.pending_updates) == 2, "confirming the second would confirm the first"
        ledger_back.set()
        await confirmed(api)
    assert handled == ["second", "first"]


@pytest.mark.slow
async def test_a_defect_for_one_user_does_not_stop_the_others(api):
    """An update that always fails is given up with a reply; another user's message is handled meanwhile."""
    handled = []

    async def handler(message):
        if message.from_user.id == 1:
            raise IntegrityError("a defect", {}, Exception("in a handler"))
        handled.append(len(api.calls.of("sendMessage")))

    eva = api.user(1, language_code="es")
    await eva.send("poison")
    await api.user(2).send("hello")
    async with polled(api, handler):
        apology = await eva.wait_for(lambda bubble: not bubble.mine)
        await confirmed(api)
    assert "No pude" in apology.text
    assert handled == [0], "before the other one was given up"


async def test_one_persons_messages_keep_their_order(api):
    """What one person sends is handled in the order in which it was sent."""
    order = []

    async def handler(message):
        await asyncio.sleep(0.05 if message.text == "1" else 0)
        order.append(message.text)

    ana = api.user(1)
    for text in ("1", "2", "3"):
        await ana.send(text)
    async with polled(api, handler):
        await confirmed(api)
    assert order == ["1", "2", "3"]


@pytest.mark.slow
async def test_an_unreadable_update_does_not_stop_the_others(api):
    """An update of unknown form, or with a lone surrogate, stops neither its batch nor the process."""
    texts = []

    async def handler(message):
        texts.append(message.text)

    api.user(1)
    api.world.updates.push("message", {"message_id": "?"}, "chat:1", 60)
    await api.user(2).send("half \ud83d a character")
    async with polled(api, handler):
        await confirmed(api)
    assert texts == ["half \ufffd a character"]


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize(
    "fault",
    [Fault.server_error(), Fault.drop(), Fault.refused(409, "Conflict: terminated"), Fault.throttled(1)],
)
async def test_polling_survives_faults(api, fault):
    """Errors, dropped connections, another poller and a flood wait: polling waits and continues."""
    api.fail("getUpdates", fault)
    handled = asyncio.Event()

    async def handler(message):
        handled.set()

    await api.user(1).send("hello")
    async with polled(api, handler):
        await asyncio.wait_for(handled.wait(), 5)


async def test_a_flood_wait_is_obeyed(api, monkeypatch):
    """After 429 there is no request before the time that Telegram named."""
    slept = []
    real = asyncio.sleep

    async def sleep(seconds, *rest):
        slept.append(seconds)
        await real(0)

    monkeypatch.setattr(polling.asyncio, "sleep", sleep)
    api.fail("getUpdates", Fault.throttled(77))

    async def handler(message):
        return None

    await api.user(1).send("hello")
    async with polled(api, handler):
        await api.calls.wait_for(lambda call: call.method == "getUpdates" and call.status == 200)
    assert 77 in slept


async def test_a_wrong_token_ends_polling(api):
    """A token that Telegram does not know raises: waiting does not help."""
    async with bot_of(api, "1000000001:another") as bot:
        with pytest.raises(TelegramUnauthorizedError):
            await poll_updates(Dispatcher(), bot)
