"""Terminal command `trace`: the history of one request and its spans, as trees."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from app.operator_commands import open_ledger
from app.settings import Settings
from app.tables import print_whole
from guardrails.money import ZERO
from ledger.failures import explanation
from ledger.history import History, HistoryEvent, read_history
from ledger.models import provider_key, seed
from telemetry import semconv
from telemetry.exporter import scrub
from telemetry.redaction import redact
from telemetry.tracing import parse_traceparent, recent_spans
from web.serializers import iso_time

SHOWN_ATTRIBUTES: Final = (
    semconv.OUTCOME,
    semconv.VIDEOS,
    semconv.COST,
    semconv.DUPLICATES,
    semconv.ATTEMPT,
    semconv.DECISION,
    semconv.LAYER,
    semconv.REASON,
    semconv.FAIL_CLOSED,
    semconv.PROVIDER,
    semconv.POLLS,
    semconv.ERROR,
    "gen_ai.request.model",
)


@dataclass
class SpanNode:
    """One span. Times are microseconds; `started` counts from the epoch. Events are lines of text."""

    span_id: str
    parent_id: str
    name: str
    started: int
    lasted: int
    tags: dict[str, str]
    events: tuple[str, ...] = ()
    children: list["SpanNode"] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether it ended as an error, by Jaeger's tag or by OpenTelemetry's."""
        return self.tags.get("error") == "true" or self.tags.get("otel.status_code") == "ERROR"


def local_spans(traceparent: str | None) -> list[SpanNode]:
    """Return the spans of one request that ended in this process."""
    origin = parse_traceparent(traceparent)
    return [] if origin is None else [_span_node(scrub(span)) for span in recent_spans(origin.trace_id)]


def _span_node(span: ReadableSpan) -> SpanNode:
    tags = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in (span.attributes or {}).items()
    }
    if span.status.status_code is StatusCode.ERROR:
        tags["error"] = "true"
    started, ended = span.start_time or 0, span.end_time or 0
    return SpanNode(
        f"{span.context.span_id:016x}" if span.context else "",
        f"{span.parent.span_id:016x}" if span.parent else "",
        span.name, started // 1000, (ended - started) // 1000, tags,
        # Of polls the number is enough.
        tuple(
            _event_line(event.name, dict(event.attributes or {}))
            for event in span.events
            if event.name != semconv.POLLED
        ),
    )  # fmt: skip


def _event_line(name: str, attributes: dict[str, object]) -> str:
    value = attributes.get(semconv.TO, attributes.get(semconv.FINDING))
    return name if value is None else f"{name}: {value}"


def build_tree(nodes: Iterable[SpanNode]) -> list[SpanNode]:
    """Attach every span to its parent; return the roots, oldest first.

    A span whose parent is missing (its process was killed, or it ends later) is a root.
    """
    known = {node.span_id: node for node in nodes}
    roots: list[SpanNode] = []
    for node in sorted(known.values(), key=lambda node: node.started):
        parent = known.get(node.parent_id)
        (roots if parent is None or parent is node else parent.children).append(node)
    return roots


def render_tree(node: SpanNode, began: int | None = None, above: Tree | None = None) -> Tree:
    """Return a span and its descendants as a tree for the terminal; times count from `began`."""
    began = node.started if began is None else began
    attributes = " ".join(
        f"{name.rpartition('.')[2]}={node.tags[name]}" for name in SHOWN_ATTRIBUTES if name in node.tags
    )
    line = Text.assemble(
        (node.name, "bold red" if node.failed else "bold"),
        (f"  +{_seconds(node.started - began)}, {_seconds(node.lasted)}", "dim"),
        (f"  {redact(attributes)}" if attributes else "", "cyan"), (" ✗" if node.failed else "", "red"),
    )  # fmt: skip
    tree = Tree(line) if above is None else above.add(line)
    for event in node.events:
        tree.add(Text(f"· {redact(event)}", style="dim"))
    for child in node.children:
        render_tree(child, began, tree)
    return tree


def _seconds(micros: int) -> str:
    return f"{micros / 1000:.0f} ms" if abs(micros) < 1_000_000 else f"{micros / 1_000_000:.1f} s"


_JAEGER_TIMEOUT_S: Final = 5.0
_WORDS: Final = {("entry", "credit"): "refund"}
_COLOURS: Final = {"request": "cyan", "video": "bold", "call": "yellow", "entry": "green"}


class TraceUnavailable(Exception):
    """The spans of a trace cannot be read from Jaeger; the message says why."""


