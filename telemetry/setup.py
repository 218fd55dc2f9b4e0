"""Set-up: where spans go while a process runs, and what is wrong with the switches around it."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.util.re import parse_env_headers

from telemetry import people
from telemetry.logs import get_logger
from telemetry.tracing import OUTLETS

log = get_logger(__name__)

_PATH: Final = "/v1/traces"
CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where spans go.

    Attributes:
        endpoint: The collector's base address (`http://jaeger:4318`); None keeps them in this process.
        traces_endpoint: Its full address for spans, in place of the base.
        headers: `name=value,…`, for the collector alone.
        content: Prompts and answers may leave with them.
        secret: What users' hashes are keyed by.
    """

    endpoint: str | None = None
    traces_endpoint: str | None = None
    headers: str = field(default="", repr=False)
    content: bool = False
    secret: str = field(default="", repr=False)

    @property
    def url(self) -> str | None:
        """The full address for spans; None without a collector."""
        if self.traces_endpoint:
            return self.traces_endpoint
        return self.endpoint.rstrip("/") + _PATH if self.endpoint else None


@asynccontextmanager
async def watched(outlet: Outlet) -> AsyncIterator[None]:
    """Send spans out for the block; at its end what is left has a few seconds, and nobody waits longer."""
    for finding in findings(outlet):
        log.warning("tracing", finding=finding)
    if outlet.secret:
        people.set_key(outlet.secret)
    if outlet.url is None:
        yield
        return
    from telemetry.exporter import Collector  # noqa: PLC0415 - most processes have no collector

    collector = Collector(outlet.url, parse_env_headers(outlet.headers, liberal=True), content=outlet.content)
    OUTLETS.collectors = (*OUTLETS.collectors, collector)
    try:
        yield
    finally:
        OUTLETS.collectors = tuple(one for one in OUTLETS.collectors if one is not collector)
        await collector.close()


def findings(outlet: Outlet, env: Mapping[str, str] = os.environ) -> list[str]:
    """Return what is set wrong for tracing, each in one sentence that names the switch and the remedy."""
    return [*_switches(env, content=outlet.content), *_address(outlet, env)]


def _switches(env: Mapping[str, str], *, content: bool) -> list[str]:
    found = []
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        found.append("OTEL_SDK_DISABLED is true: nothing is traced; unset it")
    if env.get("OPENAI_AGENTS_DISABLE_TRACING", "").strip().lower() in ("1", "true"):
        found.append("OPENAI_AGENTS_DISABLE_TRACING is set: agents and tools leave no spans; unset it")
    if env.get("OTEL_TRACES_SAMPLER", "").strip().lower().endswith("always_off"):
        found.append("OTEL_TRACES_SAMPLER switches every trace off; unset it")
    if env.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() not in ("", "otlp"):
        found.append("OTEL_TRACES_EXPORTER is not read: spans leave as OTLP over HTTP; unset it")
    if env.get(CAPTURE) and not content:
        found.append(f"{CAPTURE} is not read: TRACE_CONTENT=true lets prompts leave; unset it")
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        found.append(
            "a global tracer provider is set (opentelemetry-instrument?): it may export what we hold back, "
            "the bot's token in URLs among it; start without it"
        )
    return found


def _address(outlet: Outlet, env: Mapping[str, str]) -> list[str]:
    found = []
    protocol = env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    if protocol.strip().lower() not in ("", "http/protobuf"):
        found.append("OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf is spoken, usually on port 4318")
    if outlet.url is None:
        return found
    try:
        parts = urlsplit(outlet.url)
        port = parts.port
    except ValueError:
        return [*found, "OTEL_EXPORTER_OTLP_ENDPOINT is no address; write http://HOST:4318"]
    if parts.scheme not in ("http", "https") or not parts.hostname:
        found.append("OTEL_EXPORTER_OTLP_ENDPOINT is no address; write http://HOST:4318")
    if port == 4317:
        found.append("OTEL_EXPORTER_OTLP_ENDPOINT names port 4317, which speaks gRPC; HTTP is on 4318")
    if parts.path.endswith(_PATH + _PATH):
        found.append(f"OTEL_EXPORTER_OTLP_ENDPOINT ends in {_PATH}; write the base address alone")
    return found
