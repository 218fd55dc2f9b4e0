"""Guard, ledger and worker without chat (used by tests too)."""

import asyncio
import functools
import itertools
import shutil
from collections import Counter, deque
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, cast
from uuid import uuid4

from evals.adversaries.catalog import make_adversary
from evals.case import AdversarySpec as Asked
from evals.environment import SingleModelProvider, assert_ledger_matches, write_agent_specs
from evals.faults import WorkerKilled
from guardrails.admission import Admission, RedisKeys
from guardrails.content.policy import ContentPolicy
from guardrails.money import Money
from guardrails.policy import limits_of, rates_of
from guardrails.redis_client import connect
from ledger import requests
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from ledger.models import FINAL_STATES, Request, RequestState, Video, VideoState
from ledger.requests import NewRequest
from providers.base import (
    Absent,
    Asset,
    Capabilities,
    ClaimedCheck,
    Found,
    InDoubt,
    Job,
    Reconciled,
    Rejected,
    Status,
    Throttled,
    Unsure,
    VideoRequest,
)
from sandbox.video_api.charge_log import ProviderLog
from sandbox.video_api.server import PostOutcome
from tools.agent_factory import DIRECTOR, AgentFactory, load_declarations
from tools.agent_spec import Declaration
from tools.context import Offer
from tools.generate_video import NAME
from worker.context import Timeouts, WorkerContext
from worker.poll import poll
from worker.queue import Queue, TaskName
from worker.run_agent import run_agent
from worker.submit import submit
from worker.sweeper import reconcile_all, sweep

PER_SECOND: Final = Money.parse("$0.10")
_LENGTHS: Final = (4, 8, 12)
_SIZES: Final = ("720x1280", "1280x720")
_CHARGED: Final = ("accept", "charge_drop", "charge_500")
FAULTS: Final[tuple[PostOutcome, ...]] = (
    "charge_drop", "charge_500", "drop", "500", "refuse_400", "throttle_429",
)  # fmt: skip
"""What may become of a POST; the peer of the cases knows the same words."""


class InMemoryProvider:
    """Takes orders, charges, keeps its books; see `Provider`. `keyed` honours keys, else it lists jobs."""

    name = "paper"

    def __init__(self, *, keyed: bool) -> None:
        self.keyed = keyed
        self.outcomes: deque[PostOutcome] = deque()
        self.charges: list[tuple[str, str]] = []
        """Request and job of every charge, in order."""
        self._jobs: dict[str, VideoRequest] = {}
        self.capabilities = Capabilities(
            ("sora-2",), _LENGTHS, _SIZES, replay=keyed, listing=not keyed, preview=False,
            submit_timeout_s=5, poll_s=0, grace_s=0, settle_s=60, absent_gap_s=10,
            replay_for_s=86_400 if keyed else 0,
        )  # fmt: skip

    def quote(self, model: str, seconds: int, size: str) -> Money:
        if model != "sora-2" or seconds not in _LENGTHS or size not in _SIZES:
            raise ValueError(f"{seconds} s in {size} are not on offer; {_LENGTHS} s in {_SIZES} are")
        return Money(PER_SECOND.micros * seconds)

    async def submit(self, video_request: VideoRequest) -> Job:
        outcome = self.outcomes.popleft() if self.outcomes else "accept"
        if outcome == "refuse_400":
            raise Rejected("not this one", "invalid")
        if outcome == "throttle_429":
            raise Throttled("too many", 1)
        if outcome not in _CHARGED:
            raise InDoubt("no answer")
        job = self._charge(video_request)
        if outcome != "accept":
            raise InDoubt("charged, and no answer")
        return job

    def _charge(self, video_request: VideoRequest) -> Job:
        if self.keyed:
            for job_id, known in self._jobs.items():
                if known.key == video_request.key:
                    return Job(job_id)
        job_id = f"job-{len(self._jobs) + 1}"
        self._jobs[job_id] = video_request
        # A mutant's shadow, `id~call`, is the same user's act.
        self.charges.append((video_request.request_id.partition("~")[0], job_id))
        return Job(job_id)

    def net(self) -> dict[str, int]:
        """What each job has cost, in micro-dollars."""
        return {job: PER_SECOND.micros * self._jobs[job].seconds for _, job in self.charges}

    def paid(self) -> Counter[str]:
        """Charges of each request."""
        return Counter(request for request, _ in self.charges)

    async def state(self, job_id: str) -> Status:
        del job_id
        return Status("succeeded", 100)

    async def fetch(self, job_id: str, into: Path) -> Asset:
        del job_id
        return Asset(into, None, 8.0, 720, 1280, 7)  # nobody opens it: there is no chat

    async def reconcile(
        self, video_request: VideoRequest, sent_at: float, claimed: ClaimedCheck, now: float | None = None
    ) -> Reconciled:
        if self.keyed:
            return Found(self._charge(video_request))
        return await self.lookup(video_request, sent_at, claimed, now)

    async def lookup(
        self, video_request: VideoRequest, sent_at: float, claimed: ClaimedCheck, now: float | None = None,
        *, until: float | None = None,
    ) -> Reconciled:  # fmt: skip
        del sent_at, now, until
        ours = [job for job in self._like(video_request) if not claimed(job)]
        if len(ours) > 1:
            return Unsure(f"{len(ours)} jobs fit")
        return Found(Job(ours[0]), "seed") if ours else Absent()

    def _like(self, video_request: VideoRequest) -> Iterable[str]:
        return (job for job, known in self._jobs.items() if known.seed == video_request.seed)

    async def close(self) -> None:
        return None


