"""The HTTP server: slow senders, and readers of /metrics who come at once."""

import asyncio

from aiohttp import ClientSession

from web.server import build_app, serve


async def test_metrics_are_read_once_for_all_who_ask(monkeypatch):
    """A reading asks every store: readers who come at once, or soon after, get the same one."""
    readings = []

    async def metrics():
        readings.append(1)
        await asyncio.sleep(0.05)
        return f"reading {len(readings)}".encode()

    async with serve(build_app({}, {}, metrics), "127.0.0.1", 0) as url, ClientSession() as web:

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
