"""What may leave in a span: names that are known to hold no secret, cut and redacted; nothing else.

Libraries write prompts into status descriptions and exception texts even with content capture switched off,
so what leaves is chosen here, by name, in place of what must not being hunted for.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Status

from telemetry import semconv
from telemetry.people import unnamed
from telemetry.redaction import redact

_KNOWN: Final = frozenset(
    {
        "error.type", "db.system", "db.system.name", "db.operation.name", "db.redis.database_index",
        "server.address", "server.port", "net.peer.name", "net.peer.port", "net.transport",
        "http.response.status_code", "exception.type", "exception.escaped", "messaging.operation.type",
        "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.system", "gen_ai.agent.name",
        "gen_ai.request.model", "gen_ai.response.model", "gen_ai.response.id", "gen_ai.output.type",
        "gen_ai.response.finish_reasons", "gen_ai.request.temperature", "gen_ai.request.top_p",
        "gen_ai.request.max_tokens", "gen_ai.request.stream", "gen_ai.tool.name", "gen_ai.tool.type",
        semconv.CALL_ID,
    }
)  # fmt: skip
_PREFIXES: Final = ("onetake.", "gen_ai.usage.")
CONTENT: Final = frozenset(
    {
        "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions",
        "gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "gen_ai.tool.definitions",
        "exception.message",
    }
)  # fmt: skip
"""What leaves only if content capture is switched on."""

_MODEL_WRITES: Final = frozenset(
    {semconv.CALL_ID, "gen_ai.response.id", "gen_ai.response.model", "gen_ai.tool.name"}
)
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,80}")
_LONGEST: Final = 300
_LONGEST_CONTENT: Final = 20_000
_TOOL: Final = re.compile(r"execute_tool (?!(?:generate_video|generate_caption|quota_left)$)")


def clean(span: ReadableSpan, *, content: bool = False) -> ReadableSpan:
    """Return the span as it may leave; with `content`, prompts and answers stay, secrets never."""
    return ReadableSpan(
        name="execute_tool other" if _TOOL.match(span.name) else span.name[:100],
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes(span.attributes or {}, content=content),
        events=[
            Event(one.name[:100], attributes(one.attributes or {}, content=content), one.timestamp)
            for one in span.events
        ],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def attributes(found: Mapping[str, Any], *, content: bool = False) -> dict[str, Any]:
    """Return the attributes that may leave."""
    return {
        name: _value(name, value)
        for name, value in found.items()
        if name in _KNOWN or name.startswith(_PREFIXES) or (content and name in CONTENT)
    }


def _value(name: str, value: Any) -> Any:
    if isinstance(value, str):
        if name in _MODEL_WRITES and not _PLAIN.fullmatch(value):
            return "?"
        return redact(unnamed(value))[: _LONGEST_CONTENT if name in CONTENT else _LONGEST]
    if isinstance(value, tuple | list):
        return [_value(name, one) for one in value][:20]
    return value
