"""A doubtful order is asked about by one process at a time, however long its provider takes to answer."""

import asyncio
from dataclasses import replace

from backstage import Backstage

from ledger.models import VideoState
from providers.base import Unsure
from worker.context import Timeouts
from worker.sweeper import reconcile_all

V = VideoState


class Slow:
    """A provider whose answer to a question takes as long as a law wants; it counts who asks at once."""

    def __init__(self, env: Backstage) -> None:
        self.capabilities = replace(env.worker.providers["openai_compat"].capabilities, submit_timeout_s=30)
        self.name, self.now, self.most, self.asked = "openai_compat", 0, 0, 0
        self.begun, self.answer = asyncio.Event(), asyncio.Event()

    async def reconcile(self, video_request, sent_at, claimed, now):
        self.now, self.asked = self.now + 1, self.asked + 1
        self.most = max(self.most, self.now)
        self.begun.set()
        try:
            await self.answer.wait()
        finally:
            self.now -= 1
        return Unsure("it hangs")


async def in_doubt(pipeline_env) -> tuple[Backstage, Slow, str]:
    env = await pipeline_env(timeouts=Timeouts(slack_s=4, ask_s=0.001), quick={"settle_s": 600.0})
    env.fake_provider.script("charge_hang")
    request = await env.ordered()
    await env.submit(request)
    assert (await env.video(request)).state is V.IN_DOUBT
    slow = Slow(env)
    env.worker = replace(env.worker, providers={slow.name: slow})
    return env, slow, request


async def test_two_workers_never_ask_at_once(pipeline_env):
    """Two workers sweep again and again while a replay hangs: one POST is on its way, no second."""
    env, slow, _ = await in_doubt(pipeline_env)
    first = asyncio.create_task(reconcile_all(env.worker))
    await asyncio.wait_for(slow.begun.wait(), 20)
    other = replace(env.worker)
    for _ in range(3):
        env.ledger.shift += 10  # far beyond the pause between two questions, within the POST's time
        both = asyncio.gather(reconcile_all(other), reconcile_all(env.worker))
        await asyncio.wait_for(both, 20)
    assert (slow.now, slow.most, slow.asked) == (1, 1, 1)
    slow.answer.set()
    await first


async def test_the_next_question_need_not_wait(pipeline_env):
    """Once it is answered, the next one comes after the pause, not after the longest that one may last."""
    env, slow, _ = await in_doubt(pipeline_env)
    slow.answer.set()
    for turn in range(1, 4):
        await reconcile_all(env.worker)
        assert slow.asked == turn
        env.ledger.shift += 1


async def test_a_dead_worker_is_not_waited_for_long(pipeline_env):
    """Whoever asked and died holds the look for the time of one POST and its slack, no longer."""
    env, slow, request = await in_doubt(pipeline_env)
    first = asyncio.create_task(reconcile_all(env.worker))
    await asyncio.wait_for(slow.begun.wait(), 20)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    env.ledger.shift += 35
    slow.answer.set()
    await reconcile_all(env.worker)
    assert slow.asked == 2
    assert (await env.video(request)).state is V.IN_DOUBT
