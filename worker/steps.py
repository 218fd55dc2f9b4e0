"""The worker's steps, one for each thing that may be due, and how their rows are claimed.

`worker/dispatcher.py` claims and runs them. Each is one step of one row: it reads the row, does one thing and
writes what is due next. A step that raises puts its row back with a growing pause; it stops no other row.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from itertools import count
from typing import Any, Final, TypeVar

from ledger import due_work, requests, transitions
from ledger.due_work import ClaimedVideo
from ledger.models import Request, Video, VideoState
from providers.base import Provider
from telemetry.logs import get_logger
from tools.agent_factory import AgentFactory
from worker import poll, reconcile, run_agent, submit
from worker.clocks import Clocks
from worker.context import WorkerContext
from worker.dispatcher import Step
from worker.tracing import row_scope

log = get_logger(__name__)

V = VideoState
Row = TypeVar("Row", bound=Request | ClaimedVideo)
_ANSWERS: Final = 50
"""Questions about outcomes that wait for their answers at once, of each kind."""
_WRITES: Final = 8
_TURNS: Final = count()
_TOGETHER_S: Final = 0.2
"""Jobs that are accepted in this time are polled together; none is ready as early."""


def worker_steps(ctx: WorkerContext, factory: AgentFactory, slots: int = 100) -> Sequence[Step[Any]]:
    """Return the steps of a worker.

    Args:
        ctx: What every step is given.
        factory: Builds the agents that `run_agent` runs.
        slots: How many agent runs, how many submits and how many polls this process runs at once.
    """
    back = partial(put_back_after_failure, ctx)
    return [
        Step(
            "run_agent", frozenset({"run"}), slots,
            claim=partial(_claim_runs, ctx), run=_in_scope(partial(run_agent.run_agent, ctx, factory)),
            failed=lambda request, _: _pause_run(ctx, request, ctx.timeouts.retry_s),
            give_back=lambda request: _pause_run(ctx, request, 0),
        ),
        Step(
            "submit", frozenset({V.QUEUED}), slots,
            claim=partial(_claim_queued, ctx), run=_in_scope(partial(submit.submit, ctx)),
            failed=back, give_back=partial(_give_back, ctx), finishes=True,
        ),
        Step(
            "poll", frozenset({V.ACCEPTED}), slots,
            claim=partial(claim_polls, ctx), run=_in_scope(partial(poll.poll, ctx)),
            failed=partial(poll.poll_failed, ctx), give_back=partial(_give_back, ctx), gap_s=_TOGETHER_S,
        ),
        Step(
            "reconcile", frozenset({V.IN_DOUBT}), _ANSWERS,
            claim=partial(claim_checks, ctx, [V.IN_DOUBT]), run=_in_scope(partial(reconcile.reconcile, ctx)),
            failed=partial(reconcile.reconcile_failed, ctx), finishes=True,  # a replay is a POST
        ),
        Step(
            "late_check", frozenset({V.HOLD, V.FAILED_UNPAID}), _ANSWERS,
            claim=partial(claim_checks, ctx, [V.HOLD, V.FAILED_UNPAID]),
            run=_in_scope(partial(reconcile.check_late_charge, ctx)),
            failed=partial(reconcile.late_check_failed, ctx), give_back=partial(_give_back, ctx),
        ),
        Step(
            "end_overdue", frozenset({V.SUBMITTING}), _WRITES,
            claim=partial(_claim, ctx, [V.SUBMITTING]), run=_in_scope(partial(end_overdue, ctx)), failed=back,
        ),
        Step(
            "expire", frozenset({V.AWAITING_APPROVAL}), _WRITES,
            claim=partial(_claim, ctx, [V.AWAITING_APPROVAL]), run=_in_scope(partial(expire_offer, ctx)),
            failed=back,
        ),
    ]  # fmt: skip


def _in_scope(step: Callable[[Row], Awaitable[None]]) -> Callable[[Row], Awaitable[None]]:
    """Return the step in the trace of its request."""

    async def run(row: Row) -> None:
        request_id = row.request_id if isinstance(row, Request) else row.video.request_id
        with row_scope(request_id, row.traceparent):
            await step(row)

    return run


async def _claim_runs(ctx: WorkerContext, most: int) -> list[Request]:
    return await due_work.claim_runs(ctx.ledger, most, ctx.timeouts.run_s, bot_id=ctx.bot_id)


async def _claim(ctx: WorkerContext, states: Collection[VideoState], most: int) -> list[ClaimedVideo]:
    return await due_work.claim_videos(ctx.ledger, states, most, ctx.timeouts.lease_s)


async def _claim_queued(ctx: WorkerContext, most: int) -> list[ClaimedVideo]:
    return await due_work.claim_videos(
        ctx.ledger, [V.QUEUED], most, ctx.timeouts.lease_s, list(ctx.providers)
    )


async def claim_polls(ctx: WorkerContext, most: int) -> list[ClaimedVideo]:
    """Claim jobs to poll until their next poll, as many as their provider's account may be asked about."""
    claimed: list[ClaimedVideo] = []
    for provider in _in_turn(ctx):
        asks = most - len(claimed)
        if ctx.take_polls is not None:
            asks = await ctx.take_polls(provider.account, asks)
        if asks > 0:
            lease_s = poll.poll_pause_s(ctx, provider, 0)
            mine = ctx.accounts_of(provider)
            claimed += await due_work.claim_videos(ctx.ledger, [V.ACCEPTED], asks, lease_s, mine)
    return claimed


