"""SQLite without threads, for a process that plays thousands of requests: same statements, same files.

The driver sends each of some hundred steps of a request to a thread and back; on two cores that is half of
a request's time, and a writer holds the file's lock all the while. Here steps run where they are asked for,
and writers of the process queue on a lock that is fair. What threads and locks do is for cases and tests.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

from aiosqlite.core import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.database import Ledger


@contextmanager
def inline() -> Iterator[None]:
    """Drive SQLite in this process's own thread inside the block; one house at a time."""
    locks: WeakKeyDictionary[Ledger, asyncio.Lock] = WeakKeyDictionary()
    write, stop = Ledger.write, Connection.stop

    @asynccontextmanager
    async def in_turn(self: Ledger) -> AsyncIterator[AsyncConnection]:
        async with locks.setdefault(self, asyncio.Lock()), write(self) as conn:
            yield conn

    async def connect(self: Any) -> Connection:
        if self._connection is None:
            self._connection = self._connector()
        return self  # type: ignore[no-any-return]  # it is one

    async def execute(self: Any, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        if not self._running or self._connection is None:
            raise ValueError("Connection closed")
        return function(*args, **more)

    def close_first(self: Any) -> Any:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        return stop(self)

    with (
        patch.object(Ledger, "write", in_turn),
        patch.multiple(Connection, _connect=connect, _execute=execute, stop=close_first),
    ):
        yield
