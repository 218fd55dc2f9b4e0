"""Ambiguous is never failed: it is asked, adopted or held, and the money is right in each case."""

import asyncio

import pytest
from backstage import capabilities
from lives import put
from waiting import wait_until

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
async def test_a_keyed_provider_is_asked_by_replay(pipeline_env, outcome):
    """Whatever became of the POST, the same key and bytes again make one charge and one video."""
    env = await pipeline_env()
    env.fake_provider.script(outcome)
    request = await env.ordered()
    await env.submit(request)
    assert (await env.video(request)).state is V.IN_DOUBT
    assert await env.deliver(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1
    posts = env.fake_provider.posts()
    assert len({(post["headers"]["idempotency-key"], post["digest"]) for post in posts}) == 1
    assert await env.paid() == PRICE.micros


async def test_a_reconciler_that_slept_asks_nothing(pipeline_env, monkeypatch):
    """A process that was stopped between its look and its replay sends nothing: the key may be forgotten by
    then. The next look is a fresh one, and settles it.
    """
    env = await pipeline_env()
    env.fake_provider.script("drop")
    request = await env.ordered()
    await env.submit(request)
    clock = iter((0.0, 1000.0))
    env.ledger.shift += 60
    with monkeypatch.context() as patch:
        patch.setattr(reconcile_module, "boot_clock", lambda: next(clock))
        await reconcile_module.reconcile(env.worker, await env.video(request))
    assert next(clock, None) is None
    assert len(env.fake_provider.posts()) == 1
    assert (await env.video(request)).state is V.IN_DOUBT
    assert await env.deliver(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.parametrize("shape", ["openai", "vllm_omni"])
async def test_a_listing_provider_is_asked_by_its_list(pipeline_env, shape):
    """The answer is lost, the list shows exactly one job that is ours: adopted, never sent again."""
    env = await pipeline_env(shape=shape)
    env.fake_provider.script("charge_cut")
    request = await env.ordered()
    assert await env.deliver(request) is V.SUCCEEDED
    assert len(env.fake_provider.posts()) == 1


@pytest.mark.parametrize(("shape", "options"), [("sglang", {}), ("openai", {"listing": False})])
async def test_what_cannot_be_asked_is_held(pipeline_env, shape, options):
    """A list that shows too little, or none at all: a person decides, the money stays held, nothing is
    sent.
    """
    env = await pipeline_env(shape=shape, **options)
    env.fake_provider.script("charge_drop")
    request = await env.ordered()
    assert await env.deliver(request) is V.HOLD
    assert (await env.video(request)).failure == "in_doubt"
    assert len(env.fake_provider.posts()) == 1


async def test_absent_is_proof_only_after_the_settle_time(pipeline_env):
    """Not charged and not listed: in doubt until the settle time is over, then unpaid and given back."""
    env = await pipeline_env(shape="openai", changes={"cooldown": "10m"}, quick={"settle_s": 60.0})
    env.fake_provider.script("drop")
    request = await env.ordered()
    await env.submit(request)
    await reconcile_all(env.worker)
    assert (await env.video(request)).state is V.IN_DOUBT
    env.ledger.shift += 61
    await reconcile_all(env.worker)
    video = await env.video(request)
    assert (video.state, video.failure) == (V.FAILED_UNPAID, "absent")
    await env.ordered()


async def test_the_settle_time_counts_from_the_latest_post(pipeline_env):
    """An order that was throttled for minutes and then fell into doubt is not absent at once: its job may
    be listed a little later, and then it is ours.
    """
    env = await pipeline_env(shape="openai", quick={"settle_s": 600.0})
    env.fake_provider.script("throttle_429", "charge_drop")
    request = await env.ordered()
    await env.submit(request)
    env.ledger.shift += 1200
    env.fake_provider.clock_s = 1200
    await env.submit(request)
    jobs = dict(env.fake_provider.jobs)
    env.fake_provider.jobs.clear()
    await reconcile_all(env.worker)
    assert (await env.video(request)).state is V.IN_DOUBT
    env.fake_provider.jobs.update(jobs)
    await reconcile_all(env.worker)
    assert (await env.video(request)).state is V.ACCEPTED


async def test_one_doubt_that_fails_keeps_no_other_waiting(pipeline_env):
    """An order of a provider that is configured no more does not keep the sweep from the next order."""
    env = await pipeline_env()
    first, second = await env.ordered(), await env.ordered(user_id=8)
    env.fake_provider.script("charge_drop", "charge_drop")
    await env.submit(first)
    await env.submit(second)
    await put(env.ledger, first, V.IN_DOUBT, provider="long_gone")
    assert await env.deliver(second) is V.SUCCEEDED
    await put(env.ledger, first, V.IN_DOUBT, provider="openai_compat")
    assert await env.deliver(first) is V.SUCCEEDED


async def test_a_provider_that_hangs_keeps_nobody_waiting(pipeline_env, monkeypatch):
    """While a doubtful order is asked about without an answer, the sweep goes on waking all others."""
    env = await pipeline_env(timeouts=Timeouts(sweep_s=0.02), quick={"submit_timeout_s": 30.0})
    stuck, waiting = await env.ordered(), await env.ordered(user_id=8)
    env.fake_provider.script("charge_drop")
    await env.submit(stuck)
    hangs = asyncio.Event()

    async def reconcile(take, sent_at, claimed, now):
        hangs.set()
        await asyncio.Event().wait()
        return Unsure("never")

    monkeypatch.setattr(env.worker.providers["openai_compat"], "reconcile", reconcile)
    loop = asyncio.create_task(run_sweeper(env.worker))
    await asyncio.wait_for(hangs.wait(), 5)
    env.queue.asked.clear()

    async def woken():
        return ("submit", waiting) in env.queue.asked

    await wait_until(woken, 5, "a wake-up beside a hanging provider")
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


def test_the_quick_capabilities_are_those_of_the_dialect():
    """Laws above change times alone: what a provider documents stays what its dialect says."""
    assert capabilities("inworld").replay
    assert capabilities("openai").listing
