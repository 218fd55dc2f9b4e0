"""Every row that is due is served and has an end: none is starved, dropped, or tried again without end."""

from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import insert, select

from evals.environment import PRICE
from ledger import due_work, transitions
from ledger.models import VideoState
from ledger.schema import requests, videos
from providers.base import Status
from tests.support.dispatching import run_dispatcher
from tests.support.factories import put
from tests.support.models import order
from tests.support.pipeline_harness import (
    PIPELINE_TIMEOUTS,
    SLOW,
    PipelineEnvironment,
    check_late_charges_after,
    in_doubt,
    reconcile_after,
)
from tests.support.waiting import wait_until
from worker import steps as steps_module
from worker.dispatcher import Dispatcher

V = VideoState


def dispatching(env: PipelineEnvironment, pause_s: float = 0.2):
    """Run the worker's steps without any wake-up: what is due is found by the dispatcher's own questions."""
    next_due = partial(due_work.next_due, env.ledger, 1)
    return run_dispatcher(Dispatcher(list(env.steps.values()), next_due, pause_s))


async def wait_for(env: PipelineEnvironment, request: str, *states: VideoState) -> None:
    async def check() -> bool:
        return (await env.video(request)).state in states

    await wait_until(check, 15, f"{states}")


async def notified_at(env: PipelineEnvironment, request: str) -> int | None:
    async with env.ledger.read() as conn:
        return await conn.scalar(select(requests.c.notify_at).where(requests.c.request_id == request))


@pytest.mark.slow
async def test_a_throttled_order_is_submitted_again_at_its_time(pipeline_env):
    """The provider says "later": the order is submitted again then, although no wake-up for it is kept.

    A wake-up that a task asked for under its own key was dropped by the queue.
    """
    env = await pipeline_env(shape="openai")
    env.lossy = env.queue.lost = True
    env.fake_provider.script("throttle_429")
    request = await env.ordered()
    async with dispatching(env):
        await wait_for(env, request, V.SUCCEEDED)
    assert len(env.fake_provider.posts()) == 2
    assert len(env.fake_provider.charges()) == 1


async def test_a_run_that_failed_is_repeated_at_its_time(pipeline_env):
    """The model failed once: the next attempt begins after the pause, without any wake-up."""
    env = await pipeline_env(RuntimeError("503"), [order()])
    env.lossy = env.queue.lost = True
    request = await env.open_request()
    async with dispatching(env):

        async def check() -> bool:
            found = await env.request_and_video(request)
            return found[1] is not None and found[1].state is V.SUCCEEDED

        await wait_until(check, 15, "the video")
    assert (await env.request(request)).attempts == 2


@pytest.mark.parametrize("poison", ["adoption", "question"])
async def test_a_doubt_that_cannot_be_resolved_is_held_in_time(pipeline_env, monkeypatch, poison):
    """Linking the job, or the question itself, raises every time: HOLD `cannot_ask` a quarter of an hour
    after the settle time, with a notification, and the money stays held. When it works again, the late check
    links the job and the video is made, for one charge.
    """
    env = await pipeline_env(shape="openai", quick=SLOW | {"submit_timeout_s": 10.0})
    request = await in_doubt(env, "charge_drop")

    async def fail(*_, **__):
        raise TimeoutError("job_claimed took too long")

    with monkeypatch.context() as patch:
        patch.setattr(transitions, "adopt_job" if poison == "adoption" else "claimed_jobs", fail)
        assert await reconcile_after(env, 60, request) == [V.IN_DOUBT]
        assert await reconcile_after(env, 600, request) == [V.IN_DOUBT]
        assert await reconcile_after(env, 839, request) == [V.IN_DOUBT]
        await put_notified(env, request)
        assert await reconcile_after(env, 240, request) == [V.HOLD]
        video = await env.video(request)
        assert video.failure == "cannot_ask"
        assert "TimeoutError" in (video.failure_detail or "")
        assert await notified_at(env, request) is not None
        assert ("notify", request) in env.queue.asked + env.done
        await check_late_charges_after(env)
        assert (await env.video(request)).state is V.HOLD
    await check_late_charges_after(env, 600)
    assert await env.finish_video(request) is V.SUCCEEDED
    assert await env.paid_micros() == PRICE.micros
    assert len(env.fake_provider.posts()) == 1


