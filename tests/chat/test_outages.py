"""A store or Telegram is unavailable while a user writes: one reply says so, and nothing is lost."""

import pytest
from aiogram.exceptions import ClientDecodeError
from aiogram.methods import SendMessage
from sqlalchemy import insert
from sqlalchemy.exc import OperationalError

from app.processes import run_worker, running
from chat import middleware
from chat.i18n import translator
from ledger.breaker import close
from ledger.models import VideoState
from ledger.schema import breaker
from sandbox.telegram import Fault
from tests.support.app_harness import (
    GROUP,
    chat_only,
    count_requests,
    sent_texts,
    serve_webhook,
    wait_for_confirmed,
    wait_for_state,
    wait_for_texts,
)
from tests.support.waiting import wait_until
from worker.queue import Queue

EN = translator("en")
ANA = 1001


@pytest.fixture
def ledger_down(monkeypatch):
    """Make the ledger fail for handlers and record the failures; calling it brings the ledger back."""
    postponed, arrival = middleware.pending_work.postponed, middleware.pending_work.arrival
    failed = []

    async def fail(ledger, user_id, longer_than_s):
        failed.append(user_id)
        raise OperationalError("SELECT", {}, OSError("no route to host"))

    async def fail_at_arrival(*_):
        raise OperationalError("SELECT", {}, OSError("no route to host"))

    monkeypatch.setattr(middleware.pending_work, "postponed", fail)
    monkeypatch.setattr(middleware.pending_work, "arrival", fail_at_arrival)

    def restore():
        monkeypatch.setattr(middleware.pending_work, "postponed", postponed)
        monkeypatch.setattr(middleware.pending_work, "arrival", arrival)

    restore.failed = failed
    return restore


async def tried(ledger_down, count):
    async def often():
        return len(ledger_down.failed) >= count

    await wait_until(often, 20, f"{count} tries")


@pytest.mark.slow
async def test_a_command_waits_for_the_ledger_with_one_reply(app_env, ledger_down):
    """Polling: one reply says that the message is saved; the update is unconfirmed and handled later."""
    env = await app_env(wake=chat_only)
    await env.user().send("/create a quiet market at dawn")
    await tried(ledger_down, 3)
    assert sent_texts(env) == [EN("away")]
    assert len(env.api.pending_updates) == 1
    ledger_down()
    await wait_for_confirmed(env)
    assert (await count_requests(env), sent_texts(env)) == (1, [EN("away")])


async def test_a_webhook_replies_once_as_well(app_env, ledger_down):
    """Webhook: 500 at each delivery, one reply; then one request."""
    env = await app_env(wake=lambda _: (), clock_scale=2000)
    async with serve_webhook(env):
        await env.user().send("/create a quiet market at dawn")
        await tried(ledger_down, 3)
        assert {one.status for one in env.api.deliveries} == {500}
        ledger_down()
        await wait_for_confirmed(env)
    assert (await count_requests(env), sent_texts(env)) == (1, [EN("away")])


@pytest.mark.slow
async def test_a_lost_outage_reply_is_sent_at_the_next_try(app_env, ledger_down):
    """An outage reply that Telegram did not accept is not counted as sent."""
    env = await app_env(wake=chat_only)
    env.api.fail("sendMessage", Fault.server_error())
    await env.user().send("/help")
    assert await wait_for_texts(env, 1, seconds=20) == [EN("away")]
    ledger_down()
    assert len(await wait_for_texts(env, 2, seconds=20)) == 2


@pytest.mark.slow
async def test_a_tap_gets_the_outage_reply(app_env, ledger_down):
    """A tap is answered with what to do."""
    env = await app_env(wake=chat_only)
    query = {"id": "77", "from": env.user().user.user(), "chat_instance": "1", "data": "make:x"}
    env.api.world.updates.push("callback_query", query, f"tap:{ANA}", 60)
    call = await env.api.calls.wait_for(lambda one: one.params.get("callback_query_id") == "77")
    assert (call.params["text"], call.params["show_alert"]) == (EN("tap_away"), "true")
    ledger_down()
    await wait_for_confirmed(env)


@pytest.mark.slow
async def test_group_messages_get_no_outage_reply(app_env, ledger_down):
    """In a group only a /create is answered."""
    env = await app_env(wake=chat_only)
    env.api.group(GROUP)
    await env.user().send("/status@" + env.api.world.bot["username"], chat=GROUP)
    await tried(ledger_down, 3)
    assert sent_texts(env, GROUP) == []
    ledger_down()
    await wait_for_confirmed(env)


async def test_an_answer_that_is_not_json_blocks_nothing(app_env, monkeypatch):
    """A gateway that answers 200 with an HTML page: that reply is lost, its update is done."""
    env = await app_env(wake=chat_only)
    session, send = env.app.bot.session, env.app.bot.session.make_request
    pages = []

    async def page(bot, method, timeout=None):
        if isinstance(method, SendMessage) and not pages:
            pages.append(method.text)
            raise ClientDecodeError("Failed to decode object", ValueError("<html>"), "<html>")
        return await send(bot, method, timeout=timeout)

    monkeypatch.setattr(session, "make_request", page)
    await env.user().send("/help")
    await wait_for_confirmed(env)
    await env.user().send("/status")
    assert await wait_for_texts(env, 1, seconds=20) == [EN("status_none")]
    assert len(pages) == 1


@pytest.mark.slow
async def test_a_refusal_is_sent_without_the_queue(app_env, monkeypatch):
    """Without the queue a refused request gets its own reason, once, also after the queue is back."""
    env = await app_env(wake=chat_only)
    async with env.app.ledger.write() as conn:
        await conn.execute(insert(breaker).values(scope="everyone", state="open", why="test", at=1))
    await env.app.chat.admission.refresh()

    async def unavailable(*_, **__):
        return False

    with monkeypatch.context() as patched:
        patched.setattr(Queue, "wake", unavailable)
        await env.user().send("/create a quiet market at dawn")
        [refusal] = await wait_for_texts(env, 1, seconds=20)
        await wait_for_confirmed(env)
    request, _ = await env.latest()
    assert EN("refused_breaker") in refusal
    assert f"#{request.short_id}" in refusal
    assert request.told == "REFUSED"
    async with running(run_worker(env.app)):
        await breaker_closed(env)
        await env.user(2).send("/create a first")
        await wait_for_state(env, VideoState.DELIVERED, 2, 30)
    assert len(sent_texts(env, ANA)) == 1


async def breaker_closed(env):
    assert await close(env.app.ledger, "everyone", "test")
    await env.app.chat.worker.breaker_closed()
