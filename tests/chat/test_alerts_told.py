"""Told means told: who could not be reached hears it later, and what stands is taken on by a person."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from chat.alert_list import first_line, open_text
from chat.alert_sending import REPEAT_S, UNREACHED_S
from chat.alerts import send_due_alerts
from chat.context import AlertLinks, ChatContext, Waits
from chat.hearing import Hearing
from chat.i18n import LANGUAGES, translator
from evals.environment import QUICK_EDIT_LIMITS
from ledger import breaker, heartbeats, operator_alerts, transitions
from ledger.models import VideoState
from ledger.schema import news
from ledger.transitions import Resolution
from sandbox.telegram import BotApiServer
from tests.support.bot_api import bot_of
from tests.support.factories import begun, new_job, put, update_fields, video_of
from tests.support.waiting import wait_until

EN = translator("en")
EVA, ABSENT = 1, 3
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def env(ledger):
    """A Bot API to which Eva has written and another admin has not, and a process that sends alerts."""
    async with BotApiServer() as api, bot_of(api) as bot:
        await api.user(EVA, "Eva").send("/start")
        yield (
            api,
            ChatContext(
                bot, ledger, None, None, SimpleNamespace(clocks=None), None, None, None, None,
                edit_limits=QUICK_EDIT_LIMITS, admins=frozenset({EVA, ABSENT}),
                links=AlertLinks("https://bot.example/admin", "https://jaeger.example"),
            ),
        )  # fmt: skip


def heard(api, admin, text=""):
    return [one for one in api.user(admin).history() if not one.mine and text in one.text]


async def violated(ledger, opened) -> str:
    """Pay one request twice; return it."""
    request = await begun(ledger, opened)
    for _ in range(2):
        await transitions.adopt_job(ledger, request, new_job(), "test", None)
    return request


async def test_an_admin_who_starts_late_hears_everything(env, ledger, opened):
    """Nobody is told in their place: a double payment and an ended HOLD wait for an admin, for hours.

    They hear each once, with what became of it; before that it is tried each hour, not each second.
    """
    api, ctx = env
    held = await begun(ledger, opened, user_id=9)
    await put(ledger, held, VideoState.HOLD, failure="in_doubt")
    await violated(ledger, opened)
    for _ in range(3):
        await send_due_alerts(ctx)
    assert len([call for call in api.calls if call.params.get("chat_id") == str(ABSENT)]) == 2
    ledger.shift += UNREACHED_S + 1
    await send_due_alerts(ctx)
    tries = [call for call in api.calls if call.params.get("chat_id") == str(ABSENT)]
    assert (len(tries), any(call.performed for call in tries)) == (4, False)
    assert (await operator_alerts.count(ledger)).missed == 2

    await transitions.resolve_hold(ledger, held, Resolution("unpaid", why="seen there"), "admin:1")
    ledger.shift += 3600 * 30
    await api.user(ABSENT, "Ada").send("/start")
    assert await operator_alerts.make_due(ledger, ABSENT) == 0  # it was due already: an hour has passed
    for _ in range(2):
        await send_due_alerts(ctx)
    assert len(heard(api, ABSENT, "VIOLATION")) == 1
    [late] = heard(api, ABSENT, "HOLD")
    assert "This has ended meanwhile." in late.text
    assert late.button_texts == []
    assert (await operator_alerts.count(ledger)).missed == 0
    assert len(heard(api, EVA, "HOLD")) == 1, "she has had it"


async def test_what_is_missed_keeps_nothing_else_back(env, ledger, opened):
    """Twenty alerts that one admin misses do not fill the check: the newest reaches the others at once."""
    api, ctx = env
    for _ in range(21):
        await put(ledger, await begun(ledger, opened), VideoState.HOLD, failure="in_doubt")
    for _ in range(2):
        await send_due_alerts(ctx)
    assert len(heard(api, EVA, "HOLD")) == 21


async def test_what_the_version_before_marked_as_told_is_told(env, ledger, opened):
    """It marked an admin as told who could not be reached; a violation that stands reaches them now."""
    api, ctx = env
    await violated(ledger, opened)
    await send_due_alerts(ctx)
    async with ledger.write() as conn:
        await conn.execute(
            update(news).where(news.c.reader == ABSENT).values(told_at=ledger.time(), reached=0, free_at=0)
        )
    await api.user(ABSENT, "Ada").send("/start")
    await send_due_alerts(ctx)
    assert len(heard(api, ABSENT, "VIOLATION")) == 1


async def test_an_alert_names_time_request_and_links(env, ledger, opened):
    """The last line of an alert: its number, when, the admin page, and the request's trace."""
    api, ctx = env
    request = await begun(ledger, opened)
    await put(ledger, request, VideoState.HOLD, failure="in_doubt")
    await update_fields(ledger, request, traceparent=TRACE)
    await send_due_alerts(ctx)
    [alert] = heard(api, EVA, "HOLD")
    short_id = (await video_of(ledger, request)).short_id
    assert f"#{short_id}" in alert.text
    assert "UTC" in alert.text.splitlines()[-1]
    assert alert.text.splitlines()[-1].startswith("Alert ")
    links = {entity["url"] for entity in alert.raw["entities"] if entity["type"] == "text_link"}
    assert links == {
        f"https://bot.example/admin/request?id={short_id}",
        "https://jaeger.example/trace/0af7651916cd43dd8448eb211c80319c",
    }


