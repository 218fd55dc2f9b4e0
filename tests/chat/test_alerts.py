"""Alerts: what a person must look at reaches each admin once, over all workers; none is lost."""

import asyncio
from contextlib import suppress

import pytest
from aiogram.exceptions import TelegramRetryAfter
from structlog.testing import capture_logs

from chat.alerts import send_due_alerts
from chat.context import ChatContext
from chat.i18n import translator
from evals.environment import QUICK_EDIT_LIMITS
from guardrails.limits import BreakerRates, StartRate
from ledger import breaker, notifications, transitions
from ledger.models import VideoState
from ledger.notifications import LEASE_S, Notification
from sandbox.telegram import BotApiServer, Fault
from tests.support.bot_api import bot_of
from tests.support.factories import ORDER_PRICE, accepted, begun, new_job, put
from tests.support.waiting import wait_until

EN = translator("en")
EVA, OTHER, ABSENT = 1, 2, 3
DAY_S = 86_400


@pytest.mark.any_ledger
async def test_one_process_tells_one_reader(ledger):
    """Six that look at once: each reader is one's to tell. What is given back, and what a dead teller took,
    is told by another; what was told is told; a later standing is news again.
    """
    item, readers = Notification("breaker:everyone", 5), {1, 2, 3}
    took = await asyncio.gather(
        *(notifications.claim(ledger, item, reader) for reader in (1, 2) for _ in range(6))
    )
    assert took.count(True) == 2
    assert await notifications.recipients_due(ledger, item, readers) == [3]
    await notifications.mark_sent(ledger, item, 1)
    await notifications.release(ledger, item, 2, 0)
    assert await notifications.recipients_due(ledger, item, readers) == [2, 3]
    assert await notifications.claim(ledger, item, 3)
    await notifications.release(ledger, item, 2, 3600)
    ledger.shift = LEASE_S + 1
    assert await notifications.recipients_due(ledger, item, readers) == [3]
    ledger.shift = 3601
    assert [await notifications.claim(ledger, item, reader) for reader in (1, 2, 3)] == [False, True, True]
    assert await notifications.claim(ledger, Notification("breaker:everyone", 6), 1)


@pytest.fixture
async def env(ledger):
    """A Bot API to which two admins have written and a third has not, and a worker's desk."""
    async with BotApiServer() as api, bot_of(api) as bot:
        for admin in (EVA, OTHER):
            await api.user(admin, "Eva").send("/start")
        admins = frozenset({EVA, OTHER, ABSENT})
        ctx = ChatContext(
            bot,
            ledger,
            *[None] * 5,
            edit_limits=QUICK_EDIT_LIMITS,
            admins=admins,
            day_cost_thresholds=(ORDER_PRICE, ORDER_PRICE * 3),
        )
        yield api, ctx


def heard(api, admin, words=""):
    return [one for one in api.user(admin).history() if not one.mine and words in one.text]


async def held(ledger, opened):
    request = await begun(ledger, opened)
    await put(ledger, request, VideoState.HOLD, failure="in_doubt")
    return request


async def test_six_workers_tell_each_admin_once(env, ledger, opened):
    """A HOLD reaches every admin and the log once, with its buttons, whoever looks and however often; who
    never wrote to the bot is asked once.
    """
    api, ctx = env
    await held(ledger, opened)
    with capture_logs() as logs:
        for _ in range(3):
            await asyncio.gather(*(send_due_alerts(ctx) for _ in range(6)))
    for admin in (EVA, OTHER):
        [told] = heard(api, admin)
        assert "HOLD" in told.text
        assert told.button_texts == [EN("button_paid"), EN("button_unpaid")]
    assert [call.performed for call in api.calls if call.params.get("chat_id") == str(ABSENT)] == [False]
    assert len([line for line in logs if line["event"] == "operator needed"]) == 1


@pytest.mark.parametrize("fault", [Fault.server_error(), Fault.drop(), Fault.throttled(1)], ids=str)
async def test_an_alert_outlives_a_telegram_that_is_away(env, ledger, opened, fault):
    """What an admin did not get because Telegram was away is told later, to them alone, once."""
    api, ctx = env
    await held(ledger, opened)
    api.fail("sendMessage", fault)

    async def told():
        with suppress(TelegramRetryAfter):
            await send_due_alerts(ctx)
        return len(heard(api, EVA)) == len(heard(api, OTHER)) == 1

    assert not await told()
    await wait_until(told, 20, "the alert")
    assert await told()


async def test_only_what_needs_a_person_is_told(env, ledger, opened):
    """An account without money and a video that was paid for nothing are told; an idea that the provider
    refused is not, nor what ended days ago.
    """
    api, ctx = env
    unpaid, paid = VideoState.FAILED_UNPAID, VideoState.FAILED_PAID
    for state, failure in ((unpaid, "funds"), (paid, "failed"), (unpaid, "policy")):
        await put(ledger, await begun(ledger, opened), state, failure=failure)
    await put(ledger, await begun(ledger, opened), paid, failure="old", updated_at=1)
    await send_due_alerts(ctx)
    assert len(heard(api, EVA)) == 2
    assert len(heard(api, EVA, "(funds)")) == len(heard(api, EVA, "(failed)")) == 1


async def test_a_violation_is_called_one(env, ledger, opened):
    """A second job of one request is told as what must never happen, with the button that closes; a breaker
    that a rate opened is not.
    """
    api, ctx = env
    request = await begun(ledger, opened)
    for _ in range(2):
        await transitions.adopt_job(ledger, request, new_job(), "law", None)
    rates = BreakerRates(user=StartRate(1, 300))
    for _ in range(2):
        await send_due_alerts(ctx)
    [told] = heard(api, EVA, "VIOLATION")
    assert "a job too many" in told.text
    assert told.button_texts == [EN("button_close", scope="everyone")]
    assert await breaker.close(ledger, "everyone", "law")
    waiting = await begun(ledger, opened, user_id=8)
    assert waiting
    async with ledger.write() as conn:
        video = await transitions.find_locked(ledger, conn, waiting)
        assert await breaker.trip(conn, video, rates, await ledger.now(conn))
    await send_due_alerts(ctx)
    [told] = heard(api, EVA, "user:8")
    assert "VIOLATION" not in told.text


async def test_the_day_s_cost_is_told_once_a_day_and_mark(env, ledger, opened):
    """Each mark that a UTC day's cost reaches is told once, of several at once the highest; the next day
    begins anew.
    """
    api, ctx = env
    marks = (f"{ORDER_PRICE} or more", f"{ORDER_PRICE * 3} or more")
    async with ledger.read() as conn:
        ledger.shift = DAY_S // 2 - await ledger.now(conn) // 1000 % DAY_S  # noon: no midnight comes between

    def told():
        return [len(heard(api, EVA, mark)) for mark in marks]

    async def look(count):
        for _ in range(count):
            await accepted(ledger, opened, new_job())
        await asyncio.gather(*(send_due_alerts(ctx) for _ in range(4)))

    await look(0)
    assert told() == [0, 0]
    await look(1)
    await look(1)
    assert told() == [1, 0]
    await look(1)
    await look(1)
    assert told() == [1, 1]
    assert heard(api, EVA, marks[1])[0].text.startswith("Act now")
    ledger.shift += DAY_S
    await look(0)
    assert told() == [1, 1]
    await look(3)
    assert told() == [1, 2]
