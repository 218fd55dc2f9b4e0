"""Before the first byte there are two witnesses. A ledger that lost a send asks before it sends again.

The oracle is the provider's charge log.
"""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from redis.exceptions import ConnectionError as RedisDown

from evals.environment import PRICE
from ledger.database import Ledger
from ledger.models import VideoState
from tests.support.pipeline_harness import SLOW, PipelineEnvironment, on_sqlite
from worker import witness
from worker.witness import Send, Witness

V = VideoState
LONG = {"settle_s": 600.0, "absent_gap_s": 120.0, "submit_timeout_s": 10.0}


def backup(ledger: Ledger, folder) -> Ledger:
    """Copy a SQLite ledger as it is now; the copy is a ledger that was restored, or failed over to."""
    path = folder / "backup.db"
    with closing(sqlite3.connect(ledger.url.database)) as source, closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
    return Ledger(f"sqlite:///{path}")


def restored(env: PipelineEnvironment, ledger: Ledger) -> PipelineEnvironment:
    return replace(env, worker=replace(env.worker, ledger=ledger))


@on_sqlite
@pytest.mark.parametrize("shape", ["openai", "inworld"])
async def test_a_ledger_that_lost_a_send_asks_first(pipeline_env, tmp_path, shape):
    """The commit of SUBMITTING and all after it are lost, the job is not: no second charge, one video."""
    env = await pipeline_env(shape=shape, quick=LONG, compare=False)
    request = await env.ordered()
    older = backup(env.ledger, tmp_path)
    await env.submit(request)
    assert len(env.fake_provider.charges()) == 1
    after = restored(env, older)
    older.shift += 60
    await after.submit(request)
    video = await after.video(request)
    assert video.state is V.IN_DOUBT
    assert video.sent_at == (await env.video(request)).sent_at, "its job is searched for at its own time"
    assert await after.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1
    assert await after.paid_micros() == PRICE.micros
    await older.close()


@on_sqlite
async def test_a_lost_send_is_asked_about_after_its_half_hour(pipeline_env, tmp_path):
    """The ledger is restored an hour later, when the order is over: it is asked about, not ended unpaid."""
    env = await pipeline_env(shape="openai", quick=LONG, compare=False)
    request, other = await env.ordered(), await env.ordered(8)
    older = backup(env.ledger, tmp_path)
    await env.submit(request)
    after = restored(env, older)
    older.shift += 3600
    await after.submit(request)
    await after.submit(other)
    video = await after.video(request)
    assert video.state is V.IN_DOUBT
    assert video.sent_at == (await env.video(request)).sent_at
    assert await after.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1
    assert await after.paid_micros() == PRICE.micros
    assert (await after.video(other)).state is V.EXPIRED, "one that no one remembers ends unpaid, as ever"
    await older.close()


@on_sqlite
async def test_the_latest_of_several_lost_sends_is_asked_about(pipeline_env, tmp_path):
    """The first send was throttled, the second one charged, twenty minutes later: both are lost."""
    env = await pipeline_env(shape="openai", quick=LONG, compare=False)
    request = await env.ordered()
    older = backup(env.ledger, tmp_path)
    env.fake_provider.script("throttle_429")
    await env.submit(request)
    env.ledger.shift += 1200
    await env.submit(request)
    first = await env.video(request)
    assert (first.state, first.submits) == (V.ACCEPTED, 2)
    after = restored(env, older)
    older.shift += 1260
    await after.submit(request)
    video = await after.video(request)
    assert (video.state, video.submits, video.sent_at) == (V.IN_DOUBT, 2, first.sent_at)
    assert video.submitted_at == first.submitted_at
    await older.close()


