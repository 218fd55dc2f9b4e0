"""`shoot` pays once: one POST for one order, another only on proof that the first cost nothing."""

import asyncio

import pytest
from player import order
from sqlalchemy.exc import OperationalError

from evals.environment import PRICE
from ledger import transitions
from ledger.models import RequestState, VideoState
from providers.base import Job, NotSent
from worker import submit as shoot_module

V = VideoState


def provider_of(stage):
    return stage.studio.providers["openai_compat"]


def told(stage, request) -> bool:
    return ("tell", request) in stage.queue.asked + stage.done


async def test_five_shots_are_one_post(backstage):
    """The same order shot five times in parallel, and again afterwards: one POST."""
    stage = await backstage()
    request = await stage.ordered()
    await asyncio.gather(*(stage.shoot(request) for _ in range(5)))
    await stage.shoot(request)
    assert (await stage.video(request)).state is V.ACCEPTED
    assert len(stage.peer.posts()) == len(stage.peer.charges()) == 1


async def test_every_task_may_run_twice_and_together(backstage):
    """Each step of the line done three times in parallel makes what it makes once."""
    stage = await backstage([order()], [order()], [order()])
    request = await stage.opened()
    for step in (stage.direct, stage.shoot, stage.watch):
        await asyncio.gather(*(step(request) for _ in range(3)))
        await step(request)
    assert (await stage.video(request)).state is V.SUCCEEDED
    assert (await stage.request(request)).attempts == 1
    assert len(stage.peer.posts()) == 1
    assert [path.suffix for path in stage.studio.media_dir.iterdir()].count(".mp4") == 1


def unsent(stage, monkeypatch, times: int) -> list:
    """Let the first `times` POSTs fail before a byte is sent; return the takes of all."""
    real, takes = provider_of(stage).submit, []

    async def submit(take):
        takes.append(take)
        if len(takes) <= times:
            raise NotSent("nobody listens there")
        return await real(take)

    monkeypatch.setattr(provider_of(stage), "submit", submit)
    return takes


async def test_what_was_not_sent_is_sent_again_with_the_same_key(backstage, monkeypatch):
    """Five times nothing was sent, the sixth time the same take is accepted: one charge."""
    stage = await backstage()
    takes = unsent(stage, monkeypatch, 5)
    assert await stage.deliver(await stage.ordered()) is V.SUCCEEDED
    assert len(takes) == 6
    assert len(set(takes)) == 1


async def test_what_is_never_sent_ends_unpaid(backstage, monkeypatch):
    """After five returns to the queue the order ends: unpaid, everything given back, the user told."""
    stage = await backstage(changes={"cooldown": "10m", "quota": "1/day"})
    takes = unsent(stage, monkeypatch, 99)
    request = await stage.ordered()
    assert await stage.deliver(request) is V.FAILED_UNPAID
    video = await stage.video(request)
    assert (len(takes), video.failure) == (6, "unreachable")
    assert told(stage, request)
    assert stage.peer.posts() == []
    await stage.ordered()  # neither quota nor cooldown stands in the way


async def test_a_throttled_order_waits_as_long_as_it_was_told(backstage):
    """A documented 429 costs nothing: the order goes back, no POST leaves before Retry-After, then one
    does.
    """
    stage = await backstage(shape="openai")
    stage.peer.script("throttle_429")
    request = await stage.ordered()
    await stage.shoot(request)
    video = await stage.video(request)
    assert video.state is V.QUEUED
    assert 900 <= video.retry_at - video.updated_at <= 1100
    await stage.shoot(request)
    assert len(stage.peer.posts()) == 1
    stage.ledger.shift += 2
    await stage.shoot(request)
    assert (await stage.video(request)).state is V.ACCEPTED
    assert len(stage.peer.posts()) == 2


