"""Claims in SQLite or PostgreSQL: the durable layer. Needs the extra `sql`.

One change is one transaction: SQLite allows one writer at a time (`BEGIN IMMEDIATE`); on PostgreSQL advisory
locks on the claim's key and on what its limits count do the same for just those. A transaction on SQLite is
one trip to one thread, whatever it does, because each trip costs more than a statement.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    and_,
    bindparam,
    create_engine,
    event,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from .claims import Claim, CountScope, Rule, Sums
from .memory_store import NO_USAGE
from .sql_tables import Tables, create_or_migrate

Answer = TypeVar("Answer")

_PREFIX: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")
_OPEN: Final = ("in_flight", "unknown")
_BUSY_S: Final = 5
_FIELDS: Final = tuple(one.name for one in fields(Claim))


class StoreUrlError(ValueError):
    """The URL names no database that this store can use."""


class SqlStore:
    """A claim store over SQLAlchemy.

    Args:
        url: `sqlite+aiosqlite:///claims.db` (or `sqlite:///…`), or `postgresql+asyncpg://…`.
        prefix: Of its tables, so that they can share a database with others.
        clock: Returns the time in seconds since the epoch; None: the database's own on PostgreSQL, this
            machine's on SQLite. For tests.

    Raises:
        StoreUrlError: The URL names another database.
        ValueError: The prefix is not a name.
    """

    durable = True

    def __init__(
        self, url: str, *, prefix: str = "onetake_guard_", clock: Callable[[], float] | None = None
    ) -> None:
        if _PREFIX.fullmatch(prefix) is None:
            raise ValueError(f"{prefix!r} is not a prefix of tables such as 'onetake_guard_'")
        self._prefix, self._tables = prefix, Tables(prefix)
        self._statements = _Statements(self._tables)
        parsed, kind = make_url(url), make_url(url).get_backend_name()
        if kind == "sqlite":
            self._database: _Database = _Sqlite(parsed, clock or time.time)
        elif kind == "postgresql":
            self._database = _Postgresql(parsed, clock)
        else:
            raise StoreUrlError(f"{kind} is not supported; known: sqlite+aiosqlite, postgresql+asyncpg")

    async def setup(self) -> None:
        """Create or migrate the tables; safe to run twice, and from several processes at once."""
        await self._database.run(lambda conn: create_or_migrate(conn, self._tables, self._prefix))

    async def change(self, key: str, rule: Rule[Answer], counts: CountScope | None = None) -> Answer:
        """See `claims.ClaimStore`."""

        def step(conn: Connection) -> Answer:
            now = self._database.lock(conn, _locks(key, counts))
            before = self._statements.read(conn, key)
            usage = NO_USAGE if counts is None else _SqlUsage(conn, self._statements, counts)
            claim, answer = rule(before, now, usage)
            if claim is not None:
                self._statements.write(conn, claim, is_new=before is None)
            return answer

        return await self._database.run(step)

    async def read(self, key: str) -> Claim | None:
        """See `claims.ClaimStore`."""
        return await self._database.run(lambda conn: self._statements.read(conn, key), writes=False)

    async def due(self, namespace: str, tools: Collection[str], most: int) -> Sequence[Claim]:
        """See `claims.ClaimStore`."""
        return await self._listed(self._statements.due, namespace, most, tools=list(tools))

    async def pending(self, namespace: str, most: int) -> Sequence[Claim]:
        """See `claims.ClaimStore`."""
        return await self._listed(self._statements.pending, namespace, most)

    async def _listed(
        self, statement: Select[Any], namespace: str, most: int, **more: object
    ) -> Sequence[Claim]:
        def step(conn: Connection) -> Sequence[Claim]:
            values = {"namespace": namespace, "now": self._database.now(conn), "most": most, **more}
            return [Claim(**row) for row in conn.execute(statement, values).mappings()]

        return await self._database.run(step, writes=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()


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


class _Statements:
    """The statements, built once: SQLAlchemy compiles each of them once."""

    def __init__(self, tables: Tables) -> None:
        table = tables.claims
        columns = table.c
        self._read = select(*(columns[name] for name in _FIELDS)).where(columns.key == bindparam("key"))
        self._insert = insert(table)
        self._update = update(table).where(columns.key == bindparam("key_"))
        of_tool = and_(
            columns.namespace == bindparam("namespace"), columns.tool == bindparam("tool"),
            columns.claimed_at > bindparam("since"), columns.state != "free",
        )  # fmt: skip
        sums = select(func.count(), func.coalesce(func.sum(columns.micros), 0), func.max(columns.claimed_at))
        starts = select(columns.claimed_at, columns.micros).order_by(columns.claimed_at, columns.key)
        of_user = columns.user == bindparam("user")
        self.sums = {True: sums.where(of_tool), False: sums.where(of_tool, of_user)}
        self.starts = {True: starts.where(of_tool), False: starts.where(of_tool, of_user)}
        listed = select(*(columns[name] for name in _FIELDS)).where(
            columns.namespace == bindparam("namespace"), columns.state.in_(_OPEN)
        )
        past = columns.due_at <= bindparam("now")
        asked = or_(columns.state == "in_flight", columns.tool.in_(bindparam("tools", expanding=True)))
        self.due = listed.where(past, asked).order_by(columns.due_at, columns.key).limit(bindparam("most"))
        self.pending = (
            listed.where(or_(columns.state == "unknown", past))
            .order_by(columns.changed_at, columns.key)
            .limit(bindparam("most"))
        )

    def read(self, conn: Connection, key: str) -> Claim | None:
        row = conn.execute(self._read, {"key": key}).first()
        return None if row is None else Claim(**dict(zip(_FIELDS, row, strict=True)))

    def write(self, conn: Connection, claim: Claim, *, is_new: bool) -> None:
        values = asdict(claim)
        if is_new:
            conn.execute(self._insert, values)
        else:
            conn.execute(self._update, values | {"key_": claim.key})


@dataclass(frozen=True, slots=True)
class _SqlUsage:
    conn: Connection
    statements: _Statements
    counts: CountScope

    def sums(self, since: int, *, everyone: bool) -> Sums:
        row = self.conn.execute(self.statements.sums[everyone], self._values(since, everyone)).one()
        return Sums(int(row[0]), int(row[1]), int(row[2] or 0))

    def starts(self, since: int, *, everyone: bool) -> Sequence[tuple[int, int]]:
        rows = self.conn.execute(self.statements.starts[everyone], self._values(since, everyone))
        return [(int(at), int(micros)) for at, micros in rows]

    def _values(self, since: int, everyone: bool) -> dict[str, object]:
        values: dict[str, object] = {
            "namespace": self.counts.namespace, "tool": self.counts.tool, "since": since
        }  # fmt: skip
        return values if everyone else values | {"user": self.counts.user}


class _Database(Protocol):
    async def run(self, step: Callable[[Connection], Answer], *, writes: bool = True) -> Answer:
        """Run a step in one transaction."""
        ...

    def lock(self, conn: Connection, locks: list[int]) -> int:
        """Exclude other changes of what is locked until the end of the transaction; return the time."""
        ...

    def now(self, conn: Connection) -> int:
        """Return the time, milliseconds since the epoch."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class _Sqlite:
    """One connection in one thread."""

    def __init__(self, url: URL, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Each step costs one trip to the thread, with the plain driver: aiosqlite needs one for a statement.
        self._engine = create_engine(
            url.set(drivername="sqlite"), poolclass=StaticPool,
            connect_args={"check_same_thread": False, "timeout": _BUSY_S, "isolation_level": None},
        )  # fmt: skip
        _prepare_sqlite(self._engine)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="onetake-guard")

    async def run(self, step: Callable[[Connection], Answer], *, writes: bool = True) -> Answer:
        def whole() -> Answer:
            with self._engine.connect() as conn:
                if not writes:
                    return step(conn)
                conn.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    answer = step(conn)
                except BaseException:
                    conn.exec_driver_sql("ROLLBACK")
                    raise
                conn.exec_driver_sql("COMMIT")
                return answer

        return await asyncio.get_running_loop().run_in_executor(self._thread, whole)

    def lock(self, conn: Connection, locks: list[int]) -> int:
        del locks  # the one writer excludes all others
        return self.now(conn)

    def now(self, conn: Connection) -> int:
        del conn
        return int(self._clock() * 1000)

    async def close(self) -> None:
        with suppress(RuntimeError):  # closed before
            await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown(wait=False)


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        del record
        # FULL: a committed claim survives a power cut, not only a dead process.
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")


