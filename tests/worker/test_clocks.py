"""Clocks are checked: no window is judged on a clock that was set, no absence believed where clocks differ.

The oracle is the provider's charge log. A test moves `Clocks.boot` to let the store's clock step, and
`Ledger.shift` to let ages follow, or time pass.
"""

import asyncio
from dataclasses import replace

import pytest

from chat.alerts import send_due_alerts
from guardrails.money import ZERO
from ledger import reports
from ledger.models import VideoState
from telemetry import metrics
from telemetry.clocks import boot_clock
from tests.support.metric_values import value
from tests.support.pipeline_harness import (
    SLOW,
    PipelineEnvironment,
    check_late_charges_after,
    in_doubt,
    reconcile_after,
)
from tests.support.waiting import wait_until
from worker.clocks import MAX_SKEW_S, Clocks

V = VideoState


class MovedBoot:
    """This machine's clock as seen from a store that is `ahead` seconds too late."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = ahead

    def __call__(self) -> float:
        return boot_clock() - self.ahead


async def checked(env: PipelineEnvironment, ahead: float = 0.0) -> MovedBoot:
    """Check the clocks of this worker, from now on."""
    boot = MovedBoot(ahead)
    env.worker = replace(env.worker, clocks=Clocks(env.ledger, boot))
    await env.worker.clocks.look()
    return boot


async def step(env: PipelineEnvironment, boot: MovedBoot, seconds: int) -> None:
    """Set the store's clock."""
    boot.ahead += seconds
    env.ledger.shift += seconds


async def test_a_step_forward_starts_nothing_next_to_a_living_post(pipeline_env):
    """The clock is set five minutes forward while a POST is under way: it is not overdue by that, no replay
    goes out next to it, and its answer is booked.
    """
    env = await pipeline_env(shape="inworld", quick={"submit_timeout_s": 20.0})
    boot = await checked(env)
    env.fake_provider.script("charge_hang")
    request = await env.ordered()
    task = asyncio.create_task(env.submit(request))

    async def charged() -> bool:
        return bool(env.fake_provider.charges())

    await wait_until(charged, 20, "the charge")
    await step(env, boot, 300)
    for _ in range(3):
        await env.run_due("end_overdue", "reconcile")
    assert (await env.video(request)).state is V.SUBMITTING
    assert len(env.fake_provider.posts()) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await env.video(request)).state is V.IN_DOUBT


async def test_a_submit_that_died_before_the_step_still_ends(pipeline_env):
    """Its worker is gone: when the time of a submit is over since the step, the outcome is unknown."""
    env = await pipeline_env(shape="inworld", quick={"submit_timeout_s": 0.2, "settle_s": 600.0})
    env.worker = replace(env.worker, timeouts=replace(env.worker.timeouts, slack_s=0.2))
    boot = await checked(env)
    request = await env.ordered()
    await begin_and_die(env, request)
    await step(env, boot, 300)
    await env.run_due("end_overdue")
    assert (await env.video(request)).state is V.SUBMITTING

    async def ended() -> bool:
        await env.run_due("end_overdue")
        return (await env.video(request)).state is V.IN_DOUBT

    await wait_until(ended, 20, "the end of its deadline")


async def begin_and_die(env: PipelineEnvironment, request: str) -> None:
    from ledger import transitions
    from tests.support.factories import NO_RATES

    assert await transitions.begin_submit(env.ledger, request, "f", 0.4, NO_RATES)


async def test_a_step_back_makes_no_key_young(pipeline_env):
    """The provider has forgotten the key, and the clock is set back: the order seems young, and a replay
    would pay again. None is sent; a person decides.
    """
    env = await pipeline_env(shape="inworld")
    boot = await checked(env)
    request = await in_doubt(env, "charge_drop")
    env.ledger.shift += 4000  # the key is remembered for an hour
    await step(env, boot, -4000)

    async def held() -> bool:
        env.ledger.shift += 1
        await env.run_due("reconcile")
        return (await env.video(request)).state is V.HOLD

    await wait_until(held, 20, "HOLD")
    assert len(env.fake_provider.posts()) == 1


