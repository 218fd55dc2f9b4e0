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
async def test_an_emptied_redis_ends_nothing(backstage, phase):
    """FLUSHALL while a request is under way: it ends as it would have, with one charge."""
    stage = await backstage([order()], [order()])
    request = await stage.opened()
    stage.peer.script("charge_drop" if phase == "doubtful" else "accept")
    if phase != "open":
        await stage.direct(request)
    if phase in ("doubtful", "accepted"):
        await stage.shoot(request)
    stage.queue.asked.clear()
    await stage.redis.flushall()
    assert await stage.deliver(request) is V.SUCCEEDED
    assert len(stage.peer.charges()) == 1


async def test_an_emptied_redis_between_two_calls_admits_no_second(backstage):
    """FLUSHALL between two calls of one run: the second call still hears that the order stands."""

    async def emptied():
        await stage.redis.flushall()
        return [order(prompt="another take")]

    stage = await backstage([order()], emptied)
    request = await stage.opened()
    await stage.direct(request)
    assert await stage.refused(request) in ([("replay", "redis")], [("replay", "ledger")])
    await stage.deliver(request)
    assert len(stage.peer.charges()) == 1


async def test_every_wake_up_may_be_lost(backstage):
    """A queue that loses all that tasks ask for: the sweep alone brings the video here."""
    stage = await backstage([order()])
    stage.lossy = True
    assert await stage.deliver(await stage.opened()) is V.SUCCEEDED
    assert len(stage.peer.charges()) == 1


async def test_an_order_that_waited_too_long_gives_its_money_back(backstage):
    """No worker for half an hour: expired, nothing held, quota and cooldown back, the user told."""
    stage = await backstage(changes={"cooldown": "10m", "quota": "1/day"})
    request = await stage.ordered()
    assert (await reports.cost_summary(stage.ledger)).held == PRICE
    stage.ledger.shift += 1801
    await stage.shoot(request)
    assert await stage.deliver(request) is V.EXPIRED
    assert (await reports.cost_summary(stage.ledger)).held == ZERO
    assert ("tell", request) in stage.queue.asked + stage.done
    assert stage.peer.posts() == []
    stage.ledger.shift -= 1801
    await stage.ordered()


async def test_a_request_whose_runs_all_died_ends_in_words(backstage):
    """Three attempts in which the model failed: the request ends, and the user hears so."""
    stage = await backstage(*[RuntimeError("503")] * 3)
    request = await stage.opened()
    await stage.finish(request)
    assert (await stage.request(request)).state is RequestState.NO_ORDER
    assert len(stage.model.heard) == 3
    assert ("tell", request) in stage.queue.asked + stage.done


async def test_a_request_that_nobody_ran_ends_in_words(backstage):
    """Half an hour without a director: the user hears so, and no late run orders anything."""
    stage = await backstage([order()])
    request = await stage.opened()
    stage.ledger.shift += 1801
    await sweep(stage.studio)
    found = await stage.request(request)
    assert (found.state, found.reason) == (RequestState.NO_ORDER, "gave_up")
    await stage.direct(request)
    assert stage.model.heard == []
    assert ("tell", request) in stage.queue.asked
