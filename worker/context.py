"""WorkerContext and Timeouts: what every task is given."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from guardrails.admission import Admission, ReleaseScope
from guardrails.limits import BreakerRates
from ledger import due_work
from ledger.corrections import Corrected
from ledger.database import Ledger
from ledger.due_work import ClaimedVideo
from ledger.models import PACED_STATES, UNPAID_END_STATES, VIDEO_TOOL, Video, VideoState, provider_key
from ledger.transitions import Resolution
from providers.base import Provider
from telemetry.logs import get_logger
from telemetry.metrics import GENERATION, VIDEOS_STARTED
from tools.model_prices import ModelBudget
from worker.clocks import Clocks
from worker.job_check import check_job
from worker.media_probe import MediaProbe
from worker.outages import is_outage
from worker.queue import Queue, TaskName
from worker.tracing import mark_state
from worker.witness import Witness

log = get_logger(__name__)

DETAIL_CHARACTERS: Final = 500
"""Characters of an error that are kept in the ledger, for operators."""

STILL_SUFFIX: Final = ".jpg"
"""Of a still's file, which is a JPEG. That of a video has its thumbnail under the same suffix."""

_MAX_DOUBLINGS: Final = 20

_NEXT_TASK: Mapping[VideoState, TaskName] = {
    VideoState.QUEUED: "submit",
    VideoState.ACCEPTED: "poll",
    VideoState.SUCCEEDED: "deliver",
}


TakePolls = Callable[[str, int], Awaitable[int]]
"""Takes up to so many questions of a provider's account; returns how many may be asked now."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Durations in seconds and counts; tests shorten them.

    Attributes:
        run_s: Time limit of one agent run, and the lease of its attempt.
        attempts: Maximum number of agent runs; then the request ends without an order.
        retry_s: Pause before the next agent run.
        stale_s: An open request older than this ends without an order.
        slack_s: From the end of a POST's own timeout to the deadline after which its outcome is unknown.
        backoff_s: Pause before an order that was not sent is submitted again, times the submits so far.
        resends: How often an order may return to the queue on proof that nothing was sent.
        sweep_s: Longest pause between two questions of what is due: how late work begins without a wake-up.
        refresh_s: Pause between two projections of the ledger into Redis.
        alerts_s: Pause between two checks for operator alerts.
        lease_s: Lease of a step that only writes. After a worker was killed in one, another repeats it then.
        fetch_s: Lease of a download; doubled each time that one did not end.
        failed_most_s: Longest pause after failures of a step, and of an order that cannot be submitted yet.
        poll_most_s: Longest pause between two polls of a job that failed.
        ask_s: First pause between two reconciliation checks of an order; it grows with the order's age.
        cannot_ask_s: How long after the settle time an unknown outcome whose checks raise errors is held.
        late_s: First pause between two late-charge checks of an order that ended unpaid or is on HOLD.
        late_for_s: Age at which late-charge checks end.
        gone_s: How long a provider has to say that it has no such job, or no such file, until that is
            believed: a store may lag behind its own writes.
        refused_s: How long it has to refuse the questions about a job until the job is held: a key may be
            mended meanwhile.
        absent_s: A paid order of an account that no process knows waits for so long, as during the rollout
            of a new configuration. Then it is held for manual review.
        absent_other_s: The same for an order of another bot, whose workers may all be down.
    """

    run_s: int = 120
    attempts: int = 3
    retry_s: float = 10
    stale_s: int = 1800
    slack_s: float = 15
    backoff_s: float = 2
    resends: int = 5
    sweep_s: float = 1
    refresh_s: float = 60
    alerts_s: float = 2
    lease_s: float = 15
    fetch_s: float = 30
    failed_most_s: float = 30
    poll_most_s: float = 30
    ask_s: float = 2
    cannot_ask_s: float = 900
    late_s: float = 60
    late_for_s: float = 86_400
    gone_s: float = 60
    refused_s: float = 300
    absent_s: float = 300
    absent_other_s: float = 86_400

    def pause_s(self, failures: int, first_s: float = 1.0) -> float:
        """Return the pause after so many failures in a row, the latest included; each is twice as long."""
        return min(first_s * 2.0 ** min(failures - 1, _MAX_DOUBLINGS), self.failed_most_s)

    def reconcile_pause_s(self, age_s: float) -> float:
        """Return the pause after a reconciliation check at this age: 2 s at first, 2 min after an hour."""
        return self.ask_s * (1 + age_s / 60)

    def late_check_pause_s(self, age_s: float) -> float:
        """Return the pause after a late-charge check: 1 min at first, then a third of the age (24 a day)."""
        return self.late_s * (1 + age_s / 180)


