"""Two bots of one installation share purse, ledger and workers' machines, and speak each for itself."""

from dataclasses import replace

from chat_stage import front_only, taken_up

from app.processes import run_worker, running
from chat.i18n import translator
from chat.notifier import notify
from evals.environment import EnvironmentConfig, open_environment
from ledger import requests
from ledger.models import VideoState
from sandbox.model import SandboxModel

EN = translator("en")


async def test_each_bot_tells_its_own_requests(valkey, tmp_path):
    """What was asked of one bot never comes from another: another's worker that is woken says nothing."""
    plan = EnvironmentConfig(tmp_path, valkey.connection_url, SandboxModel(), wake=front_only, bots=2)
    async with open_environment(plan) as env:
        first, second = env.apis
        person = second.user(1001, "Ana", language_code="en")
        await person.send("/create a quiet market at dawn")
        await taken_up(replace(env, apis=[second]))
        (request,) = [found for found, _ in await _requests(env)]
        await notify(env.apps[0].chat, request.request_id)
        assert first.calls.of("sendMessage") == []
        async with running(run_worker(env.apps[0]), run_worker(env.apps[1])):
            await person.wait_for(lambda one: EN("ready", id=request.short_id) in one.text, 30)
        assert first.calls.of("sendMessage", "sendVideo", "editMessageMedia") == []
        assert [video.state for _, video in await _requests(env)] == [VideoState.DELIVERED]


async def _requests(env):
    return await requests.list_for_user(env.app.ledger, 1001, 10)
