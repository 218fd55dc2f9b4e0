"""WorkerContext and Timeouts: what every task is given."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from guardrails.admission import Admission, ReleaseScope
from guardrails.limits import BreakerRates
from ledger import pending_work, transitions
from ledger.database import Ledger
from ledger.models import UNPAID_END_STATES, Video, VideoState, provider_key
from providers.base import Provider
from telemetry.logs import get_logger
from telemetry.metrics import GENERATION, VIDEOS_STARTED
from tools.registry import GENERATE_VIDEO
from worker.queue import Queue, TaskName

log = get_logger(__name__)

DETAIL_CHARACTERS: Final = 500
"""Characters of an error that are kept in the ledger, for operators."""

_NEXT_TASK: Mapping[VideoState, TaskName] = {
    VideoState.QUEUED: "submit",
    VideoState.ACCEPTED: "poll",
}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Durations in seconds and counts; tests shorten them.

    Attributes:
        run_s: Time limit of one agent run.
        attempts: Maximum number of agent runs; then the request ends without an order.
        retry_s: Pause before the next agent run.
        stale_s: An open request older than this ends without an order.
        slack_s: From the end of a POST's own timeout to the deadline after which its outcome is unknown.
        backoff_s: Pause before an order that was not sent is submitted again, times the submits so far.
        resends: How often an order may return to the queue on proof that nothing was sent.
        sweep_s: Pause between two sweeps.
        refresh_s: Pause between two projections of the ledger into Redis.
        shift_s: A poll task ends after this, and the sweeper queues the next. docket waits for all its tasks
            before it reconnects to a Redis that was unavailable, so a longer poll would delay all work.
        poll_most_s: Maximum pause between two polls of a job.
        ask_s: First pause between two reconciliation checks of an order; it grows with the order's age.
        late_s: First pause between two late-charge checks of an order that ended unpaid or is on HOLD.
        late_for_s: Age at which late-charge checks end.
        late_most: Maximum number of orders in one round of late-charge checks.
        absent_s: An order of a provider that this process does not know is left to other processes for so
            long, as during the rollout of a new configuration. Then it is held for manual review.
    """

    run_s: int = 120
    attempts: int = 3
    retry_s: float = 10
    stale_s: int = 1800
    slack_s: float = 15
    backoff_s: float = 2
    resends: int = 5
    sweep_s: float = 2
    refresh_s: float = 60
    shift_s: float = 8
    poll_most_s: float = 30
    ask_s: float = 2
    late_s: float = 60
    late_for_s: float = 86_400
    late_most: int = 20
    absent_s: float = 300

    def reconcile_pause_s(self, age_s: float) -> float:
        """Return the pause after a reconciliation check at this age: 2 s at first, 2 min after an hour."""
        return self.ask_s * (1 + age_s / 60)

    def late_check_pause_s(self, age_s: float) -> float:
        """Return the pause after a late-charge check: 1 min at first, then a third of the age (24 a day)."""
        return self.late_s * (1 + age_s / 180)


@dataclass(frozen=True)
class WorkerContext:
    """The parts that tasks use: created once per process, passed to every task."""

    ledger: Ledger
    admission: Admission
    queue: Queue
    providers: Mapping[str, Provider]
    rates: BreakerRates
    media_dir: Path
    timeouts: Timeouts = field(default_factory=Timeouts)

    async def apply_effects(self, video: Video | None) -> None:
        """Apply the effects of a transition: release what was reserved, queue the next task, notify the user.

        Nothing here is needed for safety: the sweeper finds what is lost.
        """
        if video is None:
            return
        _record_metrics(video)
        scope: ReleaseScope | None = "unpaid" if video.state in UNPAID_END_STATES else None
        if video.state is VideoState.FAILED_PAID:
            scope = "quota"
        if scope is not None:
            await self.admission.release(GENERATE_VIDEO, video.request_id, video.user_id, scope)
        if (task := _NEXT_TASK.get(video.state)) is not None:
            await self.queue.wake(task, video.request_id)
        await self.queue.wake("notify", video.request_id)

    async def breaker_closed(self) -> None:
        """Apply the effects of a closed breaker: queue the waiting orders and remove it from Redis."""
        for video in await pending_work.in_state(self.ledger, VideoState.QUEUED):
            await self.queue.wake("submit", video.request_id)
        try:
            await self.admission.refresh()
        except (SQLAlchemyError, RedisError, OSError, TimeoutError) as error:
            log.warning("breaker not removed from redis", error=type(error).__name__)

    async def provider_of(self, video: Video) -> Provider | None:
        """Return the provider of this order; None if this process does not know it.

        An accepted job, or an unknown outcome, of a provider that no process seems to know is held for
        manual review: an operator configures the provider again or resolves the order by hand. A queued
        order waits until it expires.
        """
        known = self.providers.get(video.provider)
        if known is None and video.state in (VideoState.ACCEPTED, VideoState.IN_DOUBT):
            await self._hold_unknown_provider(video)
        return known

    async def _hold_unknown_provider(self, video: Video) -> None:
        if await self.now_ms() < video.updated_at + self.timeouts.absent_s * 1000:
            return
        why = f"the provider {video.provider} is not configured here"
        log.error("order held: unknown provider", request=video.request_id, provider=video.provider)
        await self.apply_effects(
            await transitions.transition(
                self.ledger, video.request_id, video.state, VideoState.HOLD, "studio", why,
                failure="no_provider", failure_detail=why,
            )
        )  # fmt: skip

    async def now_ms(self) -> int:
        """Return the store's time in milliseconds: the clock by which all machines agree."""
        async with self.ledger.read() as conn:
            return await self.ledger.now(conn)

    def asset_path(self, video: Video) -> Path:
        """Return the path of the finished video: the same in every process."""
        return self.media_dir / f"{provider_key(video.request_id)}.mp4"


def boot_clock() -> float:
    """Return seconds of a clock that continues while the machine sleeps; a wall clock may jump."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _record_metrics(video: Video) -> None:
    if video.state is VideoState.ACCEPTED:
        VIDEOS_STARTED.add(provider=video.provider, model=video.model)
    elif video.state is VideoState.SUCCEEDED and video.accepted_at is not None:
        GENERATION.record((video.updated_at - video.accepted_at) / 1000, provider=video.provider)
