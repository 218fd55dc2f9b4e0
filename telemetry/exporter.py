"""Exports spans by OTLP over HTTP: attribute allow-list, bounded queue, configuration checks.

A collector that is slow or unavailable never delays a request: spans that it does not accept in time are
dropped and counted. Only listed attributes leave; secrets are redacted from their values.
"""

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status, StatusCode
from opentelemetry.util.re import parse_env_headers

from telemetry import redaction, semconv
from telemetry.environment import IGNORED
from telemetry.logs import get_logger
from telemetry.metrics import SPANS
from telemetry.redaction import pseudonymize, redact
from telemetry.resource import Environment, Role, process_resource
from telemetry.tracing import PIPELINE

log = get_logger(__name__)

EXPORT_TIMEOUT_S: Final = 2.0
"""For one batch, with its retries."""
CLOSE_TIMEOUT_S: Final = 2.0
"""For the spans that are still queued at shutdown."""
_BATCH_DELAY_MS: Final = 500
_QUEUE_SIZE: Final = 4096
_WARN_EVERY_S: Final = 60.0
_TRACES_PATH: Final = "/v1/traces"
CAPTURE_ENV: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

_ALLOWED: Final = frozenset(
    {
        "error.type", "db.system", "db.system.name", "db.operation.name", "db.redis.database_index",
        "server.address", "server.port", "net.peer.name", "net.peer.port", "net.transport",
        "http.response.status_code", "exception.type", "exception.escaped", "gen_ai.conversation.id",
        "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.system", "gen_ai.agent.name",
        "gen_ai.request.model", "gen_ai.response.model", "gen_ai.response.id", "gen_ai.output.type",
        "gen_ai.response.finish_reasons", "gen_ai.request.temperature", "gen_ai.request.top_p",
        "gen_ai.request.max_tokens", "gen_ai.request.stream", "gen_ai.tool.name", "gen_ai.tool.type",
        semconv.CALL_ID, semconv.KIND,
    }
)  # fmt: skip
_PREFIXES: Final = ("onetake.", "gen_ai.usage.", "messaging.")
_OWN_SCOPE: Final = "onetake"
"""The scope of our own tracer, whose descriptions of errors are our own words."""
CONTENT_ATTRIBUTES: Final = frozenset(
    {
        "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions",
        "gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "gen_ai.tool.definitions",
        "exception.message",
    }
)  # fmt: skip
"""Exported only if content capture is on."""

_MODEL_WRITTEN: Final = frozenset(
    {semconv.CALL_ID, "gen_ai.response.id", "gen_ai.response.model", "gen_ai.tool.name"}
)
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,80}")
_VALUE_MAX: Final = 300
_CONTENT_MAX: Final = 20_000
_TOOL_SPAN: Final = "execute_tool "
_TOOL_NAMES: Final = set[str]()


def declare_tools(names: Iterable[str]) -> None:
    """Let spans of these tools leave under their names; any other name was made up by a model."""
    _TOOL_NAMES.update(names)


def _span_name(name: str) -> str:
    if name.startswith(_TOOL_SPAN) and name.removeprefix(_TOOL_SPAN) not in _TOOL_NAMES:
        return f"{_TOOL_SPAN}other"
    return name[:100]


