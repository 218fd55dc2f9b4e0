"""Spans, events and counters of the guards, over the OpenTelemetry API only.

The host passes its tracer and counters in `Instrumentation`; without them, spans go to the global tracer
provider (if one is set) and nothing is counted.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode, Tracer

GUARD_SPAN: Final = "guardrail"
"""Until the decision is known, which is then added to the name: `guardrail replay`."""
DUPLICATE_EVENT: Final = "duplicate prevented"

TOOL: Final = "onetake.tool"
"""Not `gen_ai.tool.name`: Jaeger would show a guardrail as a call of the tool."""
DECISION: Final = "onetake.guardrail.decision"
LAYER: Final = "onetake.guardrail.layer"
REASON: Final = "onetake.guardrail.reason"
UNTIL: Final = "onetake.guardrail.until"
"""When the call would be admitted, milliseconds since the epoch."""
PREVENTED: Final = "onetake.duplicate_prevented"
KIND: Final = "openinference.span.kind"
FAIL_CLOSED: Final = "onetake.fail_closed"
CALL_ID: Final = "gen_ai.tool.call.id"
ERROR: Final = "error.type"

Count = Callable[..., None]
"""Adds one to a counter; the labels are keyword arguments."""


def _not_counted(**_: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Instrumentation:
    """The host's tracer and counters.

    Attributes:
        tracer: Starts the guards' spans.
        decisions: Counts verdicts; labels `tool`, `decision`, `layer`.
        duplicates: Counts prevented duplicates; labels `layer`, `reason`.
        violations: Counts events that only a defect can explain; label `kind`.
    """

    tracer: Tracer = field(default_factory=lambda: trace.get_tracer("onetake"))
    decisions: Count = _not_counted
    duplicates: Count = _not_counted
    violations: Count = _not_counted

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, Any]) -> Iterator[Span]:
        """Run the block in a new child of the current span; an exception marks it as failed."""
        span = self.tracer.start_span(name, attributes={KIND: "GUARDRAIL", **attributes})
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except BaseException as error:
                mark_failed(span, type(error).__name__)
                raise


def mark_failed(span: Span, error: str, description: str | None = None) -> None:
    """Mark a span as failed with the class of an error; its text is left out, it may contain anything."""
    span.set_attribute(ERROR, error)
    span.set_status(Status(StatusCode.ERROR, description or error))
