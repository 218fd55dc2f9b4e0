"""Spans of one request. It is one trace, across all workers, below one root: `create video`.

The root is written when the request ends, from the ledger, with all that operators search for. What happens
before is exported as it happens, so that a request that hangs shows how far it came.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import structlog
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode

from guardrails.money import MICROS_PER_DOLLAR, Money
from ledger import history, models
from ledger.database import Ledger
from ledger.due_work import ClaimedRequest
from ledger.failures import explanation
from ledger.history import RequestOutcome
from ledger.models import Request, Video
from telemetry import metrics, semconv, tracing
from telemetry.redaction import short_id, user_tag
from worker.request_times import phase_seconds

EXPENSIVE: Final = Money.parse("$5")
SLOW_S: Final = 300.0
"""Cost and duration of a request above which its root is flagged, as in deploy/prometheus/alerts.yml."""

_ERROR_OUTCOMES: Final = frozenset({"hold", "failed_paid", "failed_unpaid"})
_CHAIN: Final = {semconv.KIND: "CHAIN"}
_MOST_JOBS: Final = 2000
_MOST_POLLS: Final = 40


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


def queue_attributes(step: str, operation: str) -> dict[str, Any]:
    """Return the messaging attributes of a span about work that waits for, or is done by, a worker's step.

    `operation` is `send` or `process`, as in the semantic conventions of messaging.
    """
    return {
        "messaging.system": "onetake",
        "messaging.destination.name": step,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }


def write_wait(step: str, since_ms: int, until_ms: int) -> None:
    """Write how long the request of the current scope waited for a worker."""
    tracing.write_span(
        f"{semconv.WAIT} {step}", since_ms, until_ms, kind=SpanKind.PRODUCER,
        attributes=queue_attributes(step, "send"),
    )  # fmt: skip


@contextmanager
def attempt_span(request: Request, attempt: int) -> Iterator[Span]:
    """Trace one agent run. A separate span marks the start, because a killed process loses the open span."""
    origin = tracing.parse_traceparent(request.traceparent)
    attributes = request_attributes(request.request_id, request.user_id) | {semconv.ATTEMPT: attempt}
    if origin is not None:
        _mark_attempt(origin, request, attempt, attributes)
    earlier = (
        None if origin is None or attempt == 1 else _mark_context(origin, request.request_id, attempt - 1)
    )
    span = tracing.begin_span(
        semconv.PROCESS, origin, kind=SpanKind.CONSUMER, links=() if earlier is None else [Link(earlier)],
        attributes=attributes | queue_attributes("run_agent", "process") | _CHAIN,
    )  # fmt: skip
    with tracing.span_scope(span):
        yield span


def _mark_attempt(origin: SpanContext, request: Request, attempt: int, attributes: dict[str, Any]) -> None:
    if attempt == 1:  # when a later one became due is not stored
        write_wait("run_agent", request.created_at, request.updated_at)
    tracing.end_span(
        tracing.begin_span(
            semconv.STARTED,
            origin,
            attributes=attributes,
            span_id=_mark_id(origin, request.request_id, attempt),
        )
    )


def _mark_id(origin: SpanContext, request_id: str, attempt: int) -> int:
    return tracing.fixed_span_id(origin.trace_id, models.provider_key(request_id), f"attempt {attempt}")


def _mark_context(origin: SpanContext, request_id: str, attempt: int) -> SpanContext:
    return SpanContext(
        origin.trace_id, _mark_id(origin, request_id, attempt), is_remote=True, trace_flags=origin.trace_flags
    )


def video_step(name: str, **attributes: Any) -> AbstractContextManager[Span]:
    """Trace one call of a provider about a video."""
    named = {f"onetake.{key}": value for key, value in attributes.items()}
    return tracing.child_span(name, named, SpanKind.CLIENT)


def mark_submit(video: Video) -> None:
    """Export, before the POST, that it is being sent: a killed process can say nothing after it."""
    tracing.end_span(
        tracing.TRACER.start_span(
            semconv.SUBMIT_STARTED,
            attributes={
                semconv.PROVIDER: video.provider, semconv.MODEL: video.model, semconv.SUBMITS: video.submits,
            },
        )
    )  # fmt: skip


def mark_state(video: Video) -> None:
    """Export a state that an order has just got."""
    attributes: dict[str, Any] = {semconv.TO: str(video.state)}
    if video.failure:
        attributes[semconv.REASON] = video.failure
    tracing.write_span(f"{semconv.ORDER} {str(video.state).lower()}", video.updated_at, attributes=attributes)


@contextmanager
def delivery_span(claimed: ClaimedRequest) -> Iterator[Span]:
    """Trace one try to deliver a video; the first also says how long it waited to be tried."""
    video, failures = claimed.video, claimed.request.notify_failures
    if video is not None and not failures:
        write_wait("deliver", video.updated_at, claimed.now)
    attributes = queue_attributes("deliver", "process") | {semconv.ATTEMPT: failures + 1}
    with tracing.child_span(semconv.DELIVER, attributes, SpanKind.CONSUMER) as span:
        yield span


class JobPolls:
    """What this process was answered about jobs, until their `provider work` is written.

    Another worker that polls the same job knows its own answers only.
    """

    def __init__(self) -> None:
        self._answers: OrderedDict[str, list[tuple[int, dict[str, Any]]]] = OrderedDict()

    def note(self, request_id: str, at_ms: int, **answer: Any) -> None:
        """Remember one answer: the first and the latest of each job."""
        known = self._answers.setdefault(request_id, [])
        if len(known) >= _MOST_POLLS:
            known.pop(_MOST_POLLS // 2)
        known.append((at_ms, {f"onetake.{key}": value for key, value in answer.items() if value is not None}))
        self._answers.move_to_end(request_id)
        while len(self._answers) > _MOST_JOBS:
            self._answers.popitem(last=False)

    def take(self, request_id: str) -> list[tuple[int, dict[str, Any]]]:
        """Return and forget the answers about one job, oldest first."""
        return self._answers.pop(request_id, [])


_POLLS: Final = JobPolls()


def note_poll(video: Video, at_ms: int, status: str, progress: int | None = None) -> None:
    """Remember a poll as an event of the job's `provider work`."""
    _POLLS.note(video.request_id, at_ms, status=status, progress=progress)


