"""Decisions as events: one callback of the host, one log line, and the attributes of one span."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from opentelemetry import trace

log = logging.getLogger(__name__)

EventWord = Literal[
    "admitted", "done", "replayed", "in_flight", "unknown", "not_sent", "did_not_happen", "quota", "cooldown",
    "budget", "closed", "malformed", "settled", "contradiction",
]  # fmt: skip
_QUIET: Final = frozenset({"admitted", "done", "replayed"})

TOOL: Final = "onetake.tool"
DECISION: Final = "onetake.guardrail.decision"
REQUEST: Final = "onetake.guardrail.request"
KEY: Final = "onetake.guardrail.key"


@dataclass(frozen=True, slots=True)
class Event:
    """One decision about one call.

    Attributes:
        word: What was decided, or how the call ended.
        request: A digest of the request's id: ids of any shape may name people, so none is shown.
        key: The first letters of the claim's key; empty if there is none.
        why: For logs: the class of an error, a limit, who settled a doubt. Never an argument.
    """

    word: EventWord
    tool: str
    request: str
    key: str = ""
    why: str = ""


OnEvent = Callable[[Event], None]


def digest_of(request_id: str) -> str:
    """Return ten letters that stand for a request in logs and spans."""
    return hashlib.sha256(request_id.encode("utf-8", "surrogatepass")).hexdigest()[:10]


class Events:
    """Reports decisions. A callback that raises is logged and changes no decision."""

    def __init__(self, on_event: OnEvent | None) -> None:
        self._on_event = on_event

    @contextmanager
    def span(self, tool: str) -> Iterator[None]:
        """Run one guarded call in a span of its own, on which its decisions are reported."""
        with trace.get_tracer("onetake_guardrails").start_as_current_span(
            f"guarded {tool}", attributes={TOOL: tool}, record_exception=False, set_status_on_exception=False
        ):
            yield

    def report(self, word: EventWord, tool: str, act: str, key: str = "", why: str = "") -> None:
        """Report one decision."""
        event = Event(word, tool, digest_of(act), key[:10], why)
        fields: dict[str, Any] = {"tool": tool, "request": event.request, "key": event.key, "why": why}
        log.log(logging.INFO if word in _QUIET else logging.WARNING, "tool call %s", word, extra=fields)
        span = trace.get_current_span()
        if span.is_recording():
            named = {TOOL: tool, DECISION: word, REQUEST: event.request, KEY: event.key}
            span.add_event(f"guardrail {word}", named)
            span.set_attributes(named)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception as error:  # noqa: BLE001 - the host's; the decision stays
                log.error("event callback failed", extra={"error": type(error).__name__})
