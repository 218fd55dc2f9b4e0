"""An order is sent to, and asked about at, the account that quoted it and no other.

The oracle is the charge log of each server.
"""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from evals.environment import FAKE_KEY, PER_SECOND, prices, quick_provider
from guardrails.money import ZERO
from ledger import accounts as account_rows
from ledger import reports, transitions
from ledger.failures import Failure
from ledger.models import VideoState
from ledger.schema import accounts, videos
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import DIALECTS
from sandbox.video_api.openai import FakeProvider
from tests.support.factories import Opener, new_job, ordered, video_of
from tests.support.pipeline_harness import (
    QUICK,
    SLOW,
    PipelineEnvironment,
    capabilities,
    check_late_charges_after,
    in_doubt,
    reconcile_after,
)
from worker.orphans import Orphans

V = VideoState


@asynccontextmanager
async def another(env: PipelineEnvironment, change: str, folder, shape: str, **quick: Any):
    """The same installation after a restart: another base URL, dialect or key is configured."""
    async with FakeProvider(folder / "another", shape=shape) as other:
        if change == "key":
            known = capabilities(shape, **quick)
            made = OpenAICompat(
                env.fake_provider.base_url,
                "another-key",
                DIALECTS[shape],
                prices(PER_SECOND),
                capabilities=known,
            )
        elif change == "dialect":
            dialect = replace(DIALECTS[shape], name="another")
            known = capabilities(shape, **quick)
            made = OpenAICompat(
                env.fake_provider.base_url, FAKE_KEY, dialect, prices(PER_SECOND), capabilities=known
            )
        else:
            made = quick_provider(other.base_url, shape, QUICK | quick)
        yield replace(env, worker=replace(env.worker, providers={made.account: made})), other
        await made.close()


def offering(env: PipelineEnvironment, account: str) -> PipelineEnvironment:
    """The same with new orders quoted by this account."""
    offer = replace(env.agent_factory.offer, account=account)
    return replace(env, agent_factory=replace(env.agent_factory, offer=offer))


async def work(env: PipelineEnvironment) -> None:
    await env.work()
    await env.run_due("late_check")


def orphans(env: PipelineEnvironment, bot_id: int = 1, **timeouts: float) -> Orphans:
    """The judge of a worker that runs for longer than `absent_s`."""
    worker = replace(env.worker, timeouts=replace(env.worker.timeouts, **timeouts))
    judge = Orphans(worker, bot_id, next(iter(worker.providers)))
    judge._began -= worker.timeouts.absent_s
    return judge


CHANGES = pytest.mark.parametrize("change", ["url", "key", "dialect"])


@CHANGES
async def test_a_doubt_is_not_replayed_elsewhere(pipeline_env, tmp_path, change):
    """Charged, the answer lost, then the configuration changes: no replay goes to another account, and its
    own makes the one video when it is back.
    """
    env = await pipeline_env(shape="inworld", quick={"settle_s": 600.0, "submit_timeout_s": 10.0})
    request = await in_doubt(env, "charge_drop")
    async with another(env, change, tmp_path, "inworld") as (moved, other):
        for _ in range(3):
            env.ledger.shift += 30
            await work(moved)
        assert (await env.video(request)).state is V.IN_DOUBT
        assert (len(env.fake_provider.posts()), len(other.posts())) == (1, 0)
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


