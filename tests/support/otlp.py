"""A real OTLP/HTTP receiver, and what Jaeger would make of what it was sent.

The converter keeps Jaeger's own rules: a reference to a parent in the same trace, tags as strings (its search
compares them exactly, on one span), `error=true` from the status, links without their attributes.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2

from telemetry import semconv
from tests.support.waiting import wait_until


@dataclass(frozen=True)
class Seen:
    """One span as Jaeger shows it."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int
    tags: dict[str, str]
    events: tuple[tuple[str, dict[str, str]], ...]
    links: tuple[tuple[str, str], ...]

    @property
    def error(self) -> bool:
        return self.tags.get("error") == "true"


@dataclass
class Trace:
    """The spans of one trace, each once."""

    spans: dict[str, Seen] = field(default_factory=dict)
    doubled: list[Seen] = field(default_factory=list)

    @property
    def roots(self) -> list[Seen]:
        return [one for one in self.spans.values() if not one.parent_id]

    @property
    def orphans(self) -> list[Seen]:
        return [one for one in self.spans.values() if one.parent_id and one.parent_id not in self.spans]

    def named(self, name: str) -> list[Seen]:
        return [one for one in self.spans.values() if one.name == name]

    def one(self, name: str) -> Seen:
        found = self.named(name)
        assert len(found) == 1, f"{len(found)} spans {name!r} among {sorted(self.names())}"
        return found[0]

    def names(self) -> set[str]:
        return {one.name for one in self.spans.values()}

    def parent(self, span: Seen) -> Seen:
        return self.spans[span.parent_id]


class Receiver:
    """What a collector was sent. `status` is how it answers; a black hole reads and never answers."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.hole = False
        self.url = ""
        self._open = asyncio.Event()

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.hole:
            await self._open.wait()
        if self.status == 200:
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(status=self.status, body=answer, content_type="application/x-protobuf")

    @property
    def raw(self) -> bytes:
        return b"".join(self.bodies)

    def spans(self) -> list[Seen]:
        return [one for body in self.bodies for one in _read(body)]

    def traces(self) -> dict[str, Trace]:
        found: dict[str, Trace] = {}
        for one in self.spans():
            trace = found.setdefault(one.trace_id, Trace())
            if one.span_id in trace.spans:
                trace.doubled.append(one)
            trace.spans[one.span_id] = one
        return found

    def creates(self) -> list[Trace]:
        return [one for one in self.traces().values() if "telegram /create" in one.names()]


def _read(body: bytes) -> list[Seen]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        _seen(span)
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _tags(attributes: Any) -> dict[str, str]:
    return {one.key: _text(one.value) for one in attributes}


def _text(value: Any) -> str:
    kind = value.WhichOneof("value")
    if kind == "bool_value":
        return str(value.bool_value).lower()
    if kind == "array_value":
        return "[" + ",".join(_text(one) for one in value.array_value.values) + "]"
    return f"{getattr(value, kind):g}" if kind == "double_value" else str(getattr(value, kind))


def _seen(span: Any) -> Seen:
    tags = _tags(span.attributes)
    if span.status.code == trace_pb2.Status.STATUS_CODE_ERROR:
        tags["error"] = "true"
    if span.status.message:
        tags["otel.status_description"] = span.status.message
    return Seen(
        span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.name,
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.start_time_unix_nano, span.end_time_unix_nano, tags,
        tuple((event.name, _tags(event.attributes)) for event in span.events),
        tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
    )  # fmt: skip


async def wait_for_traces(collector: Receiver, count: int = 1) -> list[Trace]:
    """Wait until `count` requests were exported completely.

    An update that failed before it opened a request (SQLite was locked) is a trace of its own.
    """
    found: list[Trace] = []

    async def there() -> bool:
        found[:] = [one for one in collector.creates() if one.named(semconv.CREATE_VIDEO)]
        return len(found) == count and all(one.roots and not one.orphans for one in found)

    await wait_until(there, 40, f"{count} traces of a create")
    return found


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """Serve a collector on loopback."""
    made = Receiver()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/traces", made.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        made._open.set()
        await runner.cleanup()
