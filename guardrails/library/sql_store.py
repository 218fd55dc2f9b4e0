"""Claims in SQLite or PostgreSQL: the durable layer.

SQLite needs nothing but Python; PostgreSQL needs the extra `sql` (asyncpg). Both are used without
SQLAlchemy: a handful of statements in two dialects gain nothing from it, and it doubles what a call costs.
"""

import json
import re
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from .claims import Claim, CountScope, Rule
from .sql_statements import Statements, claim_of

Answer = TypeVar("Answer")

_PREFIX: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")
_KNOWN: Final = "sqlite:///FILE, sqlite+aiosqlite:///FILE, postgresql://…, postgresql+asyncpg://…"


class StoreUrlError(ValueError):
    """The URL names no database that this store can use; the message shows no password."""


class Database(Protocol):
    """What a database does for the store."""

    async def migrate(self) -> None:
        """Create or migrate the tables, one process at a time."""
        ...

    async def change(self, key: str, rule: Rule[Answer], counts: CountScope | None) -> Answer:
        """See `claims.ClaimStore`."""
        ...

    async def rows(self, statement: str, values: Callable[[int], tuple[Any, ...]]) -> Sequence[Sequence[Any]]:
        """Read rows; the values may need the time, milliseconds."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class SqlStore:
    """A claim store in a database.

    Args:
        url: `sqlite+aiosqlite:///claims.db` (or `sqlite:///…`; four slashes for an absolute path), or
            `postgresql+asyncpg://…` (or `postgresql://…`).
        prefix: Of its tables, so that they can share a database with others.
        clock: Returns the time in seconds since the epoch; None: the database's own on PostgreSQL, this
            machine's on SQLite. For tests.
        options: For asyncpg's pool, as `{"statement_cache_size": 0}` behind PgBouncer.

    Raises:
        StoreUrlError: The URL names another database.
        ValueError: The prefix is not a name.
    """

    durable = True

    def __init__(
        self, url: str, *, prefix: str = "onetake_guard_", clock: Callable[[], float] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        if _PREFIX.fullmatch(prefix) is None:
            raise ValueError(f"{prefix!r} is not a prefix of tables such as 'onetake_guard_'")
        kind = urlsplit(url).scheme.partition("+")[0]
        if kind == "sqlite":
            from .sqlite_database import SqliteDatabase, path_of  # noqa: PLC0415 - each loads its driver alone

            self._statements = Statements(prefix, "sqlite")
            self._database: Database = SqliteDatabase(path_of(url), self._statements, clock or time.time)
        elif kind in ("postgresql", "postgres"):
            from .postgresql_database import PostgresqlDatabase  # noqa: PLC0415 - as above

            self._statements = Statements(prefix, "postgresql")
            dsn = f"postgresql://{url.partition('://')[2]}"
            self._database = PostgresqlDatabase(dsn, self._statements, clock, options or {})
        else:
            raise StoreUrlError(f"{kind[:20]!r} is not supported; use {_KNOWN}")

    async def setup(self) -> None:
        """Create or migrate the tables; safe to run twice, and from several processes at once.

        Raises:
            SchemaTooNew: A newer version of this library has migrated them.
        """
        await self._database.migrate()

    async def change(self, key: str, rule: Rule[Answer], counts: CountScope | None = None) -> Answer:
        """See `claims.ClaimStore`."""
        return await self._database.change(key, rule, counts)

    async def read(self, key: str) -> Claim | None:
        """See `claims.ClaimStore`."""
        rows = await self._database.rows(self._statements.read, lambda _: (key,))
        return claim_of(rows[0]) if rows else None

    async def starts(self, counts: CountScope, since: int, *, everyone: bool) -> Sequence[tuple[int, int]]:
        """See `claims.ClaimStore`."""
        statement = self._statements.all_starts if everyone else self._statements.user_starts
        values = (counts.namespace, counts.tool, since, *(() if everyone else (counts.user,)))
        rows = await self._database.rows(statement, lambda _: values)
        return [(int(at), int(micros)) for at, micros in rows]

    async def due(self, namespace: str, tools: Collection[str], most: int) -> Sequence[Claim]:
        """See `claims.ClaimStore`."""
        named = json.dumps(sorted(tools))
        rows = await self._database.rows(self._statements.due, lambda now: (namespace, now, named, most))
        return [claim_of(row) for row in rows]

    async def pending(self, namespace: str, most: int) -> Sequence[Claim]:
        """See `claims.ClaimStore`."""
        rows = await self._database.rows(self._statements.pending, lambda now: (namespace, now, most))
        return [claim_of(row) for row in rows]

    async def forget(self, namespace: str, age_ms: int) -> int:
        """See `claims.ClaimStore`."""
        return len(await self._database.rows(self._statements.forget, lambda now: (namespace, now - age_ms)))

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()