_TIMEOUTS: Final = Timeouts(run_s=20, retry_s=0, slack_s=20, backoff_s=0, poll_most_s=0, ask_s=0)
_ENDS: Final = FINAL_STATES | {VideoState.SUCCEEDED, VideoState.HOLD}
_SETTLE_ROUNDS: Final = 25
_LINKS: Final = 3
"""direct wakes shoot, shoot wakes watch."""

_STEP_S: Final = 61
"""Longer than anything waits: an attempt's end, a deadline, the settle time."""


class _ListQueue(Queue):
    """Wake-ups as a list, each once: what a queue that works would carry out."""

    def __init__(self) -> None:
        self.asked: dict[tuple[TaskName, str], None] = {}

    async def wake(self, task: TaskName, request_id: str, after_s: float = 0) -> bool:
        del after_s
        self.asked[task, request_id] = None
        return True


@dataclass(frozen=True)
class FuzzResources:
    """What games are played on: a Valkey that may be emptied, a migrated empty ledger, a folder."""

    redis_url: str
    template: Path
    folder: Path


@dataclass
class FuzzPipeline:
    """One game's house. Limits are off: what is played for here is that a request is paid once."""

    resources: FuzzResources
    keyed: bool
    game: int = field(default_factory=itertools.count(1).__next__)
    """In every request's id: what a mutant remembers of one game is nothing to the next."""
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        folder = self.resources.folder / uuid4().hex
        folder.mkdir()
        self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        path = shutil.copy(self.resources.template, folder / "ledger.db")
        self.ledger = Ledger(f"sqlite:///{path}")
        self.stack.push_async_callback(self.ledger.close)
        self.redis: Any = connect(self.resources.redis_url)
        self.stack.push_async_callback(self.redis.aclose)
        await self.redis.flushall()
        await self._build(folder)
        return self

    async def _build(self, folder: Path) -> None:
        declarations, content = _agents(self.resources.folder)
        policy = declarations[DIRECTOR].tools[NAME]
        admission = Admission(
            self.redis, LedgerCounters(self.ledger), RedisKeys("fuzz"), limits_of(policy), NAME
        )
        await admission.load()
        self.queue, self.provider = _ListQueue(), InMemoryProvider(keyed=self.keyed)
        offer = Offer("paper", "sora-2", self.provider.capabilities, self.provider.quote)
        self.model = SingleModelProvider(make_adversary(Asked()))
        self.agent_factory = AgentFactory(
            declarations, self.model, self.ledger, admission, content, offer, self.queue.wake
        )
        makers = {"paper": self.provider}
        self.worker = WorkerContext(
            self.ledger, admission, self.queue, makers, rates_of(policy), folder / "media", _TIMEOUTS
        )

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()

    async def deliver(self, number: int) -> str:
        """Persist one command as the chat does, as often as Telegram delivers it, and wake the director."""
        name = f"tg:1:-:{self.game}:{number}"
        await requests.open_request(self.ledger, NewRequest(name, 1, 7, number, 7, "en", "a market at dawn"))
        await self.queue.wake("run_agent", name)
        return name

    def play(self, turns: Sequence[dict[str, Any]]) -> None:
        """Let the model play these turns in every run from now on."""
        self.model.model = make_adversary(Asked(name="script", options={"turns": list(turns)}))

    async def run(self, names: Sequence[str]) -> None:
        """Direct these requests, each by two workers at once."""
        await asyncio.gather(
            *(
                _survive_kill(run_agent(self.worker, self.agent_factory, name))
                for name in names
                for _ in range(2)
            )
        )

    async def work(self) -> None:
        """Do what the sweep asks for, as two workers would that share one queue."""
        await _survive_kill(sweep(self.worker))
        await _survive_kill(reconcile_all(self.worker))
        for _ in range(_LINKS):
            asked, self.queue.asked = list(self.queue.asked), {}
            for task, name in asked:
                await self._carry_out(task, name)

    async def _carry_out(self, task: TaskName, name: str) -> None:
        if task == "run_agent":
            await self.run([name])
        elif task == "submit":
            await asyncio.gather(*(_survive_kill(submit(self.worker, name)) for _ in range(2)))
        elif task == "poll":
            await _survive_kill(poll(self.worker, name))

    async def run_until_settled(self) -> list[str]:
        """Let time pass and work go on until everything rests; return the requests that do not."""
        for _ in range(_SETTLE_ROUNDS):
            await self.work()
            left = [one.request_id for one, video in await self.everything() if not _is_settled(one, video)]
            if not left:
                return []
            self.ledger.shift += _STEP_S
        return left

    async def everything(self) -> list[tuple[Request, Video | None]]:
        return await requests.list_for_user(self.ledger, 7, 1000)

    async def assert_ledger_matches(self) -> None:
        """The ledger's charges are the provider's.

        Raises:
            AssertionError: They are not.
        """
        await assert_ledger_matches(self.ledger, cast("ProviderLog", self.provider))


@functools.cache
def _agents(folder: Path) -> tuple[Mapping[str, Declaration], ContentPolicy]:
    """Read what is the same in every game once."""
    loose = {"quota": "100/day", "cooldown": None, "breaker": None, "budget": None}
    return load_declarations(write_agent_specs(folder / "agents", **loose)), ContentPolicy()


def _is_settled(request: Request, video: Video | None) -> bool:
    if video is None:
        return request.state not in (RequestState.OPEN, RequestState.ORDERED)
    return video.state in _ENDS


async def _survive_kill(task: Awaitable[None]) -> None:
    """Carry out one task of a worker that may be killed in it: another takes its place."""
    with suppress(WorkerKilled):
        await task
