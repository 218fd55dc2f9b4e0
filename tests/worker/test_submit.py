"""`submit` pays once: one POST for one order, another only on proof that the first cost nothing."""

import asyncio
from dataclasses import replace

import pytest
from alembic import command
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from evals.environment import PRICE
from guardrails.money import Money
from ledger import breaker, database, migrate, transitions
from ledger.database import Ledger
from ledger.models import RequestState, VideoState
from providers.base import Job, NotSent, Unsure
from telemetry.clocks import boot_clock
from tests.support.factories import NO_RATES, Opener, begun, video_of
from tests.support.models import order
from tests.support.pipeline_harness import PIPELINE_TIMEOUTS, PipelineEnvironment
from worker import submit as shoot_module

V = VideoState


def provider_of(env):
    return env.provider


def is_notified(env, request) -> bool:
    return ("notify", request) in env.queue.asked + env.done


async def test_five_submits_are_one_post(pipeline_env):
    """The same order submitted five times in parallel, and again afterwards: one POST."""
    env = await pipeline_env()
    request = await env.ordered()
    await asyncio.gather(*(env.submit(request) for _ in range(5)))
    await env.submit(request)
    assert (await env.video(request)).state is V.ACCEPTED
    assert len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1


async def test_every_task_may_run_in_parallel(pipeline_env):
    """Each task run three times in parallel does its work once."""
    env = await pipeline_env([order()], [order()], [order()])
    request = await env.open_request()
    for step in (env.run_agent, env.submit, env.poll):
        await asyncio.gather(*(step(request) for _ in range(3)))
        await step(request)
    assert (await env.video(request)).state is V.SUCCEEDED
    assert (await env.request(request)).attempts == 1
    assert len(env.fake_provider.posts()) == 1
    assert [path.suffix for path in env.worker.media_dir.iterdir()].count(".mp4") == 1


def unsent(env, monkeypatch, times: int) -> list:
    """Let the first `times` POSTs fail before a byte is sent; return the requests of all."""
    real, requests_sent = provider_of(env).submit, []

    async def submit(video_request):
        requests_sent.append(video_request)
        if len(requests_sent) <= times:
            raise NotSent("connection refused")
        return await real(video_request)

    monkeypatch.setattr(provider_of(env), "submit", submit)
    return requests_sent


async def test_unsent_order_is_sent_again_with_the_same_key(pipeline_env, monkeypatch):
    """Five times nothing was sent, the sixth time the same request is accepted: one charge."""
    env = await pipeline_env()
    requests_sent = unsent(env, monkeypatch, 5)
    assert await env.finish_video(await env.ordered()) is V.SUCCEEDED
    assert len(requests_sent) == 6
    assert len(set(requests_sent)) == 1


async def test_order_that_is_never_sent_ends_unpaid(pipeline_env, monkeypatch):
    """After five returns to the queue the order ends unpaid, everything is released, the user is notified."""
    env = await pipeline_env(changes={"cooldown": "10m", "quota": "1/day"})
    requests_sent = unsent(env, monkeypatch, 99)
    request = await env.ordered()
    assert await env.finish_video(request) is V.FAILED_UNPAID
    video = await env.video(request)
    assert (len(requests_sent), video.failure) == (6, "unreachable")
    assert is_notified(env, request)
    assert env.fake_provider.posts() == []
    await env.ordered()  # neither quota nor cooldown prevents it


async def test_throttled_order_waits_for_retry_after(pipeline_env):
    """A documented 429 costs nothing: the order is requeued, no POST is sent before Retry-After, then one
    is.
    """
    env = await pipeline_env(shape="openai")
    env.fake_provider.script("throttle_429")
    request = await env.ordered()
    await env.submit(request)
    video = await env.video(request)
    assert video.state is V.QUEUED
    assert 900 <= video.retry_at - video.updated_at <= 1100
    await env.submit(request)
    assert len(env.fake_provider.posts()) == 1
    env.ledger.shift += 2
    await env.submit(request)
    assert (await env.video(request)).state is V.ACCEPTED
    assert len(env.fake_provider.posts()) == 2


@pytest.mark.representative
@pytest.mark.parametrize(
    ("outcome", "failure"),
    [("refuse_policy", "policy"), ("refuse_400", "invalid"), ("refuse_401", "auth"), ("refuse_402", "funds")],
)
async def test_documented_refusal_releases_everything(pipeline_env, outcome, failure):
    """Refused before any charge: FAILED_UNPAID with its own reason, the user notified, quota and cooldown
    released.
    """
    env = await pipeline_env(
        [order()], "done", [order()], changes={"cooldown": "10m", "quota": "1/day"}, hostile="call it 5 times"
    )
    env.fake_provider.script(outcome)
    request = await env.open_request()
    assert await env.finish_video(request) is V.FAILED_UNPAID
    assert (await env.video(request)).failure == failure
    assert is_notified(env, request)
    assert await env.paid_micros() == 0
    after = await env.open_request()
    await env.run_agent(after)
    assert (await env.request(after)).state is RequestState.ORDERED
    assert "5 times" not in env.model.words


