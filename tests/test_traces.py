"""One request is one trace, as a collector sees it: real OTLP over HTTP, read as Jaeger reads it."""

import pytest
from conftest import wait_until
from otlp import Receiver, Trace, receiver

from ledger.words import VideoState
from telemetry import names


@pytest.fixture
async def collector():
    async with receiver() as made:
        yield made


async def settled(collector: Receiver, count: int = 1) -> list[Trace]:
    """Wait until so many requests were written to their end, and the way there too."""

    async def there() -> bool:
        traces = collector.creates()
        return len(traces) == count and all(
            one.named(names.SETTLE) and not one.orphans and one.roots for one in traces
        )

    await wait_until(there, 30, f"{count} traces of a create")
    return collector.creates()


def lawful(trace: Trace) -> None:
    """One root, nobody without a parent, nobody twice, everybody inside time."""
    assert [one.name for one in trace.roots] == ["telegram /create"]
    assert [one.name for one in trace.orphans] == []
    assert trace.doubled == []
    for span in trace.spans.values():
        assert span.start <= span.end, span.name


async def test_one_create_is_one_trace(theatre, collector):
    """From the update to the delivery, over all workers' tasks: the shape that operators know."""
    stage = await theatre(settings={"otel_exporter_otlp_endpoint": collector.url})
    _, video = await stage.create()
    assert video.state is VideoState.DELIVERED
    (trace,) = await settled(collector)
    lawful(trace)
    root = trace.roots[0]
    assert root.kind == "SERVER"
    process = trace.one("process create")
    assert (process.kind, trace.parent(process)) == ("CONSUMER", root)
    assert trace.parent(trace.one("invoke_agent director")) == process
    tool = trace.one("execute_tool generate_video")
    assert trace.parent(tool).name == "invoke_agent director"
    assert tool.tags[names.CALL_ID]
    guard = next(one for one in trace.named(names.GUARD) if trace.parent(one) == tool)
    assert guard.tags[names.DECISION] == "admitted"
    assert "EVALSHA" in {one.name for one in trace.spans.values() if one.parent_id == guard.span_id}
    film = trace.one("video")
    assert trace.parent(film) == root
    assert [event[1][names.TO] for event in film.events if event[0] == names.MOVED] == [
        "QUEUED", "SUBMITTING", "ACCEPTED", "SUCCEEDED", "DELIVERED",
    ]  # fmt: skip
    for step in (names.SUBMIT, names.FETCH):
        assert trace.parent(trace.one(step)) == film
    assert {"telegram editMessageMedia", "telegram sendVideo"} & trace.names()
    assert not [one.name for one in trace.spans.values() if one.error]
