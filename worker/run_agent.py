"""Step `run_agent`: one run of the director for a request. Its result is the ledger, not the model's text."""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import Span

from guardrails.admission import Decision
from guardrails.money import MICROS_PER_DOLLAR
from ledger import due_work, history, model_usage, orders, requests
from ledger.models import Request, RequestState, Video, VideoState
from telemetry import semconv
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from telemetry.metrics import MODEL_COST, MODEL_TOKENS, REDELIVERIES
from telemetry.tracing import mark_failed
from tools.agent_factory import DIRECTOR, AgentFactory
from tools.model_text import note_of, quote_of
from tools.registry import GENERATE_VIDEO
from worker.context import WorkerContext
from worker.outages import is_outage
from worker.tracing import attempt_span

if TYPE_CHECKING:
    from agents import Agent, RunResult

    from tools.context import RunContext

log = get_logger(__name__)

_RECORD_TIMEOUT_S: Final = 10.0

_QUOTE_CHARACTERS: Final = 300
"""Characters of the model's text that a user may read, escaped, under "no video was made"."""


_NOTE_CHARACTERS: Final = 200


async def run_agent(ctx: WorkerContext, factory: AgentFactory, request: Request) -> None:
    """Run the director for a claimed request, then write the request's state to the ledger.

    However the run ended, an order that it placed is made and delivered, and a request without an order ends
    with a message to the user. Attempts are counted in SQL by the claim, so a crash in the run counts as one.
    A request that has used up its attempts, or its time, is closed.
    """
    if await _is_over_budget(ctx, request):
        return
    attempt, timeouts = request.attempts, ctx.timeouts
    claimed_at = request.updated_at
    if attempt > timeouts.attempts or claimed_at - request.created_at >= timeouts.stale_s * 1000:
        await _give_up(ctx, request)
        return
    if attempt > 1:
        REDELIVERIES.add(kind="attempt")
    with attempt_span(request, attempt) as span:
        await failpoint("in_run")
        run = factory.run_context(request, attempt)
        answer, closing, failure = await _run_director(ctx, factory, request, run)
        await _record_refusals(ctx, run)
        await _record_usage(ctx, run, span)
        if failure is not None:
            mark_failed(span, failure)
        if run.order is None:
            state = await _end_without_order(ctx, run, answer, failure)
        else:
            state = RequestState.ORDERED
            await _keep_note(ctx, request, run.order, closing)
        span.set_attribute(semconv.OUTCOME, str(state).lower())
    if run.order is None or not _is_shown_later(run.order):
        await ctx.queue.wake("notify", request.request_id)


async def _is_over_budget(ctx: WorkerContext, request: Request) -> bool:
    """Refuse a request whose run would begin after models have cost as much today as they may."""
    budget = ctx.model_budget
    if not budget.is_capped or request.state is not RequestState.OPEN:
        return False
    day = await model_usage.spent_today(ctx.ledger, request.user_id)
    reason = budget.refuses(day)
    if reason is None:
        return False
    log.warning("run refused: model budget used up", request=request.request_id, reason=reason)
    if await requests.close_request(
        ctx.ledger, request.request_id, RequestState.REFUSED, "direct", reason, until=day.ends_at
    ):
        await ctx.admission.release(GENERATE_VIDEO, request.request_id, request.user_id, "all")
        await ctx.queue.wake("notify", request.request_id)
    return True


async def _record_usage(ctx: WorkerContext, run: "RunContext", span: Span) -> None:
    """Write what the models of a run used into the ledger, the metrics and the run's span."""
    uses = run.meter.uses(ctx.model_budget.prices)
    for kind, count in (
        ("input", sum(one.input_tokens - one.cached_tokens for one in uses)),
        ("cached", sum(one.cached_tokens for one in uses)),
        ("output", sum(one.output_tokens for one in uses)),
    ):
        MODEL_TOKENS.add(count, kind=kind)
        span.set_attribute(f"{semconv.MODEL_TOKENS}.{kind}", count)
    known = [one.cost for one in uses if one.cost is not None]
    if uses and len(known) == len(uses):
        dollars = sum(one.micros for one in known) / MICROS_PER_DOLLAR
        MODEL_COST.add(dollars)
        span.set_attribute(semconv.MODEL_COST, dollars)
    try:
        async with asyncio.timeout(_RECORD_TIMEOUT_S):
            await model_usage.record(ctx.ledger, run.request_id, run.user_id, run.attempt, uses)
    except Exception as error:
        if not is_outage(error):
            raise
        log.error("model usage not recorded", request=run.request_id, error=type(error).__name__)


def _is_shown_later(order: Video) -> bool:
    """Return whether the message may be late: the order is due without having been shown."""
    return order.state is VideoState.QUEUED and order.due_at == order.ordered_at


async def _end_without_order(
    ctx: WorkerContext, run: "RunContext", answer: str, failure: str | None
) -> RequestState:
    """Close the request or have it tried again, unless it has ended meanwhile; return its state."""
    found = await requests.find(ctx.ledger, run.request_id)
    if found is None or found.state is not RequestState.OPEN:
        return RequestState.OPEN if found is None else found.state
    # From the ledger: an earlier attempt may have ordered it.
    if not run.refusals and await orders.has_beside(ctx.ledger, run.request_id):
        await _close(ctx, run.request_id, "beside")
        return RequestState.NO_ORDER
    return await _close_or_retry(ctx, run, answer, failure)


async def _close(ctx: WorkerContext, request_id: str, reason: str) -> None:
    """End a request that has no video, because another tool's order is all that it asked for."""
    await requests.close_request(ctx.ledger, request_id, RequestState.NO_ORDER, "direct", reason)


