"""A TCP proxy between a client and its store that fails in the ways networks fail."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Self

_KEPT = 1_000_000

ProxyMode = Literal["pass", "swallow", "swallow once", "hang", "refuse"]


@dataclass
class _Line:
    """One connection; `loses` says that its next answer is dropped."""

    loses: bool = False


class Proxy:
    """Forward to (host, port). `swallow` lets the store act and drops its answers; `hang` drops both ways;
    `refuse` ends every new connection at once. `target` may be changed for new connections.

    Attributes:
        sent: The last megabyte or so that clients sent.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.mode: ProxyMode = "pass"
        self._wanted: bytes | None = None
        self.sent = bytearray()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def refuse(self) -> None:
        """End every connection, and every new one from now on."""
        self.mode = "refuse"
        self.cut()

    def lose_reply_to(self, word: bytes) -> None:
        """Let the store act on the next command that holds `word`, and drop its answer."""
        self._wanted = word

    @property
    def loses(self) -> bool:
        """Whether an answer is still to be lost."""
        return self._wanted is not None or self.mode == "swallow once"

    def cut(self) -> None:
        """Close every connection."""
        for writer in list(self._writers):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "refuse":
            writer.close()
            return
        try:
            there, back = await asyncio.open_connection(*self.target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, back}
        line = _Line()
        for pump in (self._pump(reader, back, line, up=True), self._pump(there, writer, line, up=False)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: "_Line", *, up: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if up:
                    self.sent += data
                    if len(self.sent) > 2 * _KEPT:
                        del self.sent[:-_KEPT]
                    if self._wanted is not None and self._wanted in data:
                        self._wanted, line.loses = None, True
                elif line.loses:
                    line.loses = False
                    continue
                if self.mode == "swallow once" and not up:
                    self.mode = "pass"  # only this answer is lost
                elif self.mode == "pass" or (self.mode != "hang" and up):
                    writer.write(data)
                    await writer.drain()
        self._writers.discard(writer)
        writer.close()
