"""Engine, transactions with retry, clock."""

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from sqlalchemy import BigInteger, ColumnElement, Insert, Table, event, literal_column, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as WaitTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from ledger import postgresql_url, sqlstates
from ledger.pooler import Pooler
from telemetry.logs import get_logger

_DRIVERS: Final = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
_CLOCKS: Final[dict[str, ColumnElement[int]]] = {
    "sqlite": literal_column("CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)", BigInteger),
    # clock_timestamp(), not now(): that is when the transaction began, before it waited for a lock. In a
    # subquery, because PostgreSQL uses no index for a comparison with a function that is volatile.
    "postgresql": literal_column(
        "(SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT))", BigInteger
    ),
}
STATEMENT_TIMEOUT_S: Final = 15.0
"""A PostgreSQL that has not answered one statement by then is given up, so that no caller hangs."""

_CLOSE_TIMEOUT_S: Final = 3.0
_URL_HELP: Final = "use sqlite:///PATH or postgresql://USER@HOST/NAME"
_POSTGRESQL_CONNECTIONS: Final = 16
_SQLITE_READERS: Final = 8
_OVERFLOW: Final = 4
"""Connections beyond those in use: of cancelled callers, while they are rolled back."""

_RECYCLE_S: Final = 300
"""PostgreSQL connections older than this are replaced: firewalls drop idle ones, some after 350 s, and what
only reads does not notice that its server was demoted.
"""

SQLITE_BUSY_S: Final = 30.0
"""How long a writer waits for other processes' transactions on SQLite's file."""

_WAIT_S: Final = 35.0
"""How long a transaction waits for its turn while none of this process ends."""


class LedgerError(Exception):
    """The ledger cannot be used as asked; the message says what was found and what to do."""


class Ledger:
    """An open ledger: transactions, and the store's own clock.

    Args:
        url: A database URL, `sqlite:///path` or `postgresql://…`.
        shift: Seconds added to the store's clock; anything but 0 is for tests that move a day.

    Attributes:
        arguments: Of the driver, from the URL's parameters.
        pooler: Of PostgreSQL; whether one is in front is known after the first connection.
    """

    def __init__(self, url: str, shift: int = 0) -> None:
        self.url, self.arguments, self.pooler = _read_url(url)
        self.shift = shift
        self.engine = _create_engine(self.url, self.arguments, self.pooler)
        self.dialect: str = self.engine.dialect.name
        self._open_tasks: set[asyncio.Task[Any]] = set()
        if self.dialect == "sqlite":
            self._writes, self._reads = _Turns(1), _Turns(_SQLITE_READERS)
        else:
            self._writes = self._reads = _Turns(_POSTGRESQL_CONNECTIONS)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Run one transaction that may write: all of it is durable on return, or none of it happened.

        Callers wait for their turn in order: on SQLite one process writes one transaction at a time, so only
        processes compete for the file's lock, which is given to a random one of those that wait.

        Raises:
            sqlalchemy.exc.TimeoutError: No transaction of this process ended for `_WAIT_S`.
        """
        async with self._writes.turn(), self.engine.begin() as conn:
            yield conn

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Run one transaction that only reads; on SQLite it does not wait for a writer.

        Raises:
            sqlalchemy.exc.TimeoutError: No transaction of this process ended for `_WAIT_S`.
        """
        async with self._reads.turn(), self.engine.connect() as raw:
            conn = await raw.execution_options(onetake_read=True)
            async with conn.begin():
                yield conn

    def time(self) -> ColumnElement[int]:
        """Return SQL for the store's time in milliseconds since the epoch, moved by `shift`.

        For VALUES, SET and WHERE, so that no statement is spent on the time; RETURNING gives the value that
        was written. It is read once for each place where it is used: two columns that are set to it may
        differ by a millisecond. On PostgreSQL it is read when the statement begins, before a wait for a row.
        """
        return clock(self.dialect, self.shift)

    async def now(self, conn: AsyncConnection) -> int:
        """Return the store's time in milliseconds since the epoch, moved by `shift`."""
        return int((await conn.execute(select(self.time()))).scalar_one())

    def insert_new(self, table: Table) -> Any:
        """Return an INSERT that does nothing where the key exists already (its rowcount says which)."""
        return insert_new(self.dialect, table)

    def insert_or_lock(self, table: Table, column: ColumnElement[Any]) -> Any:
        """Return an INSERT of one row that locks the one whose key exists; RETURNING gives it in both cases.

        `column` is any column outside the key: an existing row gets its own value again.
        """
        return _insert_or_lock(self.dialect, table, column)

    def upsert(
        self,
        table: Table,
        key: dict[str, Any],
        values: dict[str, Any],
        where: ColumnElement[bool] | None = None,
    ) -> Any:
        """Return an INSERT of `key` and `values` that sets `values` where the key exists already.

        An existing row for which `where` is false stays as it is; RETURNING gives no row for it.
        """
        build = sqlite.insert if self.dialect == "sqlite" else postgresql.insert
        return (
            build(table)
            .values(**key, **values)
            .on_conflict_do_update(index_elements=list(key), set_=values, where=where)
        )

    def track_task(self, task: "asyncio.Task[Any]") -> None:
        """Keep a transaction's task until it ends, so that `close` can wait for one that was left behind."""
        self._open_tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._open_tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone; a caller that waits gets the error all the same

    async def close(self) -> None:
        """Wait up to `_CLOSE_TIMEOUT_S` for transactions without a caller; then close every connection."""
        if self._open_tasks:
            await asyncio.wait(self._open_tasks, timeout=_CLOSE_TIMEOUT_S)
        await self.engine.dispose()


