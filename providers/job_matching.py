"""Finds our job in a provider's paginated list."""

import itertools
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from providers.base import Absent, ClaimedCheck, Found, Job, Reconciled, Unsure, VideoRequest

JobMatch = Literal["ours", "perhaps", "other"]
CLOCK_TOLERANCE_S = 600.0  # how far the provider's clock and ours may differ


@dataclass(frozen=True, slots=True)
class Window:
    """When our job can have been created, on the provider's clock: seconds since the epoch."""

    begin: float
    end: float

    @classmethod
    def around(cls, sent_at: float, submit_timeout_s: float, until: float | None = None) -> "Window":
        """Return the time from the POST to its timeout (or to `until`), plus the clock tolerance."""
        return cls(
            sent_at - CLOCK_TOLERANCE_S, max(sent_at + submit_timeout_s, until or 0.0) + CLOCK_TOLERANCE_S
        )

    def contains(self, moment: float) -> bool:
        return self.begin <= moment <= self.end


def compare_job(job: Mapping[str, Any], video_request: VideoRequest, window: Window) -> JobMatch:
    """Return whether a listed job is the one that `video_request` created.

    A listed seed decides alone. Without one, only a different prompt or time proves `other`, since servers
    round sizes and lengths; and only prompt, size, seconds and time together prove `ours`.
    """
    if (seed := _number(job.get("seed"))) is not None:
        return "ours" if seed == video_request.seed else "other"
    made_at, prompt = parse_time(job.get("created_at")), job.get("prompt")
    if made_at is not None and not window.contains(made_at):
        return "other"
    if isinstance(prompt, str) and prompt.strip() != video_request.prompt.strip():
        return "other"
    known = made_at is not None and isinstance(prompt, str)
    same = job.get("size") == video_request.size and _number(job.get("seconds")) == video_request.seconds
    return "ours" if known and same else "perhaps"


async def match_job(
    jobs: Collection[Mapping[str, Any]],
    video_request: VideoRequest,
    window: Window,
    claimed: ClaimedCheck,
    *,
    complete: bool,
) -> Reconciled:
    """Conclude from a list whether it holds our job.

    Args:
        jobs: Listed jobs, each with a text under `id`.
        video_request: What was sent.
        window: When its job can have been created.
        claimed: Asked once, for those of the jobs that may be ours.
        complete: The list was read back to before the window, or to its end.
    """
    compared = [(job, compare_job(job, video_request, window)) for job in jobs]
    likely = [(job, likeness) for job, likeness in compared if likeness != "other"]
    taken = await claimed([job["id"] for job, _ in likely]) if likely else frozenset()
    free = [(job, likeness) for job, likeness in likely if job["id"] not in taken]
    ours = [job for job, likeness in free if likeness == "ours"]
    perhaps = sum(likeness == "perhaps" for _, likeness in free)
    by_seed = len(ours) == 1 and _number(ours[0].get("seed")) is not None
    if len(ours) > 1:
        return Unsure(f"{len(ours)} unclaimed jobs fit")
    if not complete and not by_seed:
        return Unsure("the list ended before the time of the POST")
    if ours:
        return Found(Job(ours[0]["id"]), "seed" if by_seed else "likeness")
    return Unsure(f"{perhaps} unclaimed jobs show too little to decide") if perhaps else Absent()


def parse_time(value: object) -> float | None:
    """Return a creation time in seconds since the epoch; None unless it is a number (s or ms) or ISO 8601."""
    number = _number(value)
    if number is not None:
        return number / 1000 if number > 1e11 else number
    if not isinstance(value, str):
        return None
    try:
        read = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


MAX_LIST_PAGES = 20


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of a job list.

    Attributes:
        jobs: The entries that could be read, each with a text under `id`.
        whole: Every entry could be read; one that cannot be read may be ours.
        next: Query of the next page; None at the end of the list.
    """

    jobs: list[dict[str, Any]]
    whole: bool
    next: Mapping[str, str] | None


async def read_pages(
    ask: Callable[[Mapping[str, str]], Awaitable[JobPage]],
    first: Mapping[str, str],
    enough: Callable[[list[dict[str, Any]]], bool] = lambda _: False,
) -> tuple[list[dict[str, Any]], bool]:
    """Read a list page by page; return its jobs, and whether it was read to its end or until `enough`.

    A page without new jobs stops the reading: the server ignores the cursor, and the rest is unknown.
    """
    jobs: dict[str, dict[str, Any]] = {}
    query = first
    for _ in range(MAX_LIST_PAGES):
        page = await ask(query)
        fresh = {job["id"]: job for job in page.jobs}
        repeated = bool(fresh) and fresh.keys() <= jobs.keys()
        jobs |= fresh
        if repeated or not page.whole:
            break
        if page.next is None or enough(list(jobs.values())):
            return list(jobs.values()), True
        query = page.next
    return list(jobs.values()), False


def reaches_back(jobs: list[dict[str, Any]], begin: float) -> bool:
    """Return whether a list, newest first, goes back before `begin`; False if it is in another order."""
    times = [parse_time(job.get("created_at")) for job in jobs]
    known = [time for time in times if time is not None]
    newest_first = all(early >= late for early, late in itertools.pairwise(known))
    return newest_first and len(known) == len(times) and bool(known) and known[-1] < begin