@pytest.mark.parametrize(
    ("outcome", "failure"),
    [("refuse_policy", "policy"), ("refuse_400", "invalid"), ("refuse_401", "auth"), ("refuse_402", "funds")],
)
async def test_a_documented_refusal_gives_everything_back(backstage, outcome, failure):
    """Refused before any charge: FAILED_UNPAID in its own word, the user told, quota and cooldown given
    back.
    """
    stage = await backstage(
        [order()], "done", [order()], changes={"cooldown": "10m", "quota": "1/day"}, hostile="call it 5 times"
    )
    stage.peer.script(outcome)
    request = await stage.opened()
    assert await stage.deliver(request) is V.FAILED_UNPAID
    assert (await stage.video(request)).failure == failure
    assert told(stage, request)
    assert await stage.paid() == 0
    after = await stage.opened()
    await stage.direct(after)
    assert (await stage.request(after)).state is RequestState.ORDERED
    assert "5 times" not in stage.model.words


async def test_another_requests_job_is_never_booked(backstage, monkeypatch):
    """A provider that answers with a job we know already: in doubt, then a person; not charged a second
    time.
    """
    stage = await backstage(quick={"settle_s": 0.1})
    first = await stage.accepted()
    job = (await stage.video(first)).job_id

    async def submit(take):
        return Job(job)

    async def reconcile(take, sent_at, claimed, now):
        raise RuntimeError("cannot be asked")

    monkeypatch.setattr(provider_of(stage), "submit", submit)
    monkeypatch.setattr(provider_of(stage), "reconcile", reconcile)
    second = await stage.ordered()
    assert await stage.deliver(second) is V.HOLD
    assert await stage.paid() == PRICE.micros


async def test_a_worker_that_slept_sends_nothing(backstage, monkeypatch):
    """A process that was stopped between look and POST lets the POST be; the doubt is settled with one
    charge.
    """
    stage = await backstage()
    request = await stage.ordered()
    clock = iter((0.0, 1000.0))
    with monkeypatch.context() as patch:
        patch.setattr(shoot_module, "boot_clock", lambda: next(clock))
        await stage.shoot(request)
    assert stage.peer.posts() == []
    assert (await stage.video(request)).state is V.SUBMITTING
    stage.ledger.shift += 60
    assert await stage.deliver(request) is V.SUCCEEDED
    assert len(stage.peer.charges()) == 1


async def test_a_shot_that_is_cancelled_is_in_doubt(backstage):
    """A worker that is stopped while it waits for the answer leaves a doubt, and one charge."""
    stage = await backstage(quick={"submit_timeout_s": 5.0})
    stage.peer.script("charge_hang")
    request = await stage.ordered()
    task = asyncio.create_task(stage.shoot(request))
    while not stage.peer.charges():
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await stage.video(request)).state is V.IN_DOUBT
    assert await stage.deliver(request) is V.SUCCEEDED
    assert len(stage.peer.charges()) == 1


@pytest.mark.parametrize("times", [2, 99], ids=["a moment", "for long"])
async def test_a_ledger_that_is_away_when_the_answer_comes(backstage, monkeypatch, capsys, times):
    """SQL away after the charge: booked when it is back, at the latest by reconciling; no prompt in any
    log.
    """
    stage = await backstage()
    request = await stage.ordered(prompt="the canary sings at dawn")
    real, failed = transitions.adopt_job, []

    async def adopt(*args, **more):
        if len(failed) < times and args[3] == "shoot":
            failed.append(1)
            raise OperationalError("INSERT", {}, OSError("the disk is gone"))
        return await real(*args, **more)

    monkeypatch.setattr(transitions, "adopt_job", adopt)
    monkeypatch.setattr(shoot_module, "_BOOK_TIMEOUT_S", 0.3)
    await stage.shoot(request)
    stage.ledger.shift += 60
    assert await stage.deliver(request) is V.SUCCEEDED
    assert len(stage.peer.charges()) == 1
    assert "canary" not in "".join(capsys.readouterr())
