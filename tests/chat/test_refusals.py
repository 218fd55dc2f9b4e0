"""Refusals: immediate, with the reason and the time of the next chance, and nothing paid."""

import re

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import insert, make_url

from app.processes import run_worker, running
from chat.i18n import translator
from evals.environment import PRICE
from guardrails.admission import Admission, AdmissionRequest
from guardrails.limits import Limits
from guardrails.money import Money
from ledger import requests
from ledger.models import RequestState, VideoState
from ledger.requests import NewRequest
from ledger.schema import breaker
from sandbox.proxy import Proxy
from tests.support.app_harness import (
    chat_only,
    count_requests,
    open_app_env,
    sent_texts,
    wait_for_state,
    wait_for_texts,
)
from tests.support.factories import LIMITS, ORDER_PRICE, PAID_TOOL, ordered
from tests.support.waiting import wait_until

EN = translator("en")
WHEN = re.compile(r"possible in \d+ (d|h|min)|room again in \d+")


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("cooldown", {}),
        ("quota", {"cooldown": None, "quota": "1/day"}),
        ("budget", {"cooldown": None, "budget": "{user: $0.90/day, everyone: $100/day}"}),
    ],
)
async def test_a_limit_names_the_next_time(app_env, reason, changes):
    """A refusal by a limit names the limit and the time from which the next video is possible."""
    env = await app_env(changes=changes)
    await env.create()
    await wait_until(env.is_run_over, 15, "the first run to end")  # its video may be delivered before
    asked = env.model.asked.total()
    request, video = await env.create()
    assert (request.state, request.reason, video) == (RequestState.REFUSED, reason, None)
    bubble = await env.user().wait_for(lambda one: f"#{request.short_id}" in one.text)
    assert WHEN.search(bubble.text), bubble.text
    assert env.model.asked.total() == asked, "no model was called for it"
    assert len(env.fake_provider.posts()) == 1


@pytest.mark.slow
async def test_an_open_breaker_and_forbidden_content_are_refused(app_env):
    """With an open breaker or forbidden content the refusal says that nothing was charged."""
    env = await app_env()
    request, _ = await env.create("Taylor Swift singing in my kitchen")
    assert request.reason == "content:real_person"
    repair = EN("repair_real_person")
    refusal = EN("refused_word", word="Taylor Swift", category=EN("category_real_person"), repair=repair)
    assert await env.user().wait_for(lambda one: refusal in one.text)
    async with env.app.ledger.write() as conn:
        await conn.execute(insert(breaker).values(scope="everyone", state="open", why="test", at=1))
    await env.app.chat.admission.refresh()
    request, _ = await env.create(user_id=2)
    assert request.reason == "breaker"
    assert await env.user(2).wait_for(lambda one: EN("refused_breaker") in one.text)
    assert env.fake_provider.posts() == []


@pytest.mark.slow
async def test_a_fourth_open_request_is_refused(app_env):
    """With three open requests the next one is refused as busy; other users are not affected."""
    env = await app_env(wake=chat_only)
    for number in range(3):
        new = NewRequest(f"tg:1:-:1001:{90 + number}", 1, 1001, 90 + number, 1001, "en", "a market")
        await requests.open_request(env.app.ledger, new)
    await env.user().send("/create a fourth")
    await env.user(2).send("/create a first")
    async with running(run_worker(env.app)):
        bubble = await env.user().wait_for(lambda one: EN("refused_busy") in one.text)
        await wait_for_state(env, VideoState.DELIVERED, 2)
    assert bubble


@pytest.mark.app_timeouts
@pytest.mark.slow
async def test_a_request_is_kept_while_redis_is_down(valkey, tmp_path):
    """Redis down at /create: the reply says it is saved; when Redis is back it becomes exactly one video."""
    address = make_url(valkey.connection_url)
    async with Proxy(address.host, address.port) as proxy:
        url = valkey.connection_url.replace(f"{address.host}:{address.port}", f"127.0.0.1:{proxy.port}")
        async with open_app_env(tmp_path, url, wake=chat_only) as env:
            proxy.mode = "hang"
            await env.user().send("/create a quiet market at dawn")
            assert await wait_for_texts(env, 1) == [EN("kept")]
            assert (await count_requests(env), env.fake_provider.posts()) == (1, [])
            proxy.mode = "pass"
            proxy.cut()
            async with running(run_worker(env.app)):
                await wait_for_state(env, VideoState.DELIVERED)
            assert len(env.fake_provider.posts()) == 1


@pytest.mark.slow
async def test_a_provider_refusal_reaches_user_and_operator(app_env):
    """A key that the provider does not accept: nothing was paid, and an unreachable admin blocks nothing."""
    env = await app_env(settings={"admins": frozenset({1})})
    env.fake_provider.script("refuse_401")
    request, video = await env.create()
    assert (video.state, request.told) == (VideoState.FAILED_UNPAID, VideoState.FAILED_UNPAID)
    assert await env.user().wait_for(lambda one: EN("failed_auth") in one.text)
    # This admin never wrote to the bot, which may not write first: the user gets the message all the same.
    alert = await env.api.calls.wait_for(
        lambda call: call.params.get("chat_id") == "1" and call.status is not None, 20
    )
    assert (alert.performed, "FAILED_UNPAID" in alert.params["text"]) == (False, True)


