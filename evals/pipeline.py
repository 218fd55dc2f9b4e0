"""Guard, tools, ledger and worker without a chat, driven step by step; for the fuzzer and for tests.

Nothing runs by itself here: a test runs the steps that it is about, as often as it likes, and `finish` or
`settle` do what is due. What the provider charged is compared with the ledger at the end.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from agents import Model, RunConfig
from agents.tool_context import ToolContext
from redis.asyncio import Redis

from evals.environment import RequestAndVideo, SingleModelProvider, set_status_message
from evals.faults import WorkerKilled
from evals.waiting import wait_until
from guardrails.admission import Admission, RedisKeys
from guardrails.content.policy import ContentPolicy
from guardrails.content.verdict import Judge
from guardrails.policy import rates_of
from ledger import due_work, history, reports, requests
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from ledger.models import FINAL_STATES, OrderKind, Request, RequestState, Video, VideoState
from ledger.requests import NewRequest
from providers.base import Provider
from tools import generate_video
from tools.agent_factory import DIRECTOR, AgentFactory, paid_offers
from tools.agent_spec import Declaration
from tools.context import RunContext
from tools.offer import Offer
from tools.registry import paid_tools
from worker.context import Timeouts, WorkerContext
from worker.dispatcher import Step
from worker.queue import Queue, TaskName
from worker.steps import worker_steps
from worker.witness import Witness

VALID_ARGUMENTS: Final = {
    "prompt": "A market at dawn, one slow dolly in.", "seconds": 8, "size": "720x1280",
}  # fmt: skip
_RESTING: Final = FINAL_STATES | {VideoState.SUCCEEDED, VideoState.HOLD, VideoState.AWAITING_APPROVAL}
_CHAINED_STEPS: Final = 3
"""After run_agent a submit is due, after submit a poll."""
_LEASE_S: Final = 30.0
_CLAIM: Final = 1000


class ListQueue(Queue):
    """Keeps wake-ups in a list; with `lost` it drops them, as a queue does that was emptied."""

    def __init__(self) -> None:
        self.asked: list[tuple[TaskName, str]] = []
        self.lost = False

    async def wake(self, task: TaskName, request_id: str, *, after_s: float = 0) -> bool:
        del after_s
        if not self.lost:
            self.asked.append((task, request_id))
        return True


@dataclass
class PipelineEnvironment:
    """The pipeline of one worker, or of several that share one queue.

    Attributes:
        models: Its model may be replaced between runs.
        fake_provider: What charges: a `FakeProvider`, or the fuzzer's in-memory one.
        concurrency: Workers that perform each task of an agent run or a submit at the same time.
        lossy: Lose every wake-up that a task asks for, so that only what is due in SQL is done.
        done: Tasks that were performed because they were asked for.
    """

    worker: WorkerContext
    agent_factory: AgentFactory
    models: SingleModelProvider
    redis: Redis
    queue: ListQueue
    fake_provider: Any
    concurrency: int = 1
    lossy: bool = False
    done: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return self.worker.ledger

    @property
    def provider(self) -> Any:
        """The one provider that is configured."""
        return next(iter(self.worker.providers.values()))

    @property
    def model(self) -> Any:
        return self.models.model

    async def open_request(
        self, user_id: int = 7, idea: str = "a market at dawn", request_id: str | None = None
    ) -> str:
        """Persist one command as the chat does, with its status message; a second time has no effect."""
        known = request_id or f"tg:1:-:{user_id}:{uuid4().int % 10**9}"
        await requests.open_request(self.ledger, NewRequest(known, 1, user_id, 1, user_id, "en", idea))
        await set_status_message(self.ledger, known, 2)
        return known

    async def run_context(self, request_id: str, attempt: int = 1) -> RunContext:
        """Return the context of one attempt, for tests of a single call."""
        return self.agent_factory.run_context(await self.request(request_id), attempt)

    @property
    def steps(self) -> Mapping[str, Step[Any]]:
        """The worker's steps by name."""
        return {step.name: step for step in worker_steps(self.worker, self.agent_factory)}

    async def run_agent(self, request_id: str) -> None:
        """Claim and run this request's agent, if that may begin now."""

        async def claim() -> Sequence[Any]:
            return await due_work.claim_runs(self.ledger, 1, self.worker.timeouts.run_s, request_id)

        await self._at_once("run_agent", claim)

    async def run_agents(self, request_ids: Sequence[str]) -> None:
        """Run the director for all of these requests at the same time."""
        await asyncio.gather(*map(self.run_agent, request_ids))

    async def submit(self, request_id: str) -> None:
        await self._step("submit", VideoState.QUEUED, request_id)

    async def poll(self, request_id: str) -> None:
        await self._step("poll", VideoState.ACCEPTED, request_id)

    async def reconcile(self, request_id: str) -> None:
        await self._step("reconcile", VideoState.IN_DOUBT, request_id)

    async def _step(self, name: str, state: VideoState, request_id: str) -> None:
        """Run one order's step, due or not; nothing if the order is in another state."""

        async def claim() -> Sequence[Any]:
            found = await due_work.claim_video(self.ledger, request_id, state, _LEASE_S)
            return [] if found is None else [found]

        await self._at_once(name, claim)

    async def _at_once(self, name: str, claim: Callable[[], Awaitable[Sequence[Any]]]) -> None:
        async def one() -> None:
            await run_rows(self.steps[name], await claim())

        await asyncio.gather(*(one() for _ in range(self.concurrency)))

    async def run_due(self, *names: str) -> int:
        """Run what is due of these steps once, as a worker does; return how many rows."""
        rows = 0
        for name in names:
            step = self.steps[name]
            claimed = await step.claim(_CLAIM)
            await run_rows(step, claimed)
            rows += len(claimed)
        return rows

    async def ordered(self, user_id: int = 7, **changes: Any) -> str:
        """Open a request and order by the tool's own body; the order waits in the queue."""
        request_id = await self.open_request(user_id)
        answer = await call_tool(await self.run_context(request_id), **changes)
        assert "is ordered" in answer, answer
        return request_id

    async def accepted(self, user_id: int = 7) -> str:
        """Order a video and submit it; the provider has the job."""
        request_id = await self.ordered(user_id)
        await self.submit(request_id)
        assert (await self.video(request_id)).state is VideoState.ACCEPTED
        return request_id

    async def request_and_video(self, request_id: str) -> RequestAndVideo:
        found = await requests.find_with_video(self.ledger, request_id)
        assert found is not None, f"no request {request_id}"
        return found

    async def request(self, request_id: str) -> Request:
        return (await self.request_and_video(request_id))[0]

    async def video(self, request_id: str) -> Video:
        found = (await self.request_and_video(request_id))[1]
        assert found is not None, "no order"
        return found

    async def all_requests(self, user_id: int) -> list[RequestAndVideo]:
        return await requests.list_for_user(self.ledger, user_id, 1000)

    async def refused(self, request_id: str) -> list[tuple[str, str]]:
        """Return reason and layer of each refused call."""
        return [(one.word, one.layer) for one in await history.refused_calls(self.ledger, request_id)]

    async def reservation_keys(self) -> list[str]:
        """Return every Redis key that holds a reservation."""
        keys = {key async for key in self.redis.scan_iter("{*")}  # SCAN may name a key twice, in any order
        seen = [key for key in keys if ":seen:" in key and await self.redis.hexists(key, "at")]
        return sorted([*seen, *(key for key in keys if ":user:" in key)])

    async def paid_micros(self) -> int:
        return (await reports.cost_summary(self.ledger)).paid.micros

    async def sweep(self) -> None:
        """Run what is due of the steps that no task wakes."""
        await self.run_due("expire", "end_overdue", "reconcile")

    async def finish(self, *request_ids: str, seconds: float = 15) -> list[RequestAndVideo]:
        """Work in real time until these requests rest; return them."""

        async def check() -> bool:
            await self.work()
            return all([rests(*await self.request_and_video(one)) for one in request_ids])

        await wait_until(check, seconds, f"{len(request_ids)} requests to end")
        return [await self.request_and_video(one) for one in request_ids]

    async def finish_video(self, request_id: str) -> VideoState:
        """Finish one request; without a chat SUCCEEDED is the last state."""
        (_, video), *_ = await self.finish(request_id)
        assert video is not None, "no order"
        return video.state

    async def work(self) -> None:
        """Run what is due, and what follows from it: run, submit and poll."""
        await self.sweep()
        for _ in range(_CHAINED_STEPS):
            self.queue.lost = self.lossy
            await self.run_due("run_agent", "submit", "poll")
            self.queue.lost = False
        self.done += self.queue.asked
        self.queue.asked.clear()

    async def settle(self, user_id: int, step_s: int, rounds: int) -> list[str]:
        """Work and move the store's clock by `step_s` each round; return the requests that do not rest."""
        left: list[str] = []
        for _ in range(rounds):
            await self.work()
            found = await self.all_requests(user_id)
            left = [request.request_id for request, video in found if not rests(request, video)]
            if not left:
                break
            self.ledger.shift += step_s
        return left