@CHANGES
async def test_another_accounts_list_proves_nothing(pipeline_env, tmp_path, change):
    """Another account lists no such job: a charged order does not end as unpaid by that."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    request = await in_doubt(env, "charge_drop")
    hidden = dict(env.fake_provider.jobs)
    env.fake_provider.jobs.clear()  # as an account with another key would see it
    async with another(env, change, tmp_path, "openai", **SLOW) as (moved, _):
        for seconds in (601, 121):
            await reconcile_after(moved, seconds)
        assert (await env.video(request)).state is V.IN_DOUBT
    env.fake_provider.jobs.update(hidden)
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


@CHANGES
async def test_a_job_is_not_gone_elsewhere(pipeline_env, tmp_path, change):
    """Another account does not know the job: it is not gone by that, and its own finishes it."""
    env = await pipeline_env(shape="inworld")
    request = await env.accepted()
    async with another(env, change, tmp_path, "inworld") as (moved, _):
        for _ in range(3):
            env.ledger.shift += 10
            await work(moved)
        video = await env.video(request)
        assert (video.state, video.failure) == (V.ACCEPTED, None)
    assert await env.finish_video(request) is V.SUCCEEDED


@pytest.mark.parametrize("change", ["url", "dialect"])  # the fake provider takes one key
async def test_two_bots_never_send_each_others_orders(pipeline_env, tmp_path, change):
    """Two bots with settings of their own share the stores: each order goes to its own account alone."""
    env = await pipeline_env(shape="openai", compare=False)  # two servers charge
    first = await env.ordered()
    async with another(env, change, tmp_path, "openai") as (moved, other):
        theirs = offering(moved, moved.provider.account)
        second = await theirs.ordered(user_id=8)
        for _ in range(3):
            await work(moved)
        assert (await env.video(first)).state is V.QUEUED
        assert (await env.video(second)).state in (V.ACCEPTED, V.SUCCEEDED)
        await asyncio.gather(work(env), work(moved))
        sent = env.fake_provider if change != "url" else other
        assert len(sent.charges()) == (2 if change != "url" else 1)
        assert await moved.finish_video(second) is V.SUCCEEDED
    assert await env.finish_video(first) is V.SUCCEEDED


async def test_an_account_drains(pipeline_env, tmp_path):
    """Two accounts are configured: the old one finishes what it has, queued, in doubt and accepted."""
    env = await pipeline_env(shape="inworld", compare=False)  # two servers charge
    doubt = await in_doubt(env, "charge_drop")
    accepted, queued = await env.accepted(8), await env.ordered(9)
    async with another(env, "url", tmp_path, "inworld") as (moved, other):
        both = replace(
            moved, worker=replace(env.worker, providers={**env.worker.providers, **moved.worker.providers})
        )
        both = offering(both, moved.provider.account)
        new = await both.ordered(10)
        for _, video in await both.finish(doubt, accepted, queued, new):
            assert video.state is V.SUCCEEDED
        assert (len(env.fake_provider.charges()), len(other.charges())) == (3, 1)
        await reconcile_nothing_left(both)
        assert (await reports.cost_summary(env.ledger)).videos == 4


async def reconcile_nothing_left(env: PipelineEnvironment) -> None:
    assert await env.run_due("submit", "poll", "reconcile", "late_check") == 0


@pytest.mark.any_ledger
async def test_two_accounts_may_give_out_one_job_id(ledger, opened: Opener):
    """A job id is unique within its account: the same number at two accounts is two jobs, both booked."""
    job = new_job()
    requests = [await ordered(ledger, opened, account=account) for account in ("a@1", "a@2", "a@2")]
    for one in requests:
        await put_begun(ledger, one)
    for one in requests[:2]:
        assert await transitions.adopt_job(ledger, one, job, "test", None)
    with pytest.raises(transitions.JobTaken):
        await transitions.adopt_job(ledger, requests[2], job, "test", None)
    assert await transitions.claimed_jobs(ledger, ["a@1", "local"], [job]) == {job}
    assert await transitions.claimed_jobs(ledger, ["a@3", "local"], [job]) == set()
    assert [(await video_of(ledger, one)).job_id for one in requests] == [job, job, None]


@pytest.mark.any_ledger
async def test_the_key_holds_with_the_version_before(ledger, opened: Opener):
    """That version writes no account: its orders go by their provider's name, and share no job with one."""
    job = new_job()
    old, new, other = [await ordered(ledger, opened, account=one) for one in (None, "a@1", None)]
    for one in (old, new, other):
        await put_begun(ledger, one)
    assert await transitions.adopt_job(ledger, old, job, "test", None)
    for one in (new, other):
        with pytest.raises(transitions.JobTaken):
            await transitions.adopt_job(ledger, one, job, "test", None)
    assert await transitions.claimed_jobs(ledger, ["a@1", "local"], [job]) == {job}


async def put_begun(ledger, request: str) -> None:
    from tests.support.factories import NO_RATES

    assert await transitions.begin_submit(ledger, request, request, 30, NO_RATES)


# Orders of the version before


async def without_accounts(env: PipelineEnvironment) -> None:
    async with env.ledger.write() as conn:
        await conn.execute(update(videos).values(account=None))


async def account_of(env: PipelineEnvironment, request: str) -> str | None:
    return (await env.video(request)).account


async def test_orders_without_an_account_get_their_bots_first(pipeline_env, tmp_path):
    """At the first start they get the configured account, and are finished by it."""
    env = await pipeline_env(shape="inworld")
    doubt = await in_doubt(env, "charge_drop")
    queued = await env.ordered(8)
    await without_accounts(env)
    await work(env)
    assert (await env.video(queued)).state is V.QUEUED, "no worker knows whose it is"
    await orphans(env).look()
    assert await account_of(env, doubt) == env.provider.account
    for _, video in await env.finish(doubt, queued):
        assert video.state is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 2


async def test_two_processes_that_differ_do_not_share_them_out(pipeline_env, tmp_path):
    """Two processes of one bot with different accounts start at once: all go to the one that was first."""
    env = await pipeline_env(shape="inworld")
    requests = [await env.ordered(user) for user in range(20, 32)]
    await without_accounts(env)
    async with another(env, "url", tmp_path, "inworld") as (moved, _):
        judges = [orphans(one) for one in (env, moved, env, moved)]
        await asyncio.gather(*(judge.look() for judge in judges))
        found = {await account_of(env, one) for one in requests}
        assert len(found) == 1
        later = await env.ordered(40)  # by the version before, which still runs
        await without_accounts(env)
        await orphans(moved).look()
        assert {await account_of(env, one) for one in (*requests, later)} == found