def write_provider_work(video: Video, ended_ms: int, outcome: str, failure: str | None = None) -> None:
    """Write how long the provider worked on a job, with the polls of this process as events."""
    polls = _POLLS.take(video.request_id)
    span = tracing.begin_span(
        semconv.PROVIDER_WORK, tracing.current_context(), kind=SpanKind.CLIENT, start_ms=video.accepted_at,
        attributes={
            semconv.PROVIDER: video.provider, semconv.MODEL: video.model, semconv.JOB: video.job_id or "",
            semconv.OUTCOME: outcome, semconv.POLLS: len(polls),
        },
    )  # fmt: skip
    for at_ms, answer in polls:
        span.add_event(semconv.POLLED, answer, timestamp=at_ms * 1_000_000)
    if failure is not None:
        tracing.mark_failed(span, failure, explanation(failure) or failure)
    tracing.end_span(span, max(ended_ms, video.accepted_at or 0))


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
        _write_end(origin, outcome)


def outcome_attributes(outcome: RequestOutcome) -> dict[str, Any]:
    """Return the attributes that operators search for, all on one span, a boolean for each question."""
    request, word = outcome.request, outcome.outcome
    phases = phase_seconds(outcome)
    found: dict[str, Any] = {
        semconv.OUTCOME: word,
        semconv.CHAT_KIND: "private" if request.chat_id == request.user_id else "group",
        semconv.LANGUAGE: request.language,
        semconv.VIDEOS: outcome.jobs,
        semconv.DUPLICATES: outcome.prevented,
        semconv.REFUSED_CALLS: outcome.refused_calls,
        semconv.ATTEMPTS: request.attempts,
        semconv.SUBMITS: 0 if outcome.video is None else outcome.video.submits,
        semconv.DELIVERED: word == "delivered",
        semconv.REFUSED: word == "refused",
        semconv.FAILED: word in _ERROR_OUTCOMES or word == "no_order",
        semconv.HELD: word == "hold",
        semconv.DUPLICATE_PREVENTED: outcome.prevented > 0,
        semconv.PAID_TWICE: outcome.jobs > 1,
        semconv.OVER_COST: outcome.cost > EXPENSIVE,
        semconv.OVER_TIME: outcome.seconds > SLOW_S,
        semconv.SECONDS: round(outcome.seconds, 3),
        semconv.LONGEST: max(phases, key=lambda name: phases[name]),
        **{f"{semconv.SECONDS}.{name}": round(seconds, 3) for name, seconds in phases.items()},
    }
    if outcome.reason:
        found[semconv.REASON] = outcome.reason
    if word == "refused":
        found[semconv.REFUSED_BY] = outcome.refused_by
    video = outcome.video
    if video is not None:
        found |= {semconv.PROVIDER: video.provider, semconv.MODEL: video.model}
        if video.failure:
            found[semconv.REASON] = video.failure
    cost = _cost_attribute(outcome)
    return found | cost | {semconv.SUMMARY: _summary(found, cost)}


