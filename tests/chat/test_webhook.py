"""The webhook: redelivered updates make nothing twice, and calls without the secret do nothing."""

import asyncio
from functools import partial

import pytest
from aiohttp import ClientSession

from app.health import WriteCheck
from chat.poison import MAX_TRIES
from ledger import health
from ledger.models import VideoState
from tests.support.app_harness import (
    SECRET,
    assert_notified_once,
    count_requests,
    post_update,
    sent_texts,
    serve_webhook,
    wait_for_confirmed,
    without_requests_table,
    worker_only,
)
from tests.support.waiting import wait_until
from web.server import build_app, serve


@pytest.mark.slow
async def test_a_handler_that_raises_after_payment_is_paid_once(app_env):
    """A handler that fails each time after its video was paid costs one charge, and is given up in words."""
    env = await app_env(wake=worker_only, clock_scale=20_000)
    deliveries = 0

    async def fails(handler, event, data):
        nonlocal deliveries
        deliveries += 1
        await handler(event, data)
        await wait_until(_charged(env), 10, "the charge")
        raise RuntimeError("after the payment")

    async with serve_webhook(env, around=fails):
        await env.user().send("/create a quiet market at dawn")
        await wait_for_confirmed(env)
        [(_, video)] = await env.wait_settled()
    assert deliveries == MAX_TRIES
    assert [text for text in sent_texts(env) if "couldn't process" in text]
    assert video.state is VideoState.DELIVERED
    assert len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1
    assert await count_requests(env) == 1
    assert len([text for text in sent_texts(env) if "ready" in text]) == 1


def _charged(env):
    async def charged():
        return len(env.fake_provider.charges()) > 0

    return charged


async def test_one_update_five_times_at_once_is_one_video(app_env):
    """Many deliveries of one update at once, to two replicas, pay once."""
    env = await app_env(wake=worker_only, clock_scale=4)  # Telegram waits 15 s for each answer
    ana = env.user()
    async with serve_webhook(env) as first, serve_webhook(env, announce=False) as second:
        assert first != second
        await ana.send("/create a quiet market at dawn")
        update = ana.last_update
        found = await asyncio.gather(
            env.api.redeliver(update.id, times=5), *(post_update(second, update.json()) for _ in range(3))
        )
        assert {one.status for one in found[0]} | set(found[1:]) == {200}
        [(_, video)] = await env.wait_settled()
    assert video.state is VideoState.DELIVERED
    assert await count_requests(env) == len(env.fake_provider.charges()) == 1
    assert_notified_once(env)


async def test_a_call_without_the_secret_is_refused(app_env):
    """A missing or wrong secret, in any bytes, is 401, and its update is not handled."""
    env = await app_env(wake=lambda _: ())
    ana = env.user()
    await ana.send("/create a quiet market at dawn")
    async with serve_webhook(env, announce=False) as url:
        for secret in (None, "", "wrong", SECRET + "x", SECRET[:-1], "sécret"):
            assert await post_update(url, ana.last_update.json(), secret) == 401
        assert await count_requests(env) == 0
        assert await post_update(url, ana.last_update.json(), SECRET) == 200
    assert await count_requests(env) == 1


async def test_an_unreadable_update_is_dropped(app_env):
    """An update of unknown form is answered 200: else Telegram would redeliver it for a day."""
    env = await app_env(wake=lambda _: ())
    async with serve_webhook(env, announce=False) as url:
        assert await post_update(url, {"update_id": 5, "message": {"text": "/create x"}}) == 200
        assert await post_update(url, b"no JSON") == 200
        assert await post_update(url, {"update_id": 6, "edited_message": _message("/create x")}) == 200
        assert await post_update(url, {"update_id": 7, "channel_post": _message("/create x")}) == 200
    assert await count_requests(env) == 0


async def test_a_command_of_a_newer_bot_api_is_opened(app_env):
    """What this aiogram cannot parse next to a command does not lose it."""
    env = await app_env(wake=lambda _: ())
    ana = env.user()
    await ana.send("/create a quiet market at dawn", newer=True)
    async with serve_webhook(env, announce=False) as url:
        assert await post_update(url, ana.last_update.json()) == 200
    (request, _) = await env.latest()
    assert request.idea == "a quiet market at dawn"


def _message(text):
    return {"message_id": 9, "date": 1, "chat": {"id": 5, "type": "private"}, "text": text}


async def test_an_update_waits_while_the_ledger_is_down(app_env):
    """An update that cannot be stored is answered 500, redelivered, and is then one request."""
    env = await app_env(wake=lambda _: (), clock_scale=2000)
    ana = env.user()
    async with serve_webhook(env):
        async with without_requests_table(env.app.ledger):
            await ana.send("/create a quiet market at dawn")

            async def refused():
                return sum(one.status == 500 for one in env.api.deliveries) >= 3

            await wait_until(refused, 10, "three refusals")
            assert env.api.pending_updates == [ana.last_update.id]
        await wait_for_confirmed(env)
    assert await count_requests(env) == 1


async def test_a_slow_handler_is_not_acknowledged(app_env, monkeypatch):
    """A handler that takes too long answers 500: the update may not be stored, so it must be redelivered."""
    monkeypatch.setattr("chat.dispatcher._HANDLER_TIMEOUT_S", 0.1)
    env = await app_env(wake=lambda _: ())

    async def slow(handler, event, data):
        await asyncio.Event().wait()

    async with serve_webhook(env, around=slow, announce=False) as url:
        assert await post_update(url, {"update_id": 5, "message": _message("/help")}) == 500


async def test_readiness_names_what_is_down(app_env):
    """/healthz is 200 while the process lives; /readyz is 503 and names the store that is down."""
    env = await app_env(wake=lambda _: ())
    ledger, redis = partial(health.write, env.app.ledger), env.app.chat.admission.ping
    checks = {
        name: WriteCheck(name, write, write, every_s=0).ready
        for name, write in (("ledger", ledger), ("redis", redis))
    }
    async with serve(build_app(checks, {}), "127.0.0.1", 0) as url, ClientSession() as session:
        assert await _get(session, f"{url}/healthz") == (200, {"alive": True})
        assert await _get(session, f"{url}/readyz") == (200, {"ledger": True, "redis": True})
        async with without_requests_table(env.app.ledger):
            assert await _get(session, f"{url}/readyz") == (503, {"ledger": False, "redis": True})
            assert (await _get(session, f"{url}/healthz"))[0] == 200


async def _get(session, url):
    async with session.get(url) as answer:
        return answer.status, await answer.json()