class _Postgresql:
    """A pool of connections; waits for locks in the server."""

    _LOCK: Final = text(
        "WITH held AS MATERIALIZED ("
        "SELECT pg_advisory_xact_lock(one) FROM unnest(CAST(:locks AS bigint[])) one"
        ") SELECT count(*), (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM held"
    )
    _NOW: Final = text("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")

    def __init__(self, url: URL, clock: Callable[[], float] | None) -> None:
        self._clock = clock
        self._engine: AsyncEngine = create_async_engine(
            url.set(drivername="postgresql+asyncpg"), pool_pre_ping=True,
            connect_args={"timeout": _BUSY_S, "command_timeout": _BUSY_S},
        )  # fmt: skip

    async def run(self, step: Callable[[Connection], Answer], *, writes: bool = True) -> Answer:
        del writes
        async with self._engine.begin() as conn:
            return await conn.run_sync(step)

    def lock(self, conn: Connection, locks: list[int]) -> int:
        _, now = conn.execute(self._LOCK, {"locks": locks}).one()
        return int(now) if self._clock is None else int(self._clock() * 1000)

    def now(self, conn: Connection) -> int:
        if self._clock is not None:
            return int(self._clock() * 1000)
        return int(conn.execute(self._NOW).scalar_one())

    async def close(self) -> None:
        await self._engine.dispose()
