"""The pipeline of one fuzz example: an in-memory provider, two workers at once, no limits."""

import functools
import itertools
import shutil
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from evals.adversaries.base import Adversary
from evals.adversaries.catalog import make_adversary
from evals.case import AdversarySpec
from evals.environment import write_agent_specs
from evals.pipeline import PipelineEnvironment, build_pipeline
from guardrails.admission import RedisKeys
from guardrails.content.policy import ContentPolicy
from guardrails.money import Money
from guardrails.redis_client import connect
from ledger.database import Ledger
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
from sandbox.video_api.server import PostOutcome
from tools.agent_factory import load_declarations
from tools.agent_spec import Declaration
from worker.context import Timeouts

PER_SECOND: Final = Money.parse("$0.10")
_LENGTHS: Final = (4, 8, 12)
_SIZES: Final = ("720x1280", "1280x720")
_CHARGED: Final = ("accept", "charge_drop", "charge_500")
FAULTS: Final[tuple[PostOutcome, ...]] = (
    "charge_drop", "charge_500", "drop", "500", "refuse_400", "throttle_429",
)  # fmt: skip
"""How a POST may end; the fake provider of the cases knows the same words."""


class InMemoryProvider:
    """A provider without HTTP; see `Provider`. If `keyed` it honours idempotency keys, else it lists jobs."""

    name = account = "paper"

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

    def quote(self, model: str, seconds: int, size: str, *, sound: bool = True) -> Money:
        del sound
        if model != "sora-2" or seconds not in _LENGTHS or size not in _SIZES:
            raise ValueError(f"{seconds} s in {size} are not on offer; {_LENGTHS} s in {_SIZES} are")
        return Money(PER_SECOND.micros * seconds)

    async def check(self) -> None:
        return None

    async def submit(self, video_request: VideoRequest) -> Job:
        outcome = self.outcomes.popleft() if self.outcomes else "accept"
        if outcome == "refuse_400":
            raise Rejected("refused", "invalid")
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
        # A mutant's second request, `id~call`, belongs to the same command.
        self.charges.append((video_request.request_id.partition("~")[0], job_id))
        return Job(job_id)

    def net(self) -> dict[str, int]:
        """Return the cost of each job in micro-dollars."""
        return {job: PER_SECOND.micros * self._jobs[job].seconds for _, job in self.charges}

    def paid(self) -> Counter[str]:
        """Return the number of charges of each request."""
        return Counter(request for request, _ in self.charges)

    async def state(self, job_id: str, links: object = None) -> Status:
        del job_id, links
        return Status("succeeded", 100)

    async def fetch(self, job_id: str, into: Path, links: object = None) -> Asset:
        del job_id, links
        return Asset(into, None, 8.0, 720, 1280, 7)  # never opened: there is no chat

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
        like = list(self._like(video_request))
        taken = await claimed(like)
        ours = [job for job in like if job not in taken]
        if len(ours) > 1:
            return Unsure(f"{len(ours)} jobs fit")
        return Found(Job(ours[0]), "seed") if ours else Absent()

    def _like(self, video_request: VideoRequest) -> Iterable[str]:
        return (job for job, known in self._jobs.items() if known.seed == video_request.seed)

    async def close(self) -> None:
        return None


_TIMEOUTS: Final = Timeouts(
    run_s=20, retry_s=0, slack_s=20, backoff_s=0, lease_s=0, fetch_s=0, failed_most_s=0, poll_most_s=0,
    ask_s=0,
)  # fmt: skip
_UNLIMITED: Final = {"quota": "100/day", "cooldown": None, "breaker": None, "budget": None}
"""What is tested here is that each request is paid once, not how many a user may have."""

USER: Final = 7
SETTLE_ROUNDS: Final = 25
STEP_S: Final = 61
"""Longer than any wait: an attempt's end, a deadline, the settle time."""

_examples = itertools.count(1)


@dataclass(frozen=True)
class FuzzResources:
    """What examples run on: a Valkey that may be emptied, a migrated empty ledger, a folder."""

    redis_url: str
    template: Path
    folder: Path


@asynccontextmanager
async def open_fuzz_pipeline(resources: FuzzResources, *, keyed: bool) -> AsyncIterator[PipelineEnvironment]:
    """Open the pipeline of one example on an empty Redis and an empty ledger."""
    async with AsyncExitStack() as stack:
        folder = resources.folder / uuid4().hex
        folder.mkdir()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        ledger = Ledger(f"sqlite:///{shutil.copy(resources.template, folder / 'ledger.db')}")
        stack.push_async_callback(ledger.close)
        redis: Any = connect(resources.redis_url)
        stack.push_async_callback(redis.aclose)
        await redis.flushall()
        declarations, content = _agents(resources.folder)
        yield await build_pipeline(
            ledger, redis, scripted([]), InMemoryProvider(keyed=keyed), declarations,
            keys=RedisKeys("fuzz"), timeouts=_TIMEOUTS, media=folder / "media", judge=content, concurrency=2,
        )  # fmt: skip


@functools.cache
def _agents(folder: Path) -> tuple[Mapping[str, Declaration], ContentPolicy]:
    """Read what is the same in every example once."""
    return load_declarations(write_agent_specs(folder / "agents", **_UNLIMITED)), ContentPolicy()


def request_name(example: int, number: int) -> str:
    """Name a request; the example is part of it, so that a mutant's memory never reaches the next example."""
    return f"tg:1:-:{example}:{number}"


def next_example() -> int:
    return next(_examples)


def scripted(turns: Sequence[dict[str, Any]]) -> Adversary:
    """Return a model that plays these turns in every run."""
    return make_adversary(AdversarySpec(name="script", options={"turns": list(turns)}))
