"""The guards' Redis client: what it sends, how a write that cannot end is ended, and its spans."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from redis.asyncio import Connection, Redis
from redis.exceptions import DataError, NoScriptError, ResponseError
from redis.exceptions import TimeoutError as NoAnswer

from guardrails.redis_client import COMMAND_TIMEOUT_S, _Connection, connect
from tests.support.waiting import Stopwatch

pytestmark = pytest.mark.app_timeouts
VALUES = st.text(max_size=9) | st.integers() | st.binary(max_size=9) | st.floats(allow_nan=False)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    made = connect(redis_url)
    assert isinstance(made, Redis)
    yield made
    await made.aclose()


@given(st.sampled_from(["GET", "SCRIPT LOAD", "CONFIG\tGET", "FT.SEARCH", "É"]), st.lists(VALUES, max_size=9))
def test_a_command_is_packed_as_redis_py_does(name: str, values: list[object]):
    """The bytes are the same, whatever the arguments are."""
    ours, theirs = (b"".join(one.pack_command(name, *values)) for one in (_Connection(), Connection()))
    assert ours == theirs


def test_what_redis_py_refuses_is_refused():
    """A truth value or None is no argument."""
    for value in (True, None):
        with pytest.raises(DataError):
            _Connection().pack_command("SET", "a", value)


@pytest.mark.parametrize("ends", ["its time", "a cancellation"])
async def test_a_write_that_cannot_end_closes_the_connection(client: Redis, monkeypatch, ends: str):
    """The bytes that were sent may be a part of a command, so nothing else is sent after them."""
    connection = await client.connection_pool.get_connection()
    await client.connection_pool.release(connection)

    async def drain() -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(connection._writer, "drain", drain)
    async with Stopwatch() as stopwatch:
        call = asyncio.create_task(client.execute_command("GET", "a"))
        if ends == "a cancellation":
            await asyncio.sleep(0.05)
            call.cancel()
        with pytest.raises(NoAnswer if ends == "its time" else asyncio.CancelledError):
            await call
    assert stopwatch.seconds < COMMAND_TIMEOUT_S + 0.5
    assert not connection.is_connected
    assert connection.socket_timeout == COMMAND_TIMEOUT_S
    assert await client.execute_command("GET", "a") is None


async def test_a_command_has_a_span(redis_url: str):
    """Its name and attributes are those of OpenTelemetry's instrumentation, without the arguments; a command
    outside of a trace has none.
    """
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    client = connect(redis_url, provider)
    assert isinstance(client, Redis)
    await client.delete("onetake-span")
    with provider.get_tracer("test").start_as_current_span("parent"):
        await client.set("onetake-span", "private", ex=9)
        with pytest.raises(NoScriptError):
            await client.evalsha("0" * 40, 0)
        with pytest.raises(ResponseError):
            await client.lpop("onetake-span")
    to = client.connection_pool.connection_kwargs
    await client.aclose()
    done, asked, failed, parent = exporter.get_finished_spans()
    assert {one.parent and one.parent.span_id for one in (done, asked, failed)} == {parent.context.span_id}
    assert (done.name, done.kind, done.status.status_code) == ("SET", SpanKind.CLIENT, StatusCode.UNSET)
    assert dict(done.attributes or {}) == {
        "db.system": "redis", "db.statement": "SET ? ? ? ?", "db.redis.args_length": 5,
        "db.redis.database_index": to["db"] if to.get("db") else 0, "net.peer.name": to["host"],
        "net.peer.port": to["port"], "net.transport": "ip_tcp",
    }  # fmt: skip
    # redis-py asks so whether a script is there, and loads it.
    assert (asked.name, asked.status.status_code) == ("EVALSHA", StatusCode.UNSET)
    assert (failed.name, failed.status.status_code) == ("LPOP", StatusCode.ERROR)
    assert [event.name for event in failed.events] == ["exception"]
    assert "private" not in done.to_json()