async def claim_checks(ctx: WorkerContext, states: Collection[VideoState], most: int) -> list[ClaimedVideo]:
    """Claim orders about whose outcome a provider is asked, for as long as its answer may take.

    A replay is a POST, and two must never run at once.
    """
    claimed: list[ClaimedVideo] = []
    for provider in _in_turn(ctx):
        left = most - len(claimed)
        if left > 0:
            lease_s, mine = check_lease_s(ctx, provider), ctx.accounts_of(provider)
            claimed += await due_work.claim_videos(ctx.ledger, states, left, lease_s, mine)
    return claimed


def _in_turn(ctx: WorkerContext) -> Sequence[Provider]:
    """Return the providers, each time with another first: one that hangs must not take every free slot."""
    providers = list({id(one): one for one in ctx.providers.values()}.values())
    first = next(_TURNS) % len(providers) if providers else 0
    return providers[first:] + providers[:first]


def check_lease_s(ctx: WorkerContext, provider: Provider) -> float:
    """Return how long a question about an order's outcome may take at most."""
    return provider.capabilities.submit_timeout_s + ctx.timeouts.slack_s


async def _pause_run(ctx: WorkerContext, request: Request, seconds: float) -> None:
    await requests.pause_run(ctx.ledger, request.request_id, request.attempts, seconds)


async def _give_back(ctx: WorkerContext, order: ClaimedVideo) -> None:
    await due_work.put_back(ctx.ledger, order.video, 0)


async def put_back_after_failure(ctx: WorkerContext, order: ClaimedVideo, error: Exception) -> None:
    """Make an order due again after its step raised: after 1 s, 2 s, 4 s and so on."""
    pause_s = ctx.timeouts.pause_s(order.video.due_failures + 1)
    await due_work.put_back(ctx.ledger, order.video, pause_s, failed=True)
    log.warning("step will be repeated", request=order.video.request_id, error=type(error).__name__)


async def expire_offer(ctx: WorkerContext, order: ClaimedVideo) -> None:
    """End an offer that was not approved in time."""
    video = order.video
    if order.now < video.expires_at:
        await due_work.put_back(ctx.ledger, video, (video.expires_at - order.now) / 1000)
        return
    frm, to = VideoState.AWAITING_APPROVAL, VideoState.EXPIRED
    await ctx.apply_effects(
        await transitions.transition(ctx.ledger, video.request_id, frm, to, "sweep", "no tap in time")
    )


async def _left_after_step(clocks: Clocks, video: Video) -> float:
    """Return how long the submit may still take if the store's clock was set since it began; else 0."""
    await clocks.look()
    may_take_s = (video.deadline_at - (video.sent_at or 0)) / 1000
    if not clocks.predates_step(video.sent_at or 0):
        return 0.0
    return max(0.0, may_take_s - clocks.known_age_s(may_take_s))


async def end_overdue(ctx: WorkerContext, order: ClaimedVideo) -> None:
    """End a submit whose worker has not written its answer by the deadline: the outcome is unknown."""
    video = order.video
    if order.now < video.deadline_at:
        await due_work.put_back(ctx.ledger, video, (video.deadline_at - order.now) / 1000)
        return
    if ctx.clocks is not None and (left_s := await _left_after_step(ctx.clocks, video)) > 0:
        await due_work.put_back(ctx.ledger, video, left_s)
        return
    frm, to = VideoState.SUBMITTING, VideoState.IN_DOUBT
    await ctx.apply_effects(
        await transitions.transition(
            ctx.ledger, video.request_id, frm, to, "sweep", "no answer by the deadline"
        )
    )
