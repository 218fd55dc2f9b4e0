"""Migrations at start: one process at a time, each migration in a transaction of its own.

The connection that migrates belongs to no pool and has no time limit for a statement. The process holds the
migration lock meanwhile, which ends with the process; others wait for it as long as it takes, and say so in
the log. docs/decisions/0020-migration-lock-and-batches.md has the reasons.
"""

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Connection, TextClause, event, inspect, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ledger.database import Ledger, LedgerError, create_sqlite_engine
from ledger.migrations.steps import POOLED, is_locked
from telemetry.logs import get_logger
from telemetry.redaction import redact

if TYPE_CHECKING:
    from alembic.config import Config

log = get_logger(__name__)

Result = TypeVar("Result")

_LOCK_KEY: Final = 0x4F6E6554616B65
"""The name of the advisory lock on PostgreSQL; versions before use it too."""

LOCK_FILE_SUFFIX: Final = ".migration-lock"
"""What is added to the name of SQLite's file for the lock file next to it. It stays there, unlocked."""

TABLE_LOCK_S: Final = 3
"""How long a migration waits for a table's lock on PostgreSQL: all who come after it would wait too."""

_SESSION_SETTINGS: Final = {
    "lock_timeout": f"{TABLE_LOCK_S}s",
    "statement_timeout": "0",
    "tcp_keepalives_idle": "30",  # the lock's connection is idle as long as a migration takes
}

GIVE_UP_S: Final = 600.0
"""How long a migration is tried again while other transactions hold what it needs."""

_RETRY_S: Final = 1.0
_REPORT_S: Final = 10.0
_FIRST_POLL_S: Final = 0.05
_MAX_POLL_S: Final = 1.0
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_REMEDIES: Final = {
    "sqlite": "check that it is a SQLite file in a folder that this process may write, on a disk with room",
    "postgresql": "check that the server answers there, and that user, password and database exist",
}

_HOLDER: Final = text(
    "SELECT 'pid ' || a.pid || ' (' || a.application_name || ') for ' ||"
    " CAST(extract(epoch FROM clock_timestamp() - a.backend_start) AS INTEGER) || ' s'"
    " FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
    " WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()"
    " AND (CAST(l.classid AS BIGINT) << 32) + CAST(l.objid AS BIGINT) = :key LIMIT 1"
)
_LOCK: Final = text("SELECT CASE WHEN pg_try_advisory_lock(:key) THEN pg_backend_pid() END")
_TRANSACTION_LOCK: Final = text(_LOCK.text.replace("pg_try_advisory_lock", "pg_try_advisory_xact_lock"))
_IS_HELD: Final = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = :pid"
    " AND (CAST(classid AS BIGINT) << 32) + CAST(objid AS BIGINT) = :key"
)

# Of these a version of PostgreSQL knows some, and refuses a connection that names others at its start.
_NO_TIME_LIMITS: Final = """
SELECT set_config(name, '0', false) FROM pg_settings
WHERE name IN ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""
_OLDEST_TRANSACTION: Final = text(
    "SELECT 'pid ' || pid || ' (' || application_name || '), open for ' ||"
    " CAST(extract(epoch FROM clock_timestamp() - xact_start) AS INTEGER) || ' s' FROM pg_stat_activity"
    " WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
    " ORDER BY xact_start LIMIT 1"
)


def alembic_config(conn: Connection) -> "Config":
    """Return the configuration by which Alembic works on this connection."""
    from alembic.config import Config  # noqa: PLC0415 - see `_upgrade_on`

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = conn
    return config


def known_revisions() -> list[str]:
    """Return the revisions that are in files here, oldest first; a file's name begins with its revision."""
    return sorted(file.stem.partition("_")[0] for file in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def newest_revision() -> str:
    """Return the newest revision that is in a file here."""
    return known_revisions()[-1]


async def revisions(ledger: Ledger) -> tuple[str | None, str | None]:
    """Return (the revision of the database, the newest one known here)."""
    async with ledger.read() as conn:
        return await conn.run_sync(current_revision), newest_revision()


def current_revision(conn: Connection) -> str | None:
    """Return the revision of the database; None before the first migration."""
    if conn.dialect.name == "sqlite":
        # A PRAGMA, which `inspect` uses, answers from what this connection read of the schema last.
        conn.execute(text("SELECT count(*) FROM sqlite_master"))
    if not inspect(conn).has_table("alembic_version"):
        return None
    found: str | None = conn.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


async def upgrade(ledger: Ledger, revision: str = "head") -> None:
    """Run the missing migrations, unless another process does: then wait for it.

    A migration that was interrupted is continued: what it committed stays, and the rest is done.

    Raises:
        LedgerError: The database does not answer, cannot be written, is newer than this code, others held
            what a migration needs for `GIVE_UP_S`, or the session that holds the migration lock has ended.
            The message names the database and what to do.
    """
    try:
        # SQLite's file must not even be opened by two processes before it is in WAL mode.
        if ledger.dialect != "sqlite" and await _is_current(ledger):
            return
        async with migration_lock(ledger) as lock_pid:
            if not await _is_current(ledger):
                await run_locked(ledger, lambda conn: _upgrade_on(conn, revision), lock_pid)
        await ledger.engine.dispose()  # connections remember tables as they were
    except (SQLAlchemyError, OSError) as error:
        # Only the first line: drivers append the statement and its parameters.
        lines = str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__]
        raise LedgerError(
            f"the ledger {_name(ledger)} cannot be used: {redact(lines[0])}; {_REMEDIES[ledger.dialect]}"
        ) from error


