"""A deployment without workers: people read that their request waits and why, and it is done later, once."""

import asyncio

import pytest

from app.processes import run_polling, run_worker, running
from chat.awaited import run_awaited
from chat.context import Waits
from chat.i18n import LANGUAGES, translator
from ledger import heartbeats
from ledger.models import VideoState
from tests.support.app_harness import sent_texts
from tests.support.waiting import wait_until


def without_worker(app):
    """What runs: a bot whose workers are apart, with a second to wait."""
    object.__setattr__(app.chat, "waits", Waits(received_s=1))
    return (run_polling(app), run_awaited(app.chat, 0.2))


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize("language", LANGUAGES)
async def test_people_read_that_no_worker_runs(app_env, language):
    """The request is acknowledged within seconds, with the reason; when a worker comes, one video is made."""
    env = await app_env(wake=without_worker)
    t, ana = translator(language), env.user(language=language)
    await ana.send("/create a quiet market at dawn")

    async def read(text: str) -> bool:
        return any(text in sent for sent in sent_texts(env))

    await wait_until(lambda: read(t("received_no_worker")), 20, "the reason")
    assert len(env.fake_provider.posts()) == 0
    async with running(run_worker(env.app)):
        [(_, video)] = await env.wait_settled()
    assert video.state is VideoState.DELIVERED
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.slow
async def test_others_are_before_them(app_env):
    """Where a worker lives and is busy, no one reads that none runs."""
    env = await app_env(wake=without_worker)
    await heartbeats.beat(env.app.ledger, "busy", "worker", env.app.bot.id)
    await env.user().send("/create a quiet market at dawn")
    t = translator("en")

    async def read() -> bool:
        return any(t("received_busy") in sent for sent in sent_texts(env))

    await wait_until(read, 20, "the reason")
    await asyncio.sleep(0)
    assert not any(t("received_no_worker") in sent for sent in sent_texts(env))