def scrub(span: ReadableSpan, *, content: bool = False, resource: Resource | None = None) -> ReadableSpan:
    """Return the span as it may be exported.

    Args:
        span: What has ended.
        content: Keep prompts and answers; secrets are never kept.
        resource: What it says of its process.
    """
    return ReadableSpan(
        name=_span_name(span.name),
        context=span.context,
        parent=span.parent,
        resource=resource or span.resource,
        attributes=allowed_attributes(_with_kind(span), content=content) | _summary(span),
        events=[
            Event(one.name[:100], allowed_attributes(one.attributes or {}, content=content), one.timestamp)
            for one in span.events
        ],
        links=span.links,
        kind=span.kind,
        status=_status(span),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _summary(span: ReadableSpan) -> dict[str, Any]:
    """Return the one line that our own root says of its outcome."""
    said = (span.attributes or {}).get(semconv.SUMMARY)
    ours = _is_own(span) and span.name in (semconv.CREATE_VIDEO, semconv.OUTCOME_CHANGED)
    return {semconv.SUMMARY: _scrub_value(semconv.SUMMARY, said)} if ours and said else {}


def _is_own(span: ReadableSpan) -> bool:
    scope = span.instrumentation_scope
    return scope is not None and scope.name == _OWN_SCOPE


_KINDS: Final = {"invoke_agent": "AGENT", "chat": "LLM", "execute_tool": "TOOL"}


def _with_kind(span: ReadableSpan) -> Mapping[str, Any]:
    """Return the attributes, with OpenInference's kind for the spans of the GenAI libraries."""
    found = span.attributes or {}
    kind = _KINDS.get(str(found.get("gen_ai.operation.name")))
    return found if kind is None else {semconv.KIND: kind, **found}


def _status(span: ReadableSpan) -> Status:
    """Return the status, an error with a description that holds no text of others.

    Libraries write exception texts into it, which may contain anything: theirs is the class of the error.
    """
    code = span.status.status_code
    if code is not StatusCode.ERROR:
        return Status(code)
    own = span.status.description if _is_own(span) else None
    return Status(code, redact(own or _error_class(span))[:_VALUE_MAX])


def _error_class(span: ReadableSpan) -> str:
    named = (span.attributes or {}).get(semconv.ERROR)
    raised = [(one.attributes or {}).get("exception.type") for one in span.events]
    found = str(named or next((one for one in raised if one), "error"))
    return found if _PLAIN.fullmatch(found) else "error"


def allowed_attributes(found: Mapping[str, Any], *, content: bool = False) -> dict[str, Any]:
    """Return the attributes that may be exported, with their values redacted and cut."""
    return {
        name: _scrub_value(name, value)
        for name, value in found.items()
        if name in _ALLOWED or name.startswith(_PREFIXES) or (content and name in CONTENT_ATTRIBUTES)
    }


def _scrub_value(name: str, value: Any) -> Any:
    if isinstance(value, str):
        if name in _MODEL_WRITTEN and not _PLAIN.fullmatch(value):
            return "?"
        return redact(pseudonymize(value))[: _CONTENT_MAX if name in CONTENT_ATTRIBUTES else _VALUE_MAX]
    if isinstance(value, tuple | list):
        return [_scrub_value(name, one) for one in value][:20]
    return value


class OtlpSpanProcessor(SpanProcessor):
    """Sends spans to a collector; spans that it does not accept in time are dropped and counted.

    Args:
        endpoint: The full URL of `/v1/traces`.
        headers: HTTP headers, sent to the collector only.
        content: Export prompts and answers.
        most: Spans that may be queued; more are dropped.
        resource: What each span says of this process.
    """

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str],
        *,
        content: bool = False,
        most: int = _QUEUE_SIZE,
        resource: Resource | None = None,
    ) -> None:
        # It brings `requests` and protobuf, which only a process with a collector needs.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        # The SDK logs every failed batch; here one warning a minute is logged and all spans are counted.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._content, self._most, self._resource = content, most, resource
        self._queued, self._lock = 0, threading.Lock()
        self._processors = {
            urgent: BatchSpanProcessor(
                _CountingExporter(
                    self,
                    OTLPSpanExporter(
                        endpoint,
                        headers=dict(headers),
                        timeout=EXPORT_TIMEOUT_S,
                        meter_provider=NoOpMeterProvider(),
                    ),
                ),
                max_queue_size=most,
                schedule_delay_millis=_BATCH_DELAY_MS,
                # A batch of one is exported at once: a killed process must have sent its attempt's mark.
                max_export_batch_size=1 if urgent else min(512, most),
                meter_provider=NoOpMeterProvider(),
            )
            for urgent in (False, True)
        }

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            full = self._queued >= self._most
            self._queued += not full
        if full:
            SPANS.add(result="dropped")
        else:
            scrubbed = scrub(span, content=self._content, resource=self._resource)
            self._processors[span.name in semconv.MARKS].on_end(scrubbed)

    def record_result(self, count: int, result: str) -> None:
        """Count spans that were exported or failed."""
        with self._lock:
            self._queued -= count
        SPANS.add(count, result=result)

    async def close(self, seconds: float = CLOSE_TIMEOUT_S) -> None:
        """Send the queued spans for at most `seconds`; the rest is counted as dropped.

        In threads that are not joined: the SDK's own shutdown and flush take up to half a minute.
        """
        threads = [threading.Thread(target=one.shutdown, daemon=True) for one in self._processors.values()]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + seconds
        while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        with self._lock:
            left, self._queued = self._queued, 0
        if left > 0:
            SPANS.add(left, result="dropped")
            log.warning("spans lost at shutdown", count=left)


