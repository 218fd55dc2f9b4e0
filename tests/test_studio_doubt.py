"""Ambiguous is never failed: it is asked, adopted or held, and the money is right in each case."""

import asyncio

import pytest
from backstage import capabilities
from conftest import wait_until
from lives import put

from evals.environment import PRICE
from ledger.models import VideoState
from providers.base import Unsure
from worker import reconcile as reconcile_module
from worker.context import Timeouts
from worker.sweeper import reconcile_all, run_sweeper

V = VideoState
KEYED = (
    "charge_drop", "charge_500", "charge_cut", "charge_html", "charge_hang", "charge_202_no_id", "500",
    "drop", "429",
)  # fmt: skip


@pytest.mark.parametrize("outcome", KEYED)
async def test_a_keyed_provider_is_asked_by_replay(backstage, outcome):
    """Whatever became of the POST, the same key and bytes again make one charge and one video."""
    stage = await backstage()
    stage.peer.script(outcome)
    request = await stage.ordered()
    await stage.shoot(request)
    assert (await stage.video(request)).state is V.IN_DOUBT
    assert await stage.deliver(request) is V.SUCCEEDED
    assert len(stage.peer.charges()) == 1
    posts = stage.peer.posts()
    assert len({(post["headers"]["idempotency-key"], post["digest"]) for post in posts}) == 1
    assert await stage.paid() == PRICE.micros


async def test_a_reconciler_that_slept_asks_nothing(backstage, monkeypatch):
    """A process that was stopped between its look and its replay sends nothing: the key may be forgotten by
    then. The next look is a fresh one, and settles it.
    """
    stage = await backstage()
    stage.peer.script("drop")
    request = await stage.ordered()
    await stage.shoot(request)
    clock = iter((0.0, 1000.0))
    stage.ledger.shift += 60
    with monkeypatch.context() as patch:
        patch.setattr(reconcile_module, "boot_clock", lambda: next(clock))
        await reconcile_module.reconcile(stage.studio, await stage.video(request))
    assert next(clock, None) is None
    assert len(stage.peer.posts()) == 1
    assert (await stage.video(request)).state is V.IN_DOUBT
    assert await stage.deliver(request) is V.SUCCEEDED
    assert len(stage.peer.charges()) == 1


@pytest.mark.parametrize("shape", ["openai", "vllm_omni"])
async def test_a_listing_provider_is_asked_by_its_list(backstage, shape):
    """The answer is lost, the list shows exactly one job that is ours: adopted, never sent again."""
    stage = await backstage(shape=shape)
    stage.peer.script("charge_cut")
    request = await stage.ordered()
    assert await stage.deliver(request) is V.SUCCEEDED
    assert len(stage.peer.posts()) == 1


@pytest.mark.parametrize(("shape", "options"), [("sglang", {}), ("openai", {"listing": False})])
async def test_what_cannot_be_asked_is_held(backstage, shape, options):
    """A list that shows too little, or none at all: a person decides, the money stays held, nothing is
    sent.
    """
    stage = await backstage(shape=shape, **options)
    stage.peer.script("charge_drop")
    request = await stage.ordered()
    assert await stage.deliver(request) is V.HOLD
    assert (await stage.video(request)).failure == "in_doubt"
    assert len(stage.peer.posts()) == 1


async def test_absent_is_proof_only_after_the_settle_time(backstage):
    """Not charged and not listed: in doubt until the settle time is over, then unpaid and given back."""
    stage = await backstage(shape="openai", changes={"cooldown": "10m"}, quick={"settle_s": 60.0})
    stage.peer.script("drop")
    request = await stage.ordered()
    await stage.shoot(request)
    await reconcile_all(stage.studio)
    assert (await stage.video(request)).state is V.IN_DOUBT
    stage.ledger.shift += 61
    await reconcile_all(stage.studio)
    video = await stage.video(request)
    assert (video.state, video.failure) == (V.FAILED_UNPAID, "absent")
    await stage.ordered()


async def test_the_settle_time_counts_from_the_latest_post(backstage):
    """An order that was throttled for minutes and then fell into doubt is not absent at once: its job may
    be listed a little later, and then it is ours.
    """
    stage = await backstage(shape="openai", quick={"settle_s": 600.0})
    stage.peer.script("throttle_429", "charge_drop")
    request = await stage.ordered()
    await stage.shoot(request)
    stage.ledger.shift += 1200
    stage.peer.clock_s = 1200
    await stage.shoot(request)
    jobs = dict(stage.peer.jobs)
    stage.peer.jobs.clear()
    await reconcile_all(stage.studio)
    assert (await stage.video(request)).state is V.IN_DOUBT
    stage.peer.jobs.update(jobs)
    await reconcile_all(stage.studio)
    assert (await stage.video(request)).state is V.ACCEPTED


async def test_one_doubt_that_fails_keeps_no_other_waiting(backstage):
    """An order of a provider that is configured no more does not keep the sweep from the next order."""
    stage = await backstage()
    first, second = await stage.ordered(), await stage.ordered(user_id=8)
    stage.peer.script("charge_drop", "charge_drop")
    await stage.shoot(first)
    await stage.shoot(second)
    await put(stage.ledger, first, V.IN_DOUBT, provider="long_gone")
    assert await stage.deliver(second) is V.SUCCEEDED
    await put(stage.ledger, first, V.IN_DOUBT, provider="openai_compat")
    assert await stage.deliver(first) is V.SUCCEEDED


async def test_a_provider_that_hangs_keeps_nobody_waiting(backstage, monkeypatch):
    """While a doubtful order is asked about without an answer, the sweep goes on waking all others."""
    stage = await backstage(pace=Timeouts(sweep_s=0.02), quick={"submit_timeout_s": 30.0})
    stuck, waiting = await stage.ordered(), await stage.ordered(user_id=8)
    stage.peer.script("charge_drop")
    await stage.shoot(stuck)
    hangs = asyncio.Event()

    async def reconcile(take, sent_at, claimed, now):
        hangs.set()
        await asyncio.Event().wait()
        return Unsure("never")

    monkeypatch.setattr(stage.studio.providers["openai_compat"], "reconcile", reconcile)
    loop = asyncio.create_task(run_sweeper(stage.studio))
    await asyncio.wait_for(hangs.wait(), 5)
    stage.queue.asked.clear()

    async def woken():
        return ("shoot", waiting) in stage.queue.asked

    await wait_until(woken, 5, "a wake-up beside a hanging provider")
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


def test_the_quick_capabilities_are_those_of_the_dialect():
    """Laws above change times alone: what a provider documents stays what its dialect says."""
    assert capabilities("inworld").replay
    assert capabilities("openai").listing