async def test_a_clock_that_was_set_while_nothing_ran_makes_no_key_young(pipeline_env):
    """No process noticed the step, but the provider's clock differs, and the order is older: no replay."""
    env = await pipeline_env(shape="inworld")
    request = await in_doubt(env, "charge_drop")
    await checked(env, ahead=-4000)

    async def held() -> bool:
        env.ledger.shift += 5
        await env.run_due("reconcile")
        return (await env.video(request)).state is V.HOLD

    await wait_until(held, 20, "HOLD")
    assert len(env.fake_provider.posts()) == 1


async def test_orders_sent_after_the_step_are_replayed(pipeline_env):
    """What is sent once the clock has passed the step is judged as usual."""
    env = await pipeline_env(shape="inworld", quick={"settle_s": 600.0, "submit_timeout_s": 10.0})
    boot = await checked(env)
    await step(env, boot, 300)
    await env.worker.clocks.look()
    assert env.worker.clocks.step
    await asyncio.sleep(0.01)
    request = await in_doubt(env, "charge_drop")
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.parametrize("ahead", [661, -661])
async def test_where_clocks_differ_a_list_proves_nothing(pipeline_env, ahead):
    """The store's clock is eleven minutes wrong: a charged job that the list does not show is not unpaid.
    It is held, and found when the list shows it.
    """
    env = await pipeline_env(shape="openai", quick=SLOW)
    await checked(env, ahead)
    request = await in_doubt(env, "charge_drop")
    hidden = dict(env.fake_provider.jobs)
    env.fake_provider.jobs.clear()
    for seconds in (601, 121):
        await reconcile_after(env, seconds)
    video = await env.video(request)
    assert video.state is V.HOLD
    assert "clock" in (video.failure_detail or "")
    env.fake_provider.jobs.update(hidden)
    await check_late_charges_after(env)
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.parametrize("ahead", [0, 55, -55])
async def test_where_clocks_agree_two_lists_are_proof(pipeline_env, ahead):
    """Within a minute a job that two lists do not show does not exist: the money is given back."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    await checked(env, ahead)
    request = await in_doubt(env, "drop")
    for seconds in (601, 121):
        await reconcile_after(env, seconds)
    assert (await env.video(request)).state is V.FAILED_UNPAID
    sums = await reports.cost_summary(env.ledger)
    assert (sums.paid, sums.held) == (ZERO, ZERO)


async def test_a_clock_that_was_set_voids_an_absence(pipeline_env):
    """The order was sent by a clock that was set since: its list may be searched at the wrong time."""
    env = await pipeline_env(shape="openai", quick={"settle_s": 0.2, "absent_gap_s": 0.0})
    boot = await checked(env)
    request = await in_doubt(env, "drop")
    await step(env, boot, 900)

    async def held() -> bool:
        env.ledger.shift += 1
        await env.run_due("reconcile")
        return (await env.video(request)).state is not V.IN_DOUBT

    await wait_until(held, 20, "an end")
    assert (await env.video(request)).state is V.HOLD


async def test_time_that_passes_is_no_step(pipeline_env):
    """Drift and time that passes are not taken for a step."""
    env = await pipeline_env()
    boot = await checked(env)
    for ahead in (3, 6, -2):
        boot.ahead = ahead
        env.ledger.shift += 600
        await env.worker.clocks.look()
    assert env.worker.clocks.step is None


@pytest.mark.slow
async def test_operators_are_told_once(app_env):
    """A clock that differs, and a step, reach every admin once and the metrics; agreement tells nothing."""
    env = await app_env(settings={"admins": frozenset({1})})
    await env.user(1, "Eva").send("/start")
    await env.create()
    await send_due_alerts(env.app.chat)
    assert env.app.worker.clocks.skewed(env.app.worker.providers.values()) == {}
    boot = MovedBoot(700)
    clocks = Clocks(env.app.ledger, boot)
    await clocks.look()
    chat = replace(env.app.chat, worker=replace(env.app.worker, clocks=clocks))
    for _ in range(2):
        await send_due_alerts(chat)
    boot.ahead = 0
    await clocks.look()
    for _ in range(2):
        await send_due_alerts(chat)
    shown = [one.text for one in env.user(1).history() if not one.mine and "clock" in one.text]
    assert len(shown) == 2
    assert "700 s behind" in shown[0] or "699 s behind" in shown[0] or "701 s behind" in shown[0]
    assert "was set by -700 s" in shown[1]
    assert value(metrics.exposition(), metrics.CLOCK_SKEW.name, provider="openai_compat") < MAX_SKEW_S
