"""A server on raw sockets that answers the paid POST in every wrong way, and counts what it received.

async with Faults("reset") as server:
    …
    assert server.posts == 1
"""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Self

# A job and an error that every adapter can read: what is wrong is the answer around them, not their shape.
_ID = b"abcdefgh2345ijklmnop6789qr"
_JOB = b'{"id":"%s","request_id":"%s","object":"video","status":"queued"}' % (_ID, _ID)
_ERROR = b'{"error":{"code":"fake_code","message":"%s"},"title":"fake","detail":"fake"}'
HANGS = frozenset({"hang", "slow_loris", "cut_and_hang"})
"""Faults that end only with the client's deadline."""


def _answer(status: str, body: bytes, kind: str = "application/json", **headers: str) -> bytes:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def _error(status: str, text: str = "no", **headers: str) -> bytes:
    return _answer(status, _ERROR % text.encode(), **headers)


ANSWERS: dict[str, bytes] = {
    "500": _error("500 Internal Server Error"),
    "502": _error("502 Bad Gateway"),
    "503": _error("503 Service Unavailable", Retry_After="1"),
    "504": _error("504 Gateway Timeout"),
    "429": _error("429 Too Many Requests"),
    "429_retry_after": _error("429 Too Many Requests", Retry_After="7"),
    "429_retry_after_nonsense": _error("429 Too Many Requests", Retry_After="soon"),
    "409": _error("409 Conflict"),
    "408": _error("408 Request Timeout"),
    "425": _error("425 Too Early"),
    "404": _error("404 Not Found"),
    "418": _error("418 I'm a teapot"),
    "400_gateway": _answer("400 Bad Request", b"<html>nginx</html>", "text/html"),
    "403_gateway": _answer("403 Forbidden", b"", "text/html"),
    "200_html": _answer("200 OK", b"<html>Welcome</html>", "text/html"),
    "200_no_id": _answer("200 OK", b'{"status":"queued"}'),
    "200_odd_id": _answer("200 OK", b'{"id":17,"status":"queued"}'),
    "200_path_id": _answer("200 OK", b'{"id":"../../admin","status":"queued"}'),
    "200_long_id": _answer("200 OK", b'{"id":"%s","request_id":"%s"}' % (b"a" * 513, b"a" * 513)),
    "200_list": _answer("200 OK", b'[{"id":"video_1"}]'),
    "200_empty": _answer("200 OK", b""),
    "200_deep": _answer("200 OK", b"[" * 200_000),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not_http": b"SSH-2.0-OpenSSH_9.9\r\n",
    "200_endless": _answer("200 OK", b" " * 2_000_000 + _JOB),
}
CUT = _answer("200 OK", _JOB)[:-20]
CHUNK_CUT = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + _JOB
REDIRECTS = {"302": "302 Found", "307": "307 Temporary Redirect", "308": "308 Permanent Redirect"}
FAULTS = (
    "drop_before_reading",
    "drop_after_reading",
    "reset",
    "cut",
    "chunk_cut",
    *sorted(HANGS),
    *ANSWERS,
    *REDIRECTS,
)


class Faults:
    """One fault, served to every connection.

    Attributes:
        url: Root of the server, once entered.
        posts: POSTs that arrived whole, headers and body.
        connections: Connections that were opened.
        heads: The head of every whole request.
        posted: Set with the first whole POST.
    """

    def __init__(self, fault: str) -> None:
        assert fault in FAULTS, fault
        self.fault = fault
        self.posts = self.connections = 0
        self.heads: list[str] = []
        self.posted = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            # A whole answer leaves the connection open, to catch a client that uses it again.
            more = self.fault != "drop_before_reading"
            while more and await self._read(reader):
                await self._fail(writer)
                more = self.fault in REDIRECTS or (self.fault in ANSWERS and self.fault != "not_http")
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"(?mi)^content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
        except asyncio.IncompleteReadError:
            return False
        self.heads.append(head)
        if head.startswith("POST "):
            self.posts += 1
            self.posted.set()
        return True

    async def _fail(self, writer: asyncio.StreamWriter) -> None:
        fault = self.fault
        if fault == "reset":
            raw: socket.socket = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif fault in HANGS:
            await self._hang(fault, writer.write, writer.drain)
        elif fault in REDIRECTS:
            writer.write(_answer(REDIRECTS[fault], b"", Location=f"{self.url}/v1/videos"))
        elif fault != "drop_after_reading":
            writer.write({"cut": CUT, "chunk_cut": CHUNK_CUT, **ANSWERS}[fault])
        if fault != "reset":
            await writer.drain()

    @staticmethod
    async def _hang(fault: str, write: Callable[[bytes], None], drain: Callable[[], Awaitable[None]]) -> None:
        if fault == "cut_and_hang":
            write(CUT)
        if fault == "slow_loris":
            write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while True:  # every byte renews a timeout that counts per read
                write(b"a")
                await drain()
                await asyncio.sleep(0.02)
        await asyncio.Event().wait()
