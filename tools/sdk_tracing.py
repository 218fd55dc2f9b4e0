"""The agents' traces: the SDK's own spans, turned into ours. Nothing is uploaded to anybody else."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from agents.tracing import Trace, set_trace_processors
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from opentelemetry.instrumentation.genai.openai_agents.processor import GenAITracingProcessor
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import Span
from opentelemetry.util.genai.handler import TelemetryHandler

from telemetry import tracing
from telemetry.exporter import CAPTURE_ENV
from telemetry.tracing import TRACER_PROVIDER

_ACTIVE: Final[list[bool]] = []
"""One entry for each house in this process that is traced; whether it may show content."""


class _Bridge(GenAITracingProcessor):
    """Agents and tools become spans; the SDK's whole run is our `process create` already."""

    def on_trace_start(self, trace: Trace) -> None:
        """No `invoke_workflow` beside it."""

    def on_trace_end(self, trace: Trace) -> None:
        """See above."""


@contextmanager
def bridge_sdk_traces(*, content: bool) -> Iterator[None]:
    """Trace agents, tools and model calls for the block.

    The processors are replaced, not added to: the SDK's default sends prompts to OpenAI when a key is set.
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
    """Say whether the SDK's traces come to us; if not, it must make none."""
    return bool(_ACTIVE)


def shows_content() -> bool:
    """Say whether prompts, arguments and answers may stand in the spans."""
    return any(_ACTIVE)


def chat_span(model: str) -> AbstractContextManager[Span]:
    """Trace one answer of a model that no instrumented client asks."""
    return tracing.child_span(
        f"chat {model}", {"gen_ai.operation.name": "chat", "gen_ai.request.model": model}
    )


def _connect(*, content: bool) -> None:
    providers: dict[str, Any] = {
        "tracer_provider": TRACER_PROVIDER,
        # Their own metrics carry the model's raw name; nobody reads their logs.
        "meter_provider": NoOpMeterProvider(),
        "logger_provider": NoOpLoggerProvider(),
    }
    if content:
        os.environ[CAPTURE_ENV] = (
            "SPAN_ONLY"  # what the libraries ask; what leaves is decided by our exporter
        )
    handler = TelemetryHandler(instrumentation_scope_name="onetake.agents", **providers)
    set_trace_processors([_Bridge(handler, "openai")])
    OpenAIInstrumentor().instrument(**providers)
