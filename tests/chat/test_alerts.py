"""Operator alerts reach each admin once, over all workers, and none is lost."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
from aiogram.exceptions import TelegramRetryAfter
from sqlalchemy import update
from structlog.testing import capture_logs

from chat.alerts import send_due_alerts
from chat.context import ChatContext
from chat.i18n import translator
from chat.status_message import Facts, render
from evals.environment import QUICK_EDIT_LIMITS
from guardrails.limits import BreakerRates, StartRate
from ledger import breaker, due_work, notifications, transitions
from ledger.failures import Failure, explanation
from ledger.models import VideoState
from ledger.notifications import LEASE_S, Notification
from ledger.requests import find_with_video
from ledger.schema import requests
from sandbox.telegram import BotApiServer, Fault
from tests.support.bot_api import bot_of
from tests.support.factories import ORDER_PRICE, accepted, begun, new_job, ordered, put
from tests.support.waiting import wait_until

EN = translator("en")
EVA, OTHER, ABSENT = 1, 2, 3
DAY_S = 86_400


@pytest.mark.any_ledger
async def test_each_recipient_is_claimed_by_one_worker(ledger):
    """Of six workers that check at once, one claims each recipient. A released claim, and that of a dead
    worker, can be claimed again; a sent alert cannot. A later state of the same thing is a new alert.
    """
    notification, recipients = Notification("breaker:everyone", 5), {1, 2, 3}
    took = await asyncio.gather(
        *(notifications.claim(ledger, notification, recipient) for recipient in (1, 2) for _ in range(6))
    )
    [_], [took_two] = ([one for one in took[start : start + 6] if one is not None] for start in (0, 6))
    assert await notifications.recipients_due(ledger, notification, recipients) == [3]
    await notifications.mark_sent(ledger, notification, 1)
    await notifications.release(ledger, notification, 2, took_two, 0)
    assert await notifications.recipients_due(ledger, notification, recipients) == [2, 3]
    assert await notifications.claim(ledger, notification, 3)
    again = await notifications.claim(ledger, notification, 2)
    await notifications.release(ledger, notification, 2, took_two, 0)  # late: this claim has ended
    assert await notifications.recipients_due(ledger, notification, recipients) == []
    await notifications.release(ledger, notification, 2, again, 3600)
    ledger.shift = LEASE_S + 1
    assert await notifications.recipients_due(ledger, notification, recipients) == [3]
    ledger.shift = 3601
    claims = [await notifications.claim(ledger, notification, one) for one in (1, 2, 3)]
    assert [one is not None for one in claims] == [False, True, True]
    assert await notifications.claim(ledger, Notification("breaker:everyone", 6), 1)


@pytest.fixture
async def env(ledger):
    """A Bot API to which two admins have written and a third has not, and a worker's chat context."""
    async with BotApiServer() as api, bot_of(api) as bot:
        for admin in (EVA, OTHER):
            await api.user(admin, "Eva").send("/start")
        admins = frozenset({EVA, OTHER, ABSENT})
        ctx = ChatContext(
            bot,
            ledger,
            None,
            None,
            SimpleNamespace(clocks=None),  # the worker
            None,
            None,
            None,
            None,
            edit_limits=QUICK_EDIT_LIMITS,
            admins=admins,
            day_cost_thresholds=(ORDER_PRICE, ORDER_PRICE * 3),
        )
        yield api, ctx


def heard(api, admin, text=""):
    return [one for one in api.user(admin).history() if not one.mine and text in one.text]


async def held(ledger, opened):
    request = await begun(ledger, opened)
    await put(ledger, request, VideoState.HOLD, failure="in_doubt")
    return request


@pytest.mark.slow
async def test_six_workers_alert_each_admin_once(env, ledger, opened):
    """A HOLD reaches every admin and the log once, with buttons, however many workers check and how often.

    An admin who never wrote to the bot is tried once.
    """
    api, ctx = env
    await held(ledger, opened)
    with capture_logs() as logs:
        for _ in range(3):
            await asyncio.gather(*(send_due_alerts(ctx) for _ in range(6)))
    for admin in (EVA, OTHER):
        [alert] = heard(api, admin)
        assert "HOLD" in alert.text
        assert alert.button_texts == [EN("button_paid"), EN("button_unpaid"), EN("button_acknowledge")]
    assert [call.performed for call in api.calls if call.params.get("chat_id") == str(ABSENT)] == [False]
    assert len([line for line in logs if line["event"] == "operator needed"]) == 1


@pytest.mark.representative
@pytest.mark.parametrize("fault", [Fault.server_error(), Fault.drop(), Fault.throttled(1)], ids=str)
async def test_an_alert_is_sent_after_a_telegram_outage(env, ledger, opened, fault):
    """An alert that Telegram did not accept for one admin is sent later, once, to them alone."""
    api, ctx = env
    await held(ledger, opened)
    api.fail("sendMessage", fault)

    async def all_alerted():
        with suppress(TelegramRetryAfter):
            await send_due_alerts(ctx)
        return len(heard(api, EVA)) == len(heard(api, OTHER)) == 1

    assert not await all_alerted()
    await wait_until(all_alerted, 20, "the alert")
    assert await all_alerted()


