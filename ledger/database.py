"""Engine, transactions with retry, clock, migrations at start."""

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Insert,
    Table,
    event,
    inspect,
    literal_column,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from telemetry.logs import get_logger
from telemetry.redaction import redact

if TYPE_CHECKING:
    from alembic.config import Config

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

_CLOSE_TIMEOUT_S: Final = 7.0
_URL_HELP: Final = "use sqlite:///PATH or postgresql://USER@HOST/NAME"


class LedgerError(Exception):
    """The ledger cannot be used as asked; the message says what was found and what to do."""


class Ledger:
    """An open ledger: transactions, and the store's own clock.

    Args:
        url: A database URL, `sqlite:///path` or `postgresql://…`.
        shift: Seconds added to the store's clock; anything but 0 is for tests that move a day.
    """

    def __init__(self, url: str, shift: int = 0) -> None:
        self.url = parse_database_url(url)
        self.shift = shift
        self.engine = _create_engine(self.url)
        self.dialect: str = self.engine.dialect.name
        self._open_tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Run one transaction that may write: all of it is durable on return, or none of it happened."""
        async with self.engine.begin() as conn:
            yield conn

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Run one transaction that only reads; on SQLite it does not wait for a writer."""
        async with self.engine.connect() as raw:
            conn = await raw.execution_options(onetake_read=True)
            async with conn.begin():
                yield conn

    def time(self) -> ColumnElement[int]:
        """Return SQL for the store's time in milliseconds since the epoch, moved by `shift`.

        For VALUES, SET and WHERE, so that no statement is spent on the time; RETURNING gives the value that
        was written. It is read once for each place where it is used: two columns that are set to it may
        differ by a millisecond. On PostgreSQL it is read when the statement begins, before a wait for a row.
        """
        clock = _CLOCKS[self.dialect]
        return clock + self.shift * 1000 if self.shift else clock

    async def now(self, conn: AsyncConnection) -> int:
        """Return the store's time in milliseconds since the epoch, moved by `shift`."""
        return int((await conn.execute(select(self.time()))).scalar_one())

    def insert_new(self, table: Table) -> Any:
        """Return an INSERT that does nothing where the key exists already (its rowcount says which)."""
        build = sqlite.insert if self.dialect == "sqlite" else postgresql.insert
        statement: Insert = build(table).on_conflict_do_nothing()
        return statement

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


def _create_engine(url: URL) -> AsyncEngine:
    if url.drivername.startswith("postgresql"):
        return create_async_engine(
            url,
            hide_parameters=True,  # they hold ideas and prompts, and an error's text reaches logs
            pool_size=10,
            max_overflow=10,
            pool_pre_ping=True,
            pool_timeout=5,
            # The recount must see what was committed while it waited for its lock.
            isolation_level="READ COMMITTED",
            connect_args={"timeout": 5, "command_timeout": STATEMENT_TIMEOUT_S},
        )
    # Writers queue on the file's lock for up to `timeout` seconds, then fail with "database is locked".
    engine = create_async_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": 5, "factory": _RollbackOnClose},
        pool_size=5,
        pool_timeout=10,
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


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
        # WAL lets readers continue while one writes; FULL syncs each commit, because rows here are money.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
            cursor.execute(f"PRAGMA {pragma}")
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

_RETRYABLE_SQLSTATES: Final = frozenset({"40001", "40P01"})
"""SQLSTATEs by which the server says that it rolled everything back: serialization failure, deadlock."""


def transaction(function: TransactionFunction) -> TransactionFunction:
    """Run the decorated function in a task of its own and retry it on serialization failures and deadlocks.

    Up to `MAX_TRANSACTION_ATTEMPTS` attempts, and only where the server says that it kept nothing. Connection
    errors are raised, even during COMMIT when the outcome is unknown: every write here is an idempotent
    insert or a compare-and-set, so the caller can retry.

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
    for turn in range(1, MAX_TRANSACTION_ATTEMPTS):
        try:
            return await function(*args, **kwargs)
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state not in _RETRYABLE_SQLSTATES:
                raise
            log.info("transaction retried", sqlstate=state, turn=turn)
        await asyncio.sleep(random.uniform(0, 0.02 * turn))  # noqa: S311 - so that two do not collide again
    return await function(*args, **kwargs)


_MIGRATION_LOCK: Final = 0x4F6E6554616B65  # any fixed number: PostgreSQL's advisory locks are named by one
_REMEDIES: Final = {
    "sqlite": "check that it is a SQLite file in a folder that this process may write, on a disk with room",
    "postgresql": "check that the server answers there, and that user, password and database exist",
}


_MIGRATIONS: Final = Path(__file__).parent / "migrations"


def _alembic_config(conn: Connection) -> "Config":
    from alembic.config import Config  # noqa: PLC0415 - see `_run_migrations`

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = conn
    return config


def newest_revision() -> str:
    """Return the newest revision that is in a file here; a migration's file name begins with its revision."""
    return max(file.stem.partition("_")[0] for file in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def _current_revision(conn: Connection) -> str | None:
    if not inspect(conn).has_table("alembic_version"):
        return None
    found: str | None = conn.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _run_migrations(conn: Connection) -> None:
    """Upgrade to the newest revision.

    Alembic is imported only where there is something to upgrade: it costs a third of a second of CPU, and
    every command of an operator opens the ledger.

    Raises:
        LedgerError: The database has a revision that is in no file here.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    if _current_revision(conn) == newest_revision():
        return
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.util import CommandError  # noqa: PLC0415 - see above

    try:
        command.upgrade(_alembic_config(conn), "head")
    except CommandError as error:  # what Alembic raises for a revision that has no file here
        where = conn.engine.url.render_as_string(hide_password=True)
        raise LedgerError(
            f"the ledger {where} was made by a newer version ({error}); run that one, or restore a backup"
        ) from error


async def migrate(ledger: Ledger) -> None:
    """Run the missing migrations in one transaction.

    Raises:
        LedgerError: The database does not answer, cannot be written, or is newer than this code. The message
            names the database.
    """
    try:
        async with ledger.write() as conn:
            await conn.run_sync(_run_migrations)
    except (SQLAlchemyError, OSError) as error:
        where = ledger.url.render_as_string(hide_password=True)
        # Only the first line: drivers append the statement and its parameters.
        lines = str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__]
        remedy = _REMEDIES[ledger.dialect]
        raise LedgerError(f"the ledger {where} cannot be used: {redact(lines[0])}; {remedy}") from error


async def downgrade(ledger: Ledger, revision: str) -> None:
    """Take the schema back to `revision`, in one transaction, so that an older version can start again."""
    from alembic import command  # noqa: PLC0415 - see `_run_migrations`

    async with ledger.write() as conn:
        await conn.run_sync(lambda sync: command.downgrade(_alembic_config(sync), revision))


async def revisions(ledger: Ledger) -> tuple[str | None, str | None]:
    """Return (the revision of the database, the newest one known here)."""
    async with ledger.read() as conn:
        return await conn.run_sync(_current_revision), newest_revision()
