"""The house without its chat: guard, tools and studio over a real ledger, a real Valkey and a real run loop.

Nothing runs by itself here. A law calls the tasks that it is about, as often as it likes, and `finish` does
what the sweep asks for. The oracle is the provider's own charge log, compared with our books at the end.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from agents import Model, RunConfig
from agents.tool_context import ToolContext
from redis.asyncio import Redis

from app.application import SandboxModelProvider
from evals.environment import PRICES, assert_ledger_matches, write_agent_specs
from guardrails.admission import Admission, RedisKeys
from guardrails.content.policy import ContentPolicy
from guardrails.content.verdict import Judge
from guardrails.policy import limits_of, rates_of
from ledger import history, reports, requests
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from ledger.models import FINAL_STATES, Request, RequestState, Video, VideoState
from providers.base import Provider
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import DIALECTS
from providers.pricing import capabilities_of
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FAKE_KEY
from tests.support import services
from tests.support.models import GOOD, Player, Turn
from tests.support.waiting import wait_until
from tools.agent_factory import DIRECTOR, AgentFactory, load_declarations
from tools.context import Offer, RunContext
from tools.generate_video import NAME
from worker.context import Timeouts, WorkerContext
from worker.poll import poll
from worker.queue import Queue
from worker.reconcile import check_late_charges
from worker.run_agent import run_agent
from worker.submit import submit
from worker.sweeper import reconcile_all, sweep

PACE = Timeouts(run_s=5, retry_s=0, slack_s=4, backoff_s=0, poll_most_s=0.02, ask_s=0)
QUICK = {"submit_timeout_s": 0.5, "poll_s": 0.01, "grace_s": 0.0, "settle_s": 0.5, "absent_gap_s": 0.1}


class Wakes(Queue):
    """Keeps wake-ups in a list; `lost` throws them away, as a queue does that was emptied."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.lost = False

    async def wake(self, task: str, request_id: str, after_s: float = 0) -> bool:
        if not self.lost:
            self.asked.append((task, request_id))
        return True


@dataclass
class Backstage:
    """What a law plays with. A `lossy` one loses every wake-up that a task asks for."""

    worker: WorkerContext
    agent_factory: AgentFactory
    fake_provider: FakeProvider
    model: Any
    redis: Redis
    queue: Wakes
    opened: Callable[..., Awaitable[str]]
    done: list[tuple[str, str]] = field(default_factory=list)
    lossy: bool = False

    @property
    def ledger(self) -> Ledger:
        return self.worker.ledger

    async def run(self, request_id: str, attempt: int = 1) -> RunContext:
        """The context of one attempt, for laws about a single call."""
        request = await requests.find(self.ledger, request_id)
        assert request is not None
        return self.agent_factory.run_context(request, attempt)

    async def run_agent(self, request_id: str) -> None:
        await run_agent(self.worker, self.agent_factory, request_id)

    async def submit(self, request_id: str) -> None:
        await submit(self.worker, request_id)

    async def poll(self, request_id: str) -> None:
        await poll(self.worker, request_id)

    async def ordered(self, user_id: int = 7, **changes: Any) -> str:
        """A request whose order waits in the queue, written by the tool's own body."""
        request_id = await self.opened(user_id=user_id)
        answer = await call_body(await self.run(request_id), **changes)
        assert "is ordered" in answer, answer
        return request_id

    async def accepted(self, user_id: int = 7) -> str:
        """A request whose job the provider has."""
        request_id = await self.ordered(user_id)
        await self.submit(request_id)
        assert (await self.video(request_id)).state is VideoState.ACCEPTED
        return request_id

    async def both(self, request_id: str) -> tuple[Request, Video | None]:
        found = await requests.find_with_video(self.ledger, request_id)
        assert found is not None
        return found

    async def video(self, request_id: str) -> Video:
        found = (await self.both(request_id))[1]
        assert found is not None, "no order"
        return found

    async def request(self, request_id: str) -> Request:
        return (await self.both(request_id))[0]

    async def refused(self, request_id: str) -> list[tuple[str, str]]:
        return [(one.word, one.layer) for one in await history.refused_calls(self.ledger, request_id)]

    async def reserved(self) -> list[str]:
        """Every key that holds a reservation."""
        keys = {key async for key in self.redis.scan_iter("{*")}  # SCAN may name a key twice, in any order
        return sorted(key for key in keys if "epoch" not in key and "breaker" not in key)

    async def paid(self) -> int:
        return (await reports.cost_summary(self.ledger)).paid.micros

    async def finish(self, *request_ids: str, seconds: float = 15) -> list[tuple[Request, Video | None]]:
        """Do what the sweep asks for until these requests rest, as a worker would; return them."""

        async def rest() -> bool:
            await self._work()
            return all([_rests(*await self.both(one)) for one in request_ids])

        await wait_until(rest, seconds, f"{len(request_ids)} requests to end")
        return [await self.both(one) for one in request_ids]

    async def _work(self) -> None:
        await sweep(self.worker)
        await reconcile_all(self.worker)
        await self.do_asked()

    async def do_asked(self) -> None:
        """Do what was asked for, each once; telling is the chat's."""
        asked, self.queue.asked[:] = list(dict.fromkeys(self.queue.asked)), []
        self.queue.lost = self.lossy
        for task, request_id in asked:
            self.done.append((task, request_id))
            if task != "notify":
                await getattr(self, task)(request_id)
        self.queue.lost = False

    async def deliver(self, request_id: str) -> VideoState:
        """Finish one request; SUCCEEDED is as far as it goes without a chat."""
        (_, video), *_ = await self.finish(request_id)
        assert video is not None
        return video.state


