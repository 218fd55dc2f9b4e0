"""An unknown outcome is never failed: it is checked, linked to its job or held, with the right booking each
time.
"""

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from evals.environment import PRICE
from guardrails.money import Money
from ledger import due_work
from ledger.database import Ledger
from ledger.models import VideoState
from ledger.schema import videos
from providers.base import Unsure
from providers.openai_dialects import INWORLD, OPENAI
from providers.pricing import capabilities_of
from telemetry.clocks import boot_clock
from tests.support.factories import booked, put
from tests.support.pipeline_harness import (
    SLOW,
    PipelineEnvironment,
    capabilities,
    check_late_charges_after,
    in_doubt,
    reconcile_after,
)
from tests.support.waiting import wait_until
from worker import reconcile as reconcile_module
from worker.context import Timeouts
from worker.dispatcher import Dispatcher

V = VideoState
KEYED = (
    "charge_drop", "charge_500", "charge_cut", "charge_html", "charge_hang", "charge_202_no_id", "500",
    "drop", "429",
)  # fmt: skip


@pytest.mark.representative
@pytest.mark.parametrize("outcome", KEYED)
async def test_keyed_provider_is_reconciled_by_replay(pipeline_env, outcome):
    """Whatever happened to the POST, the same key and bytes again make one charge and one video."""
    env = await pipeline_env(quick={"submit_timeout_s": 2.0} if "hang" in outcome else {})
    env.fake_provider.script(outcome)
    request = await env.ordered()
    await env.submit(request)
    assert (await env.video(request)).state is V.IN_DOUBT
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1
    posts = env.fake_provider.posts()
    assert len({(post["headers"]["idempotency-key"], post["digest"]) for post in posts}) == 1
    assert await env.paid_micros() == PRICE.micros


async def test_paused_process_does_not_replay(pipeline_env, monkeypatch):
    """A process that was paused between reading the order and its replay sends nothing: the provider may
    have forgotten the key.
    """
    env = await pipeline_env()
    env.fake_provider.script("drop")
    request = await env.ordered()
    await env.submit(request)
    env.ledger.shift += 60
    with monkeypatch.context() as patch:
        patch.setattr(reconcile_module, "boot_clock", lambda: boot_clock() + 1000)
        await env.reconcile(request)
    assert len(env.fake_provider.posts()) == 1
    assert (await env.video(request)).state is V.IN_DOUBT
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.parametrize("shape", ["openai", "vllm_omni"])
async def test_listing_provider_is_reconciled_by_its_list(pipeline_env, shape):
    """The answer is lost and the list shows exactly one job that is ours: linked, without another POST."""
    env = await pipeline_env(shape=shape)
    env.fake_provider.script("charge_cut")
    request = await env.ordered()
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.posts()) == 1


