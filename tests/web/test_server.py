"""The HTTP server: slow senders, and who may read /metrics how often."""

import asyncio
from contextlib import suppress

import pytest
from aiohttp import ClientSession

from web.server import Metrics, build_app, serve


async def test_metrics_are_read_once_for_all_who_ask(monkeypatch):
    """A reading asks every store: readers who come at once, or soon after, get the same one."""
    readings = []

    async def metrics():
        readings.append(1)
        await asyncio.sleep(0.05)
        return f"reading {len(readings)}".encode()

    async with serve(build_app({}, {}, Metrics(metrics)), "127.0.0.1", 0) as url, ClientSession() as web:

        async def read():
            async with web.get(f"{url}/metrics") as answer:
                return await answer.text()

        assert set(await asyncio.gather(*(read() for _ in range(5)))) == {"reading 1"}
        monkeypatch.setattr("web.server._METRICS_S", 0.0)
        assert await read() == "reading 2"


async def test_a_body_that_never_ends_is_answered(monkeypatch):
    """A sender who stops in the middle of a body gets 408, and no handler has waited for it."""
    monkeypatch.setattr("web.server._BODY_S", 0.1)
    handled = []

    async def handler(request):
        handled.append(request)

    async with serve(build_app({}, {"/hook": handler}), "127.0.0.1", 0) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        status = await asyncio.wait_for(reader.readline(), 20)
        writer.close()
    assert b" 408 " in status
    assert handled == []


@pytest.mark.parametrize("sent", ["", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_headers_that_never_end_close_the_connection(monkeypatch, sent: str):
    """A sender who stays silent, or sends its headers byte by byte, holds no connection for long."""
    monkeypatch.setattr("web.server._IDLE_S", 0.3)
    async with serve(build_app({}, {}), "127.0.0.1", 0) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(sent.encode())

        async def drip() -> None:
            while sent:
                writer.write(b"a")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        with suppress(ConnectionResetError):  # what was still under way when it closed
            assert await asyncio.wait_for(reader.read(), 20) == b""
        dripping.cancel()
        writer.close()


async def _metrics() -> bytes:
    return b"figures"


TOKEN = "a-token-of-prometheus"
READERS = {
    "open": (Metrics(_metrics), None, 200, "figures"),
    "no token": (Metrics(_metrics, TOKEN), None, 401, "METRICS_TOKEN"),
    "wrong token": (Metrics(_metrics, TOKEN), f"Bearer {TOKEN}é", 401, "METRICS_TOKEN"),
    "wrong scheme": (Metrics(_metrics, TOKEN), f"Basic {TOKEN}", 401, "METRICS_TOKEN"),
    "right token": (Metrics(_metrics, TOKEN), f"bearer {TOKEN}", 200, "figures"),
    "closed": (Metrics(_metrics, closed="set METRICS_TOKEN"), None, 403, "set METRICS_TOKEN"),
}


@pytest.mark.parametrize("who", READERS)
async def test_metrics_are_read_with_the_token_alone(who: str):
    """Where a token is set, nobody reads without it; where none is and the port is public, nobody at all."""
    metrics, header, status, text = READERS[who]
    headers = {"Authorization": header} if header else {}
    async with (
        serve(build_app({}, {}, metrics), "127.0.0.1", 0) as url,
        ClientSession() as web,
        web.get(f"{url}/metrics", headers=headers) as answer,
    ):
        assert answer.status == status
        assert text in await answer.text()
        assert TOKEN not in await answer.text()