@cache
def clock(dialect: str, shift: int) -> ColumnElement[int]:
    """Return what `Ledger.time` does, of a ledger of this dialect and shift.

    The same object each time: statements are built once for each clock, because building one costs several
    times what sending it does (docs/decisions/0022).
    """
    now = _CLOCKS[dialect]
    return now + shift * 1000 if shift else now


def _insert_for(dialect: str, table: Table) -> Any:
    return (sqlite.insert if dialect == "sqlite" else postgresql.insert)(table)


@cache
def insert_new(dialect: str, table: Table) -> Insert:
    """Return what `Ledger.insert_new` does, on this dialect."""
    statement: Insert = _insert_for(dialect, table).on_conflict_do_nothing()
    return statement


@cache
def _insert_or_lock(dialect: str, table: Table, column: ColumnElement[Any]) -> Any:
    keys, kept = list(table.primary_key.columns), {column.key: column}
    return _insert_for(dialect, table).on_conflict_do_update(index_elements=keys, set_=kept).returning(table)


class _Turns:
    """Let at most so many transactions run at once; the others wait in order.

    Waiting for a turn says nothing about the database, so it ends in an error only where no transaction ended
    well for `_WAIT_S`: SQLAlchemy's pool would give up after a fixed time, and not serve in order.
    """

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)
        self._ended_at = time.monotonic()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        await self._wait()
        try:
            yield
            self._ended_at = time.monotonic()
        finally:
            self._free.release()

    async def _wait(self) -> None:
        if not self._free.locked():
            await self._free.acquire()  # at once: a deadline would cost more than all else here
            return
        began = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(_WAIT_S):
                    await self._free.acquire()
                    return
            except TimeoutError:
                if time.monotonic() - max(began, self._ended_at) >= _WAIT_S:
                    raise WaitTimeout(f"no transaction ended for {_WAIT_S:.0f} s") from None


def _read_url(url: str) -> tuple[URL, dict[str, Any], Pooler]:
    scheme = url.partition("://")[0]
    if not _DRIVERS.get(scheme, "").startswith("postgresql") or "://" not in url:
        return parse_database_url(url), {}, Pooler(present=False)
    try:
        found = postgresql_url.parse(url)
    except postgresql_url.PostgresUrlError as error:
        raise LedgerError(f"DATABASE_URL (postgresql://…) cannot be used: {error}") from None
    return found.url, found.arguments, Pooler(present=True if found.pooled else None)


def parse_database_url(url: str) -> URL:
    """Read a database URL, give it our drivers, and make SQLite's folder.

    Raises:
        LedgerError: It is not the URL of a database that the ledger supports.
    """
    try:
        found = make_url(url)
    except Exception:  # noqa: BLE001 - SQLAlchemy raises ValueError and its own
        scheme, given, _ = url.partition("://")
        value = f"{scheme[:20]}://…" if given else f"{len(url)} characters without ://"
        # Neither quoted nor chained: a text that is no URL may be a password.
        raise LedgerError(f"DATABASE_URL ({value}) is not a URL; {_URL_HELP}") from None
    driver = _DRIVERS.get(found.drivername)
    if driver is None:
        raise LedgerError(
            f"DATABASE_URL names {found.drivername!r}, which the ledger does not support; {_URL_HELP}"
        )
    if driver.startswith("sqlite"):
        _check_sqlite_path(found)
    return found.set(drivername=driver)


