"""What every task of the production line is given."""

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
from tools.generate_video import NAME
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
    """How long things may take, in seconds; tests make it quicker.

    Attributes:
        run_s: One attempt at the agent's run.
        attempts: Attempts in all; then the request ends without an order.
        retry_s: From one attempt to the next.
        stale_s: An open request older than this ends without an order.
        slack_s: From the end of a POST's own timeout to the deadline after which it is in doubt.
        backoff_s: From an order that was not sent to its next turn, times the turns it had.
        resends: How often an order may go back to the queue on proof that nothing was sent.
        sweep_s: Between two sweeps.
        refresh_s: Between two projections of the ledger into Redis.
        shift_s: A task that only looks goes home after this; the sweep sends the next. docket drains all
            tasks before it reconnects to a Redis that was away, so one that stayed on would keep it from
            the very work that it waits for.
        poll_most_s: No pause between two questions about a job is longer.
        ask_s: From one question about a doubtful order to the next, at first; the older, the longer.
        late_s: The same for an order that ended unpaid or waits for a person.
        late_for_s: How long such an order is asked about.
        late_most: Such orders in one turn.
        absent_s: What a provider has that this process does not know is left for so long to processes that
            may know it, as while a new configuration is rolled out; then a person has to look.
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
        """Return the pause after a question about a doubt of this age: 2 s at first, 2 min after an hour."""
        return self.ask_s * (1 + age_s / 60)

    def late_check_pause_s(self, age_s: float) -> float:
        """Return the pause after a late look: a minute at first, a third of the age later; 24 in a day."""
        return self.late_s * (1 + age_s / 180)


@dataclass(frozen=True)
class WorkerContext:
    """The production line's parts: made once per process, passed to every task."""

    ledger: Ledger
    admission: Admission
    queue: Queue
    providers: Mapping[str, Provider]
    rates: BreakerRates
    media_dir: Path
    timeouts: Timeouts = field(default_factory=Timeouts)

    async def apply_effects(self, video: Video | None) -> None:
        """Do what a move calls for: give back what was reserved, wake whoever comes next, tell the user.

        Nothing here is needed for safety; what is lost on the way is found by `sweep`.
        """
        if video is None:
            return
        _record_metrics(video)
        back: ReleaseScope | None = "unpaid" if video.state in UNPAID_END_STATES else None
        if video.state is VideoState.FAILED_PAID:
            back = "quota"
        if back is not None:
            await self.admission.release(NAME, video.request_id, video.user_id, back)
        if (task := _NEXT_TASK.get(video.state)) is not None:
            await self.queue.wake(task, video.request_id)
        await self.queue.wake("notify", video.request_id)

    async def breaker_closed(self) -> None:
        """Do what a closed breaker calls for: take it down in Redis, and wake the orders that waited."""
        for video in await pending_work.in_state(self.ledger, VideoState.QUEUED):
            await self.queue.wake("submit", video.request_id)
        try:
            await self.admission.refresh()
        except (SQLAlchemyError, RedisError, OSError, TimeoutError) as error:
            log.warning("the next refresh takes the breaker down", error=type(error).__name__)

    async def provider_of(self, video: Video) -> Provider | None:
        """Return who makes this video; None if this process does not know that provider.

        A job, or a doubt, of a provider that nobody seems to know is held for a person, who may configure
        it again or settle the order by hand. An order that only waits goes on waiting until it expires.
        """
        known = self.providers.get(video.provider)
        if known is None and video.state in (VideoState.ACCEPTED, VideoState.IN_DOUBT):
            await self._hold_unknown_provider(video)
        return known

    async def _hold_unknown_provider(self, video: Video) -> None:
        if await self.now_ms() < video.updated_at + self.timeouts.absent_s * 1000:
            return
        why = f"the provider {video.provider} is not configured here"
        log.error("held: no such provider", request=video.request_id, provider=video.provider)
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
        """Return where the finished video lies: a name that is the same in every process."""
        return self.media_dir / f"{provider_key(video.request_id)}.mp4"


def boot_clock() -> float:
    """Return seconds on a clock that goes on while the machine sleeps; a wall clock may jump."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _record_metrics(video: Video) -> None:
    if video.state is VideoState.ACCEPTED:
        VIDEOS_STARTED.add(provider=video.provider, model=video.model)
    elif video.state is VideoState.SUCCEEDED and video.accepted_at is not None:
        GENERATION.record((video.updated_at - video.accepted_at) / 1000, provider=video.provider)
