"""The SQL store on SQLite: one connection in one thread, one trip to it for a whole transaction.

SQLite allows one writer at a time over all processes (`BEGIN IMMEDIATE`), so a change is alone.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from .claims import CountScope, Rule, Usage
from .sql_statements import Statements, claim_of, row_of, usage_of, user_values

Answer = TypeVar("Answer")

BUSY_S: Final = 4.0
"""How long a transaction waits for those of other processes; less than `layers.STORE_TIMEOUT_S`."""


def path_of(url: str) -> str:
    """Return the file in a URL: three slashes for a relative path, four for an absolute one."""
    return unquote(urlsplit(url).path)[1:] or ":memory:"


class SqliteDatabase:
    """A file of SQLite."""

    def __init__(self, path: str, statements: Statements, clock: Callable[[], float]) -> None:
        self._path, self._statements, self._clock = path, statements, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="onetake-guard")
        self._connection: sqlite3.Connection | None = None

    async def migrate(self) -> None:
        """Create or migrate the tables."""

        def step(conn: sqlite3.Connection) -> None:
            conn.execute(self._statements.version_table)
            found = conn.execute(self._statements.found_version).fetchone()
            for statement in self._statements.steps(found[0] if found else None):
                conn.execute(statement)

        await self._run(lambda: self._transaction(step))

    async def change(self, key: str, rule: Rule[Answer], counts: CountScope | None) -> Answer:
        """See `claims.ClaimStore`."""

        def step(conn: sqlite3.Connection) -> Answer:
            now, row = self._now(), conn.execute(self._statements.read, (key,)).fetchone()
            usage = Usage() if counts is None else self._usage(conn, counts, now)
            claim, answer = rule(None if row is None else claim_of(row), now, usage)
            if claim is not None:
                statement = self._statements.insert if row is None else self._statements.update
                conn.execute(statement, row_of(claim))
            return answer

        return await self._run(lambda: self._transaction(step))

    def _usage(self, conn: sqlite3.Connection, counts: CountScope, now: int) -> Usage:
        windows, of_tool = counts.windows(now), (counts.namespace, counts.tool)
        user = (
            conn.execute(self._statements.user_usage, user_values(windows, *of_tool, counts.user)).fetchone()
            if counts.one_user
            else None
        )
        everyone = (
            conn.execute(self._statements.all_usage, (*of_tool, windows.everyone_budget)).fetchone()
            if counts.everyone
            else None
        )
        return usage_of(user, everyone)

    async def rows(self, statement: str, values: Callable[[int], tuple[Any, ...]]) -> Sequence[Sequence[Any]]:
        """Read rows."""
        return await self._run(lambda: self._open().execute(statement, values(self._now())).fetchall())

    def _transaction(self, step: Callable[[sqlite3.Connection], Answer]) -> Answer:
        conn = self._open()
        conn.execute("BEGIN IMMEDIATE")
        try:
            answer = step(conn)
            conn.execute("COMMIT")
        except BaseException:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise
        return answer

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            conn = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
            conn.execute("PRAGMA journal_mode=WAL")
            # A committed claim survives a power cut, not only a dead process.
            conn.execute("PRAGMA synchronous=FULL")
            self._connection = conn
        return self._connection

    def _now(self) -> int:
        return int(self._clock() * 1000)

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Close the connection, in its thread; a second time does nothing."""

        def close() -> None:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

        with suppress(RuntimeError):  # the thread is gone: it was closed before
            await self._run(close)
        self._thread.shutdown(wait=False)
