"""`sweep` needs nothing but the ledger: an emptied Redis and a queue that forgets cost time, never
a video.
"""

import pytest
from player import order

from evals.environment import PRICE
from ledger import reports
from ledger.models import RequestState, VideoState
from ledger.money import ZERO
from worker.sweeper import sweep

V = VideoState


@pytest.mark.parametrize("phase", ["open", "ordered", "doubtful", "accepted"])
async def test_an_emptied_redis_ends_nothing(pipeline_env, phase):
    """FLUSHALL while a request is under way: it ends as it would have, with one charge."""
    env = await pipeline_env([order()], [order()])
    request = await env.opened()
    env.fake_provider.script("charge_drop" if phase == "doubtful" else "accept")
    if phase != "open":
        await env.run_agent(request)
    if phase in ("doubtful", "accepted"):
        await env.submit(request)
    env.queue.asked.clear()
    await env.redis.flushall()
    assert await env.deliver(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_an_emptied_redis_between_two_calls_admits_no_second(pipeline_env):
    """FLUSHALL between two calls of one run: the second call still hears that the order stands."""

    async def emptied():
        await env.redis.flushall()
        return [order(prompt="another take")]

    env = await pipeline_env([order()], emptied)
    request = await env.opened()
    await env.run_agent(request)
    assert await env.refused(request) in ([("replay", "redis")], [("replay", "ledger")])
    await env.deliver(request)
    assert len(env.fake_provider.charges()) == 1


async def test_every_wake_up_may_be_lost(pipeline_env):
    """A queue that loses all that tasks ask for: the sweep alone brings the video here."""
    env = await pipeline_env([order()])
    env.lossy = True
    assert await env.deliver(await env.opened()) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_an_order_that_waited_too_long_gives_its_money_back(pipeline_env):
    """No worker for half an hour: expired, nothing held, quota and cooldown back, the user told."""
    env = await pipeline_env(changes={"cooldown": "10m", "quota": "1/day"})
    request = await env.ordered()
    assert (await reports.cost_summary(env.ledger)).held == PRICE
    env.ledger.shift += 1801
    await env.submit(request)
    assert await env.deliver(request) is V.EXPIRED
    assert (await reports.cost_summary(env.ledger)).held == ZERO
    assert ("notify", request) in env.queue.asked + env.done
    assert env.fake_provider.posts() == []
    env.ledger.shift -= 1801
    await env.ordered()


async def test_a_request_whose_runs_all_died_ends_in_words(pipeline_env):
    """Three attempts in which the model failed: the request ends, and the user hears so."""
    env = await pipeline_env(*[RuntimeError("503")] * 3)
    request = await env.opened()
    await env.finish(request)
    assert (await env.request(request)).state is RequestState.NO_ORDER
    assert len(env.model.heard) == 3
    assert ("notify", request) in env.queue.asked + env.done


async def test_a_request_that_nobody_ran_ends_in_words(pipeline_env):
    """Half an hour without a director: the user hears so, and no late run orders anything."""
    env = await pipeline_env([order()])
    request = await env.opened()
    env.ledger.shift += 1801
    await sweep(env.worker)
    found = await env.request(request)
    assert (found.state, found.reason) == (RequestState.NO_ORDER, "gave_up")
    await env.run_agent(request)
    assert env.model.heard == []
    assert ("notify", request) in env.queue.asked
