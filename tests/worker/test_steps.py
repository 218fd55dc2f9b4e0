"""What is due is read from the ledger alone: an emptied Redis and a queue that loses wake-ups cost time,
never a second video.
"""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from app.doctor import run_checks
from app.settings import read_settings
from evals.environment import FAKE_KEY, PRICE
from guardrails.money import ZERO
from ledger import reports, transitions
from ledger.models import RequestState, VideoState
from tests.support.counters import held_by
from tests.support.factories import put
from tests.support.models import order
from tests.support.pipeline_harness import PipelineEnvironment
from tests.support.waiting import wait_until
from worker import periodic
from worker.orphans import Orphans

V = VideoState


@pytest.mark.representative
@pytest.mark.parametrize("phase", ["open", "ordered", "doubtful", "accepted"])
async def test_an_emptied_redis_ends_nothing(pipeline_env, phase):
    """FLUSHALL while a request is in flight: it ends as it would have, with one charge."""
    env = await pipeline_env([order()], [order()])
    request = await env.open_request()
    env.fake_provider.script("charge_drop" if phase == "doubtful" else "accept")
    if phase != "open":
        await env.run_agent(request)
    if phase in ("doubtful", "accepted"):
        await env.submit(request)
    env.queue.asked.clear()
    await env.redis.flushall()
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.slow
async def test_an_emptied_redis_between_two_calls_admits_no_second(pipeline_env):
    """FLUSHALL between two calls of one run: the second call still reads that the order exists."""

    async def emptied():
        await env.redis.flushall()
        return [order(prompt="another video")]

    env = await pipeline_env([order()], emptied)
    request = await env.open_request()
    await env.run_agent(request)
    assert await env.refused(request) in ([("replay", "redis")], [("replay", "ledger")])
    await env.finish_video(request)
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.slow
async def test_every_wake_up_may_be_lost(pipeline_env):
    """With a queue that loses every wake-up, what is due in SQL completes the video."""
    env = await pipeline_env([order()])
    env.lossy = True
    assert await env.finish_video(await env.open_request()) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_expired_order_releases_its_money(pipeline_env):
    """No worker for half an hour: expired, nothing held, quota and cooldown released, the user notified."""
    env = await pipeline_env(changes={"cooldown": "10m", "quota": "1/day"})
    request = await env.ordered()
    assert (await reports.cost_summary(env.ledger)).held == PRICE
    env.ledger.shift += 1801
    await env.submit(request)
    assert await env.finish_video(request) is V.EXPIRED
    assert (await reports.cost_summary(env.ledger)).held == ZERO
    assert ("notify", request) in env.queue.asked + env.done
    assert env.fake_provider.posts() == []
    env.ledger.shift -= 1801
    await env.ordered()


async def test_request_whose_runs_all_failed_ends_with_a_message(pipeline_env):
    """Three attempts in which the model failed: the request ends, and the user reads so."""
    env = await pipeline_env(*[RuntimeError("503")] * 3)
    request = await env.open_request()
    await env.finish(request)
    assert (await env.request(request)).state is RequestState.NO_ORDER
    assert len(env.model.heard) == 3
    assert ("notify", request) in env.queue.asked + env.done


async def test_request_that_never_ran_ends_with_a_message(pipeline_env):
    """Half an hour without a run: the user is notified, and no late run orders anything."""
    env = await pipeline_env([order()])
    request = await env.open_request()
    env.ledger.shift += 1801
    await env.run_due("run_agent")
    found = await env.request(request)
    assert (found.state, found.reason) == (RequestState.NO_ORDER, "gave_up")
    await env.run_agent(request)
    assert env.model.heard == []
    assert ("notify", request) in env.queue.asked


def without_provider(env: PipelineEnvironment, absent_s: float = 300) -> PipelineEnvironment:
    """The same app after a restart with another provider configured."""
    timeouts = replace(env.worker.timeouts, absent_s=absent_s)
    return replace(env, worker=replace(env.worker, providers={}, timeouts=timeouts))


async def end_orphans(env: PipelineEnvironment) -> None:
    """As the periodic work of a worker that runs for long, whose own account is another."""
    judge = Orphans(replace(env.worker, providers={"other": SimpleNamespace(name="other")}), 1, "other")
    judge._began -= env.worker.timeouts.absent_s
    await judge.look()


async def work(env: PipelineEnvironment) -> None:
    await env.work()
    await env.run_due("late_check")
    if not env.worker.providers:
        await end_orphans(env)
        env.done += env.queue.asked


