"""What is due is in the ledger: without docket, and after Redis was emptied, requests are finished."""

import asyncio

import pytest

from app.processes import SHUTDOWN_GRACE_S, run_polling
from evals.environment import PRICE
from ledger.models import RequestState, VideoState
from tests.support.app_harness import APPROVE, wait_for_state
from tests.support.crash_env import is_offer
from worker.periodic import run_periodic
from worker.queue import Queue


def without_docket(app):
    """What runs: polling and a dispatcher; no worker of docket, and no wake-up reaches anyone."""

    async def dispatch() -> None:
        try:
            await asyncio.gather(app.dispatcher.run(), run_periodic(app.worker, app.orphans))
        finally:
            await app.dispatcher.stop(SHUTDOWN_GRACE_S)

    return run_polling(app), dispatch()


@pytest.fixture
def no_wake_ups(monkeypatch):
    async def wake(self, task, request_id, *, after_s=0) -> bool:
        return False

    monkeypatch.setattr(Queue, "wake", wake)


async def test_a_request_is_finished_without_docket(app_env, no_wake_ups):
    """No message of the queue is ever received: the worker's own questions bring the video, once."""
    env = await app_env(wake=without_docket)
    request, video = await env.create()
    assert (request.state, video.state) == (RequestState.ORDERED, VideoState.DELIVERED)
    assert sum(env.fake_provider.net().values()) == PRICE.micros


@pytest.mark.slow
async def test_an_open_request_is_finished_after_redis_was_emptied(app_env, no_wake_ups):
    """Redis is emptied while an offer waits for its user: after the tap all follows from the ledger."""
    env = await app_env(wake=without_docket, changes={"approval": "always"})
    ana = env.user()
    await ana.send("/create a quiet market at dawn")
    await wait_for_state(env, VideoState.AWAITING_APPROVAL)
    await env.flush()
    offer = await ana.wait_for(is_offer)
    await ana.tap(offer.id, APPROVE)
    await wait_for_state(env, VideoState.DELIVERED)
    assert len(env.fake_provider.charges()) == 1