class _CountingExporter(SpanExporter):
    def __init__(self, collector: OtlpSpanProcessor, inner: SpanExporter) -> None:
        self._collector, self._inner = collector, inner
        self._warned_at = -_WARN_EVERY_S

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._inner.export(spans)
        except Exception as error:  # noqa: BLE001 - a failed export costs spans and nothing else
            result = SpanExportResult.FAILURE
            self._warn(type(error).__name__)
        taken = result is SpanExportResult.SUCCESS
        self._collector.record_result(len(spans), "exported" if taken else "failed")
        if not taken:
            self._warn("not accepted by the collector")
        return result

    def _warn(self, why: str) -> None:
        if time.monotonic() - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = time.monotonic()
            log.warning("spans lost", why=why)

    def shutdown(self) -> None:
        self._inner.shutdown()


@dataclass(frozen=True, slots=True)
class OtlpConfig:
    """Where spans are sent.

    Attributes:
        endpoint: The collector's base URL (`http://jaeger:4318`); None keeps spans in this process.
        traces_endpoint: The full URL for spans, in place of the base.
        headers: `name=value,…`, sent to the collector only.
        content: Export prompts and answers.
        secret: The key of the hashes that replace user ids.
        environment: Where this process runs.
    """

    endpoint: str | None = None
    traces_endpoint: str | None = None
    headers: str = field(default="", repr=False)
    content: bool = False
    secret: str = field(default="", repr=False)
    environment: Environment = "test"

    @property
    def url(self) -> str | None:
        """The full URL for spans; None without a collector."""
        if self.traces_endpoint:
            return self.traces_endpoint
        return self.endpoint.rstrip("/") + _TRACES_PATH if self.endpoint else None


@asynccontextmanager
async def export_spans(config: OtlpConfig, role: Role = "onetake-worker") -> AsyncIterator[None]:
    """Export spans during the block; at its end queued spans have `CLOSE_TIMEOUT_S` to leave."""
    for finding in config_warnings(config):
        log.warning("tracing", finding=finding)
    if config.secret:
        redaction.set_pseudonym_key(config.secret)
    if config.url is None:
        yield
        return

    collector = OtlpSpanProcessor(
        config.url, parse_env_headers(config.headers, liberal=True), content=config.content,
        resource=process_resource(role, config.environment),
    )  # fmt: skip
    PIPELINE.collectors = (*PIPELINE.collectors, collector)
    try:
        yield
    finally:
        PIPELINE.collectors = tuple(one for one in PIPELINE.collectors if one is not collector)
        await collector.close()


def config_warnings(config: OtlpConfig, env: Mapping[str, str] = os.environ) -> list[str]:
    """Return what is misconfigured for tracing: one sentence each, with the variable and the remedy."""
    return [*IGNORED, *_env_warnings(env, content=config.content), *_endpoint_warnings(config, env)]


def _env_warnings(env: Mapping[str, str], *, content: bool) -> list[str]:
    found = []
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        found.append("OTEL_SDK_DISABLED is true: nothing is traced; unset it")
    if env.get("OPENAI_AGENTS_DISABLE_TRACING", "").strip().lower() in ("1", "true"):
        found.append("OPENAI_AGENTS_DISABLE_TRACING is set: agents and tools leave no spans; unset it")
    if env.get("OTEL_TRACES_SAMPLER", "").strip().lower().endswith("always_off"):
        found.append("OTEL_TRACES_SAMPLER switches every trace off; unset it")
    if env.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() not in ("", "otlp"):
        found.append("OTEL_TRACES_EXPORTER is not read: spans leave as OTLP over HTTP; unset it")
    if env.get(CAPTURE_ENV) and not content:
        found.append(f"{CAPTURE_ENV} is not read: TRACE_CONTENT=true exports prompts; unset it")
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        found.append(
            "a global tracer provider is set (opentelemetry-instrument?): it may export what we hold back, "
            "such as the bot's token in URLs; start without it"
        )
    return found


def _endpoint_warnings(config: OtlpConfig, env: Mapping[str, str]) -> list[str]:
    found = []
    protocol = env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    if protocol.strip().lower() not in ("", "http/protobuf"):
        found.append("OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf is supported, usually on port 4318")
    if config.url is None:
        return found
    try:
        parts = urlsplit(config.url)
        port = parts.port
    except ValueError:
        return [*found, "OTEL_EXPORTER_OTLP_ENDPOINT is not a URL; write http://HOST:4318"]
    if parts.scheme not in ("http", "https") or not parts.hostname:
        found.append("OTEL_EXPORTER_OTLP_ENDPOINT is not a URL; write http://HOST:4318")
    if port == 4317:
        found.append("OTEL_EXPORTER_OTLP_ENDPOINT names port 4317, which is for gRPC; HTTP is on 4318")
    if parts.path.endswith(_TRACES_PATH + _TRACES_PATH):
        found.append(f"OTEL_EXPORTER_OTLP_ENDPOINT ends in {_TRACES_PATH}; write only the base address")
    return found