async def test_a_queued_order_waits_for_its_own_provider(pipeline_env):
    """No other provider gets it; configured again in time, its own makes it, for one charge."""
    env = await pipeline_env()
    request = await env.ordered()
    await work(without_provider(env))
    assert (await env.video(request)).state is V.QUEUED
    assert env.fake_provider.posts() == []
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_queued_order_of_a_removed_provider_expires(pipeline_env):
    """Its provider does not come back: it expires with a message, nothing is held, and the user may order
    again.
    """
    env = await pipeline_env(changes={"cooldown": "10m"})
    request = await env.ordered()
    env.ledger.shift += 1801
    await work(without_provider(env))
    assert (await env.video(request)).state is V.EXPIRED
    assert ("notify", request) in env.done
    sums = await reports.cost_summary(env.ledger)
    assert (sums.paid, sums.held) == (ZERO, ZERO)
    await env.ordered()


@pytest.mark.parametrize("state", [V.ACCEPTED, V.IN_DOUBT])
async def test_possibly_paid_order_of_a_removed_provider_is_held(pipeline_env, state):
    """A job, or an unknown outcome, of a provider that is gone waits for a process that knows it; then it
    is held.
    """
    env = await pipeline_env()
    request = await started(env, state)
    lost = without_provider(env)
    await work(lost)
    assert (await env.video(request)).state is state
    env.ledger.shift += 301
    await work(lost)
    video = await env.video(request)
    assert (video.state, video.failure) == (V.HOLD, "account_unknown")
    await work(lost)
    assert ("notify", request) in env.done
    sums = await reports.cost_summary(env.ledger)
    assert sums.paid + sums.held == video.quote
    await resolve_as_paid(env, request)


async def started(env: PipelineEnvironment, state: VideoState) -> str:
    if state is V.IN_DOUBT:
        env.fake_provider.script("charge_drop")
    request = await env.ordered()
    await env.submit(request)
    assert (await env.video(request)).state is state
    return request


async def resolve_as_paid(env: PipelineEnvironment, request: str) -> None:
    """The provider is configured again: the HOLD is resolved as usual, and the video is made."""
    job, *_ = env.fake_provider.net()
    moved = await transitions.resolve_hold(
        env.ledger, request, transitions.parse_resolution("paid", job), "test"
    )
    assert moved.state is V.ACCEPTED
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_a_held_job_ends_by_itself(pipeline_env):
    """Configured again within a day, the provider is asked about the held job, and its video is made."""
    env = await pipeline_env()
    request = await started(env, V.ACCEPTED)
    await work(without_provider(env, absent_s=0))
    assert (await env.video(request)).state is V.HOLD
    env.ledger.shift += 61

    for _ in range(3):  # the fake provider's job runs while it is polled
        await env.run_due("late_check")
        env.ledger.shift += 90
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_orders_of_removed_providers_starve_no_late_check(pipeline_env):
    """Many ended orders of a removed provider do not use up the late-charge checks of the others."""
    env = await pipeline_env(shape="openai", quick={"settle_s": 0.0, "absent_gap_s": 0.0})
    env.fake_provider.script("refuse_400", "charge_drop")
    strange, late = await env.ordered(), await env.ordered(user_id=8)
    await env.submit(strange)
    await env.submit(late)
    await put(env.ledger, strange, V.FAILED_UNPAID, account="long gone")
    await put(env.ledger, late, V.HOLD)
    env.ledger.shift += 61
    for _ in range(2):
        for due in await env.steps["late_check"].claim(1):
            await env.steps["late_check"].run(due)
    assert (await env.video(late)).state is V.ACCEPTED


async def test_doctor_counts_orders_of_removed_providers(pipeline_env, tmp_path):
    """Orders in flight at a provider that is not configured are a finding."""
    env = await pipeline_env()
    await env.ordered()

    listed = tmp_path / "prices.yaml"
    listed.write_text(
        "{priced_on: 2026-11-22, source: here, models: {a: {seconds: [4], per_second: {720x1280: '$0.10'}}}}",
        encoding="utf-8",
    )

    async def found(provider: str):
        settings = read_settings(
            _env_file=None, var_dir=tmp_path / "var", database_url=env.ledger.url.render_as_string(False),
            video_provider=provider, video_base_url=env.fake_provider.base_url, video_api_key=FAKE_KEY,
            video_dialect="inworld", video_prices=listed,
        )  # fmt: skip
        return next(one for one in await run_checks(settings) if one.part == "orders")

    missing, configured = await found("local"), await found("openai_compat")
    assert (missing.health, configured.health) == ("look", "well")
    assert f"1 of {env.provider.account}" in missing.words
    assert "VIDEO_DRAIN" in missing.words


@pytest.mark.slow
async def test_a_failing_report_does_not_stop_the_counters(pipeline_env, monkeypatch):
    """Outcomes cannot be reported: the counters follow the ledger all the same."""
    env = await pipeline_env()

    async def broken(*_):
        raise ValueError("a report that fails")

    monkeypatch.setattr(periodic.history, "unreported", broken)
    await env.ordered()
    loops = asyncio.create_task(periodic.run_periodic(env.worker))

    async def counted() -> bool:
        return (await held_by(env.worker.admission, 7)).takes == 1

    await wait_until(counted, what="the counters")
    loops.cancel()
    await asyncio.gather(loops, return_exceptions=True)