async def next_chance(admission, ledger, limits=LIMITS, user_id=7):
    found = await admission.availability(user_id, ORDER_PRICE, limits)
    return found.word, found.until and (found.until - found.now + 59_000) // 60_000


async def test_a_reservation_without_an_order_counts(admission, ledger):
    """A reservation in Redis without an order in SQL counts as well."""
    assert await next_chance(admission, ledger) == ("admitted", None)
    await admission.reserve(AdmissionRequest(PAID_TOOL, "r1", 7, price=ORDER_PRICE, limits=LIMITS))
    assert await next_chance(admission, ledger) == ("cooldown", 10)
    assert await next_chance(admission, ledger, user_id=8) == ("admitted", None)


async def test_the_limit_that_lasts_longest_says_when(admission, ledger, opened):
    """The next video is possible when the last limit ends, not the first."""
    await ordered(ledger, opened)
    await admission.refresh()
    both = Limits(quota=1, quota_window_s=7200, cooldown_s=600)
    assert await next_chance(admission, ledger, both) in [("quota", 120), ("quota", 121)]  # by its minute
    never = Limits(quota=1, quota_window_s=7200, user_budget=Money.parse("$1"))
    assert await next_chance(admission, ledger, never) == ("budget", None)


async def test_an_open_breaker_comes_first_and_without_redis_it_is_closed(
    admission, ledger, opened, monkeypatch
):
    """An open breaker has no end time. Without Redis the ledger decides alone, else the verdict is closed."""
    await ordered(ledger, opened)
    async with ledger.write() as conn:
        await conn.execute(insert(breaker).values(scope="user:8", state="open", why="test", at=1))
    await admission.refresh()
    assert await next_chance(admission, ledger, user_id=8) == ("breaker", None)

    async def unavailable(*_):
        raise RedisConnectionError

    monkeypatch.setattr(Admission, "_run_admit", unavailable)
    assert await next_chance(admission, ledger, user_id=9) == ("closed", None)
    assert await next_chance(admission, ledger, user_id=8) == ("breaker", None)
    assert (await next_chance(admission, ledger))[0] == "cooldown"


CASES = {
    "quota": (
        {"quota": "1/12h", "cooldown": None},
        [EN("quota_used", used=1, count=1, within="in the last 12 hours")],
        "quota_wait",
    ),
    "budget": (
        {"quota": None, "cooldown": None, "budget": "{user: $0.90/2day, everyone: $100/day}"},
        [
            EN("quota_used_free", count=1, within="in the last 24 hours"),
            EN("quota_spent", spent=PRICE, budget=Money.parse("$0.90"), within="in the last 2 days"),
        ],
        "quota_budget",
    ),
    "everyone": (
        {"cooldown": None, "budget": "{everyone: $1/90m}"},
        [EN("quota_spent_free", spent=PRICE, within="in the last 24 hours")],
        "quota_budget",
    ),
    "nothing": (
        {"cooldown": None},
        [EN("quota_used", used=1, count=5, within="in the last 24 hours")],
        "quota_ready",
    ),
}


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize("case", CASES)
async def test_quota_agrees_with_create(app_env, case):
    """After one video: each figure with its limit and window; ready only where /create is accepted."""
    changes, lines, ending = CASES[case]
    env = await app_env(changes=changes)
    await env.create()
    ana = env.user()
    await ana.send("/quota")
    reply = await ana.wait_for(lambda one: not one.mine and "in the last" in one.text)
    for line in lines:
        assert re.sub("<.*?>", "", line) in reply.text
    start = re.sub("<.*?>", "", EN(ending, **({} if ending == "quota_ready" else {"when": "in"})).rstrip("."))
    assert start in reply.text
    request, video = await env.create("a lighthouse in a storm")
    assert (video is not None) == (ending == "quota_ready"), request.reason


async def test_quota_reports_an_open_breaker(app_env):
    """/quota says that videos are paused, and promises nothing."""
    env = await app_env(wake=chat_only)
    async with env.app.ledger.write() as conn:
        await conn.execute(insert(breaker).values(scope="everyone", state="open", why="test", at=1))
    await env.app.chat.admission.refresh()
    await env.user().send("/quota")
    [reply] = await wait_for_texts(env, 1, 1001)
    assert EN("quota_breaker") in reply
    assert EN("quota_ready") not in reply


@pytest.mark.slow
async def test_a_refusal_names_the_declared_window(app_env):
    """A quota declared as 1/12h appears as 12 hours in the prices and in the refusal."""
    env = await app_env(changes={"cooldown": None, "quota": "1/12h"})
    await env.create()
    request, _ = await env.create("a lighthouse in a storm")
    assert request.reason == "quota"
    await env.user().wait_for(lambda one: "used your 1 video in 12 hours" in one.text)
    await env.user().send("/help")
    await env.user().wait_for(lambda one: "You can have 1 video in any 12 hours." in one.text)
    assert not [text for text in sent_texts(env) if "24 hours" in text]