def _check_sqlite_path(url: URL) -> None:
    path = url.database or ""
    if path in ("", ":memory:"):
        raise LedgerError(f"DATABASE_URL is {url}: a ledger in memory loses what was paid; {_URL_HELP}")
    if path.startswith("file:"):
        return  # SQLite's own form of a path; its folder must be there
    if Path(path).is_dir():
        raise LedgerError(f"DATABASE_URL names {path}, which is a folder; name a file in it")
    folder = Path(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(
            f"DATABASE_URL's folder {folder} cannot be made ({error.strerror}); name one that you may write"
        ) from error


def _create_engine(url: URL, arguments: dict[str, Any], pooler: Pooler) -> AsyncEngine:
    if url.drivername.startswith("postgresql"):
        engine = create_async_engine(
            url,
            hide_parameters=True,  # they hold ideas and prompts, and an error's text reaches logs
            pool_size=_POSTGRESQL_CONNECTIONS,
            max_overflow=_OVERFLOW,
            pool_timeout=_WAIT_S,
            # No ping: it costs two round trips for each transaction, and a read-only server answers it.
            pool_recycle=_RECYCLE_S,
            # The recount must see what was committed while it waited for its lock.
            isolation_level="READ COMMITTED",
            connect_args={"timeout": 5, "command_timeout": STATEMENT_TIMEOUT_S} | arguments,
        )
        pooler.listen(engine)
        event.listen(engine.sync_engine, "checkout", _drop_if_closed)
        event.listen(engine.sync_engine, "begin", _note_begin)
        event.listen(engine.sync_engine, "commit", _note_commit)
        event.listen(engine.sync_engine, "handle_error", _drop_if_lost)
        return engine
    return create_sqlite_engine(
        url, pool_size=_SQLITE_READERS + 1, max_overflow=_OVERFLOW, pool_timeout=_WAIT_S
    )


def create_sqlite_engine(url: URL, **pool: Any) -> AsyncEngine:
    """Return an engine whose connections are prepared as the ledger needs them."""
    engine = create_async_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": SQLITE_BUSY_S, "factory": _RollbackOnClose},
        **pool,
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


_USED: Final = "onetake_used"
_COMMITTING: Final = "onetake_committing"
_KEPT_NOTHING: Final = "onetake_kept_nothing"


def _drop_if_closed(_: Any, entry: ConnectionPoolEntry, __: Any) -> None:
    """Replace a connection that is known to be closed before it is handed out; asks the server nothing."""
    if cast("Any", entry.driver_connection).is_closed():
        raise DisconnectionError("closed while it was idle")


def _note_begin(conn: Any) -> None:
    conn.info[_USED] = conn.info.get(_USED, 0) + 1
    conn.info[_COMMITTING] = False


def _note_commit(conn: Any) -> None:
    conn.info[_COMMITTING] = True


def _drop_if_lost(context: ExceptionContext) -> None:
    """Drop a connection that is broken or refuses, and mark an error after which `transaction` may retry.

    That is where the connection came from the pool, so that it may have been lost long before, and no COMMIT
    was sent on it, so that the server keeps nothing.
    """
    error, conn = context.original_exception, context.connection
    if conn is None or not isinstance(error, Exception):
        return
    if isinstance(error, TimeoutError):
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False  # one slow statement says nothing of the others
        return
    if isinstance(error, OSError) or sqlstates.refuses(sqlstates.sqlstate_of(error)):
        context.is_disconnect = True
    if context.is_disconnect and not conn.invalidated and _kept_nothing(conn.info):
        setattr(context.sqlalchemy_exception or error, _KEPT_NOTHING, True)


def _kept_nothing(info: dict[Any, Any]) -> bool:
    return info.get(_USED, 0) > 1 and not info.get(_COMMITTING, True)


class _RollbackOnClose(sqlite3.Connection):
    def close(self) -> None:
        """Roll back, then close. A cursor that a cancelled caller left behind, half read, keeps a closed
        connection alive within SQLite until it is collected, and with it the lock on the whole file.
        """
        with contextlib.suppress(sqlite3.Error):
            self.rollback()
        super().close()


def _prepare_sqlite(raw: Any, _: ConnectionPoolEntry) -> None:
    raw.isolation_level = None  # the driver's own BEGIN comes too late for a lock: `_begin_sqlite` sends it
    cursor = raw.cursor()
    try:
        # FULL syncs each commit, because rows here are money.
        for pragma in (f"busy_timeout={SQLITE_BUSY_S * 1000:.0f}", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        # WAL lets readers continue while one writes. The file keeps it; asking for it fails at once, without
        # the wait above, where another process uses the file.
        cursor.execute("PRAGMA journal_mode")
        if cursor.fetchone()[0] != "wal":
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.close()
    except Exception:
        raw.close()  # the pool drops what it could not prepare, and its thread would stay
        raise


def _begin_sqlite(conn: Any) -> None:
    read = conn.get_execution_options().get("onetake_read", False)
    conn.exec_driver_sql("BEGIN" if read else "BEGIN IMMEDIATE")


log = get_logger(__name__)

TransactionFunction = TypeVar("TransactionFunction", bound=Callable[..., Coroutine[Any, Any, Any]])
"""A function whose first argument is the ledger."""

MAX_TRANSACTION_ATTEMPTS: Final = 5
"""Attempts at one transaction, the first included."""


def transaction(function: TransactionFunction) -> TransactionFunction:
    """Run the decorated function in a task of its own and retry it on serialization failures and deadlocks.

    Up to `MAX_TRANSACTION_ATTEMPTS` attempts, and only where the server says that it kept nothing. A lost
    connection is retried once if it came from the pool and no COMMIT was sent on it. Other connection errors
    are raised, also during COMMIT when the outcome is unknown: every write here is an idempotent insert or a
    compare-and-set, so the caller can retry.

    A caller that is cancelled returns at once. Its transaction is rolled back in the background, because that
    may wait for SQLite's lock, or for a server that hangs.
    """

    @wraps(function)
    async def ask(ledger: Ledger, *args: Any, **kwargs: Any) -> Any:
        task = asyncio.create_task(_retry(function, ledger, *args, **kwargs))
        ledger.track_task(task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise

    return cast("TransactionFunction", ask)


async def _retry(function: TransactionFunction, *args: Any, **kwargs: Any) -> Any:
    may_reconnect = True
    for turn in range(1, MAX_TRANSACTION_ATTEMPTS):
        try:
            return await function(*args, **kwargs)
        except (DBAPIError, OSError) as error:
            state = sqlstates.sqlstate_of(error)
            lost = may_reconnect and getattr(error, _KEPT_NOTHING, False)
            if state not in sqlstates.RETRYABLE and not lost and not _is_stale_statement(error):
                raise
            may_reconnect = may_reconnect and not lost
            log.info("transaction retried", sqlstate=state, turn=turn)
        await asyncio.sleep(random.uniform(0, 0.02 * turn))  # noqa: S311 - so that two do not collide again
    return await function(*args, **kwargs)


def _is_stale_statement(error: DBAPIError | OSError) -> bool:
    """Return whether a prepared statement was refused because a migration changed a column that it reads.

    Nothing was executed, and SQLAlchemy drops the prepared statements of all connections.
    """
    return type(getattr(error, "orig", None)).__name__ == "InvalidCachedStatementError"


async def migrate(ledger: Ledger) -> None:
    """Upgrade to the newest revision; see `ledger.migrate.upgrade`."""
    from ledger import migrate as migrations  # noqa: PLC0415 - it imports this module

    await migrations.upgrade(ledger)


async def downgrade(ledger: Ledger, revision: str) -> None:
    """Take the schema back to `revision`; see `ledger.migrate.downgrade`."""
    from ledger import migrate as migrations  # noqa: PLC0415 - it imports this module

    await migrations.downgrade(ledger, revision)


async def revisions(ledger: Ledger) -> tuple[str | None, str | None]:
    """Return (the revision of the database, the newest one known here)."""
    from ledger import migrate as migrations  # noqa: PLC0415 - it imports this module

    return await migrations.revisions(ledger)