@on_sqlite
async def test_a_blind_provider_is_asked_by_a_person(pipeline_env, tmp_path):
    """Where the provider cannot be asked, a lost send ends on HOLD, never in a second POST."""
    env = await pipeline_env(shape="inworld", quick=SLOW | {"submit_timeout_s": 10.0}, compare=False)
    request = await env.ordered()
    older = backup(env.ledger, tmp_path)
    await env.submit(request)
    after = restored(env, older)
    older.shift += 60
    await after.submit(request)
    older.shift += 7200  # its key is forgotten by then
    await after.run_due("reconcile")
    assert (await after.video(request)).state is V.HOLD
    assert len(env.fake_provider.posts()) == 1
    await older.close()


class Unavailable:
    """A Redis that fails in `set`, before or after it has written."""

    def __init__(self, redis, *, writes: bool = False) -> None:
        self.redis, self.writes, self.asked = redis, writes, 0

    async def ping(self) -> None:
        return None

    async def set(self, *args, **more) -> None:
        self.asked += 1
        if self.writes:
            await self.redis.set(*args, **more)
        raise RedisDown("connection reset")


@pytest.mark.parametrize("writes", [False, True], ids=["not written", "answer lost"])
async def test_without_a_second_witness_nothing_is_sent(pipeline_env, writes):
    """Redis fails between the commit and the POST: the order is back in the queue, and is sent once it
    answers, whether its witness was written or not.
    """
    env = await pipeline_env()
    request, known = await env.ordered(), env.worker.witness
    down = Unavailable(env.redis, writes=writes)
    env.worker = replace(env.worker, witness=Witness(down, known._prefix))
    await env.submit(request)
    assert down.asked == 1
    assert env.fake_provider.posts() == []
    assert (await env.video(request)).state is V.QUEUED
    env.worker = replace(env.worker, witness=known)
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_an_outage_of_redis_uses_up_no_send(pipeline_env):
    """While Redis does not answer nothing is begun: a long outage leaves an order all of its attempts."""
    env = await pipeline_env()
    request, known = await env.ordered(), env.worker.witness

    class Down:
        async def ping(self) -> None:
            raise RedisDown("connection refused")

    env.worker = replace(env.worker, witness=Witness(Down(), known._prefix))
    for _ in range(8):
        await env.submit(request)
    video = await env.video(request)
    assert (video.state, video.submits) == (V.QUEUED, 0)
    env.worker = replace(env.worker, witness=known)
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_an_emptied_redis_stops_nothing(pipeline_env):
    """Without witnesses SQL stands alone: the order is sent once, and a job in flight is finished."""
    env = await pipeline_env()
    first, second = await env.accepted(), await env.ordered(8)
    await env.redis.flushall()
    for _, video in await env.finish(first, second):
        assert video.state is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 2


async def test_a_witness_is_kept_for_thirty_days(redis, prefix):
    """One key for each submit, and no other changes it; it is forgotten after 30 days."""
    one = Witness(redis, prefix)
    assert await one.testify("r", Send(1, 1000, 1000)) is None
    assert await one.testify("r", Send(1, 9000, 9000)) == Send(1, 1000, 1000)
    assert await one.testify("r", Send(2, 1000, 2000)) is None
    assert await one.testify("r", Send(1, 9000, 9000)) == Send(2, 1000, 2000)
    assert witness.KEPT_S - 60 < await redis.ttl(one.key("r", 1)) <= 30 * 86_400


async def test_a_worker_stopped_while_it_testifies_sends_nothing(pipeline_env):
    """A stop between the two witnesses: the order waits in the queue, and is then sent once."""
    env = await pipeline_env()
    request, known, point = await env.ordered(), env.worker.witness, asyncio.Event()

    class Slow(Witness):
        async def testify(self, request_id: str, send: Send) -> Send | None:
            point.set()
            await asyncio.sleep(60)
            return None

    env.worker = replace(env.worker, witness=Slow(env.redis, known._prefix))
    task = asyncio.create_task(env.submit(request))
    await point.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert env.fake_provider.posts() == []
    assert (await env.video(request)).state is V.QUEUED
    env.worker = replace(env.worker, witness=known)
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1
