"""The tracer: a tracer provider of our own, helpers for spans, and a ring of the latest spans.

The global provider stays unset, so that no library's spans mix with ours (docket's polling; aiohttp's URLs,
which contain the bot's token).
"""

import hashlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider, sampling
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from telemetry import semconv

_RING_SIZE: Final = 8000
"""Ended spans that a process keeps in memory, for the demo, the `trace` command and tests."""

SCHEMA_URL: Final = Schemas.V1_44_0.value
"""The semantic conventions that our attributes follow, where there are some."""

_ROOT_SPANS: Final = frozenset(
    {semconv.CREATE_VIDEO, semconv.PROCESS, *(f"telegram {update}" for update in semconv.UPDATES)}
)
_LEAST_NS: Final = 1000
_MOST_HELD: Final = 4096
"""Ended spans that wait for their parents' ends; more are passed on at once."""

_next_id: ContextVar[int | None] = ContextVar("next_id", default=None)
_next_trace: ContextVar[int | None] = ContextVar("next_trace", default=None)


class _IdGenerator(RandomIdGenerator):
    """Random ids, except for spans whose id others must know before they exist or after a crash."""

    def generate_span_id(self) -> int:
        return _next_id.get() or super().generate_span_id()

    def generate_trace_id(self) -> int:
        return _next_trace.get() or super().generate_trace_id()


class _RootedSampler(sampling.Sampler):
    """Starts a trace only for a user's update, or for an agent run whose first span is lost.

    Periodic work without a request (a sweep, a poll, a refresh of counters) has no parent and gets no span.
    """

    def __init__(self, inner: sampling.Sampler) -> None:
        self._inner = inner

    def should_sample(
        self, parent_context: Context | None, trace_id: int, name: str, *args: Any, **kwargs: Any
    ) -> sampling.SamplingResult:
        parent = trace.get_current_span(parent_context).get_span_context()
        if not parent.is_valid and not name.startswith("telegram /") and name not in _ROOT_SPANS:
            return sampling.SamplingResult(sampling.Decision.DROP)
        return self._inner.should_sample(parent_context, trace_id, name, *args, **kwargs)

    def get_description(self) -> str:
        return f"Rooted({self._inner.get_description()})"


class _SpanPipeline(SpanProcessor):
    """Receives ended spans: the ring at once, collectors (of `export_spans`) when their parents have ended.

    A span whose parent in this process has not ended is held back: if the process is killed, no span has left
    whose parent never will.
    """

    def __init__(self) -> None:
        self.ring: deque[ReadableSpan] = deque(maxlen=_RING_SIZE)
        self.collectors: tuple[SpanProcessor, ...] = ()
        self._open: dict[int, list[ReadableSpan]] = {}
        self._held = 0
        self._lock = threading.Lock()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - the SDK's
        with self._lock:
            self._open[span.get_span_context().span_id] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.ring.append(span)
        for one in self._released(span):
            for collector in self.collectors:
                collector.on_end(one)

    def _released(self, span: ReadableSpan) -> list[ReadableSpan]:
        """Return what may leave now that `span` has ended."""
        with self._lock:
            own = self._open.pop(span.context.span_id, []) if span.context is not None else []
            own.append(span)
            above = None if span.parent is None else self._open.get(span.parent.span_id)
            if above is None or self._held >= _MOST_HELD:
                self._held -= len(own) - 1
                return own
            above += own
            self._held += 1
            return []


PIPELINE: Final = _SpanPipeline()


def _tracer_provider() -> TracerProvider:
    made = TracerProvider(
        sampler=_RootedSampler(sampling._get_from_env_or_default()),  # noqa: SLF001 - the SDK's own reading of OTEL_TRACES_SAMPLER
        resource=Resource.get_empty(),  # the exporter knows it: `telemetry.resource`
        id_generator=_IdGenerator(),
        shutdown_on_exit=False,
    )
    made.add_span_processor(PIPELINE)
    return made


TRACER_PROVIDER: Final = _tracer_provider()
TRACER: Final = TRACER_PROVIDER.get_tracer("onetake", schema_url=SCHEMA_URL)


def recent_spans(trace_id: int) -> list[ReadableSpan]:
    """Return the spans of one trace that ended in this process and are still in the ring."""
    return [
        one for one in list(PIPELINE.ring) if one.context is not None and one.context.trace_id == trace_id
    ]


def fixed_span_id(trace_id: int, request_key: str, part: str) -> int:
    """Return the id of a span that is derived from its request: the root, the mark of an attempt.

    Children may refer to it before it is exported, and a later attempt may link to one that was killed.
    """
    return int.from_bytes(hashlib.sha256(f"{trace_id:x}/{request_key}/{part}".encode()).digest()[:8]) or 1