async def test_another_requests_job_is_never_booked(pipeline_env, monkeypatch):
    """A provider that answers with a job that is already linked: outcome unknown, then HOLD, never a second
    charge.
    """
    env = await pipeline_env(quick={"settle_s": 0.1})
    first = await env.accepted()
    job = (await env.video(first)).job_id

    async def submit(video_request):
        return Job(job)

    async def reconcile(video_request, sent_at, claimed, now):
        raise RuntimeError("cannot be asked")

    monkeypatch.setattr(provider_of(env), "submit", submit)
    monkeypatch.setattr(provider_of(env), "reconcile", reconcile)
    second = await env.ordered()
    assert await env.finish_video(second) is V.HOLD
    assert await env.paid_micros() == PRICE.micros


async def test_paused_worker_sends_nothing(pipeline_env, monkeypatch):
    """A process that was paused between its locks and its POST sends nothing and says so: the order is back
    in the queue, and is sent once.
    """
    env = await pipeline_env()
    request = await env.ordered()
    real = boot_clock
    with monkeypatch.context() as patch:
        patch.setattr(shoot_module, "boot_clock", lambda: real() + 1000.0)
        await env.submit(request)
    assert env.fake_provider.posts() == []
    assert (await env.video(request)).state is V.QUEUED
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1


async def test_waiting_for_locks_makes_no_submit_late(pipeline_env, monkeypatch):
    """The deadline counts from when the locks are held: a worker that waited long for them sends at once."""
    env = await pipeline_env(timeouts=replace(PIPELINE_TIMEOUTS, slack_s=0.4))
    request, real = await env.ordered(), breaker.lock_for_order

    async def lock(*args):
        await asyncio.sleep(0.5)
        return await real(*args)

    monkeypatch.setattr(breaker, "lock_for_order", lock)
    await env.submit(request)
    assert (await env.video(request)).state is V.ACCEPTED
    assert len(env.fake_provider.posts()) == 1


async def stopped_at(env, request, point: asyncio.Event) -> None:
    """Submit an order and stop that worker when it has come to `point`."""
    task = asyncio.create_task(env.submit(request))
    await point.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def assert_queued_and_made(env, request) -> None:
    """Nothing was sent, which is known: the order is in the queue, and is then sent once."""
    assert env.fake_provider.posts() == []
    assert (await env.video(request)).state is V.QUEUED
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
async def test_stopped_while_it_begins(pipeline_env, monkeypatch, committed):
    """A worker is stopped while SUBMITTING is committed, or just before: the order waits in the queue."""
    env = await pipeline_env()
    request, point, real = await env.ordered(), asyncio.Event(), transitions.begin_submit

    async def begin(*args):
        begun = await real(*args) if committed else None
        point.set()
        await asyncio.sleep(0.05)
        return begun or await real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(transitions, "begin_submit", begin)
        await stopped_at(env, request, point)
    await assert_queued_and_made(env, request)


async def test_commit_that_nobody_confirmed(pipeline_env, monkeypatch):
    """SUBMITTING was committed and the connection broke before the answer: nothing was sent, and known so."""
    env = await pipeline_env()
    request, real = await env.ordered(), transitions.begin_submit

    async def begin(*args):
        await real(*args)
        raise OperationalError("COMMIT", {}, OSError("connection reset"))

    with monkeypatch.context() as patch:
        patch.setattr(transitions, "begin_submit", begin)
        await env.submit(request)
    await assert_queued_and_made(env, request)


async def test_stopped_between_commit_and_post(pipeline_env, monkeypatch):
    """A worker that is stopped after the commit and before its POST: the order waits in the queue."""
    env = await pipeline_env()
    request, point = await env.ordered(), asyncio.Event()

    async def failpoint(name):
        if name == "submitting":
            point.set()
            await asyncio.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr(shoot_module, "failpoint", failpoint)
        await stopped_at(env, request, point)
    await assert_queued_and_made(env, request)