def rests(request: Request, video: Video | None) -> bool:
    """Say whether a request changes no more by itself; without a chat no one is notified."""
    if video is None:
        return request.state not in (RequestState.OPEN, RequestState.ORDERED)
    return video.state in _RESTING


async def run_rows(step: Step[Any], rows: Sequence[Any]) -> None:
    """Run claimed rows at the same time, as a dispatcher does; a worker may be killed in each."""

    async def one(row: Any) -> None:
        try:
            await step.run(row)
        except WorkerKilled:
            return  # its lease ends, and another worker takes its place
        except Exception as error:
            if step.failed is None:
                raise
            await step.failed(row, error)

    await asyncio.gather(*map(one, rows))


async def call_tool(run: RunContext, tool: Any = None, **arguments: Any) -> str:
    """Call a tool's body past its guard; by default generate_video, with valid arguments but for these."""
    if tool is None:
        tool, arguments = generate_video.generate_video, VALID_ARGUMENTS | arguments
    given = json.dumps(arguments)
    context = ToolContext(
        run, tool_name=tool.name, tool_call_id=uuid4().hex, tool_arguments=given, run_config=RunConfig()
    )
    return str(await tool.on_invoke_tool(context, given))


async def build_pipeline(
    ledger: Ledger,
    redis: Redis,
    model: Model,
    adapter: Provider,
    declarations: Mapping[str, Declaration],
    *,
    keys: RedisKeys,
    timeouts: Timeouts,
    media: Path,
    fake_provider: Any = None,
    judge: Judge | None = None,
    concurrency: int = 1,
    images: Provider | None = None,
) -> PipelineEnvironment:
    """Wire the pipeline as the app does, over the given stores and provider adapter."""
    director = declarations[DIRECTOR]
    policy, providers = director.tools[generate_video.NAME], {adapter.account: adapter}
    queue, models = ListQueue(), SingleModelProvider(model)
    offer = Offer(
        adapter.name, adapter.capabilities.models[0], adapter.capabilities, adapter.quote, adapter.account
    )
    offers: dict[OrderKind, Offer] = {"video": offer}
    if images is not None:
        known, providers[images.account] = images.capabilities, images
        offers["image"] = Offer(images.name, known.models[0], known, images.quote, images.account)
    others = paid_offers(declarations, offers)
    limits = director.limits_of(generate_video.NAME, paid_tools())
    admission = Admission(
        redis, LedgerCounters(ledger), keys, limits, generate_video.NAME,
        {tool: one.limits for tool, one in others.items()},
    )  # fmt: skip
    await admission.load()
    factory = AgentFactory(
        declarations, models, ledger, admission, judge or ContentPolicy(), offer, queue.wake, others
    )
    worker = WorkerContext(
        ledger,
        admission,
        queue,
        providers,
        rates_of(policy),
        media,
        timeouts,
        witness=Witness(redis, keys.prefix),
        other_rates={tool: rates_of(one.policy) for tool, one in others.items()},
    )
    return PipelineEnvironment(worker, factory, models, redis, queue, fake_provider or adapter, concurrency)
