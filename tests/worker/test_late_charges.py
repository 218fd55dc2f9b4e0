"""Late charges: a job that is found after its order ended is booked, and its video is made. No test here
sends a second POST.
"""

import asyncio
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from chat.i18n import translator
from evals.environment import PRICE, QUICK_TIMEOUTS
from ledger import breaker, transitions
from ledger.models import VideoState
from tests.support.factories import booked, history
from tests.support.pipeline_harness import (
    SLOW,
    charged_and_absent,
    check_late_charges_after,
    in_doubt,
    reconcile_after,
)
from tests.support.waiting import wait_until
from worker.context import Timeouts

V = VideoState


async def test_a_late_charge_is_booked_and_its_video_made(pipeline_env):
    """An order that ended unpaid turns out to have a job: linked, charged, made, without another POST."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    request = await charged_and_absent(env)
    await check_late_charges_after(env)
    video = await env.video(request)
    assert (video.state, video.failure) == (V.ACCEPTED, "late")
    assert ("FAILED_UNPAID", "ACCEPTED", "late") in await history(env.ledger, request)
    [(_, made)] = await env.finish(request)
    assert made.state is V.SUCCEEDED
    assert await env.paid_micros() == sum(env.fake_provider.net().values()) == PRICE.micros
    assert len(env.fake_provider.posts()) == 1
    assert await breaker.open_breakers(env.ledger) == []


@pytest.mark.slow
async def test_late_post_is_caught(pipeline_env, monkeypatch):
    """A worker is paused between its deadline check and the first byte, for longer than the settle time:
    the late-charge check finds the job.
    """
    env = await pipeline_env(shape="openai", quick=SLOW | {"submit_timeout_s": 5.0})
    provider = env.provider
    asleep, awake, send = asyncio.Event(), asyncio.Event(), provider.submit

    async def submit(video_request):
        asleep.set()
        await awake.wait()
        await send(video_request)
        raise SystemError("the worker is killed")

    monkeypatch.setattr(provider, "submit", submit)
    request = await env.ordered()
    worker = asyncio.create_task(env.submit(request))
    await asyncio.wait_for(asleep.wait(), 5)
    env.ledger.shift += 30
    async with env.ledger.read() as conn:
        assert (await env.video(request)).deadline_at < await env.ledger.now(conn)
    await env.run_due("end_overdue")
    for seconds in (1200, 121):
        await reconcile_after(env, seconds)
    assert (await env.video(request)).state is V.FAILED_UNPAID
    env.fake_provider.clock_s = env.ledger.shift
    awake.set()
    await worker
    assert (await env.video(request)).state is V.FAILED_UNPAID
    await check_late_charges_after(env)
    assert (await env.video(request)).state is V.ACCEPTED
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.slow
async def test_a_late_charge_may_exceed_a_limit(pipeline_env):
    """The day's budget was spent on another video meanwhile: the late charge is booked all the same, and
    nothing else is admitted.
    """
    env = await pipeline_env(shape="openai", quick=SLOW, changes={"budget": "{user: $0.80/day}"})
    request = await charged_and_absent(env)
    second = await env.ordered(prompt="A quiet harbour.")
    await env.finish(second)
    await check_late_charges_after(env)
    [(_, made)] = await env.finish(request)
    assert made.state is V.SUCCEEDED
    assert await env.paid_micros() == sum(env.fake_provider.net().values()) == 2 * PRICE.micros
    with pytest.raises(AssertionError, match="budget"):
        await env.ordered(prompt="A third thing.")


async def test_held_order_is_checked_too(pipeline_env):
    """The list was unavailable when the settle time ended: HOLD. Within a day the list shows the job."""
    env = await pipeline_env(shape="openai", quick={"settle_s": 1.0}, listing=False)
    request = await in_doubt(env, "charge_drop")
    assert await reconcile_after(env, 2, request) == [V.HOLD]
    env.fake_provider.listing = True
    await check_late_charges_after(env)
    video = await env.video(request)
    assert (video.state, video.failure) == (V.ACCEPTED, None)
    await env.finish(request)


async def test_a_held_order_that_is_absent_stays_held(pipeline_env):
    """Absence from a late list does not resolve a HOLD."""
    env = await pipeline_env(shape="openai", quick={"settle_s": 1.0}, listing=False)
    request = await in_doubt(env)
    assert await reconcile_after(env, 2, request) == [V.HOLD]
    env.fake_provider.listing = True
    for seconds in (61, 600, 600):
        await check_late_charges_after(env, seconds)
    assert (await env.video(request)).state is V.HOLD


@pytest.mark.parametrize(
    ("word", "ends"), [("completed", V.SUCCEEDED), ("failed", V.FAILED_UNPAID), ("", V.HOLD)]
)
async def test_held_job_that_ends_late_is_completed(pipeline_env, word, ends):
    """An overdue job is checked by its own id: if finished, the video is made; if failed, it ends as billed
    or unbilled.
    """
    env = await pipeline_env(shape="vllm_omni", quick={"overdue_s": 0.05}, polls=10**6)
    request = await env.accepted()
    env.ledger.shift += 1
    await env.poll(request)
    assert (await env.video(request)).failure == "overdue"
    [job] = env.fake_provider.jobs.values()
    job.word, job.fate = word, "fail" if word == "failed" else "video"
    await check_late_charges_after(env)
    if word:
        await env.finish(request)
    assert (await env.video(request)).state is ends


async def test_job_without_file_stays_held(pipeline_env):
    """A held job that is reported finished but whose file is gone stays held at every check."""
    env = await pipeline_env()
    request = await env.accepted()
    env.fake_provider.content = "410"
    await env.finish(request)
    assert (await env.video(request)).failure == "gone"
    moves_before = await history(env.ledger, request)
    for seconds in (61, 3600):
        await check_late_charges_after(env, seconds)
    assert await history(env.ledger, request) == moves_before
    env.fake_provider.content = "video"
    await check_late_charges_after(env, 7200)
    [(_, made)] = await env.finish(request)
    assert made.state is V.SUCCEEDED


@pytest.mark.slow
async def test_checks_are_few_and_end_after_a_day(pipeline_env, monkeypatch):
    """Within a day a lost order is checked about 20 times, by one worker of three, then no more."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    request = await in_doubt(env)
    await reconcile_after(env, 601)
    assert await reconcile_after(env, 121, request) == [V.FAILED_UNPAID]
    asked = []
    provider = env.provider

    async def lookup(video_request, sent_at, claimed, now, *, until=None):
        asked.append(until)
        raise OSError("unavailable")

    monkeypatch.setattr(provider, "lookup", lookup)
    for _ in range(26 * 6):
        env.ledger.shift += 600
        await asyncio.gather(*(env.run_due("late_check") for _ in range(3)))
    assert 10 <= len(asked) <= 30
    assert asked[-1] - asked[0] <= 86_400
    assert all(round(later - one) >= 600 for one, later in pairwise(asked))


