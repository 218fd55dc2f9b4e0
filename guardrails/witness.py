"""What a guard decided, where people look: on its span, and in the counters."""

from opentelemetry.trace import get_current_span

from guardrails.admission import Decision
from telemetry import semconv
from telemetry.instruments import DECISIONS, DUPLICATES
from telemetry.tracing import fail

_UNDECIDED = "closed"
"""The word of a content check that could not be completed."""


def decided(tool: str, decision: Decision, word: str) -> None:
    """Note a decision. A refusal is no error; a guard that could not decide, and so refused, is one."""
    DECISIONS.add(tool=tool, decision=word, layer=decision.layer)
    span = get_current_span()
    span.set_attribute(semconv.DECISION, word)
    span.set_attribute(semconv.LAYER, decision.layer)
    if decision.why:
        span.set_attribute(semconv.REASON, decision.why)
    if word == "closed" and (decision.layer in ("redis", "ledger") or decision.why == _UNDECIDED):
        span.set_attribute(semconv.FAIL_CLOSED, value=True)
        fail(span, decision.why or "closed")


def prevented(tool: str, layer: str, *, recorded: bool) -> None:
    """Note a repeated call that was answered in place of being made: it is seen, and it is not an error."""
    reason = "recorded" if recorded else "in_hand"
    DUPLICATES.add(layer=layer, reason=reason)
    get_current_span().add_event(
        semconv.DUPLICATE, {semconv.TOOL: tool, semconv.LAYER: layer, semconv.REASON: reason}
    )