def _rests(request: Request, video: Video | None) -> bool:
    if video is None:
        return request.state not in (RequestState.OPEN, RequestState.ORDERED)
    return video.state in FINAL_STATES | {VideoState.SUCCEEDED, VideoState.HOLD, VideoState.AWAITING_APPROVAL}


async def call_body(run: RunContext, tool: Any = None, **changes: Any) -> str:
    """Call a tool's body past its guard; by default the one that pays."""
    from tools.generate_video import generate_video

    tool, arguments = tool or generate_video, json.dumps(changes if tool else GOOD | changes)
    call_id = uuid4().hex
    context = ToolContext(
        run, tool_name=tool.name, tool_call_id=call_id, tool_arguments=arguments, run_config=RunConfig()
    )
    return str(await tool.on_invoke_tool(context, arguments))


def capabilities(shape: str, **changes: Any) -> Any:
    return replace(capabilities_of(DIALECTS[shape], PRICES), **QUICK | changes)


@asynccontextmanager
async def open_backstage(
    folder: Path,
    ledger: Ledger,
    redis: Redis,
    opened: Callable[..., Awaitable[str]],
    *turns: Turn,
    model: Model | None = None,
    shape: str = "inworld",
    changes: Mapping[str, str | None] | None = None,
    judge: Judge | None = None,
    provider: Callable[[FakeProvider], Provider] | None = None,
    timeouts: Timeouts = PACE,
    quick: Mapping[str, Any] | None = None,
    books: bool = True,
    **fake_provider_options: Any,
) -> AsyncIterator[Backstage]:
    """Open the studio and its crew over the given stores. Cooldown is off unless `changes` sets one."""
    async with FakeProvider(folder / "peer", shape=shape, **fake_provider_options) as fake_provider:
        made: Any = (
            provider(fake_provider)
            if provider
            else OpenAICompat(
                fake_provider.base_url,
                FAKE_KEY,
                DIALECTS[shape],
                PRICES,
                capabilities=capabilities(shape, **(quick or {})),
            )
        )
        folder_of_agents = write_agent_specs(folder / "agents", **({"cooldown": None} | dict(changes or {})))
        declarations = load_declarations(folder_of_agents)
        policy = declarations[DIRECTOR].tools[NAME]
        admission = Admission(redis, LedgerCounters(ledger), RedisKeys(), limits_of(policy), NAME)
        await admission.load()
        queue = Wakes()
        player = model or Player(*turns)
        offer = Offer(made.name, made.capabilities.models[0], made.capabilities, made.quote)
        agent_factory = AgentFactory(
            declarations,
            SandboxModelProvider(player),
            ledger,
            admission,
            judge or ContentPolicy(),
            offer,
            queue.wake,
        )
        worker = WorkerContext(
            ledger, admission, queue, {made.name: made}, rates_of(policy), folder / "media", timeouts
        )
        try:
            yield Backstage(worker, agent_factory, fake_provider, player, redis, queue, opened)
        finally:
            await made.close()
        if books:
            await assert_ledger_matches(ledger, fake_provider)


def messages(env: Backstage) -> Sequence[str]:
    """The outputs of tools that the director heard last."""
    items = json.loads(env.model.heard[-1])
    return [item["output"] for item in items if item.get("type") == "function_call_output"]


on_postgres = [
    pytest.mark.parametrize("dialect", ["postgresql"], indirect=True),
    pytest.mark.skipif(not services.looked_up(), reason="PostgreSQL does not answer"),
]


def marked(*marks: pytest.MarkDecorator):
    def apply(law):
        for mark in marks:
            law = mark(law)
        return law

    return apply


on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


async def taken_up(env: Backstage, request: str) -> None:
    """The law of them all: nothing was paid, and now that SQL is back, one video is."""
    assert env.fake_provider.charges() == []
    assert (await env.both(request))[1] is None
    assert (await env.request(request)).state is RequestState.OPEN
    assert await env.deliver(request) is VideoState.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


V = VideoState
SLOW = {"settle_s": 600.0, "absent_gap_s": 120.0}
"""The real times of a provider with a list; the laws move the store's clock."""


async def in_doubt(env, outcome="drop", user_id=7, **changes):
    env.fake_provider.script(outcome)
    request = await env.ordered(user_id, **changes)
    await env.submit(request)
    assert (await env.video(request)).state is V.IN_DOUBT
    return request


async def after(env, seconds, *requests):
    """Let time pass and ask; return the states."""
    env.ledger.shift += seconds
    await reconcile_all(env.worker)
    return [(await env.video(one)).state for one in requests]


async def lost(env, user_id=7, **changes):
    """An order that was charged, whose job no list showed in time: it ended unpaid. Return it and its job."""
    request = await in_doubt(env, "charge_drop", user_id, **changes)
    hidden = dict(env.fake_provider.jobs)
    env.fake_provider.jobs.clear()
    for seconds in (601, 121):
        await after(env, seconds)
    assert (await env.video(request)).state is V.FAILED_UNPAID
    env.fake_provider.jobs.update(hidden)
    return request


async def late_look(env, seconds=61):
    env.ledger.shift += seconds
    await check_late_charges(env.worker)