@pytest.mark.slow
async def test_late_checks_are_claimed_oldest_first(pipeline_env):
    """A worker claims as many checks as it has slots for; those that waited longest come first."""
    env = await pipeline_env(shape="openai", quick={"settle_s": 0.1}, timeouts=Timeouts(slack_s=4, ask_s=0))
    env.fake_provider.script(*["refuse_400"] * 5)
    ids = [await env.ordered(user) for user in range(1, 6)]
    for one in ids:
        await env.submit(one)
    env.ledger.shift += 61
    claimed = [await env.steps["late_check"].claim(2) for _ in range(3)]
    assert [[one.video.request_id for one in rows] for rows in claimed] == [ids[:2], ids[2:4], ids[4:]]


async def test_unsent_orders_are_not_checked(pipeline_env):
    """An order that was cancelled or expired before any POST has no late charge: it is not checked."""
    env = await pipeline_env(shape="openai")
    request = await env.ordered()
    await transitions.cancel(env.ledger, request, 7)
    env.ledger.shift += 61
    assert await env.run_due("late_check") == 0


# Money


async def test_refunds_come_twice_late_and_out_of_order(pipeline_env):
    """A job that is found late, fails unbilled and is reported again by several processes: charged once,
    refunded once.
    """
    env = await pipeline_env(shape="vllm_omni", quick=SLOW)
    env.fake_provider.fates.append("fail")
    request = await charged_and_absent(env)
    [job] = env.fake_provider.jobs
    await asyncio.gather(
        env.run_due("late_check"),
        check_late_charges_after(env),
        *(transitions.adopt_job(env.ledger, request, job, "a stale worker", None) for _ in range(3)),
    )
    await asyncio.gather(*(env.poll(request) for _ in range(3)))
    for _ in range(3):
        await check_late_charges_after(env, 600)
        await env.poll(request)
    assert (await env.video(request)).state is V.FAILED_UNPAID
    found = await booked(env.ledger, request)
    assert found["charge"] == found["credit"] == [PRICE.micros]
    assert len(env.fake_provider.refunds()) == 1
    assert env.fake_provider.net() == {}
    assert await env.paid_micros() == 0


async def test_release_before_a_late_charge_happens_once(pipeline_env):
    """The money was released, then two processes report the job at once: one charge, no second release."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    request = await charged_and_absent(env)
    [job] = env.fake_provider.jobs
    await asyncio.gather(
        check_late_charges_after(env),
        *(transitions.adopt_job(env.ledger, request, job, "a stale worker", None) for _ in range(2)),
    )
    found = await booked(env.ledger, request)
    assert found == {"hold": [PRICE.micros], "release": [PRICE.micros], "charge": [PRICE.micros]}
    await env.finish(request)


# Words


@pytest.mark.slow
async def test_the_user_reads_the_truth_at_every_step(app_env):
    """The user reads that nothing was paid, then that it was paid after all and how much, then gets the
    video, once.
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
    [(request, video)] = await env.wait_settled()
    assert video.state is V.DELIVERED
    last = ana.history()[-1]
    assert last.text == say("ready_late", id=request.short_id)
    assert str(PRICE) in next(one.text for one in ana.history() if one.media)
    assert len(env.fake_provider.posts()) == 1