async def downgrade(ledger: Ledger, revision: str) -> None:
    """Take the schema back to `revision`, so that an older version can start again.

    Each migration is undone in a transaction of its own; an interrupted downgrade is continued by another.
    """
    from alembic import command  # noqa: PLC0415 - see `_upgrade_on`

    async with migration_lock(ledger) as lock_pid:
        await run_locked(ledger, lambda conn: command.downgrade(alembic_config(conn), revision), lock_pid)
    await ledger.engine.dispose()


def _name(ledger: Ledger) -> str:
    return ledger.url.render_as_string(hide_password=True)


async def _is_current(ledger: Ledger) -> bool:
    found, newest = await revisions(ledger)
    if found is not None and found not in known_revisions():
        raise LedgerError(
            f"the ledger {_name(ledger)} was made by a newer version (revision {found}, known here up to"
            f" {newest}); run that one, or restore a backup"
        )
    return found == newest


def _upgrade_on(conn: Connection, revision: str) -> None:
    # Imported only where there is something to upgrade: it costs a third of a second of CPU, and every
    # command of an operator opens the ledger.
    from alembic import command  # noqa: PLC0415 - see `_upgrade_on`

    log.info("ledger migration started", to=newest_revision())
    command.upgrade(alembic_config(conn), revision)
    log.info("ledger migration finished")


async def run_locked(
    ledger: Ledger, work: Callable[[Connection], Result], lock_pid: int | None, **options: Any
) -> Result:
    """Run `work` on a connection of its own; repeat it while others hold a lock that it needs.

    Args:
        ledger: Whose database.
        work: Begins and commits its own transactions; it is called again where it did not get a lock.
        lock_pid: What `migration_lock` gave.
        options: Of PostgreSQL's engine, such as `isolation_level`.

    Raises:
        LedgerError: They held it for `GIVE_UP_S`, or `lock_pid` does not hold the migration lock any more.
    """
    engine = _migration_engine(ledger, **options)
    waits = _WaitReport("migration waits for a lock of other transactions")
    if lock_pid is not None:
        # Each step is a transaction: none begins when another process may migrate.
        event.listen(engine.sync_engine, "begin", partial(_check_lock, ledger, lock_pid))
    try:
        while True:
            try:
                async with engine.connect() as conn:
                    return await conn.run_sync(work)
            except DBAPIError as error:
                if not is_locked(error):
                    raise
                holder = await _table_holder(ledger, engine)
                if waits.seconds > GIVE_UP_S:
                    raise _locked(ledger, holder) from error
            waits.report(holder)
            await asyncio.sleep(_RETRY_S)
    finally:
        await engine.dispose()


def _check_lock(ledger: Ledger, lock_pid: int, conn: Connection) -> None:
    if not conn.scalar(_IS_HELD, {"pid": lock_pid, "key": _LOCK_KEY}):
        raise LedgerError(
            f"the session that held the migration lock of {_name(ledger)} has ended (pid {lock_pid}), so the"
            " migration was stopped between two steps; find out what ended it (pg_terminate_backend, a"
            " failover, a proxy), and start again: the rest is done then"
        )


async def _table_holder(ledger: Ledger, engine: AsyncEngine) -> str:
    if ledger.dialect == "sqlite":
        return "another program that uses the file"
    async with engine.connect() as conn:
        return str(await conn.scalar(_OLDEST_TRANSACTION) or "a transaction that has ended since")


def _locked(ledger: Ledger, holder: str) -> LedgerError:
    remedy = (
        "find it with `fuser`, let it end or stop it"
        if ledger.dialect == "sqlite"
        else "let it end, or end it with pg_terminate_backend"
    )
    return LedgerError(
        f"the ledger {_name(ledger)} could not be migrated for {GIVE_UP_S:.0f} s: its tables are locked by"
        f" {holder}; {remedy}, and start again"
    )