def _summary(found: dict[str, Any], cost: dict[str, float]) -> str:
    """Return the outcome in one line, for lists of traces that show what a trace put out."""
    words = [str(found[semconv.OUTCOME]), *([str(found[semconv.REASON])] if semconv.REASON in found else [])]
    videos = found[semconv.VIDEOS]
    words.append("1 video" if videos == 1 else f"{videos} videos")
    words += [
        f"${dollars:.2f}{' held' if name == semconv.HELD_COST else ''}" for name, dollars in cost.items()
    ]
    if found[semconv.DUPLICATES]:
        words.append(f"{found[semconv.DUPLICATES]} duplicates prevented")
    return ", ".join(words)


def _cost_attribute(outcome: RequestOutcome) -> dict[str, float]:
    """Return the cost; of what is held, in its place what it may come to: it is not known to be 0."""
    if outcome.outcome == "hold" and outcome.video is not None:
        return {semconv.HELD_COST: outcome.video.quote.micros / MICROS_PER_DOLLAR}
    name = semconv.COST if outcome.request.reported in ("", "HOLD") else semconv.COST_CHANGED
    return {name: outcome.cost.micros / MICROS_PER_DOLLAR}


def _write_end(origin: SpanContext, outcome: RequestOutcome) -> None:
    """Write the root; after it has left, a later outcome as a span below it."""
    request, first = outcome.request, not outcome.request.reported
    key = models.provider_key(request.request_id)
    root_id = tracing.root_span_id(origin.trace_id, key)
    attributes = (
        request_attributes(request.request_id, request.user_id) | outcome_attributes(outcome) | _CHAIN
    )
    if first:
        # A request of the version before has an update as its root.
        is_root = origin.span_id == root_id
        span = tracing.begin_span(
            semconv.CREATE_VIDEO, None if is_root else origin, attributes=attributes, span_id=root_id,
            trace_id=origin.trace_id, start_ms=request.created_at,
        )  # fmt: skip
    else:
        span = tracing.begin_span(
            semconv.OUTCOME_CHANGED, origin, attributes=attributes, start_ms=outcome.now
        )
    for move in outcome.moves if first else ():
        span.add_event(
            semconv.STATE_CHANGED,
            {semconv.FROM: move.frm, semconv.TO: move.to, semconv.WHO: move.who},
            timestamp=move.at * 1_000_000,
        )
    why = _error_of(outcome)
    span.set_status(Status(StatusCode.OK) if why is None else Status(StatusCode.ERROR, why))
    tracing.end_span(span, outcome.now)


def _error_of(outcome: RequestOutcome) -> str | None:
    """Return what is wrong with an outcome, in our own words; None if nothing is."""
    if outcome.jobs > 1:
        return f"{outcome.jobs} jobs were paid for one request"
    if outcome.outcome in _ERROR_OUTCOMES:
        failure = None if outcome.video is None else outcome.video.failure
        return explanation(failure) or f"it ended as {outcome.outcome}"
    if outcome.reason in ("model", "gave_up"):
        return "the model gave no usable answer in any attempt"
    return None
