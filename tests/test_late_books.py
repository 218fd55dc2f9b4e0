"""A late charge in the books and in the user's words: once, whatever comes when, and told as it is.

The oracle is the provider's own charge log; each law ends with the books compared to it.
"""

import asyncio
import time
from dataclasses import replace

from doubts import SLOW, late_look, lost
from lives import books
from waiting import wait_until

from chat.i18n import translator
from evals.environment import PRICE, QUICK_TIMEOUTS
from ledger import transitions
from ledger.models import VideoState
from worker.reconcile import check_late_charges

V = VideoState


# Money


async def test_refunds_come_twice_late_and_out_of_order(pipeline_env):
    """A job that turned up late, failed unbilled, and is told of again by everybody: charged once, credited
    once, whatever comes when.
    """
    env = await pipeline_env(shape="vllm_omni", quick=SLOW)
    env.fake_provider.fates.append("fail")
    request = await lost(env)
    [job] = env.fake_provider.jobs
    await asyncio.gather(
        check_late_charges(env.worker),
        late_look(env),
        *(transitions.adopt_job(env.ledger, request, job, "a stale worker", None) for _ in range(3)),
    )
    await asyncio.gather(*(env.poll(request) for _ in range(3)))
    for _ in range(3):
        await late_look(env, 600)
        await env.poll(request)
    assert (await env.video(request)).state is V.FAILED_UNPAID
    found = await books(env.ledger, request)
    assert found["charge"] == found["credit"] == [PRICE.micros]
    assert len(env.fake_provider.refunds()) == 1
    assert env.fake_provider.net() == {}
    assert await env.paid() == 0


async def test_a_refund_before_its_charge_gives_back_once(pipeline_env):
    """The money was released, then the job is brought by two at once: one charge, no second release."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    request = await lost(env)
    [job] = env.fake_provider.jobs
    await asyncio.gather(
        late_look(env),
        *(transitions.adopt_job(env.ledger, request, job, "a stale worker", None) for _ in range(2)),
    )
    found = await books(env.ledger, request)
    assert found == {"hold": [PRICE.micros], "release": [PRICE.micros], "charge": [PRICE.micros]}
    await env.finish(request)


# Words


async def test_the_user_reads_the_truth_at_every_step(app_env):
    """First "never reached, nothing paid"; then that it was paid after all, and for how much; then the video,
    with the booked price and a ping that says so.
    """
    env = await app_env(
        shape="openai",
        timeouts=replace(QUICK_TIMEOUTS, late_s=1.0),
        capabilities={"settle_s": 0.4, "absent_gap_s": 0.1},
        fake_provider_options={"polls": 6},
    )
    say = translator("en")
    env.fake_provider.script("charge_drop")
    ana, hidden = env.user(), {}
    await ana.send("/create a quiet market at dawn")
    end = time.monotonic() + 10

    async def charged():
        hidden.update(env.fake_provider.jobs)
        env.fake_provider.jobs.clear()
        return hidden or time.monotonic() > end

    await wait_until(charged, 10, "the charge")
    first = await ana.wait_for(lambda bubble: say("failed_absent") in bubble.text)
    env.fake_provider.jobs.update(hidden)
    paid = await ana.wait_for(lambda bubble: "after all" in bubble.text and str(PRICE) in bubble.text)
    assert paid.id == first.id
    [(request, video)] = await env.ended()
    assert video.state is V.DELIVERED
    last = ana.history()[-1]
    assert last.text == say("ready_late", id=request.short_id)
    assert str(PRICE) in next(one.text for one in ana.history() if one.media)
    assert len(env.fake_provider.posts()) == 1