async def put_notified(env: PipelineEnvironment, request: str) -> None:
    async with env.ledger.write() as conn:
        await conn.execute(requests.update().where(requests.c.request_id == request).values(notify_at=None))


async def test_one_error_after_an_outage_holds_nothing(pipeline_env, monkeypatch):
    """All workers were off for hours; the first question then meets an error: it is asked again, not held."""
    env = await pipeline_env(shape="openai", quick=SLOW | {"submit_timeout_s": 10.0})
    request = await in_doubt(env, "charge_drop")
    with monkeypatch.context() as patch:

        async def fail(*_, **__):
            raise TimeoutError

        patch.setattr(transitions, "claimed_jobs", fail)
        assert await reconcile_after(env, 7200, request) == [V.IN_DOUBT]
    assert await reconcile_after(env, 300, request) == [V.ACCEPTED]


async def test_an_overdue_job_is_held_though_nothing_can_be_written(pipeline_env, monkeypatch):
    """Every answer about a job ends in an error of our own: when it is overdue it is held."""
    env = await pipeline_env(quick={"overdue_s": 600.0})
    request = await env.accepted()

    async def fail(*_, **__):
        raise ValueError("a defect")

    monkeypatch.setattr(transitions, "set_progress", fail)
    env.fake_provider.polls = 10**6
    for shift, state in ((0, V.ACCEPTED), (300, V.ACCEPTED), (301, V.HOLD)):
        env.ledger.shift += shift
        await env.run_due("poll")
        assert (await env.video(request)).state is state
    assert (await env.video(request)).failure == "overdue"


async def test_a_poisoned_order_stops_no_other(pipeline_env, monkeypatch):
    """Of ten overdue submits the oldest cannot be ended: the nine others are, and it is tried again later."""
    env = await pipeline_env(shape="openai")
    orders = [await env.ordered(user) for user in range(1, 11)]
    for one in orders:
        await put(env.ledger, one, V.SUBMITTING, fence="f", submits=1, due_at=1)
    real = transitions.transition

    async def move(ledger, request_id, *more, **columns):
        if request_id == orders[0]:
            raise ValueError("poisoned")
        return await real(ledger, request_id, *more, **columns)

    monkeypatch.setattr(steps_module.transitions, "transition", move)
    assert await env.run_due("end_overdue") == 10
    states = [(await env.video(one)).state for one in orders]
    assert states == [V.SUBMITTING] + [V.IN_DOUBT] * 9
    assert (await env.video(orders[0])).due_failures == 1
    monkeypatch.undo()
    env.ledger.shift += 60
    await env.run_due("end_overdue")
    assert (await env.video(orders[0])).state is V.IN_DOUBT


class Polled:
    """A provider that answers every question with "running", and counts them by job."""

    def __init__(self, capabilities, progress: int | None = None) -> None:
        self.name = self.account = "local"
        self.capabilities, self.progress = capabilities, progress
        self.asked: list[str] = []

    async def state(self, job_id: str) -> Status:
        self.asked.append(job_id)
        return Status("running", self.progress, None)


async def in_flight(env: PipelineEnvironment, count: int) -> None:
    """Write `count` accepted jobs, due in the order of their numbers."""
    async with env.ledger.write() as conn:
        now = await env.ledger.now(conn)
        ids = [f"tg:1:-:{n}:1" for n in range(count)]
        common = {
            "bot_id": 1, "chat_id": 1, "message_id": 1, "user_id": 1, "language": "en", "idea": "a market",
            "state": "ORDERED", "created_at": now, "updated_at": now,
        }  # fmt: skip
        await conn.execute(insert(requests), [{**common, "request_id": one} for one in ids])
        row = {
            "user_id": 1, "state": "ACCEPTED", "provider": "local", "account": "local", "model": "m",
            "prompt": "p", "seconds": 8,
            "size": "720x1280", "quote_micros": 1, "expires_at": now, "ordered_at": now, "accepted_at": now,
            "updated_at": now,
        }  # fmt: skip
        await conn.execute(
            insert(videos),
            [
                {**row, "request_id": one, "job_id": f"job-{n}", "due_at": now - count + n}
                for n, one in enumerate(ids)
            ],
        )