async def _give_up(ctx: WorkerContext, request: Request) -> None:
    log.warning("request closed without an order", request=request.request_id)
    ended = RequestState.NO_ORDER
    if await requests.close_request(ctx.ledger, request.request_id, ended, "sweep", "gave_up"):
        await ctx.admission.release(GENERATE_VIDEO, request.request_id, request.user_id, "all")
        await ctx.queue.wake("notify", request.request_id)


async def _run_director(
    ctx: WorkerContext, factory: AgentFactory, request: Request, run: "RunContext"
) -> tuple[str, str, str | None]:
    """Return the quote for a request without an order, the model's closing text, and why the run failed."""
    from agents import (  # noqa: PLC0415 - a bot without a worker does not load the SDK
        InputGuardrailTripwireTriggered,
        MaxTurnsExceeded,
        OutputGuardrailTripwireTriggered,
    )

    from guardrails.guard import MAX_MALFORMED  # noqa: PLC0415 - as above
    from tools.model_endpoint import failure_of, refusal_text  # noqa: PLC0415 - it loads the SDK

    turns = factory.declarations[DIRECTOR].max_turns
    try:
        agent = factory.agent(DIRECTOR, request.language, has_picture=request.picture is not None)
        async with asyncio.timeout(ctx.timeouts.run_s) as run.time_limit:
            result = await run_sdk(
                agent, request.idea, context=run, max_turns=turns, run_config=run.run_config
            )
    except MaxTurnsExceeded:
        log.warning("turn limit reached", request=request.request_id, turns=turns)
        return "", "", "malformed" if run.malformed else None
    except OutputGuardrailTripwireTriggered as error:  # its last words are read by no one; what it did stands
        name = error.guardrail_result.guardrail.get_name()
        log.warning("last words refused", request=request.request_id, guardrail=name)
        return "", "", None
    except InputGuardrailTripwireTriggered as error:
        name = error.guardrail_result.guardrail.get_name()
        log.warning("idea refused", request=request.request_id, guardrail=name)
        return "", "", "model_refused"
    except Exception as error:  # noqa: BLE001 - SDK, endpoint and model raise many errors
        failure = failure_of(error)
        report = log.warning if failure == "model_refused" else log.error
        report(
            "the run broke", request=request.request_id, attempt=run.attempt, failure=failure,
            error=type(error).__name__, status=getattr(error, "status_code", None),
        )  # fmt: skip
        return quote_of(refusal_text(error), _QUOTE_CHARACTERS), "", failure
    closing = str(result.final_output or "")
    answer = quote_of(closing, _QUOTE_CHARACTERS)
    return answer, closing, "malformed" if run.malformed >= MAX_MALFORMED else None


async def _keep_note(ctx: WorkerContext, request: Request, order: Video, closing: str) -> None:
    """Store what the model's closing sentence adds to the offer, if it adds something."""
    if order.state is not VideoState.AWAITING_APPROVAL:
        return
    note = note_of(closing, f"{request.idea} {order.prompt}", _NOTE_CHARACTERS)
    if note and await requests.add_note(ctx.ledger, request.request_id, note):
        await due_work.make_notification_due(ctx.ledger, request.request_id)


async def run_sdk(agent: "Agent[RunContext]", idea: str, **options: Any) -> "RunResult":
    """Run the SDK's loop for the director: `Runner.run`."""
    from agents import Runner  # noqa: PLC0415 - see above

    return await Runner.run(agent, idea, **options)


async def _record_refusals(ctx: WorkerContext, run: "RunContext") -> None:
    """Record the refusals that guards could not record in time: 13 at once wait for one SQLite file."""
    try:
        async with asyncio.timeout(_RECORD_TIMEOUT_S):
            for tool, verdict, layer in run.unrecorded:
                await history.record_refused_call(ctx.ledger, run.request_id, tool, verdict, layer, ())
    except Exception as error:
        if not is_outage(error):
            raise
        log.error("refused call not recorded", request=run.request_id, error=type(error).__name__)


async def _close_or_retry(
    ctx: WorkerContext, run: "RunContext", answer: str, failure: str | None
) -> RequestState:
    """End the request, or schedule another attempt if nothing has been decided yet; return its state."""
    refusal = run.refusals[-1] if run.refusals else None
    decided = refusal is not None and (refusal.word != "closed" or refusal.layer == "content")
    # Another attempt would get the same answer.
    final = failure in ("model_refused", "model_rejected", "malformed")
    undecided = not decided and not final and (failure is not None or refusal is not None)
    if undecided and run.attempt < ctx.timeouts.attempts:
        await requests.pause_run(ctx.ledger, run.request_id, run.attempt, ctx.timeouts.retry_s)
        await ctx.queue.wake("run_agent", run.request_id)
        return RequestState.OPEN
    if refusal is not None and (decided or not final):
        ended = RequestState.REFUSED
        closed = await refuse_request(ctx, run.request_id, refusal)
    else:
        ended = RequestState.NO_ORDER
        closed = await requests.close_request(
            ctx.ledger, run.request_id, ended, "direct", failure or "no_call",
            quote=answer or None,
        )  # fmt: skip
    if closed:  # not earlier: an order whose commit is still running keeps its reservation
        await ctx.admission.release(GENERATE_VIDEO, run.request_id, run.user_id, "all")
    return ended


async def refuse_request(
    ctx: WorkerContext, request_id: str, decision: Decision, word: str | None = None
) -> bool:
    """Close an open request as refused; for content, the reason that users read is the category.

    `word` is what the content rules object to, in the user's own words, so that they can say it otherwise.
    """
    reason = f"content:{decision.why}" if decision.layer == "content" else decision.word
    return await requests.close_request(
        ctx.ledger, request_id, RequestState.REFUSED, "direct", reason, until=decision.until, quote=word
    )
