"""`trace REQUEST`: what happened to one request: the ledger's lines always, Jaeger's spans if it has them."""

from typing import Any, Final

from aiohttp import ClientError, ClientSession, ClientTimeout
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from app.figures import opened
from app.settings import Settings
from ledger.history import Event, History, history
from ledger.identity import provider_key, seed
from ledger.money import ZERO
from telemetry.redaction import redact
from telemetry.tree import Node, hang, rendered
from web.figures import when

_WAIT_S: Final = 5.0
_COLOURS: Final = {"request": "cyan", "video": "bold", "call": "yellow", "entry": "green"}


class NoTrace(Exception):
    """Jaeger does not have the trace; the message says why, in words for a person."""


async def trace(settings: Settings, console: Console, request: str) -> None:
    """Print the history of one request and, where JAEGER_URL is set, the spans of its trace.

    Raises:
        NoSuchRequest: No request has that id or those six letters.
    """
    async with opened(settings) as ledger:
        found = await history(ledger, request)
    console.print(_from_ledger(found))
    try:
        roots = await _spans(settings.jaeger_url, found.trace_id)
    except NoTrace as error:
        console.print(Text(f"No spans: {error}.", style="dim"))
        return
    for root in roots:
        console.print(rendered(root))


def _from_ledger(found: History) -> Tree:
    title = Text.assemble(
        (f"#{found.short_id}", "bold cyan"), f"  {found.request_id}  user {found.user_id}",
        (f"\n{when(found.created_at)}", "dim"), (f"  trace {found.trace_id or 'none'}", "dim"),
        (f"\nkey {provider_key(found.request_id)}  seed {seed(found.request_id)}", "dim"),
    )  # fmt: skip
    tree = Tree(title)
    for event in found.events:
        tree.add(_line(event, found.created_at))
    paid = sum((one.amount or ZERO for one in found.events if one.what == "charge"), ZERO)
    back = sum((one.amount or ZERO for one in found.events if one.what == "credit"), ZERO)
    tree.add(Text.assemble(("paid ", "bold"), (str(paid - back), "bold green")))
    return tree


def _line(event: Event, began: int) -> Text:
    amount = f" {event.amount}" if event.amount is not None else ""
    why = f"  {redact(event.why)}" if event.why else ""
    return Text.assemble(
        (f"{_after((event.at - began) * 1000):>10}  ", "dim"),
        (f"{event.subject:<8}", _COLOURS.get(event.subject, "")),
        f"{event.what}{amount}  ", (f"{event.who}{why}", "dim"),
    )  # fmt: skip


def _after(micros: int) -> str:
    if micros < 1_000_000:
        return f"+{micros / 1000:.0f} ms"
    return f"+{micros / 1_000_000:.1f} s"


async def _spans(jaeger: str | None, trace_id: str) -> list[Node]:
    """Return the roots of a trace, as Jaeger's query API has it, oldest first.

    Raises:
        NoTrace: There is nobody to ask, nothing to ask for, or no answer that can be used.
    """
    if not jaeger:
        raise NoTrace("set JAEGER_URL to Jaeger's address to see them here")
    if not trace_id:
        raise NoTrace("this request carries no trace")
    url = f"{jaeger.rstrip('/')}/api/traces/{trace_id}"
    try:
        async with ClientSession(timeout=ClientTimeout(total=_WAIT_S)) as web, web.get(url) as answer:
            if answer.status == 404:
                raise NoTrace(f"Jaeger has no trace {trace_id} (not sent, or deleted by age)")
            answer.raise_for_status()
            document = await answer.json(content_type=None)
    except (TimeoutError, ClientError, ValueError, OSError) as error:
        raise NoTrace(f"Jaeger at JAEGER_URL does not answer ({type(error).__name__})") from error
    try:
        return hang([_span(one) for trace in document["data"] for one in trace["spans"]])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NoTrace("what answers at JAEGER_URL is not Jaeger's query API") from error


def _span(one: dict[str, Any]) -> Node:
    parents = [ref["spanID"] for ref in one.get("references") or () if ref["refType"] == "CHILD_OF"]
    tags = {str(tag["key"]): str(tag["value"]) for tag in one.get("tags") or ()}
    tags = {name: value.lower() if value in ("True", "False") else value for name, value in tags.items()}
    return Node(
        one["spanID"], parents[0] if parents else "", str(one["operationName"]),
        int(one["startTime"]), int(one["duration"]), tags,
    )  # fmt: skip