def _migration_engine(ledger: Ledger, **options: Any) -> AsyncEngine:
    if ledger.dialect == "sqlite":
        return create_sqlite_engine(ledger.url, poolclass=NullPool)
    given = dict(ledger.arguments.get("server_settings", {}))
    name = {"application_name": f"onetake migration {socket.gethostname()} {os.getpid()}"[:63]}
    settings = {} if ledger.pooler.present else _SESSION_SETTINGS
    arguments = ledger.arguments | {"command_timeout": None, "server_settings": given | name | settings}
    engine = create_async_engine(
        ledger.url,
        hide_parameters=True,
        poolclass=NullPool,
        connect_args={"timeout": 5} | arguments,
        execution_options={POOLED: bool(ledger.pooler.present)},
        **{"isolation_level": "READ COMMITTED"} | options,
    )
    ledger.pooler.listen(engine)
    if ledger.pooler.present:
        event.listen(engine.sync_engine, "begin", _set_locally)
    else:
        event.listen(engine.sync_engine, "connect", _lift_time_limits)
    return engine


def _lift_time_limits(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute(_NO_TIME_LIMITS)
    cursor.close()
    connection.commit()


def _set_locally(conn: Connection) -> None:
    """Set for one transaction what a pooler does not keep for a session."""
    for name in ("lock_timeout", "statement_timeout"):
        conn.exec_driver_sql(f"SET LOCAL {name} = '{_SESSION_SETTINGS[name]}'")
    conn.exec_driver_sql(_NO_TIME_LIMITS.replace("false", "true"))


class _WaitReport:
    """Log that something is waited for: at once, then every `_REPORT_S`."""

    def __init__(self, event: str) -> None:
        self._event, self._began, self._next = event, time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def report(self, holder: str) -> None:
        if self.seconds >= self._next:
            log.warning(self._event, held_by=holder, waited_s=round(self.seconds))
            self._next = self.seconds + _REPORT_S

    @property
    def is_due(self) -> bool:
        """Whether `report` would log: finding out the holder costs a question."""
        return self.seconds >= self._next


@asynccontextmanager
async def migration_lock(ledger: Ledger) -> AsyncIterator[int | None]:
    """Hold the lock that one process has while it migrates; wait for it without a limit.

    It ends with the process, however that ends. Gives PostgreSQL's id of the session that holds it.
    """
    if ledger.dialect == "sqlite":
        async with _sqlite_lock(ledger):
            yield None
    else:
        async with _postgresql_lock(ledger) as pid:
            yield pid


_WAITING: Final = "waiting for another process's migration"


@asynccontextmanager
async def _postgresql_lock(ledger: Ledger) -> AsyncIterator[int]:
    # Asked for again and again, on a connection that is in no transaction: one that waits in
    # pg_advisory_lock has a snapshot, and CREATE INDEX CONCURRENTLY waits for every snapshot. Behind a pooler
    # a session cannot hold it: there a transaction does, and no index is built concurrently.
    pooled = bool(ledger.pooler.present)
    engine = _migration_engine(ledger, **{} if pooled else {"isolation_level": "AUTOCOMMIT"})
    try:
        async with engine.connect() as conn:
            yield await _take_advisory_lock(conn, _TRANSACTION_LOCK if pooled else _LOCK)
    finally:
        await engine.dispose()


async def _take_advisory_lock(conn: AsyncConnection, lock: TextClause) -> int:
    waits, pause_s = _WaitReport(_WAITING), _FIRST_POLL_S
    key = {"key": _LOCK_KEY}
    while (pid := await conn.scalar(lock, key)) is None:
        if waits.is_due:
            waits.report(str(await conn.scalar(_HOLDER, key) or "a process that has ended since"))
        await conn.rollback()  # so that a pooler's session is free meanwhile
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _MAX_POLL_S)
    return int(pid)


@asynccontextmanager
async def _sqlite_lock(ledger: Ledger) -> AsyncIterator[None]:
    path = f"{(ledger.url.database or '').removeprefix('file:')}{LOCK_FILE_SUFFIX}"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        # A folder that cannot be written: SQLite says the same, in words that name the ledger.
        yield
        return
    try:
        await _take_file_lock(file)
        yield
    finally:
        os.close(file)


async def _take_file_lock(file: int) -> None:
    waits, pause_s = _WaitReport(_WAITING), _FIRST_POLL_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waits.seconds >= _MAX_POLL_S and waits.is_due:
                waits.report(os.pread(file, 100, 0).decode(errors="replace").strip() or "an unknown process")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MAX_POLL_S)
        else:
            os.ftruncate(file, 0)
            os.pwrite(file, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            return