async def trace(settings: Settings, console: Console, request: str) -> None:
    """Print the history of one request and, where JAEGER_URL is set, the spans of its trace.

    Raises:
        RequestNotFound: No request has that id or those six letters.
    """
    async with open_ledger(settings) as ledger:
        history = await read_history(ledger, request)
    print_whole(console, _from_ledger(history))
    try:
        roots = await _spans(settings.jaeger_query_url, history.trace_id)
    except TraceUnavailable as error:
        console.print(Text(f"No spans: {error}.", style="dim"))
        return
    for root in roots:
        print_whole(console, render_tree(root))


def _from_ledger(history: History) -> Tree:
    title = Text.assemble(
        (f"#{history.short_id}", "bold cyan"), f"  {history.request_id}  user {history.user_id}",
        (f"\n{iso_time(history.created_at)}", "dim"), (f"  trace {history.trace_id or 'none'}", "dim"),
        (f"\nkey {provider_key(history.request_id)}  seed {seed(history.request_id)}", "dim"),
    )  # fmt: skip
    tree = Tree(title)
    for event in history.events:
        tree.add(_line(event, history.created_at))
    if not any(event.subject in ("request", "video") for event in history.events):
        why = "no state changes: it has just begun, or they were pruned (RETENTION_DAYS)"
        tree.add(Text(why, style="dim"))
    if why := explanation(history.failure):
        tree.add(Text.assemble(("why  ", "bold"), why))
    charged = sum((event.amount or ZERO for event in history.events if event.what == "charge"), ZERO)
    refunded = sum((event.amount or ZERO for event in history.events if event.what == "credit"), ZERO)
    tree.add(Text.assemble(("paid ", "bold"), (str(charged - refunded), "bold green")))
    return tree


def _line(event: HistoryEvent, began: int) -> Text:
    amount = f" {event.amount}" if event.amount is not None else ""
    why = f"  {redact(event.why)}" if event.why else ""
    return Text.assemble(
        (f"{_elapsed((event.at - began) * 1000):>10}  ", "dim"),
        (f"{event.subject:<8}", _COLOURS.get(event.subject, "")),
        f"{_WORDS.get((event.subject, event.what), event.what)}{amount}  ", (f"{event.who}{why}", "dim"),
    )  # fmt: skip


def _elapsed(micros: int) -> str:
    if micros < 1_000_000:
        return f"+{micros / 1000:.0f} ms"
    return f"+{micros / 1_000_000:.1f} s"


async def _spans(jaeger: str | None, trace_id: str) -> list[SpanNode]:
    """Return the roots of a trace from Jaeger's query API, oldest first.

    Raises:
        TraceUnavailable: No Jaeger is configured, the request has no trace, or the answer cannot be used.
    """
    if not jaeger:
        raise TraceUnavailable("set JAEGER_URL to Jaeger's address to see them here")
    if not trace_id:
        raise TraceUnavailable("this request has no trace")
    from aiohttp import ClientError, ClientSession, ClientTimeout  # noqa: PLC0415 - only with JAEGER_URL

    url = f"{jaeger.rstrip('/')}/api/traces/{trace_id}"
    try:
        async with (
            ClientSession(timeout=ClientTimeout(total=_JAEGER_TIMEOUT_S)) as session,
            session.get(url) as answer,
        ):
            if answer.status == 404:
                raise TraceUnavailable(f"Jaeger has no trace {trace_id} (not sent, or deleted by age)")
            answer.raise_for_status()
            document = await answer.json(content_type=None)
    except (TimeoutError, ClientError, ValueError, OSError) as error:
        raise TraceUnavailable(f"Jaeger at JAEGER_URL does not answer ({type(error).__name__})") from error
    try:
        return build_tree([_jaeger_span(span) for trace in document["data"] for span in trace["spans"]])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TraceUnavailable("what answers at JAEGER_URL is not Jaeger's query API") from error


def _jaeger_span(span: dict[str, Any]) -> SpanNode:
    parents = [ref["spanID"] for ref in span.get("references") or () if ref["refType"] == "CHILD_OF"]
    tags = {str(tag["key"]): str(tag["value"]) for tag in span.get("tags") or ()}
    tags = {name: value.lower() if value in ("True", "False") else value for name, value in tags.items()}
    return SpanNode(
        span["spanID"], parents[0] if parents else "", str(span["operationName"]),
        int(span["startTime"]), int(span["duration"]), tags,
    )  # fmt: skip