def root_span_id(trace_id: int, request_key: str) -> int:
    """Return the id of a request's root span, which is written when the request ends."""
    return fixed_span_id(trace_id, request_key, semconv.CREATE_VIDEO)


def request_traceparent(request_key: str) -> str | None:
    """Return the W3C traceparent for the row of a request that the current span is about to open.

    It names the request's root, in the trace of the current span; None without a valid span.
    """
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    root_id = root_span_id(context.trace_id, request_key)
    return f"00-{context.trace_id:032x}-{root_id:016x}-{context.trace_flags & 1:02x}"


def join_request(stored: str | None) -> None:
    """Put the current span below the root of the request that it opened, if it did and has no parent yet."""
    root, span = parse_traceparent(stored), trace.get_current_span()
    if root is None or root.trace_id != span.get_span_context().trace_id:
        return  # another delivery opened it, in a trace of its own
    if isinstance(span, SdkSpan) and span.parent is None:
        span._parent = root  # noqa: SLF001 - the SDK has no way to name a parent after the start


def parse_traceparent(text: str | None) -> SpanContext | None:
    """Return the span context of a stored traceparent; None if it is missing or malformed."""
    parts = (text or "").split("-")
    try:
        trace_id, span_id, flags = int(parts[1], 16), int(parts[2], 16), int(parts[3], 16)
    except (IndexError, ValueError):
        return None
    found = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return found if found.is_valid else None


def child_context(parent: SpanContext | None) -> Context:
    """Return a context whose current span is `parent`, which may be of another process."""
    return Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())


@contextmanager
def resume_trace(parent: SpanContext | None) -> Iterator[None]:
    """Continue the trace of a request for the block, in place of the current context."""
    token = otel.attach(child_context(parent))
    try:
        yield
    finally:
        otel.detach(token)


def begin_span(
    name: str,
    parent: SpanContext | None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    span_id: int | None = None,
    attributes: dict[str, Any] | None = None,
    links: Sequence[trace.Link] = (),
    start_ms: int | None = None,
    trace_id: int | None = None,
) -> Span:
    """Begin a span below `parent`; `span_id` fixes its id, `start_ms` its start on the store's clock.

    Without a parent, `trace_id` is the trace whose root it is.
    """
    token, trace_token = _next_id.set(span_id), _next_trace.set(trace_id)
    try:
        return TRACER.start_span(
            name, child_context(parent), kind=kind, attributes=attributes, links=links,
            start_time=None if start_ms is None else start_ms * 1_000_000,
        )  # fmt: skip
    finally:
        _next_id.reset(token)
        _next_trace.reset(trace_token)


def current_context() -> SpanContext | None:
    """Return the context of the current span; None without one."""
    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


def write_span(
    name: str,
    start_ms: int,
    end_ms: int | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: dict[str, Any] | None = None,
) -> None:
    """Write a span that has ended, on the store's clock; a mark if it has no end.

    Its parent is the current span. Without one, nothing is written.
    """
    span = begin_span(name, current_context(), kind=kind, attributes=attributes, start_ms=start_ms)
    end_span(span, start_ms if end_ms is None else max(start_ms, end_ms))


def end_span(span: Span, at_ms: int | None = None) -> None:
    """End a span, now or at `at_ms` on the store's clock, and at least a microsecond after its start.

    Jaeger warns of a span without a duration.
    """
    began: int = getattr(span, "start_time", None) or 0
    span.end(None if at_ms is None else max(at_ms * 1_000_000, began + _LEAST_NS))


@contextmanager
def span_scope(span: Span) -> Iterator[Span]:
    """Make `span` current for the block; any exception, a cancellation too, marks it as failed."""
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except BaseException as error:
            mark_failed(span, type(error).__name__)
            raise


@contextmanager
def child_span(name: str, attributes: dict[str, Any], kind: SpanKind = SpanKind.INTERNAL) -> Iterator[Span]:
    """Run the block in a new child of the current span."""
    with span_scope(TRACER.start_span(name, attributes=attributes, kind=kind)) as span:
        yield span


def mark_failed(span: Span, error: str, description: str | None = None) -> None:
    """Mark a span as failed with the class of an error; its text is left out, it may contain anything.

    A `description` is in our own words; without one, the class is the description.
    """
    span.set_attribute(semconv.ERROR, error)
    span.set_status(Status(StatusCode.ERROR, description or error))