async def test_a_ledger_that_does_not_answer_is_no_answer_of_the_provider(pipeline_env, monkeypatch):
    """The list shows the job and the ledger cannot say whose it is, after the settle time: the order neither
    ends nor becomes a HOLD, and the next check links the job.
    """
    env = await pipeline_env(shape="openai", quick={"settle_s": 60.0})
    env.fake_provider.script("charge_cut")
    request = await env.ordered()
    await env.submit(request)
    env.ledger.shift += 61

    async def fail(*_: object) -> set[str]:
        raise OSError("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(reconcile_module.transitions, "claimed_jobs", fail)
        await env.reconcile(request)
    assert (await env.video(request)).state is V.IN_DOUBT
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.representative
@pytest.mark.parametrize(("shape", "options"), [("sglang", {}), ("openai", {"listing": False})])
async def test_order_that_cannot_be_reconciled_is_held(pipeline_env, shape, options):
    """With a list that shows too little, or without a list, the order is held, the money stays held and
    nothing is sent.
    """
    env = await pipeline_env(shape=shape, **options)
    env.fake_provider.script("charge_drop")
    request = await env.ordered()
    assert await env.finish_video(request) is V.HOLD
    assert (await env.video(request)).failure == "in_doubt"
    assert len(env.fake_provider.posts()) == 1


async def test_absent_is_proof_only_after_the_settle_time(pipeline_env):
    """Not charged and not listed: IN_DOUBT until the settle time is over, then unpaid and released."""
    env = await pipeline_env(shape="openai", changes={"cooldown": "10m"}, quick={"settle_s": 60.0})
    env.fake_provider.script("drop")
    request = await env.ordered()
    await env.submit(request)
    await env.run_due("reconcile")
    assert (await env.video(request)).state is V.IN_DOUBT
    env.ledger.shift += 61
    await env.run_due("reconcile")
    video = await env.video(request)
    assert (video.state, video.failure) == (V.FAILED_UNPAID, "absent")
    await env.ordered()


async def test_the_settle_time_counts_from_the_latest_post(pipeline_env):
    """An order that was throttled for minutes before its outcome became unknown is not absent at once: its
    job may be listed late.
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
    await env.run_due("reconcile")
    assert (await env.video(request)).state is V.IN_DOUBT
    env.fake_provider.jobs.update(jobs)
    await env.run_due("reconcile")
    assert (await env.video(request)).state is V.ACCEPTED


@pytest.mark.slow
async def test_failed_check_does_not_block_others(pipeline_env):
    """An order of an account that is no longer configured does not keep a worker from the next order."""
    env = await pipeline_env()
    first, second = await env.ordered(), await env.ordered(user_id=8)
    env.fake_provider.script("charge_drop", "charge_drop")
    await env.submit(first)
    await env.submit(second)
    account = (await env.video(first)).account
    await put(env.ledger, first, V.IN_DOUBT, account="openai_compat:long-gone")
    assert await env.finish_video(second) is V.SUCCEEDED
    await put(env.ledger, first, V.IN_DOUBT, account=account)
    assert await env.finish_video(first) is V.SUCCEEDED


async def test_hanging_provider_does_not_block_others(pipeline_env, monkeypatch):
    """While a check gets no answer, the worker continues to submit all other orders."""
    env = await pipeline_env(quick={"submit_timeout_s": 30.0})
    stuck, waiting = await env.ordered(), await env.ordered(user_id=8)
    env.fake_provider.script("charge_drop")
    await env.submit(stuck)
    hangs = asyncio.Event()

    async def reconcile(request, sent_at, claimed, now):
        hangs.set()
        await asyncio.Event().wait()
        return Unsure("never")

    monkeypatch.setattr(env.provider, "reconcile", reconcile)
    dispatcher = Dispatcher(list(env.steps.values()), partial(due_work.next_due, env.ledger, 1), 0.02)
    loop = asyncio.create_task(dispatcher.run())
    await asyncio.wait_for(hangs.wait(), 5)

    async def submitted():
        return (await env.video(waiting)).state is not V.QUEUED

    await wait_until(submitted, 5, "a submit while a provider hangs")
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    await dispatcher.stop(0)


def test_the_quick_capabilities_are_those_of_the_dialect():
    """The tests above change only durations: what a provider documents is as in its dialect."""
    assert capabilities("inworld").replay
    assert capabilities("openai").listing


async def test_absent_takes_two_lists_two_minutes_apart(pipeline_env):
    """After the settle time one list is no proof, nor is a second one too soon; two minutes later it is."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    request = await in_doubt(env)
    assert await reconcile_after(env, 601, request) == [V.IN_DOUBT]
    assert await reconcile_after(env, 60, request) == [V.IN_DOUBT]
    assert await reconcile_after(env, 61, request) == [V.FAILED_UNPAID]
    assert len(env.fake_provider.posts()) == 1
    assert await booked(env.ledger, request) == {"hold": [PRICE.micros], "release": [PRICE.micros]}


async def test_two_early_lists_do_not_shorten_the_settle_time(pipeline_env):
    """Two lists within the settle time prove nothing; the first one after it does, together with them."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    request = await in_doubt(env)
    for seconds in (10, 130, 130):
        assert await reconcile_after(env, seconds, request) == [V.IN_DOUBT]
    assert await reconcile_after(env, 400, request) == [V.FAILED_UNPAID]


async def test_the_first_absent_survives_a_restart(pipeline_env, ledger_url):
    """Another process counts from the first list, which was read by a process that has ended."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    request = await in_doubt(env)
    await reconcile_after(env, 601)
    other = Ledger(ledger_url, shift=env.ledger.shift + 121)
    await replace(env, worker=replace(env.worker, ledger=other)).run_due("reconcile")
    await other.close()
    assert (await env.video(request)).state is V.FAILED_UNPAID


async def test_unclear_answer_between_lists_resets_absence(pipeline_env):
    """A list that could not be read between two "absent" proves nothing: two new lists are needed."""
    env = await pipeline_env(shape="openai", quick=SLOW | {"settle_s": 1000.0})
    request = await in_doubt(env)
    await reconcile_after(env, 601)
    assert (await env.video(request)).absent_at
    env.fake_provider.listing = False
    await reconcile_after(env, 61)
    env.fake_provider.listing = True
    assert await reconcile_after(env, 500, request) == [V.IN_DOUBT]
    assert await reconcile_after(env, 121, request) == [V.FAILED_UNPAID]


@pytest.mark.slow
async def test_job_that_appears_in_the_second_list_is_linked(pipeline_env):
    """A job that only the second list shows is ours: one charge, one video, no second POST."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    request = await in_doubt(env, "charge_drop")
    hidden = dict(env.fake_provider.jobs)
    env.fake_provider.jobs.clear()
    assert await reconcile_after(env, 601, request) == [V.IN_DOUBT]
    env.fake_provider.jobs.update(hidden)
    assert await reconcile_after(env, 121, request) == [V.ACCEPTED]
    await env.finish(request)
    assert len(env.fake_provider.posts()) == 1


async def test_the_gap_of_a_real_provider_is_two_minutes():
    """The default gap is two minutes; a keyed provider's settle time is as long as its key lives."""
    from evals.environment import PRICES

    listed, keyed = capabilities_of(OPENAI, PRICES), capabilities_of(INWORLD, PRICES)
    assert (listed.absent_gap_s, listed.settle_s, listed.replay_for_s) == (120, 600, 0)
    assert keyed.settle_s == keyed.replay_for_s == 3600


# Replay


async def test_replay_ends_with_the_lifetime_of_its_key(pipeline_env):
    """Within the documented lifetime of the key the same bytes are sent again; later nothing is sent."""
    env = await pipeline_env(quick={"settle_s": 3600.0})
    request = await in_doubt(env, "drop")
    env.fake_provider.script("500", "500")
    await reconcile_after(env, 10)
    assert len(env.fake_provider.posts()) == 2
    env.ledger.shift += 3590
    await env.run_due("reconcile")
    assert (await env.video(request)).state is V.HOLD
    await check_late_charges_after(env)
    assert len(env.fake_provider.posts()) == 2
    assert len({post["digest"] for post in env.fake_provider.posts()}) == 1


async def test_key_lifetime_counts_from_the_first_post(pipeline_env):
    """An order whose first POST was throttled long ago is not replayed by the age of its last POST."""
    env = await pipeline_env(quick={"settle_s": 3600.0})
    request = await in_doubt(env, "drop")
    async with env.ledger.write() as conn:
        now = await env.ledger.now(conn)
        await conn.execute(videos.update().values(submitted_at=now - 3600_000))
    await env.run_due("reconcile")
    assert (await env.video(request)).state is V.IN_DOUBT
    assert len(env.fake_provider.posts()) == 1


async def test_one_process_checks_at_a_time(pipeline_env):
    """Six workers that find one unknown outcome check it once in total, and the pause grows with its age."""
    env = await pipeline_env(shape="openai", quick=SLOW, timeouts=Timeouts(slack_s=4, ask_s=2))
    request = await in_doubt(env)
    await asyncio.gather(*(env.run_due("reconcile") for _ in range(6)))
    assert (
        len(
            [
                one
                for one in env.fake_provider.requests()
                if one["method"] == "GET" and one["query"].get("limit") == "100"
            ]
        )
        == 1
    )
    timeouts = Timeouts()
    assert [round(timeouts.reconcile_pause_s(age)) for age in (0, 600, 3600)] == [2, 22, 122]
    assert (await env.video(request)).state is V.IN_DOUBT


# Whose job


@pytest.mark.parametrize("same", [True, False], ids=["the same words", "other words"])
async def test_job_that_two_orders_could_own_is_not_linked(pipeline_env, same):
    """Two unknown outcomes of the same prompt and one job: no list says which, so both are held. Other
    prompts are linked.
    """
    env = await pipeline_env(shape="openai", quick={"settle_s": 60.0})
    first = await in_doubt(env, "drop")
    second = await in_doubt(env, "charge_drop", 8, **({} if same else {"prompt": "A quiet harbour."}))
    await env.run_due("reconcile")
    found = [(await env.video(one)).state for one in (first, second)]
    assert found == ([V.IN_DOUBT] * 2 if same else [V.IN_DOUBT, V.ACCEPTED])
    if same:
        assert await reconcile_after(env, 61, first, second) == [V.HOLD, V.HOLD]


async def test_seed_identifies_the_order(pipeline_env):
    """The same two orders at a server that shows the seed: the job is linked to the order that made it."""
    env = await pipeline_env(shape="vllm_omni", shows=("seed",))
    first, second = await in_doubt(env, "drop"), await in_doubt(env, "charge_drop", 8)
    await env.run_due("reconcile")
    assert [(await env.video(one)).state for one in (first, second)] == [V.IN_DOUBT, V.ACCEPTED]


class Slow:
    """A provider that answers when the test says so; it counts how many ask at once."""

    def __init__(self, env: PipelineEnvironment) -> None:
        self.capabilities = replace(env.provider.capabilities, submit_timeout_s=30)
        self.name, self.account = env.provider.name, env.provider.account
        self.now, self.most, self.asked = 0, 0, 0
        self.begun, self.answer = asyncio.Event(), asyncio.Event()
        self.quote = next(iter(env.worker.providers.values())).quote

    async def reconcile(self, video_request, sent_at, claimed, now):
        self.now, self.asked = self.now + 1, self.asked + 1
        self.most = max(self.most, self.now)
        self.begun.set()
        try:
            await self.answer.wait()
        finally:
            self.now -= 1
        return Unsure("it hangs")


async def order_with_slow_provider(pipeline_env) -> tuple[PipelineEnvironment, Slow, str]:
    env = await pipeline_env(timeouts=Timeouts(slack_s=4, ask_s=0.001), quick={"settle_s": 600.0})
    env.fake_provider.script("charge_drop")
    request = await env.ordered()
    await env.submit(request)
    assert (await env.video(request)).state is V.IN_DOUBT
    slow = Slow(env)
    env.worker = replace(env.worker, providers={slow.account: slow})
    return env, slow, request


@pytest.mark.slow
async def test_two_workers_never_check_at_once(pipeline_env):
    """Two workers sweep repeatedly while a replay hangs: one POST is running, never a second."""
    env, slow, _ = await order_with_slow_provider(pipeline_env)
    first = asyncio.create_task(env.run_due("reconcile"))
    await asyncio.wait_for(slow.begun.wait(), 20)
    for _ in range(3):
        env.ledger.shift += 10  # far beyond the pause between two questions, within the POST's time
        both = asyncio.gather(env.run_due("reconcile"), env.run_due("reconcile"))
        await asyncio.wait_for(both, 20)
    assert (slow.now, slow.most, slow.asked) == (1, 1, 1)
    slow.answer.set()
    await first


@pytest.mark.slow
async def test_next_check_follows_after_the_pause(pipeline_env):
    """After an answer the next check comes after the pause, not after the longest duration of a check."""
    env, slow, _ = await order_with_slow_provider(pipeline_env)
    slow.answer.set()
    for turn in range(1, 4):
        await env.run_due("reconcile")
        assert slow.asked == turn
        env.ledger.shift += 1


@pytest.mark.slow
async def test_check_of_a_dead_worker_is_released(pipeline_env):
    """A worker that dies during a check keeps its claim for the time of one POST and its slack, no longer."""
    env, slow, request = await order_with_slow_provider(pipeline_env)
    first = asyncio.create_task(env.run_due("reconcile"))
    await asyncio.wait_for(slow.begun.wait(), 20)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    env.ledger.shift += 35
    slow.answer.set()
    await env.run_due("reconcile")
    assert slow.asked == 2
    assert (await env.video(request)).state is V.IN_DOUBT


async def test_a_replay_never_orders_at_another_price(pipeline_env, monkeypatch):
    """After the price list has changed, an unknown outcome is not replayed: that POST might make the job."""
    env = await pipeline_env(quick={"settle_s": 600.0})
    request = await in_doubt(env, "drop")
    posts = len(env.fake_provider.posts())
    provider = next(iter(env.worker.providers.values()))
    monkeypatch.setattr(provider, "quote", lambda *_, **__: Money.parse("$9"))
    await env.reconcile(request)
    assert len(env.fake_provider.posts()) == posts
    monkeypatch.undo()
    await env.reconcile(request)
    assert len(env.fake_provider.posts()) == posts + 1
    assert await env.finish_video(request) is V.SUCCEEDED
