"""Late charges: a job that turns up after its order ended is found, booked and made.

The oracle is the provider's own charge log; each law ends with the books compared to it.
"""

import asyncio
from itertools import pairwise

import pytest
from doubts import SLOW, after, in_doubt, late_look, lost
from lives import history

from evals.environment import PRICE
from ledger import breaker, pending_work, transitions
from ledger.models import VideoState
from worker.context import Timeouts
from worker.reconcile import check_late_charges

V = VideoState


async def test_a_late_charge_is_booked_and_its_video_made(backstage):
    """An order that ended unpaid turns out to have a job: adopted, charged, made; nothing is ever sent."""
    stage = await backstage(shape="openai", quick=SLOW)
    request = await lost(stage)
    await late_look(stage)
    video = await stage.video(request)
    assert (video.state, video.failure) == (V.ACCEPTED, "late")
    assert ("FAILED_UNPAID", "ACCEPTED", "late") in await history(stage.ledger, request)
    [(_, made)] = await stage.finish(request)
    assert made.state is V.SUCCEEDED
    assert await stage.paid() == sum(stage.peer.net().values()) == PRICE.micros
    assert len(stage.peer.posts()) == 1
    assert await breaker.open_breakers(stage.ledger) == []


async def test_a_post_that_came_late_is_caught(backstage, monkeypatch):
    """A worker stops between its last look at the clock and the first byte, for longer than the settle time:
    the order ended unpaid, then its POST goes out, and its answer dies with the worker. The charge is found.
    """
    stage = await backstage(shape="openai", quick=SLOW | {"submit_timeout_s": 5.0})
    provider = stage.studio.providers["openai_compat"]
    asleep, awake, send = asyncio.Event(), asyncio.Event(), provider.submit

    async def submit(take):
        asleep.set()
        await awake.wait()
        await send(take)
        raise SystemError("the worker is killed")

    monkeypatch.setattr(provider, "submit", submit)
    request = await stage.ordered()
    worker = asyncio.create_task(stage.shoot(request))
    await asyncio.wait_for(asleep.wait(), 5)
    stage.ledger.shift += 30
    async with stage.ledger.read() as conn:
        assert (await stage.video(request)).deadline_at < await stage.ledger.now(conn)
    from worker.sweeper import sweep

    await sweep(stage.studio)
    for seconds in (1200, 121):
        await after(stage, seconds)
    assert (await stage.video(request)).state is V.FAILED_UNPAID
    stage.peer.clock_s = stage.ledger.shift
    awake.set()
    await worker
    assert (await stage.video(request)).state is V.FAILED_UNPAID
    await late_look(stage)
    assert (await stage.video(request)).state is V.ACCEPTED
    assert len(stage.peer.charges()) == 1


async def test_a_late_charge_may_exceed_a_limit(backstage):
    """The day's budget was spent on another video meanwhile: the late charge is booked all the same, and the
    next order is refused.
    """
    stage = await backstage(shape="openai", quick=SLOW, changes={"budget": "{user: $0.80/day}"})
    request = await lost(stage)
    second = await stage.ordered(prompt="A quiet harbour.")
    await stage.finish(second)
    await late_look(stage)
    [(_, made)] = await stage.finish(request)
    assert made.state is V.SUCCEEDED
    assert await stage.paid() == sum(stage.peer.net().values()) == 2 * PRICE.micros
    with pytest.raises(AssertionError, match="budget"):
        await stage.ordered(prompt="A third thing.")


async def test_a_held_order_is_looked_at_too(backstage):
    """The list was away when the settle time ended: HOLD; a day is long, and the list shows the job in it."""
    stage = await backstage(shape="openai", quick={"settle_s": 1.0}, listing=False)
    request = await in_doubt(stage, "charge_drop")
    assert await after(stage, 2, request) == [V.HOLD]
    stage.peer.listing = True
    await late_look(stage)
    video = await stage.video(request)
    assert (video.state, video.failure) == (V.ACCEPTED, None)
    await stage.finish(request)