@dataclass(frozen=True)
class WorkerContext:
    """The parts that steps use: created once per process, passed to every step.

    Attributes:
        providers: By account; one that was given a name is there under its own account as well.
        media_probe: Says whether `media_dir` takes a file.
        take_polls: Limits the questions of one provider account over all workers; None: no limit.
        witness: Remembers sends outside of the ledger; None: the ledger stands alone.
        clocks: Checks the clocks; None: they are trusted.
        bot_id: Whose requests it runs; None: of every bot.
        model_budget: What models cost, and may cost in a day.
        rates: The breaker's rates of videos; `other_rates` has those of every other paid tool by its name.
    """

    ledger: Ledger
    admission: Admission
    queue: Queue
    providers: Mapping[str, Provider]
    rates: BreakerRates
    media_dir: Path
    timeouts: Timeouts = field(default_factory=Timeouts)
    take_polls: TakePolls | None = None
    witness: Witness | None = None
    clocks: Clocks | None = None
    bot_id: int | None = None
    model_budget: ModelBudget = ModelBudget()  # noqa: RUF009 - frozen
    other_rates: Mapping[str, BreakerRates] = field(default_factory=dict)
    media_probe: MediaProbe = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "media_probe", MediaProbe(self.media_dir))

    async def apply_effects(self, video: Video | None) -> None:
        """Apply the effects of a transition: release what was reserved, wake the next step, notify the user.

        Nothing here is needed for safety: every worker finds by itself what is due.
        """
        if video is None:
            return
        _record_metrics(video)
        mark_state(video)
        scope: ReleaseScope | None = "unpaid" if video.state in UNPAID_END_STATES else None
        if video.state is VideoState.FAILED_PAID:
            scope = "quota"
        if scope is not None:
            await self.admission.release(video.tool, video.act_id, video.user_id, scope, video.version)
        if (task := _NEXT_TASK.get(video.state)) is not None:
            await self.queue.wake(task, video.request_id)
        # The video itself says that it is ready; a text that waits for its turn is claimed when that comes.
        if video.state is not VideoState.SUCCEEDED and video.state not in PACED_STATES:
            await self.queue.wake("notify", video.request_id)

    async def apply_correction(self, done: Corrected) -> None:
        """Apply the effects of a correction: of the new state, or the user is told of the new cost."""
        if done.plan.to is not None:
            await self.apply_effects(done.video)
        else:
            await self.queue.wake("notify", done.video.request_id)
        if done.plan.second_job:
            await self.breaker_opened()

    async def deliver_again(self, request_id: str) -> None:
        """Wake the delivery of a video that is due again."""
        await self.queue.wake("deliver", request_id)

    async def check_job(self, video: Video, found: Resolution) -> None:
        """Ask the provider about the job by which a person resolves an order; see `worker.job_check`."""
        await check_job(self.provider_of(video), video, found)

    async def breaker_closed(self) -> None:
        """Apply the effects of a closed breaker: submit the waiting orders and remove it from Redis."""
        if await due_work.make_due(self.ledger, VideoState.QUEUED):
            await self.queue.wake("submit", "breaker")
        await self.breaker_opened()

    async def breaker_opened(self) -> None:
        """Let Redis know of a breaker that changed, so that admission refuses or admits at once.

        Paid starts ask the ledger, so a failure only means that the next refresh does it.
        """
        try:
            await self.admission.copy_breakers()
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("breaker not copied to redis", error=type(error).__name__)

    def provider_of(self, video: Video) -> Provider | None:
        """Return the provider at the account that quoted this order; None if it is not configured here.

        No other is asked: it knows nothing of the order, and a replay there would be another payment.
        """
        return None if video.account is None else self.providers.get(video.account)

    def rates_of(self, video: Video) -> BreakerRates:
        """Return the rates at which a breaker opens for starts of this order's tool."""
        return self.rates if video.tool == VIDEO_TOOL else self.other_rates.get(video.tool, BreakerRates())

    def accounts_of(self, provider: Provider) -> list[str]:
        """Return the accounts under which a provider is configured."""
        return [account for account, one in self.providers.items() if one is provider]

    async def leave_to_others(self, order: ClaimedVideo) -> None:
        """Put back an order whose account this process does not know; see `worker.orphans`."""
        video = order.video
        log.info("order waits: unknown account", request=video.request_id, account=video.account)
        pause_s = self.timeouts.pause_s(video.due_failures + 1)
        await due_work.put_back(self.ledger, video, pause_s, failed=True)

    async def now_ms(self) -> int:
        """Return the store's time in milliseconds: the clock by which all machines agree."""
        async with self.ledger.read() as conn:
            return await self.ledger.now(conn)

    def asset_path(self, video: Video) -> Path:
        """Return the path of the finished video or still: the same in every process."""
        suffix = ".mp4" if video.kind == "video" else STILL_SUFFIX
        return self.media_dir / f"{provider_key(video.request_id)}{suffix}"


def _record_metrics(video: Video) -> None:
    if video.state is VideoState.ACCEPTED:
        VIDEOS_STARTED.add(provider=video.provider, model=video.model)
    elif video.state is VideoState.SUCCEEDED and video.accepted_at is not None:
        GENERATION.record((video.updated_at - video.accepted_at) / 1000, provider=video.provider)