async def test_what_stands_is_repeated_until_someone_takes_it_on(env, ledger):
    """An open breaker is told again after four hours, until it is acknowledged with a name, which stays."""
    api, ctx = env
    await breaker.open_scope(ledger, "everyone", "admin:1", "a test")
    await send_due_alerts(ctx)
    ledger.shift += REPEAT_S + 1
    for _ in range(2):
        await send_due_alerts(ctx)
    assert len(heard(api, EVA, "stopped for everyone")) == 2
    [kept], count = await operator_alerts.open_alerts(ledger)
    assert (count, kept.open, kept.ack_who) == (1, True, None)
    assert (await operator_alerts.acknowledge(ledger, kept.alert_id, "admin:1")).ack_who == "admin:1"
    assert (await operator_alerts.acknowledge(ledger, kept.alert_id, "web:Ada")).ack_who == "admin:1"
    ledger.shift += REPEAT_S + 1
    await send_due_alerts(ctx)
    assert len(heard(api, EVA, "stopped for everyone")) == 2
    counts = await operator_alerts.count(ledger)
    assert (counts.open, counts.acknowledged) == (0, 1)
    await breaker.close(ledger, "everyone", "test")
    ledger.shift += operator_alerts.FRESH_S + 1
    await send_due_alerts(ctx)
    assert await operator_alerts.open_alerts(ledger) == ([], 0)


async def test_no_worker_and_no_bot_are_alerted(env, ledger):
    """Silent processes are told of once each; a worker that lives again ends the alert."""
    api, ctx = env
    ctx = replace(ctx, waits=Waits(silent_s=0), hearing=Hearing(receives=True, fault="409"))
    with capture_logs() as logs:
        for _ in range(2):
            await send_due_alerts(ctx)
    [no_worker] = heard(api, EVA, "No worker is running")
    assert "none was ever seen" in no_worker.text
    [no_bot] = heard(api, EVA, "hears nothing")
    assert "another process polls" in no_bot.text
    events = [line["event"] for line in logs if line["log_level"] == "error"]
    assert sorted(events) == ["no worker is running", "the bot hears nothing"]
    for role in heartbeats.ROLES:
        await heartbeats.beat(ledger, f"{role}:1", role, ctx.bot.id)
    ledger.shift += operator_alerts.FRESH_S + 1
    for role in heartbeats.ROLES:
        await heartbeats.beat(ledger, f"{role}:1", role, ctx.bot.id)
    await send_due_alerts(ctx)
    assert await operator_alerts.open_alerts(ledger) == ([], 0)
    assert len(heard(api, EVA, "No worker is running")) == 1


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize("language", LANGUAGES)
async def test_an_admin_lists_and_takes_on_what_is_open(app_env, language):
    """/start and /alerts list what is open; a tap and a number take it on, and others are refused."""
    env = await app_env(settings={"admins": frozenset({1001})})
    t = translator(language)
    ada = env.user(language=language)
    await ada.send("/help")
    await breaker.open_scope(env.app.ledger, "user:7", "admin:1", "a test")

    open_now = first_line(t("alerts_open", count=1))

    async def listed():
        """Both the welcome and /alerts have it."""
        return len([one for one in ada.history() if "user:7" in one.text and open_now in one.text]) == 2

    await wait_until(lambda: _sent(ada, "Paid work is stopped"), 10, "the alert")
    for command in ("/start", "/alerts"):
        await ada.send(command)
    await wait_until(listed, 10, "the list")
    [alert] = [one for one in ada.history() if EN("button_acknowledge") in one.button_texts]
    await ada.tap(alert.id, EN("button_acknowledge"))
    [kept], _ = await operator_alerts.open_alerts(env.app.ledger)

    async def taken_on():
        [one], _ = await operator_alerts.open_alerts(env.app.ledger)
        return one.ack_who == "admin:1001"

    await wait_until(taken_on, 10, "the name")
    await ada.send(f"/alerts {kept.alert_id}")
    await wait_until(lambda: _sent(ada, t("alert_taken", id=kept.alert_id)), 10, "the answer")
    await ada.send("/alerts 99999999999")
    await wait_until(lambda: _sent(ada, t("alert_unknown", id=99999999999)), 10, "the answer")
    row = t("alerts_row_taken", id=kept.alert_id, since="x", text="x", who="admin:1001")
    assert row.partition(" (")[2] in await open_text(env.app.chat, t)
    stranger = env.user(2002, language=language)
    await stranger.send("/alerts")
    await wait_until(lambda: _sent(stranger, t("operators_only")), 10, "the refusal")


async def _sent(person, text):
    return any(first_line(text) in one.text for one in person.history() if not one.mine)