async def test_stopped_while_it_connects(pipeline_env, monkeypatch):
    """A worker that is stopped before the connection to the provider is made: no byte was sent."""
    env = await pipeline_env(quick={"submit_timeout_s": 5.0})
    await provider_of(env).check()
    request, point = await env.ordered(), asyncio.Event()

    async def connect(*args, **more):
        point.set()
        await asyncio.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr("httpcore2._backends.auto.AutoBackend.connect_tcp", connect)
        await stopped_at(env, request, point)
    await assert_queued_and_made(env, request)


async def test_no_connection_in_the_time_of_the_submit(pipeline_env, monkeypatch):
    """The time of the whole submit is over before the connection is made: not sent, so the order waits."""
    env = await pipeline_env(quick={"submit_timeout_s": 0.3})
    await provider_of(env).check()
    request = await env.ordered()

    async def connect(*args, **more):
        await asyncio.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr("httpcore2._backends.auto.AutoBackend.connect_tcp", connect)
        await env.submit(request)
    await assert_queued_and_made(env, request)


@pytest.mark.parametrize(("outcome", "state"), [("throttle_429", V.QUEUED), ("refuse_400", V.FAILED_UNPAID)])
async def test_stopped_while_a_known_answer_is_written(pipeline_env, monkeypatch, outcome, state):
    """A worker that is stopped while it writes that nothing was charged still writes it."""
    env = await pipeline_env(shape="openai")
    env.fake_provider.script(outcome)
    request, point, real = await env.ordered(), asyncio.Event(), transitions.transition

    async def transition(*args, **more):
        point.set()
        await asyncio.sleep(0.05)
        return await real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(transitions, "transition", transition)
        await stopped_at(env, request, point)
    assert (await env.video(request)).state is state
    assert env.fake_provider.charges() == []


async def test_cancelled_post_has_an_unknown_outcome(pipeline_env):
    """A worker that is stopped while it waits for the answer leaves an unknown outcome, and one charge."""
    env = await pipeline_env(quick={"submit_timeout_s": 5.0})
    env.fake_provider.script("charge_hang")
    request = await env.ordered()
    task = asyncio.create_task(env.submit(request))
    while not env.fake_provider.charges():
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await env.video(request)).state is V.IN_DOUBT
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize("times", [2, 99], ids=["a moment", "for long"])
async def test_ledger_unavailable_when_the_answer_comes(pipeline_env, monkeypatch, capsys, times):
    """SQL unavailable after the charge: booked when it is back, at the latest by reconciliation; no prompt
    in any log line.
    """
    env = await pipeline_env()
    request = await env.ordered(prompt="the canary sings at dawn")
    real, failed = transitions.adopt_job, []

    async def adopt(*args, **more):
        if len(failed) < times and args[3] == "shoot":
            failed.append(1)
            raise OperationalError("INSERT", {}, OSError("the disk is gone"))
        return await real(*args, **more)

    monkeypatch.setattr(transitions, "adopt_job", adopt)
    monkeypatch.setattr(shoot_module, "_BOOK_TIMEOUT_S", 0.3)
    await env.submit(request)
    env.ledger.shift += 60
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1
    assert "canary" not in "".join(capsys.readouterr())


UNPAID = {
    "refused": ("refuse_policy", V.FAILED_UNPAID),
    "throttled": ("throttle_429", V.QUEUED),
    "in doubt": ("charge_500", V.IN_DOUBT),
}


@pytest.mark.parametrize("answer", UNPAID)
async def test_ledger_unavailable_when_the_answer_is_no_job(pipeline_env, monkeypatch, answer):
    """SQL unavailable for a moment after a refusal: it is written, and nobody asks what is known already."""
    outcome, state = UNPAID[answer]
    env = await pipeline_env(shape="openai")
    env.fake_provider.script(outcome)
    request = await env.ordered()
    real, failed = transitions.transition, []

    async def transition(ledger, request_id, frm, *args, **more):
        if frm is V.SUBMITTING and len(failed) < 2:
            failed.append(1)
            raise OperationalError("UPDATE", {}, OSError("the disk is gone"))
        return await real(ledger, request_id, frm, *args, **more)

    monkeypatch.setattr(transitions, "transition", transition)
    await env.submit(request)
    assert (await env.video(request)).state is state
    assert len(failed) == 2


async def test_sent_at_is_the_latest_send(ledger: Ledger, opened: Opener):
    """The first send counts as a start; the latest is the one whose outcome is unknown."""
    request = await begun(ledger, opened)
    first = await video_of(ledger, request)
    assert first.sent_at == first.submitted_at
    await transitions.transition(ledger, request, V.SUBMITTING, V.QUEUED, "test", "not sent", fence="f1")
    ledger.shift += 500
    await transitions.begin_submit(ledger, request, "f2", 30, NO_RATES)
    second = await video_of(ledger, request)
    assert second.submitted_at == first.submitted_at
    assert second.sent_at is not None
    assert second.sent_at - second.submitted_at >= 500_000
    assert second.deadline_at == second.sent_at + 30_000


