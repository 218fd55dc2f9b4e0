"""Spans of one request. It is one trace, across all workers: attempts, video, outcome."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, get_current_span

from guardrails.money import MICROS_PER_DOLLAR, Money
from ledger import history, models
from ledger.database import Ledger
from ledger.history import RequestOutcome
from ledger.models import Request
from telemetry import metrics, semconv, tracing
from telemetry.redaction import short_id, user_tag

EXPENSIVE: Final = Money.parse("$5")
SLOW_S: Final = 300.0
"""Cost and duration of a command above which its outcome span is flagged, as in
deploy/prometheus/alerts.yml.
"""

_ERROR_OUTCOMES: Final = frozenset({"hold", "failed_paid", "failed_unpaid"})


@contextmanager
def row_scope(request_id: str, traceparent: str | None) -> Iterator[None]:
    """Run the block in the trace of a request whose row is known, with its id on every log line."""
    origin = tracing.parse_traceparent(traceparent)
    with structlog.contextvars.bound_contextvars(request=request_id), tracing.resume_trace(origin):
        yield


def request_attributes(request_id: str, user_id: int) -> dict[str, Any]:
    """Return the attributes that identify a request."""
    return {
        semconv.REQUEST: short_id(request_id),
        semconv.REQUEST_KEY: models.provider_key(request_id),
        semconv.USER: user_tag(user_id),
    }


@contextmanager
def attempt_span(request: Request, attempt: int) -> Iterator[Span]:
    """Trace one agent run. A separate span marks the start, because a killed process loses the open span."""
    origin = tracing.parse_traceparent(request.traceparent)
    attributes = request_attributes(request.request_id, request.user_id) | {semconv.ATTEMPT: attempt}
    mark = tracing.begin_span(semconv.STARTED, origin, attributes=attributes)
    tracing.end_span(mark)
    links = (
        []
        if origin is None or attempt == 1
        else [Link(_attempt_context(origin, request.request_id, attempt - 1))]
    )
    span = tracing.begin_span(
        semconv.PROCESS, origin, kind=SpanKind.CONSUMER, attributes=attributes, links=links,
        span_id=tracing.fixed_span_id(models.provider_key(request.request_id), f"attempt {attempt}"),
    )  # fmt: skip
    with tracing.span_scope(span):
        yield span


def _attempt_context(origin: SpanContext, request_id: str, attempt: int) -> SpanContext:
    return tracing.sibling_context(
        origin, tracing.fixed_span_id(models.provider_key(request_id), f"attempt {attempt}")
    )


def video_span_id(request_id: str) -> int:
    """Return the id of the request's `video` span, which is written when the video has ended."""
    return tracing.fixed_span_id(models.provider_key(request_id), semconv.VIDEO)


@contextmanager
def video_step(name: str, request_id: str, **attributes: Any) -> Iterator[Span]:
    """Trace one step of a video as a child of its `video` span, which is written when the video has ended."""
    origin = get_current_span().get_span_context()
    parent = tracing.sibling_context(origin, video_span_id(request_id)) if origin.is_valid else None
    named = {f"onetake.{key}": value for key, value in attributes.items()}
    with tracing.span_scope(tracing.begin_span(name, parent, kind=SpanKind.CLIENT, attributes=named)) as span:
        yield span


async def report_outcome(ledger: Ledger, request_id: str) -> bool:
    """Write a request's outcome to its trace and count it, once per outcome; return whether this call did."""
    outcome = await history.claim_outcome(ledger, request_id)
    if outcome is not None:
        write_outcome(outcome)
    return outcome is not None


def write_outcome(outcome: RequestOutcome) -> None:
    """Write an outcome whose report was claimed to the request's trace, and count it."""
    metrics.COMMANDS.add(outcome=outcome.outcome)
    if outcome.outcome != "hold":  # not final: its outcome follows
        metrics.PAID_VIDEOS.add(outcome.jobs)
        metrics.COMMAND_COST.record(outcome.cost.micros / MICROS_PER_DOLLAR)
        metrics.COMMAND_VIDEOS.record(outcome.jobs)
    origin = tracing.parse_traceparent(outcome.request.traceparent)
    if origin is not None:
        if outcome.video is not None:
            _write_video(origin, outcome, first=not outcome.request.reported)
        _write_end(origin, outcome)


def outcome_attributes(outcome: RequestOutcome) -> dict[str, Any]:
    """Return the attributes that operators search for, all on one span."""
    return {
        semconv.OUTCOME: outcome.outcome,
        semconv.VIDEOS: outcome.jobs,
        semconv.DUPLICATES: outcome.prevented,
        semconv.COST: outcome.cost.micros / MICROS_PER_DOLLAR,
        semconv.VIOLATION: outcome.jobs > 1,
        semconv.OVER_COST: outcome.cost > EXPENSIVE,
        semconv.OVER_TIME: outcome.seconds > SLOW_S,
    } | ({semconv.REASON: outcome.reason} if outcome.reason else {})


def _write_end(origin: SpanContext, outcome: RequestOutcome) -> None:
    request = outcome.request
    attributes = request_attributes(request.request_id, request.user_id) | outcome_attributes(outcome)
    span = tracing.begin_span(
        semconv.REQUEST_COMPLETED, origin, attributes=attributes, start_ms=request.created_at
    )
    if outcome.outcome in _ERROR_OUTCOMES or outcome.jobs > 1 or outcome.reason in ("model", "gave_up"):
        span.set_status(Status(StatusCode.ERROR))
    tracing.end_span(span, outcome.now)


def _write_video(origin: SpanContext, outcome: RequestOutcome, *, first: bool) -> None:
    """Write the `video` span with all transitions from the ledger, so that a killed worker leaves no gap."""
    video = outcome.video
    if video is None:
        return
    key = video_span_id(outcome.request.request_id)
    span = tracing.begin_span(
        semconv.VIDEO, origin, start_ms=video.ordered_at, span_id=key if first else None,
        # A later outcome (a resolved HOLD, a late charge) is a second span that links to the first.
        links=() if first else [Link(tracing.sibling_context(origin, key))],
        attributes=request_attributes(video.request_id, video.user_id)
        | {semconv.PROVIDER: video.provider, semconv.MODEL: video.model, semconv.OUTCOME: outcome.outcome},
    )  # fmt: skip
    for move in outcome.moves:
        span.add_event(
            semconv.STATE_CHANGED,
            {semconv.FROM: move.frm, semconv.TO: move.to, semconv.WHO: move.who},
            timestamp=move.at * 1_000_000,
        )
    if outcome.outcome in _ERROR_OUTCOMES:
        span.set_status(Status(StatusCode.ERROR))
    tracing.end_span(span, max(video.updated_at, video.ordered_at))
