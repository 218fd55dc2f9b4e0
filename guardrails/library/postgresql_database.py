"""The SQL store on PostgreSQL, over a small pool of asyncpg. Needs the extra `sql`.

Advisory locks make a change alone: on the key of its claim, and on what its limits count. They end with the
transaction, so they work behind PgBouncer too. They are taken in a statement of their own: what the next
statement reads was committed by then.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import asyncpg  # type: ignore[import-untyped]  # it has no types

from .claims import CountScope, Rule, Usage
from .sql_statements import Statements, claim_of, row_of, usage_of, user_values

Answer = TypeVar("Answer")

_CONNECTIONS: Final = 8
_TIMEOUT_S: Final = 4.0
_SETUP_LOCK: Final = 0x6F6E6574616B65

_LOCK: Final = (
    "WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock(one) FROM unnest($1::bigint[]) one) "
    "SELECT count(*), (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM held"
)
_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"


class PostgresqlDatabase:
    """A database of PostgreSQL."""

    def __init__(
        self, dsn: str, statements: Statements, clock: Callable[[], float] | None, options: dict[str, Any]
    ) -> None:
        self._dsn, self._statements, self._clock, self._options = dsn, statements, clock, options
        self._pool: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()

    async def migrate(self) -> None:
        """Create or migrate the tables."""
        async with (await self._opened()).acquire() as conn, conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock($1)", _SETUP_LOCK)
            await conn.execute(self._statements.version_table)
            for statement in self._statements.steps(await conn.fetchval(self._statements.found_version)):
                await conn.execute(statement)

    async def change(self, key: str, rule: Rule[Answer], counts: CountScope | None) -> Answer:
        """See `claims.ClaimStore`."""
        async with (await self._opened()).acquire() as conn, conn.transaction():
            _, now = await conn.fetchrow(_LOCK, _locks(key, counts))
            now = now if self._clock is None else int(self._clock() * 1000)
            row = await conn.fetchrow(self._statements.read, key)
            usage = Usage() if counts is None else await self._usage(conn, counts, now)
            claim, answer = rule(None if row is None else claim_of(tuple(row)), now, usage)
            if claim is not None:
                statement = self._statements.insert if row is None else self._statements.update
                await conn.execute(statement, *row_of(claim))
            return answer

    async def _usage(self, conn: Any, counts: CountScope, now: int) -> Usage:
        windows, of_tool = counts.windows(now), (counts.namespace, counts.tool)
        user = everyone = None
        if counts.one_user:
            values = user_values(windows, *of_tool, counts.user)
            user = await conn.fetchrow(self._statements.user_usage, *values)
        if counts.everyone:
            everyone = await conn.fetchrow(self._statements.all_usage, *of_tool, windows.everyone_budget)
        return usage_of(user, everyone)

    async def rows(self, statement: str, values: Callable[[int], tuple[Any, ...]]) -> Sequence[Sequence[Any]]:
        """Read rows."""
        async with (await self._opened()).acquire() as conn:
            now = await conn.fetchval(_NOW) if self._clock is None else int(self._clock() * 1000)
            return [tuple(row) for row in await conn.fetch(statement, *values(now))]

    async def _opened(self) -> Any:
        """Return the pool of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # connections belong to their loop
            self._pool, self._loop, self._opening = None, loop, asyncio.Lock()
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(
                        self._dsn, min_size=0, max_size=_CONNECTIONS, timeout=_TIMEOUT_S,
                        command_timeout=_TIMEOUT_S, reset=_keep_session, **self._options,
                    )  # fmt: skip
        return self._pool

    async def close(self) -> None:
        """Close the connections; a second time does nothing."""
        pool, self._pool = self._pool, None
        if pool is not None and self._loop is asyncio.get_running_loop():
            await pool.close()


async def _keep_session(connection: Any) -> None:
    """Leave a connection as it is: no session state is ever set, and asyncpg's reset is one more trip."""
    del connection


def _locks(key: str, counts: CountScope | None) -> list[int]:
    """Return what a change locks, in one order for all: everyone's sums, the user's, the claim."""
    named: list[tuple[str, ...]] = []
    if counts is not None and counts.everyone:
        named.append(("everyone", counts.namespace, counts.tool))
    if counts is not None and counts.one_user:
        named.append(("user", counts.namespace, counts.tool, counts.user))
    named.append(("claim", key))
    return [
        int.from_bytes(hashlib.sha256(repr(one).encode()).digest()[:8], "big", signed=True) for one in named
    ]
