"""Undeliverable videos: the user and every admin are informed once, and delivery is retried."""

from dataclasses import replace

import pytest
from sqlalchemy import update

from app.processes import run_worker, running
from chat import delivery
from chat.i18n import translator
from chat.notifier import notify_request
from evals.environment import PRICE, EnvironmentConfig, open_environment
from ledger import requests
from ledger.models import VideoState
from ledger.schema import videos
from providers.base import Gone
from sandbox.model import SandboxModel
from sandbox.telegram import Fault
from tests.support.app_harness import chat_only, sent_texts, wait_for_confirmed, wait_for_state
from tests.support.waiting import wait_until

EN = translator("en")
EVA = 1
WAYS = ("editMessageMedia", "sendVideo")


@pytest.fixture
async def env(app_env):
    made = await app_env(settings={"admins": frozenset({EVA})})
    await made.user(EVA, "Eva").send("/start")
    return made


def alerts(env):
    return [one for one in env.user(EVA).history() if "paid and not delivered" in one.text]


async def arrives(env):
    """Wait until the video arrives, once, in the chat and in the ledger."""
    await wait_for_state(env, VideoState.DELIVERED, seconds=30)
    videos_shown = [one for one in env.user().history() if one.media and one.media.kind == "video"]
    assert len(videos_shown) == len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1
    assert len([text for text in sent_texts(env, 1001) if "ready" in text]) == 1


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize(
    "fault",
    [Fault.refused(400, "Bad Request: wrong file"), Fault.refused(413, "Request Entity Too Large")],
    ids=["refused", "too large"],
)
async def test_a_refused_file_is_reported(env, fault):
    """A file that Telegram refuses: the user reads that it is finished and charged, the admin gets one alert
    however often it is tried, and it arrives once Telegram accepts it.
    """
    for way in WAYS:
        env.api.fail(way, fault, times=None)
    ana = env.user()
    await ana.send("/create a quiet market at dawn")
    report = await ana.wait_for(lambda one: "was charged for it" in one.text)
    assert str(PRICE) in report.text
    await env.user(EVA).wait_for(lambda one: "paid and not delivered: Telegram refuses it" in one.text)
    tries = len(env.api.calls.of("sendVideo", "editMessageMedia"))

    async def tried_again():
        return len(env.api.calls.of("sendVideo", "editMessageMedia")) > tries + 1

    await wait_until(tried_again, 30, "further tries")
    assert len(alerts(env)) == 1
    assert len([one for one in ana.history() if "was charged for it" in one.text]) == 1
    env.api.heal()
    await arrives(env)


@pytest.mark.slow
async def test_a_file_that_is_gone_is_reported(env, monkeypatch):
    """A file that is neither here nor at the provider is reported to both, and delivered once it is there."""
    fetch = delivery._with_asset

    async def gone(ctx, video):
        raise Gone("no such output")

    monkeypatch.setattr(delivery, "_with_asset", gone)
    await env.user().send("/create a quiet market at dawn")
    await env.user(EVA).wait_for(lambda one: "gone and cannot be downloaded" in one.text)
    await env.user().wait_for(lambda one: "was charged for it" in one.text)
    monkeypatch.setattr(delivery, "_with_asset", fetch)
    await arrives(env)
    assert len(alerts(env)) == 1


@pytest.mark.slow
async def test_only_a_long_outage_is_reported(env):
    """A failure that waiting may fix is reported only after half an hour, once."""
    for way in WAYS:
        env.api.fail(way, Fault.server_error(), times=None)
    await env.user().send("/create a quiet market at dawn")
    await env.api.calls.wait_for(lambda call: call.method == "sendVideo" or call.status == 500)

    async def thrice():
        return len([call for call in env.api.calls if call.status == 500]) >= 3

    await wait_until(thrice, 30, "three tries")
    assert alerts(env) == []
    assert not [text for text in sent_texts(env, 1001) if "was charged for it" in text]
    async with env.app.ledger.write() as conn:
        await conn.execute(update(videos).values(updated_at=videos.c.updated_at - 7_200_000))
    await env.user(EVA).wait_for(lambda one: "it has failed for 12" in one.text)
    env.api.heal()
    await arrives(env)
    assert len(alerts(env)) == 1


@pytest.mark.slow
async def test_each_bot_notifies_about_its_own_requests(valkey, tmp_path):
    """A request of one bot is never answered by another, even if the other bot's worker gets its task."""
    config = EnvironmentConfig(tmp_path, valkey.connection_url, SandboxModel(), wake=chat_only, bots=2)
    async with open_environment(config) as env:
        first, second = env.apis
        person = second.user(1001, "Ana", language_code="en")
        await person.send("/create a quiet market at dawn")
        await wait_for_confirmed(replace(env, apis=[second]))
        (request,) = [found for found, _ in await _requests(env)]
        await notify_request(env.apps[0].chat, request.request_id)
        assert first.calls.of("sendMessage") == []
        async with running(run_worker(env.apps[0]), run_worker(env.apps[1])):
            await person.wait_for(lambda one: EN("ready", id=request.short_id) in one.text)
        assert first.calls.of("sendMessage", "sendVideo", "editMessageMedia") == []
        assert [video.state for _, video in await _requests(env)] == [VideoState.DELIVERED]


async def _requests(env):
    return await requests.list_for_user(env.app.ledger, 1001, 10)