async def test_a_held_order_that_is_absent_stays_held(backstage):
    """What a person must settle is not settled by silence: absent from a late list changes nothing."""
    stage = await backstage(shape="openai", quick={"settle_s": 1.0}, listing=False)
    request = await in_doubt(stage)
    assert await after(stage, 2, request) == [V.HOLD]
    stage.peer.listing = True
    for seconds in (61, 600, 600):
        await late_look(stage, seconds)
    assert (await stage.video(request)).state is V.HOLD


@pytest.mark.parametrize(
    ("word", "ends"), [("completed", V.SUCCEEDED), ("failed", V.FAILED_UNPAID), ("", V.HOLD)]
)
async def test_a_held_job_that_ends_late_is_brought_to_its_end(backstage, word, ends):
    """An overdue job is asked about by its own id: finished, it is made; failed, it is settled as it is
    billed; still running, it stays with the person.
    """
    stage = await backstage(shape="vllm_omni", quick={"overdue_s": 0.05}, polls=10**6)
    request = await stage.accepted()
    stage.ledger.shift += 1
    await stage.watch(request)
    assert (await stage.video(request)).failure == "overdue"
    [job] = stage.peer.jobs.values()
    job.word, job.fate = word, "fail" if word == "failed" else "video"
    await late_look(stage)
    if word:
        await stage.finish(request)
    assert (await stage.video(request)).state is ends


async def test_a_job_without_its_file_does_not_go_round(backstage):
    """A held job that is said to be finished and whose file is gone stays held: no look makes it move."""
    stage = await backstage()
    request = await stage.accepted()
    stage.peer.content = "410"
    await stage.watch(request)
    assert (await stage.video(request)).failure == "gone"
    moves_before = await history(stage.ledger, request)
    for seconds in (61, 3600):
        await late_look(stage, seconds)
    assert await history(stage.ledger, request) == moves_before
    stage.peer.content = "video"
    await late_look(stage, 7200)
    [(_, made)] = await stage.finish(request)
    assert made.state is V.SUCCEEDED


async def test_looks_are_few_and_end_with_the_day(backstage, monkeypatch):
    """Within a day a lost order is asked about some twenty times, by one worker of three, then no more."""
    stage = await backstage(shape="openai", quick=SLOW)
    request = await in_doubt(stage)
    await after(stage, 601)
    assert await after(stage, 121, request) == [V.FAILED_UNPAID]
    asked = []
    provider = stage.studio.providers["openai_compat"]

    async def lookup(take, sent_at, claimed, now, *, until=None):
        asked.append(until)
        raise OSError("away")

    monkeypatch.setattr(provider, "lookup", lookup)
    for _ in range(26 * 6):
        stage.ledger.shift += 600
        await asyncio.gather(*(check_late_charges(stage.studio) for _ in range(3)))
    assert 10 <= len(asked) <= 30
    assert asked[-1] - asked[0] <= 86_400
    assert all(round(later - one) >= 600 for one, later in pairwise(asked))


async def test_a_sweep_looks_at_few_and_starves_none(backstage):
    """Of many that are due, one sweep takes the most that it may; those that waited longest come next."""
    stage = await backstage(
        shape="openai", quick={"settle_s": 0.1}, pace=Timeouts(slack_s=4, ask_s=0, late_most=2)
    )
    stage.peer.script(*["refuse_400"] * 5)
    ids = [await stage.ordered(user) for user in range(1, 6)]
    for one in ids:
        await stage.shoot(one)
    lists = []
    stage.ledger.shift += 61
    for _ in range(3):
        before = len(stage.peer.requests())
        await check_late_charges(stage.studio)
        lists.append(len(stage.peer.requests()) - before)
    assert lists == [2, 2, 1]
    assert all([(await stage.video(one)).look_at for one in ids])


async def test_what_was_never_sent_is_not_asked_about(backstage):
    """An order that was cancelled or expired before any send has no late charge: nobody is asked."""
    stage = await backstage(shape="openai")
    request = await stage.ordered()
    await transitions.cancel(stage.ledger, request, 7)
    stage.ledger.shift += 61
    assert await pending_work.late_checks_due(stage.ledger, 60, 86_400, 20, ("local", "openai_compat")) == []
