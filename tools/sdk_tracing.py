"""Turns the SDK's own spans of agents into ours. Nothing is uploaded to OpenAI or others."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from agents.tracing import AgentSpanData, Trace, set_trace_processors
from agents.tracing import Span as SdkSpan
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from opentelemetry.instrumentation.genai.openai_agents.processor import GenAITracingProcessor
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import Span, get_current_span
from opentelemetry.util.genai.handler import TelemetryHandler

from telemetry import semconv, tracing
from telemetry.exporter import CAPTURE_ENV
from telemetry.tracing import TRACER_PROVIDER

_ACTIVE: Final[list[bool]] = []
"""One entry for each traced app in this process: whether its spans may contain content."""


_TURN_CAP: Final = "Max turns exceeded"
"""What the SDK writes as the error of an agent whose turns are used up."""


class _Bridge(GenAITracingProcessor):
    """Turns agents and tools into spans. The SDK's whole run has a span already, our `process create`."""

    def on_trace_start(self, trace: Trace) -> None:
        """Write no `invoke_workflow` span in addition."""

    def on_trace_end(self, trace: Trace) -> None:
        """See `on_trace_start`."""

    def on_span_end(self, span: SdkSpan[Any]) -> None:
        """End a span. The cap on turns is no error of the agent: the order decides how the run ended."""
        error = span.error
        if isinstance(span.span_data, AgentSpanData) and error is not None and error["message"] == _TURN_CAP:
            get_current_span().set_attribute(semconv.TURN_LIMIT, value=True)
            span.set_error(None)  # type: ignore[arg-type]  # the SDK has no other way to take an error back
        super().on_span_end(span)


@contextmanager
def bridge_sdk_traces(*, content: bool) -> Iterator[None]:
    """Trace agents, tools and model calls for the block.

    This replaces the SDK's trace processors: the default one sends prompts to OpenAI when a key is set.
    """
    _ACTIVE.append(content)
    if len(_ACTIVE) == 1:
        _connect(content=content)
    try:
        yield
    finally:
        _ACTIVE.remove(content)
        if not _ACTIVE:
            OpenAIInstrumentor().uninstrument()
            set_trace_processors([])


def is_bridged() -> bool:
    """Return whether the SDK's traces come to us; if not, tracing must be disabled."""
    return bool(_ACTIVE)


def shows_content() -> bool:
    """Return whether spans may contain prompts, arguments and answers."""
    return any(_ACTIVE)


def chat_span(model: str) -> AbstractContextManager[Span]:
    """Trace one answer of a model that is not called through an instrumented client."""
    return tracing.child_span(
        f"chat {model}", {"gen_ai.operation.name": "chat", "gen_ai.request.model": model}
    )


def _connect(*, content: bool) -> None:
    providers: dict[str, Any] = {
        "tracer_provider": TRACER_PROVIDER,
        # Their metrics carry the model's raw name, and their logs are not used.
        "meter_provider": NoOpMeterProvider(),
        "logger_provider": NoOpLoggerProvider(),
    }
    if content:
        # The libraries read this variable; our exporter decides what leaves the process.
        os.environ[CAPTURE_ENV] = "SPAN_ONLY"
    handler = TelemetryHandler(instrumentation_scope_name="onetake.agents", **providers)
    set_trace_processors([_Bridge(handler, "openai")])
    OpenAIInstrumentor().instrument(**providers)
