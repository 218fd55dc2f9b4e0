"""A provider inside the process that is done at once, or after as long as it is told; it charges nothing.

Settings come from the environment, so that the measured processes can be started like any other:
`BENCH_JOB_S` (a job takes so long), `BENCH_POLL_S` (time between two questions) and `BENCH_ASKS` (a file that
gets the time of every question when the process ends).
"""

import atexit
import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from guardrails.money import Money
from providers.base import Asset, Capabilities, Found, Job, Provider, Reconciled, Status, VideoRequest
from providers.registry import PROVIDERS, ProviderConfig
from sandbox.video_api.charge_log import clip

NAME: Final = "bench"
MODEL: Final = "instant"
PRICE: Final = Money.parse("$0.80")


def install() -> None:
    """Make VIDEO_PROVIDER=bench known to this process."""
    PROVIDERS[NAME] = __name__


class InstantProvider:
    """Accepts every order; a job's id holds the time at which it began, so that any process can answer."""

    name = account = NAME

    def __init__(self) -> None:
        self.job_s = float(os.environ.get("BENCH_JOB_S", "0"))
        poll_s = float(os.environ.get("BENCH_POLL_S", "5"))
        self.capabilities = Capabilities(
            models=(MODEL,), seconds=(4, 8, 12), sizes=("720x1280", "1280x720", "1024x1792", "1792x1024"),
            replay=True, listing=False, preview=False, poll_s=poll_s, poll_per_s=10_000.0,
            overdue_s=86_400.0,
        )  # fmt: skip
        self.asked: dict[str, list[float]] = defaultdict(list)
        if path := os.environ.get("BENCH_ASKS"):
            atexit.register(lambda: Path(path).write_text(json.dumps(self.asked)))

    def quote(self, model: str, seconds: int, size: str, *, sound: bool = True) -> Money:
        """Return the one price, for what is on offer."""
        del sound
        if model != MODEL or seconds not in self.capabilities.seconds or size not in self.capabilities.sizes:
            raise ValueError(f"{model} {seconds} {size} is not on offer")
        return PRICE

    async def check(self) -> None:
        """Be ready: there is no key."""

    async def submit(self, video_request: VideoRequest) -> Job:
        """Accept the order."""
        return Job(job_id_at(time.time(), video_request.key))

    async def state(self, job_id: str, links: object = None) -> Status:
        """Answer from the job's id; the times of all questions are kept if BENCH_ASKS is set."""
        del links
        now = time.time()
        if "BENCH_ASKS" in os.environ:
            self.asked[job_id].append(now)
        done = now - int(job_id.split("-")[1]) / 1000 >= self.job_s
        return Status("succeeded" if done else "running")

    async def fetch(self, job_id: str, into: Path, links: object = None) -> Asset:
        """Write the one clip; nothing is downloaded or probed."""
        del job_id, links
        film = clip()
        into.parent.mkdir(parents=True, exist_ok=True)
        into.write_bytes(film)
        return Asset(into, None, 1.0, 64, 112, len(film))

    async def reconcile(self, video_request: VideoRequest, sent_at: float, *_: Any, **__: Any) -> Reconciled:
        """Find the job of an order whose answer was not booked in time: every order was accepted."""
        return Found(Job(job_id_at(sent_at, video_request.key)))

    lookup = reconcile

    async def close(self) -> None:
        """Hold nothing open."""


def job_id_at(at: float, key: str) -> str:
    """Return the id of a job that began at `at`, seconds since the epoch."""
    return f"job-{int(at * 1000)}-{key}"


def from_config(_: ProviderConfig) -> Provider:
    """Build the provider, as the registry asks for it."""
    return InstantProvider()