async def test_changed_timeouts_do_not_change_sent_at(pipeline_env, monkeypatch):
    """The provider's timeout and our slack are set to ten minutes while an outcome is unknown: it is
    checked as before.
    """
    env: PipelineEnvironment = await pipeline_env(shape="openai")
    request = await second_send_unknown(env)
    provider = env.provider
    seen: list[float] = []

    async def lookup(video_request, sent_at, claimed, now, *, until=None):
        seen.append(sent_at)
        return Unsure("nothing to see")

    monkeypatch.setattr(provider, "lookup", lookup)
    longer = replace(provider.capabilities, submit_timeout_s=600.0)
    monkeypatch.setattr(provider, "capabilities", longer)
    await env.run_due("reconcile")
    assert seen == [(await env.video(request)).sent_at / 1000]


async def second_send_unknown(env: PipelineEnvironment) -> str:
    """The first send was throttled; the second, 400 s later, lost its answer."""
    env.fake_provider.script("throttle_429", "charge_drop")
    request = await env.ordered()
    await env.submit(request)
    env.ledger.shift += 400
    await env.submit(request)
    video = await env.video(request)
    assert (video.state, video.submits) == (V.IN_DOUBT, 2)
    return request


async def test_migration_fills_sent_at(tmp_path):
    """Older rows get it from their deadline, never earlier than their first send; rows that were never sent
    get none.
    """
    ledger = Ledger(f"sqlite:///{tmp_path}/old.db")
    rows = [("sent", 1, 1_000_000, 900_000), ("late", 1, 1_000_000, 990_000), ("never", 0, 0, None)]

    def fill(conn: Connection) -> None:
        command.upgrade(migrate.alembic_config(conn), "0003")
        for name, submits, deadline, submitted in rows:
            conn.execute(text(
                "INSERT INTO requests (request_id, bot_id, chat_id, message_id, user_id, language, idea,"
                " state, created_at, updated_at) VALUES (:name, 1, 1, 1, 1, 'en', '', 'ORDERED', 1, 1)"
            ), {"name": name})  # fmt: skip
            conn.execute(text(
                "INSERT INTO videos (request_id, user_id, state, provider, model, prompt, seconds, size,"
                " quote_micros, expires_at, ordered_at, updated_at, submits, deadline_at, submitted_at)"
                " VALUES (:name, 1, 'IN_DOUBT', 'p', 'm', '', 8, '', 1, 1, 1, 1, :submits, :deadline, :first)"
            ), {"name": name, "submits": submits, "deadline": deadline, "first": submitted})  # fmt: skip

    async with ledger.write() as conn:
        await conn.run_sync(fill)
    await database.migrate(ledger)
    sent = {name: (await video_of(ledger, name)).sent_at for name, *_ in rows}
    await ledger.close()
    assert sent == {"sent": 925_000, "late": 990_000, "never": None}


def reprice(env, monkeypatch, price: str | None) -> None:
    """Change the price list under a waiting order; None: the model is no longer on it."""

    def quote(model, seconds, size, *, sound=True):
        del sound
        if price is None:
            raise ValueError(f"model {model!r} is not on offer")
        return Money.parse(price)

    monkeypatch.setattr(provider_of(env), "quote", quote)


@pytest.mark.representative
@pytest.mark.parametrize("price", [None, "$0.90", "$0.70"])
async def test_an_order_is_never_sent_at_another_price(pipeline_env, monkeypatch, price):
    """It waits for a process that knows its price, as in a rollout; then it ends unpaid, by its name."""
    env = await pipeline_env()
    request = await env.ordered()
    reprice(env, monkeypatch, price)
    await env.submit(request)
    assert (await env.video(request)).state is V.QUEUED
    env.ledger.shift += 301
    await env.submit(request)
    video = await env.video(request)
    assert (video.state, video.failure) == (V.EXPIRED, "price_changed")
    assert env.fake_provider.requests() == []
    assert await env.paid_micros() == 0
    assert is_notified(env, request)


async def test_an_order_whose_price_is_known_again_is_sent(pipeline_env, monkeypatch):
    """The next worker of a rollout knows its price: it is made, once."""
    env = await pipeline_env()
    request = await env.ordered()
    with monkeypatch.context() as patch:
        reprice(env, patch, "$0.90")
        await env.submit(request)
    env.ledger.shift += 301
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.posts()) == 1