async def test_only_what_needs_an_operator_is_alerted(env, ledger, opened):
    """An account without money and a paid order without a video are alerted; an idea that the provider
    refused is not, nor an order that ended days ago.
    """
    api, ctx = env
    unpaid, paid = VideoState.FAILED_UNPAID, VideoState.FAILED_PAID
    for state, failure in ((unpaid, "funds"), (paid, "failed"), (unpaid, "policy")):
        await put(ledger, await begun(ledger, opened), state, failure=failure)
    await put(ledger, await begun(ledger, opened), paid, failure="old", updated_at=1)
    await send_due_alerts(ctx)
    assert len(heard(api, EVA)) == 2
    assert len(heard(api, EVA, "(funds)")) == len(heard(api, EVA, "(failed)")) == 1


async def test_a_violation_is_named(env, ledger, opened):
    """A second job of one request is alerted as a violation, with the button that closes the breaker; a
    breaker that a rate opened is not.
    """
    api, ctx = env
    request = await begun(ledger, opened)
    for _ in range(2):
        await transitions.adopt_job(ledger, request, new_job(), "test", None)
    rates = BreakerRates(user=StartRate(1, 300))
    for _ in range(2):
        await send_due_alerts(ctx)
    [alert] = heard(api, EVA, "VIOLATION")
    assert "a job too many" in alert.text
    assert alert.button_texts == [EN("button_close", scope="everyone"), EN("button_acknowledge")]
    assert await breaker.close(ledger, "everyone", "test")
    waiting = await begun(ledger, opened, user_id=8)
    assert waiting
    async with ledger.write() as conn:
        locked = await transitions.find_locked(ledger, conn, waiting)
        assert await breaker.trip(conn, locked.video, rates, locked.now, locked.breakers)
    await send_due_alerts(ctx)
    [alert] = heard(api, EVA, "user:8")
    assert "VIOLATION" not in alert.text


@pytest.mark.slow
async def test_daily_cost_is_alerted_once_a_day_and_threshold(env, ledger, opened):
    """Each threshold that a UTC day's cost reaches is alerted once, of several at once the highest; the next
    day starts again.
    """
    api, ctx = env
    thresholds = (f"{ORDER_PRICE} or more", f"{ORDER_PRICE * 3} or more")
    async with ledger.read() as conn:
        ledger.shift = DAY_S // 2 - await ledger.now(conn) // 1000 % DAY_S  # noon: no midnight comes between

    def alerts():
        return [len(heard(api, EVA, threshold)) for threshold in thresholds]

    async def check_after(count):
        for _ in range(count):
            await accepted(ledger, opened, new_job())
        await asyncio.gather(*(send_due_alerts(ctx) for _ in range(4)))

    await check_after(0)
    assert alerts() == [0, 0]
    await check_after(1)
    await check_after(1)
    assert alerts() == [1, 0]
    await check_after(1)
    await check_after(1)
    assert alerts() == [1, 1]
    assert heard(api, EVA, thresholds[1])[0].text.startswith("Act now")
    ledger.shift += DAY_S
    await check_after(0)
    assert alerts() == [1, 1]
    await check_after(3)
    assert alerts() == [1, 2]


@pytest.mark.representative
@pytest.mark.parametrize(("admins", "told"), [({EVA}, True), ({ABSENT}, False), (set(), False)])
async def test_a_user_reads_that_the_operator_was_told_only_if_one_was(env, ledger, opened, admins, told):
    """An admin who never wrote to the bot has read nothing; where one has, the user reads that."""
    _, ctx = env
    ctx = replace(ctx, admins=frozenset(admins))
    request = await held(ledger, opened)
    row, video = await find_with_video(ledger, request)
    async with ledger.write() as conn:
        mine = requests.c.request_id == request
        await conn.execute(update(requests).where(mine).values(notify_at=None))
    await send_due_alerts(ctx)
    row, video = await find_with_video(ledger, request)
    assert (row.notify_at is not None) is told
    alert = Notification(request, video.updated_at)
    assert await notifications.is_received(ledger, alert, admins) is told
    facts = Facts(0, ORDER_PRICE, operator_told=told)
    assert (EN("operator_told") in render(row, video, facts).text) is told


@pytest.mark.slow
async def test_an_alert_says_what_to_do_and_names_the_setting(env, ledger, opened):
    """The operator reads the sentence of the reason in the alert and in the log."""
    api, ctx = env
    await held(ledger, opened)
    with capture_logs() as logs:
        await send_due_alerts(ctx)
    [alert] = heard(api, EVA)
    assert "VIDEO_API_KEY" in alert.text
    [line] = [line for line in logs if line["event"] == "operator needed"]
    assert line["why"] == explanation("in_doubt")


async def test_a_media_folder_without_room_is_alerted_once_an_hour(env, ledger, opened):
    """However many orders wait: one alert, which names MEDIA_DIR; an hour later, if it lasts, another."""
    api, ctx = env
    for user in (7, 8):
        request = await ordered(ledger, opened, user_id=user)
        _, video = await find_with_video(ledger, request)
        await due_work.mark_blocked(ledger, video, Failure.DISK, "MEDIA_DIR: the disk is full")
    for _ in range(3):
        await send_due_alerts(ctx)
    [alert] = heard(api, EVA, "MEDIA_DIR")
    assert "the disk is full" in alert.text
    ledger.shift += 3600
    await send_due_alerts(ctx)
    assert len(heard(api, EVA, "MEDIA_DIR")) == 2
