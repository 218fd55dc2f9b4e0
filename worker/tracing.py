"""One request is one trace, whichever workers it passes through: its attempts, its video, its end."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import structlog
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, get_current_span

from guardrails.money import MICROS_PER_DOLLAR, Money
from ledger import history, models, requests
from ledger.database import Ledger
from ledger.history import RequestOutcome
from ledger.models import Request
from telemetry import metrics, semconv, tracing
from telemetry.redaction import short_id, user_tag

EXPENSIVE: Final = Money.parse("$5")
SLOW_S: Final = 300.0
"""What a command may cost and last before somebody should look, as in deploy/prometheus/alerts.yml."""

_ERROR_OUTCOMES: Final = frozenset({"hold", "failed_paid", "failed_unpaid"})


@asynccontextmanager
async def request_scope(ledger: Ledger, request_id: str) -> AsyncIterator[None]:
    """Work on one request: in its trace, and with its id on every line of the log."""
    request = await requests.find(ledger, request_id)
    origin = tracing.parse_traceparent(request.traceparent if request else None)
    with structlog.contextvars.bound_contextvars(request=request_id), tracing.resume_trace(origin):
        yield


def request_attributes(request_id: str, user_id: int) -> dict[str, Any]:
    """Return the attributes by which a request is found."""
    return {
        semconv.REQUEST: short_id(request_id),
        semconv.REQUEST_KEY: models.provider_key(request_id),
        semconv.USER: user_tag(user_id),
    }


@contextmanager
def attempt_span(request: Request, attempt: int) -> Iterator[Span]:
    """Trace one attempt at the run. It is marked at its beginning, because a kill takes the span with it."""
    origin = tracing.parse_traceparent(request.traceparent)
    found = request_attributes(request.request_id, request.user_id) | {semconv.ATTEMPT: attempt}
    mark = tracing.begin_span(semconv.STARTED, origin, attributes=found)
    tracing.end_span(mark)
    links = (
        []
        if origin is None or attempt == 1
        else [Link(_attempt_context(origin, request.request_id, attempt - 1))]
    )
    span = tracing.begin_span(
        semconv.PROCESS, origin, kind=SpanKind.CONSUMER, attributes=found, links=links,
        span_id=tracing.fixed_span_id(models.provider_key(request.request_id), f"attempt {attempt}"),
    )  # fmt: skip
    with tracing.span_scope(span):
        yield span


async def note_outcome(ledger: Ledger, request_id: str, span: Span) -> None:
    """Say on an attempt's span what the request came to with it."""
    figures = await history.request_outcome(ledger, request_id)
    if figures is not None:
        # The video goes on, whatever it is doing by now: an attempt ends with what became of the request.
        span.set_attributes(
            outcome_attributes(figures) | {semconv.OUTCOME: str(figures.request.state).lower()}
        )


def _attempt_context(origin: SpanContext, request_id: str, attempt: int) -> SpanContext:
    return tracing.sibling_context(
        origin, tracing.fixed_span_id(models.provider_key(request_id), f"attempt {attempt}")
    )


def video_span_id(request_id: str) -> int:
    """Return the id of the request's `video` span, which is written when the video has come to its end."""
    return tracing.fixed_span_id(models.provider_key(request_id), semconv.VIDEO)


@contextmanager
def video_step(name: str, request_id: str, **attributes: Any) -> Iterator[Span]:
    """Trace one step of a video's making, below its `video` span, which is written at its end."""
    origin = get_current_span().get_span_context()
    parent = tracing.sibling_context(origin, video_span_id(request_id)) if origin.is_valid else None
    found = {f"onetake.{key}": value for key, value in attributes.items()}
    with tracing.span_scope(tracing.begin_span(name, parent, kind=SpanKind.CLIENT, attributes=found)) as span:
        yield span


async def report_outcome(ledger: Ledger, request_id: str) -> bool:
    """Write a request's end into its trace and count it, once for each end; True if this call did."""
    figures = await history.request_outcome(ledger, request_id)
    if figures is None or (end := figures.outcome.upper()) not in history.END_STATES:
        return False
    before = figures.request.reported
    if before == end or not await history.claim_outcome(ledger, request_id, before, end):
        return False
    metrics.COMMANDS.add(outcome=figures.outcome)
    if figures.outcome != "hold":  # its real end is still to come
        metrics.PAID_VIDEOS.add(figures.jobs)
        metrics.COMMAND_COST.record(figures.cost.micros / MICROS_PER_DOLLAR)
        metrics.COMMAND_VIDEOS.record(figures.jobs)
    origin = tracing.parse_traceparent(figures.request.traceparent)
    if origin is not None:
        if figures.video is not None:
            _write_video(origin, figures, first=not before)
        _write_end(origin, figures)
    return True


def outcome_attributes(figures: RequestOutcome) -> dict[str, Any]:
    """Return what operators search for, all of it on one span."""
    return {
        semconv.OUTCOME: figures.outcome,
        semconv.VIDEOS: figures.jobs,
        semconv.DUPLICATES: figures.prevented,
        semconv.COST: figures.cost.micros / MICROS_PER_DOLLAR,
        semconv.VIOLATION: figures.jobs > 1,
        semconv.OVER_COST: figures.cost > EXPENSIVE,
        semconv.OVER_TIME: figures.seconds > SLOW_S,
    } | ({semconv.REASON: figures.reason} if figures.reason else {})


def _write_end(origin: SpanContext, figures: RequestOutcome) -> None:
    request = figures.request
    found = request_attributes(request.request_id, request.user_id) | outcome_attributes(figures)
    span = tracing.begin_span(
        semconv.REQUEST_COMPLETED, origin, attributes=found, start_ms=request.created_at
    )
    if figures.outcome in _ERROR_OUTCOMES or figures.jobs > 1 or figures.reason in ("model", "gave_up"):
        span.set_status(Status(StatusCode.ERROR))
    tracing.end_span(span, figures.now)


def _write_video(origin: SpanContext, figures: RequestOutcome, *, first: bool) -> None:
    """Write the video's whole life from the ledger's log, so that no worker's death leaves a hole in it."""
    video = figures.video
    if video is None:
        return
    key = video_span_id(figures.request.request_id)
    span = tracing.begin_span(
        semconv.VIDEO, origin, start_ms=video.ordered_at, span_id=key if first else None,
        # A later end (a hold that was settled, a late charge) is told beside the first, which it links to.
        links=() if first else [Link(tracing.sibling_context(origin, key))],
        attributes=request_attributes(video.request_id, video.user_id)
        | {semconv.PROVIDER: video.provider, semconv.MODEL: video.model, semconv.OUTCOME: figures.outcome},
    )  # fmt: skip
    for move in figures.moves:
        span.add_event(
            semconv.STATE_CHANGED,
            {semconv.FROM: move.frm, semconv.TO: move.to, semconv.WHO: move.who},
            timestamp=move.at * 1_000_000,
        )
    if figures.outcome in _ERROR_OUTCOMES:
        span.set_status(Status(StatusCode.ERROR))
    tracing.end_span(span, max(video.updated_at, video.ordered_at))
