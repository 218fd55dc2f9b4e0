"""A trace as a tree for people, from the spans of this process or from those that a collector keeps."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from rich.text import Text
from rich.tree import Tree

from telemetry import semconv
from telemetry.privacy import clean
from telemetry.redaction import redact
from telemetry.tracing import kept, read_traceparent

SHOWN: Final = (
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
    semconv.ERROR,
    "gen_ai.request.model",
)


@dataclass
class Node:
    """One span. Times are microseconds since the epoch; events are lines for people."""

    span_id: str
    parent_id: str
    name: str
    started: int
    lasted: int
    tags: dict[str, str]
    events: tuple[str, ...] = ()
    children: list["Node"] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether it ended as an error, in Jaeger's words or in ours."""
        return self.tags.get("error") == "true" or self.tags.get("otel.status_code") == "ERROR"


def nodes_here(traceparent: str | None) -> list[Node]:
    """Return the spans of one request that ended in this process."""
    origin = read_traceparent(traceparent)
    return [] if origin is None else [_node(clean(span)) for span in kept(origin.trace_id)]


def _node(span: ReadableSpan) -> Node:
    tags = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in (span.attributes or {}).items()
    }
    if span.status.status_code is StatusCode.ERROR:
        tags["error"] = "true"
    began, ended = span.start_time or 0, span.end_time or 0
    return Node(
        f"{span.context.span_id:016x}" if span.context else "",
        f"{span.parent.span_id:016x}" if span.parent else "",
        span.name, began // 1000, (ended - began) // 1000, tags,
        tuple(_event(one.name, dict(one.attributes or {})) for one in span.events),
    )  # fmt: skip


def _event(name: str, found: dict[str, object]) -> str:
    said = found.get(semconv.TO, found.get(semconv.FINDING))
    return name if said is None else f"{name}: {said}"


def hang(nodes: Iterable[Node]) -> list[Node]:
    """Hang every span below its parent; return the roots, oldest first.

    One whose parent is not there (a killed attempt's, or one that ends later) is a root.
    """
    known = {node.span_id: node for node in nodes}
    roots: list[Node] = []
    for node in sorted(known.values(), key=lambda one: one.started):
        parent = known.get(node.parent_id)
        (roots if parent is None or parent is node else parent.children).append(node)
    return roots


def rendered(node: Node, began: int | None = None, above: Tree | None = None) -> Tree:
    """Return a span and everything below it as a tree for the terminal; times count from `began`."""
    began = node.started if began is None else began
    said = " ".join(f"{name.rpartition('.')[2]}={node.tags[name]}" for name in SHOWN if name in node.tags)
    words = Text.assemble(
        (node.name, "bold red" if node.failed else "bold"),
        (f"  +{_seconds(node.started - began)}, {_seconds(node.lasted)}", "dim"),
        (f"  {redact(said)}" if said else "", "cyan"), (" ✗" if node.failed else "", "red"),
    )  # fmt: skip
    tree = Tree(words) if above is None else above.add(words)
    for event in node.events:
        tree.add(Text(f"· {redact(event)}", style="dim"))
    for child in node.children:
        rendered(child, began, tree)
    return tree


def _seconds(micros: int) -> str:
    return f"{micros / 1000:.0f} ms" if abs(micros) < 1_000_000 else f"{micros / 1_000_000:.1f} s"