@pytest.mark.any_ledger
async def test_of_many_jobs_in_flight_each_is_polled(pipeline_env):
    """600 jobs in flight: the newest is polled as often as the oldest, and no row is written for it."""
    env = await pipeline_env(compare=False)
    capabilities = replace(env.provider.capabilities, poll_s=30.0, overdue_s=3600.0)
    provider = Polled(capabilities)
    env.worker = replace(env.worker, providers={"local": provider}, timeouts=replace(PIPELINE_TIMEOUTS))
    await in_flight(env, 600)
    for turn in range(1, 4):
        async with dispatching(env):

            async def check(turn=turn) -> bool:
                return len(provider.asked) >= 600 * turn

            await wait_until(check, 30, "600 polls")
        counts = {job: provider.asked.count(job) for job in set(provider.asked)}
        assert set(counts.values()) == {turn}
        assert len(counts) == 600
        env.ledger.shift += 40


async def test_a_limit_of_polls_lengthens_the_interval_of_all(pipeline_env):
    """30 jobs, and 10 questions allowed at a time: each is asked once before one is asked a second time."""
    env = await pipeline_env(compare=False)
    capabilities = replace(env.provider.capabilities, poll_s=1.0, overdue_s=3600.0)
    provider = Polled(capabilities)

    async def take(name: str, most: int) -> int:
        assert name == "local"
        return min(most, 10)

    env.worker = replace(env.worker, providers={"local": provider}, take_polls=take)
    await in_flight(env, 30)
    for _ in range(6):
        env.ledger.shift += 2  # all are due again
        assert await env.run_due("poll") == 10
    assert sorted(provider.asked[:30]) == sorted(provider.asked[30:]) == sorted(f"job-{n}" for n in range(30))


async def test_an_unchanged_poll_writes_nothing(pipeline_env, monkeypatch):
    """The claim has moved the next poll: a poll without news is no statement more."""
    env = await pipeline_env(compare=False)
    capabilities = replace(env.provider.capabilities, poll_s=10.0, overdue_s=3600.0)
    provider = Polled(capabilities, progress=0)
    env.worker = replace(env.worker, providers={"local": provider})
    await in_flight(env, 3)
    claimed = await env.steps["poll"].claim(10)

    def write():
        raise AssertionError("a write")

    with monkeypatch.context() as patch:
        patch.setattr(env.ledger, "write", write)
        patch.setattr(env.ledger, "read", write)
        for one in claimed:
            await env.steps["poll"].run(one)
    assert len(provider.asked) == 3
    assert all(8_900 <= one.video.due_at - one.now <= 11_100 for one in claimed)


async def test_breaker_closed_wakes_all_waiting_orders(pipeline_env):
    """Every waiting order is due at once, by one statement and one wake-up, also one that is put back."""
    env = await pipeline_env()
    first, second = await env.ordered(), await env.ordered(user_id=8)
    claimed = await env.steps["submit"].claim(10)
    assert {one.video.request_id for one in claimed} == {first, second}
    env.queue.asked.clear()
    await env.worker.breaker_closed()
    assert env.queue.asked == [("submit", "breaker")]
    for one in claimed:  # their steps end after that, and ask for a pause
        assert await due_work.put_back(env.ledger, one.video, 600, failed=True) is None
    assert await env.run_due("submit") == 2


async def test_a_question_of_the_version_before_is_respected(pipeline_env):
    """During an upgrade the version before may be asking about an order: it is not asked about twice. What
    this version asks, the other can read.
    """
    env = await pipeline_env(shape="openai", quick=SLOW | {"submit_timeout_s": 10.0})
    request = await in_doubt(env, "drop")
    async with env.ledger.read() as conn:
        now = await env.ledger.now(conn)
    await put(env.ledger, request, V.IN_DOUBT, look_at=now + 60_000)
    env.ledger.shift += 40
    assert await env.run_due("reconcile") == 0
    env.ledger.shift += 30
    [claimed] = await env.steps["reconcile"].claim(9)
    assert claimed.video.look_at == claimed.video.due_at > claimed.now
    await env.steps["reconcile"].run(claimed)
    after = await env.video(request)
    assert after.look_at == after.due_at
