"""A provider within the process, with a charge log of its own: thousands of games need no socket."""

from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ledger.money import Money
from providers.base import (  # fmt: skip
    Absent,
    Asset,
    ClaimedCheck,
    Found,
    InDoubt,
    Job,
    Reconciled,
    Rejected,
    Status,
    Take,
    Throttled,
    Unsure,
)
from sandbox.video_api.server import Outcome
from tools.studio.providers.capabilities import Capabilities

PER_SECOND: Final = Money.parse("$0.10")
_LENGTHS: Final = (4, 8, 12)
_SIZES: Final = ("720x1280", "1280x720")
_CHARGED: Final = ("accept", "charge_drop", "charge_500")
FAULTS: Final[tuple[Outcome, ...]] = (
    "charge_drop", "charge_500", "drop", "500", "refuse_400", "throttle_429",
)  # fmt: skip
"""What may become of a POST; the peer of the cases knows the same words."""


class Paper:
    """Takes orders, charges, keeps its books; see `Provider`. `keyed` honours keys, else it lists jobs."""

    name = "paper"

    def __init__(self, *, keyed: bool) -> None:
        self.keyed = keyed
        self.outcomes: deque[Outcome] = deque()
        self.charges: list[tuple[str, str]] = []
        """Request and job of every charge, in order."""
        self._jobs: dict[str, Take] = {}
        self.capabilities = Capabilities(
            ("sora-2",), _LENGTHS, _SIZES, replay=keyed, listing=not keyed, cancel=False, preview=False,
            submit_timeout_s=5, poll_s=0, grace_s=0, settle_s=60, absent_gap_s=10,
            replay_for_s=86_400 if keyed else 0,
        )  # fmt: skip

    def quote(self, model: str, seconds: int, size: str) -> Money:
        if model != "sora-2" or seconds not in _LENGTHS or size not in _SIZES:
            raise ValueError(f"{seconds} s in {size} are not on offer; {_LENGTHS} s in {_SIZES} are")
        return Money(PER_SECOND.micros * seconds)

    async def submit(self, take: Take) -> Job:
        outcome = self.outcomes.popleft() if self.outcomes else "accept"
        if outcome == "refuse_400":
            raise Rejected("not this one", "invalid")
        if outcome == "throttle_429":
            raise Throttled("too many", 1)
        if outcome not in _CHARGED:
            raise InDoubt("no answer")
        job = self._charge(take)
        if outcome != "accept":
            raise InDoubt("charged, and no answer")
        return job

    def _charge(self, take: Take) -> Job:
        if self.keyed:
            for job_id, known in self._jobs.items():
                if known.key == take.key:
                    return Job(job_id)
        job_id = f"job-{len(self._jobs) + 1}"
        self._jobs[job_id] = take
        # A mutant's shadow, `id~call`, is the same user's act.
        self.charges.append((take.request_id.partition("~")[0], job_id))
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
        self, take: Take, sent_at: float, claimed: ClaimedCheck, now: float | None = None
    ) -> Reconciled:
        if self.keyed:
            return Found(self._charge(take))
        return await self.lookup(take, sent_at, claimed, now)

    async def lookup(
        self, take: Take, sent_at: float, claimed: ClaimedCheck, now: float | None = None,
        *, until: float | None = None,
    ) -> Reconciled:  # fmt: skip
        del sent_at, now, until
        ours = [job for job in self._like(take) if not claimed(job)]
        if len(ours) > 1:
            return Unsure(f"{len(ours)} jobs fit")
        return Found(Job(ours[0]), "seed") if ours else Absent()

    def _like(self, take: Take) -> Iterable[str]:
        return (job for job, known in self._jobs.items() if known.seed == take.seed)

    async def cancel(self, job_id: str) -> bool:
        del job_id
        return False

    async def close(self) -> None:
        return None