async def test_another_bots_orders_are_not_adopted(pipeline_env, tmp_path):
    """The bot decides: a worker of another bot gives its account to its own bot's orders alone."""
    env = await pipeline_env(shape="inworld")
    mine = await env.ordered()
    await without_accounts(env)
    await orphans(env, bot_id=2).look()
    assert await account_of(env, mine) is None
    await orphans(env, bot_id=1).look()
    assert await account_of(env, mine) == env.provider.account


# Accounts that are configured nowhere


@pytest.mark.parametrize("state", [V.ACCEPTED, V.IN_DOUBT])
async def test_a_paid_order_of_an_unknown_account_waits_then_is_held(pipeline_env, tmp_path, state):
    """It waits five minutes for a process that knows its account; then it is held, by a name of its own."""
    env = await pipeline_env(shape="openai")
    request = await (in_doubt(env, "charge_drop") if state is V.IN_DOUBT else env.accepted())
    await orphans(env).look()
    async with another(env, "key", tmp_path, "openai") as (moved, _):
        for _ in range(2):
            env.ledger.shift += 140
            await orphans(moved).look()
            assert (await env.video(request)).state is state
        env.ledger.shift += 140
        await orphans(moved).look()
    video = await env.video(request)
    assert (video.state, video.failure) == (V.HOLD, Failure.ACCOUNT_UNKNOWN)
    assert video.account in (video.failure_detail or "")
    assert FAKE_KEY not in (video.failure_detail or "")
    assert ("notify", request) in env.queue.asked
    # Its account is configured again: what it made is found.
    await check_late_charges_after(env, 61)
    for _ in range(3):
        await check_late_charges_after(env, 400)
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_a_queued_order_of_an_unknown_account_expires_unpaid(pipeline_env, tmp_path):
    """No account gets it: it ends unpaid when its time is over, and its user is told."""
    env = await pipeline_env(changes={"cooldown": "10m"})
    request = await env.ordered()
    async with another(env, "key", tmp_path, "inworld") as (moved, _):
        for seconds in (400, 400):
            env.ledger.shift += seconds
            await work(moved)
            await orphans(moved).look()
            assert (await env.video(request)).state is V.QUEUED
        env.ledger.shift += 1100
        env.queue.asked.clear()
        await orphans(moved).look()
    assert (await env.video(request)).state is V.EXPIRED
    assert ("notify", request) in env.queue.asked
    assert env.fake_provider.posts() == []
    sums = await reports.cost_summary(env.ledger)
    assert (sums.paid, sums.held) == (ZERO, ZERO)
    await env.ordered()


async def test_a_worker_that_just_started_holds_nothing(pipeline_env, tmp_path):
    """After an outage of all workers the first to start does not judge what the next one may know."""
    env = await pipeline_env(shape="inworld")
    request = await env.accepted()
    await orphans(env).look()
    async with another(env, "key", tmp_path, "inworld") as (moved, _):
        env.ledger.shift += 3600
        fresh = orphans(moved)
        fresh._began += moved.worker.timeouts.absent_s
        await fresh.look()
        assert (await env.video(request)).state is V.ACCEPTED


async def test_another_bots_jobs_are_left_alone_for_a_day(pipeline_env, tmp_path):
    """All workers of a bot are down for hours: another bot's worker holds none of its jobs."""
    env = await pipeline_env(shape="inworld", quick={"overdue_s": 1e6})
    request = await env.accepted()
    async with another(env, "url", tmp_path, "inworld") as (moved, _):
        env.ledger.shift += 12 * 3600
        await orphans(moved, bot_id=2).look()
        assert (await env.video(request)).state is V.ACCEPTED
        env.ledger.shift += 13 * 3600
        await orphans(moved, bot_id=2).look()
        assert (await env.video(request)).state is V.HOLD


async def test_late_checks_of_an_unknown_account_end(pipeline_env, tmp_path):
    """An order that ended, of an account that is gone: it is not due without end."""
    env = await pipeline_env(shape="openai")
    env.fake_provider.script("refuse_400")
    request = await env.ordered()
    await env.submit(request)
    async with another(env, "key", tmp_path, "openai") as (moved, _):
        env.ledger.shift += 3600
        await orphans(moved).look()
        assert (await env.video(request)).due_at is not None
        env.ledger.shift += 90_000
        await orphans(moved).look()
        assert (await env.video(request)).due_at is None


async def test_workers_say_what_they_know(pipeline_env):
    """Each look renews the time at which an account was known; the first of a provider adopts."""
    env = await pipeline_env()
    await orphans(env).look()
    await account_rows.report_in_use(env.ledger, 1, {"b": "openai_compat"}, "b")
    async with env.ledger.read() as conn:
        rows = {row.account: row for row in await conn.execute(select(accounts))}
    assert {name: row.adopts for name, row in rows.items()} == {env.provider.account: 1, "b": 0}
    seen: Callable[[], Any] = rows[env.provider.account]._asdict
    env.ledger.shift += 60
    await orphans(env).look()
    async with env.ledger.read() as conn:
        at = await conn.scalar(select(accounts.c.seen_at).where(accounts.c.account == env.provider.account))
    assert at >= seen()["seen_at"] + 60_000
