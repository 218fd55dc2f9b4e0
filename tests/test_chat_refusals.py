"""Refusals: at once, with their reason and the time when it works again, and nothing was paid."""

import re

import pytest
from chat_stage import answers, count_requests, front_only, state_is
from sqlalchemy import insert, make_url
from theatre import open_theatre

from app.processes import run_worker, running
from chat.i18n import translator
from ledger import requests
from ledger.models import RequestState, VideoState
from ledger.requests import NewRequest
from ledger.schema import breaker
from sandbox.proxy import Proxy

EN = translator("en")
WHEN = re.compile(r"possible in \d+ (d|h|min)|room again in \d+")


@pytest.mark.parametrize(
    ("word", "changes"),
    [
        ("cooldown", {}),
        ("quota", {"cooldown": None, "quota": "1/day"}),
        ("budget", {"cooldown": None, "budget": "{user: $0.90/day, everyone: $100/day}"}),
    ],
)
async def test_a_second_video_has_its_time(app_env, word, changes):
    """What a limit refuses is refused with the limit's reason and the time from which it works again."""
    env = await app_env(changes=changes)
    await env.create()
    asked = env.model.asked.total()
    request, video = await env.create()
    assert (request.state, request.reason, video) == (RequestState.REFUSED, word, None)
    bubble = await env.user().wait_for(lambda one: f"#{request.short_id}" in one.text)
    assert WHEN.search(bubble.text), bubble.text
    assert env.model.asked.total() == asked, "no model was called for it"
    assert len(env.fake_provider.posts()) == 1


async def test_an_open_breaker_and_forbidden_content_say_so(app_env):
    """Stopped work and forbidden content are refused in words that say that nothing was paid."""
    env = await app_env()
    request, _ = await env.create("Taylor Swift singing in my kitchen")
    assert request.reason == "content:real_person"
    words = EN("refused_content", category=EN("category_real_person"))
    assert await env.user().wait_for(lambda one: words in one.text)
    async with env.app.ledger.write() as conn:
        await conn.execute(insert(breaker).values(scope="everyone", state="open", why="law", at=1))
    await env.app.chat.admission.refresh()
    request, _ = await env.create(user_id=2)
    assert request.reason == "breaker"
    assert await env.user(2).wait_for(lambda one: EN("refused_breaker") in one.text)
    assert env.fake_provider.posts() == []


async def test_a_fourth_request_waits_for_none(app_env):
    """With three requests open the next is refused as busy, in words; it is nobody else's burden."""
    env = await app_env(wake=front_only)
    for number in range(3):
        new = NewRequest(f"tg:1:-:1001:{90 + number}", 1, 1001, 90 + number, 1001, "en", "a market")
        await requests.open_request(env.app.ledger, new)
    await env.user().send("/create a fourth")
    await env.user(2).send("/create a first")
    async with running(run_worker(env.app)):
        bubble = await env.user().wait_for(lambda one: EN("refused_busy") in one.text)
        await state_is(env, VideoState.DELIVERED, 2)
    assert bubble


async def test_a_request_is_kept_while_redis_is_away(valkey, tmp_path):
    """Redis away at /create: kept, in words; taken up when Redis is back, and then exactly one video."""
    there = make_url(valkey.connection_url)
    async with Proxy(there.host, there.port) as line:
        url = valkey.connection_url.replace(f"{there.host}:{there.port}", f"127.0.0.1:{line.port}")
        async with open_theatre(tmp_path, url, wake=front_only) as env:
            line.mode = "hang"
            await env.user().send("/create a quiet market at dawn")
            assert await answers(env, 1) == [EN("kept")]
            assert (await count_requests(env), env.fake_provider.posts()) == (1, [])
            line.mode = "pass"
            line.cut()
            async with running(run_worker(env.app)):
                await state_is(env, VideoState.DELIVERED)
            assert len(env.fake_provider.posts()) == 1


async def test_a_provider_that_refuses_is_told_with_the_operator(app_env):
    """A key that the provider does not know: nothing was paid, and an unreachable operator stops nobody."""
    env = await app_env(settings={"admins": frozenset({1})})
    env.fake_provider.script("refuse_401")
    request, video = await env.create()
    assert (video.state, request.told) == (VideoState.FAILED_UNPAID, VideoState.FAILED_UNPAID)
    assert await env.user().wait_for(lambda one: EN("failed_auth") in one.text)
    # This admin never wrote to the bot, who may not write first: the user was told all the same.
    alert = await env.api.calls.wait_for(
        lambda call: call.params.get("chat_id") == "1" and call.status is not None, 20
    )
    assert (alert.performed, "FAILED_UNPAID" in alert.params["text"]) == (False, True)
