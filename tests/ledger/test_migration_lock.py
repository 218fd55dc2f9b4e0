"""Migrations of large and busy ledgers: one process migrates, others wait; interrupted work is continued."""

import asyncio
import contextlib
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import text
from structlog.testing import capture_logs

from ledger import database, migrate
from ledger.database import Ledger, LedgerError
from tests.support import services
from tests.support.ledger_schema import NEWEST_REVISION, schema_differences
from tests.support.pipeline_harness import marked, on_postgres, on_sqlite
from tests.support.services import ROOT
from tests.support.waiting import wait_until

UPGRADE = """
import asyncio, sys
from pathlib import Path
from ledger import database, migrate
from ledger.database import Ledger
if len(sys.argv) > 2:
    migrate._MIGRATIONS = Path(sys.argv[2])
async def main():
    ledger = Ledger(sys.argv[1])
    await database.migrate(ledger)
    async with ledger.write() as conn:
        await conn.exec_driver_sql("UPDATE breaker SET why = why")
    await ledger.close()
asyncio.run(main())
"""

COLOUR = """
import os, time
from pathlib import Path
from alembic import op
from sqlalchemy import Column, Integer, text
from ledger.migrations.steps import add_column, create_index, drop_index, in_batches

revision, down_revision, branch_labels, depends_on = "9001", "{newest}", None, None
FOLDER = Path(__file__).parent
FILL = "UPDATE requests SET colour = 1 WHERE request_id BETWEEN :low AND :high AND colour IS NULL"

def fill(conn, found):
    conn.execute(text(FILL), found)
    with (FOLDER / "batches").open("a") as file:
        file.write(found["low"] + "\\n")
    if (FOLDER / "slow").exists() and len((FOLDER / "batches").read_text().split()) == 3:
        (FOLDER / "half").touch()
        time.sleep(float((FOLDER / "slow").read_text()))

def upgrade():
    add_column(op, "requests", Column("colour", Integer))
    in_batches(op, "requests", "request_id", fill, size=1000)
    create_index(op, "ix_requests_colour", "requests", ["colour"])

def downgrade():
    drop_index(op, "ix_requests_colour", "requests")
    op.drop_column("requests", "colour")
"""


@pytest.fixture
def url(dialect: str, tmp_path: Path) -> Iterator[str]:
    """A database without tables."""
    if dialect == "sqlite":
        yield f"sqlite:///{tmp_path}/bare.db"
        return
    with services.database() as found:
        yield found


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """A copy of the migrations with one more, which fills a column in batches and builds an index."""
    folder = tmp_path / "migrations"
    shutil.copytree(ROOT / "ledger" / "migrations", folder)
    (folder / "versions" / "9001_colour.py").write_text(COLOUR.format(newest=migrate.newest_revision()))
    return folder


async def start(url: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", UPGRADE, url, *arguments, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def assert_all_come_up(started: list[asyncio.subprocess.Process]) -> None:
    for process in started:
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()


@contextlib.contextmanager
def busy_machine(burners: int) -> Iterator[None]:
    import subprocess

    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(burners)]
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Ledger]:
    ledger = Ledger(url)
    try:
        yield ledger
    finally:
        await ledger.close()


OLD_ROWS = [
    """
    INSERT INTO requests (request_id, bot_id, chat_id, message_id, user_id, language, idea, state, created_at,
      updated_at)
    SELECT 'tg:1:-:7:' || n, 1, 7, n, 7, 'en', 'a market', 'ORDERED', n, n
    """,
    """
    INSERT INTO videos (request_id, user_id, state, provider, model, prompt, seconds, size, quote_micros,
      expires_at, ordered_at, updated_at, job_id)
    SELECT 'tg:1:-:7:' || n, 7, 'DELIVERED', 'p', 'm', 'a market', 8, '1x1', 3000000, n, n, n, 'job-' || n
    """,
    """
    INSERT INTO entries (request_id, user_id, kind, cause, micros, at)
    SELECT 'tg:1:-:7:' || n, 7, 'hold', 'order', 3000000, n
    """,
    """
    INSERT INTO entries (request_id, user_id, kind, cause, micros, at)
    SELECT 'tg:1:-:7:' || n, 7, 'charge', 'job-' || n, 3000000, n
    """,
]


BEFORE_TOTALS = "0007"
"""Later revisions count each row by triggers, which takes seconds for thousands of rows in one commit."""


async def fill(ledger: Ledger, rows: int, revision: str) -> None:
    """Take an empty database to a revision, and write so many delivered requests with two entries each."""

    def upgrade(conn: Any) -> None:
        command.upgrade(migrate.alembic_config(conn), revision)

    async with ledger.write() as conn:
        await conn.run_sync(upgrade)
        if ledger.dialect == "sqlite":
            series = (
                "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < :rows)"
                " SELECT n FROM s"
            )
        else:
            series = "SELECT n FROM generate_series(1, :rows) AS n"
        for statement in OLD_ROWS:
            await conn.execute(text(f"{statement} FROM ({series}) AS series"), {"rows": rows})


async def count(ledger: Ledger, which: str) -> int:
    async with ledger.read() as conn:
        return int(await conn.scalar(text(f"SELECT count(*) FROM {which}")) or 0)


@pytest.mark.slow
@on_sqlite
async def test_six_processes_start_on_a_busy_machine(url: str):
    """On a file that none of them has opened before, all six come up."""
    with busy_machine(3):
        await assert_all_come_up([await start(url) for _ in range(6)])
    async with opened(url) as ledger:
        assert await database.revisions(ledger) == NEWEST_REVISION


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_three_processes_upgrade_an_old_ledger(url: str):
    """Three start at once on some 10⁴ old rows: one migrates, all come up, and every row is migrated."""
    async with opened(url) as ledger:
        await fill(ledger, 20_000, "0005")
    await assert_all_come_up([await start(url) for _ in range(3)])
    async with opened(url) as ledger:
        assert await count(ledger, "entries WHERE n = 1") == 40_000
        async with ledger.read() as conn:
            assert await conn.run_sync(schema_differences) == []


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_a_killed_migration_is_continued(url: str, migrations: Path, monkeypatch):
    """A process is killed between two batches: what it committed stays, and the next start does the rest."""
    async with opened(url) as ledger:
        await fill(ledger, 5000, BEFORE_TOTALS)
        await database.migrate(ledger)
    versions = migrations / "versions"
    (versions / "slow").write_text("600")
    process = await start(url, str(migrations))
    await wait_until(lambda: exists(versions / "half"), 60, "half of the migration")
    process.kill()
    await process.communicate()
    (versions / "slow").unlink()
    async with opened(url) as ledger:
        done = await count(ledger, "requests WHERE colour = 1")
        assert done == 2000, "the batches before the one that was killed"
        monkeypatch.setattr(migrate, "_MIGRATIONS", migrations)
        await database.migrate(ledger)
        assert await database.revisions(ledger) == ("9001", "9001")
        assert await count(ledger, "requests WHERE colour = 1") == 5000
        assert await index_is_valid(ledger, "ix_requests_colour")
        await database.downgrade(ledger, "-1")
        await database.migrate(ledger)
        assert await count(ledger, "requests WHERE colour = 1") == 5000


async def exists(path: Path) -> bool:
    return path in path.parent.iterdir()


async def index_is_valid(ledger: Ledger, name: str) -> bool:
    query = (
        f"sqlite_master WHERE name = '{name}'"
        if ledger.dialect == "sqlite"
        else f"pg_index WHERE indisvalid AND indexrelid = to_regclass('{name}')"
    )
    return await count(ledger, query) == 1


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_others_wait_for_a_long_migration(url: str, migrations: Path, monkeypatch):
    """A migration takes longer than a statement may take elsewhere: it ends, and a process that started
    meanwhile waits for it, says so with the holder's name, and comes up.
    """
    monkeypatch.setattr(migrate, "_REPORT_S", 1.0)
    monkeypatch.setattr(migrate, "_MIGRATIONS", migrations)
    async with opened(url) as ledger:
        await fill(ledger, 3000, BEFORE_TOTALS)
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT_S", 1.0)
    async with opened(url) as ledger:
        (migrations / "versions" / "slow").write_text("5")
        process = await start(url, str(migrations))
        await wait_until(lambda: exists(migrations / "versions" / "half"), 60, "half of the migration")
        with capture_logs() as logs:
            await database.migrate(ledger)
        waits = [one for one in logs if one["event"] == "waiting for another process's migration"]
        assert len(waits) >= 2
        assert f"{process.pid}" in waits[0]["held_by"]
        await assert_all_come_up([process])
        assert await count(ledger, "requests WHERE colour = 1") == 3000


@marked(*on_postgres)
async def test_a_statement_of_a_migration_has_no_time_limit(url: str, migrations: Path, monkeypatch):
    """One statement of a migration may take longer than `STATEMENT_TIMEOUT_S`."""
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(migrate, "_MIGRATIONS", migrations)
    body = 'def upgrade():\n    op.execute(text("SELECT pg_sleep(1)"))\n'
    path = migrations / "versions" / "9001_colour.py"
    path.write_text(path.read_text().partition("def upgrade")[0] + body)
    async with opened(url) as ledger:
        await database.migrate(ledger)
        assert await database.revisions(ledger) == ("9001", "9001")


HOLDS_LOCK = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.mark.slow
@marked(*on_postgres)
async def test_a_server_that_ends_idle_sessions_ends_no_migration(url: str, migrations: Path):
    """The lock's session is idle as long as the migration takes: no time limit of the server ends it."""
    async with opened(url) as ledger:
        await fill(ledger, 3000, BEFORE_TOTALS)
        async with ledger.engine.connect() as conn:
            await conn.execution_options(isolation_level="AUTOCOMMIT")
            for name in ("idle_session_timeout", "idle_in_transaction_session_timeout"):
                limit = f"ALTER DATABASE {ledger.url.database} SET {name} = '500ms'"
                await conn.execute(text(limit))
    (migrations / "versions" / "slow").write_text("3")
    process = await start(url, str(migrations))
    await wait_until(lambda: exists(migrations / "versions" / "half"), 60, "half of the migration")
    await asyncio.sleep(1)
    async with opened(url) as ledger:
        assert await count(ledger, f"({HOLDS_LOCK}) held") == 1
    await assert_all_come_up([process])
    async with opened(url) as ledger:
        assert await count(ledger, "requests WHERE colour = 1") == 3000


@pytest.mark.slow
@marked(*on_postgres)
async def test_a_migration_that_lost_its_lock_stops(url: str, migrations: Path):
    """The lock's session is ended while a batch runs: no other batch follows, because another process may
    migrate by now; the error says so, and the next start does the rest.
    """
    async with opened(url) as ledger:
        await fill(ledger, 5000, BEFORE_TOTALS)
        (migrations / "versions" / "slow").write_text("3")
        process = await start(url, str(migrations))
        await wait_until(lambda: exists(migrations / "versions" / "half"), 60, "half of the migration")
        async with ledger.write() as conn:
            held = await conn.scalar(
                text(f"SELECT count(pg_terminate_backend(pid)) FROM ({HOLDS_LOCK}) held")
            )
        assert held == 1
        said, _ = await process.communicate()
        assert process.returncode
        assert "migration lock" in said.decode().splitlines()[-1]
        assert await count(ledger, "requests WHERE colour = 1") < 5000
        await assert_all_come_up([await start(url, str(migrations))])
        assert await count(ledger, "requests WHERE colour = 1") == 5000


@pytest.mark.slow
@marked(*on_postgres)
@pytest.mark.parametrize("held_for", ["a while", "too long"])
async def test_a_migration_waits_for_a_table(url: str, migrations: Path, monkeypatch, held_for: str):
    """Another transaction uses the table that a migration alters: no one queues behind the migration for
    long, it is tried again, and after a limit the error names who holds the table.
    """
    monkeypatch.setattr(migrate, "TABLE_LOCK_S", 1)
    monkeypatch.setattr(migrate, "GIVE_UP_S", 600 if held_for == "a while" else 0.5)
    async with opened(url) as ledger, opened(url) as other:
        await database.migrate(ledger)
        monkeypatch.setattr(migrate, "_MIGRATIONS", migrations)
        with capture_logs() as logs:
            async with other.read() as conn:
                pid = await conn.scalar(
                    text("SELECT pg_backend_pid() FROM (SELECT count(*) FROM requests) x")
                )
                migrating = asyncio.create_task(database.migrate(ledger))
                if held_for == "too long":
                    with pytest.raises(LedgerError, match=rf"tables are locked by pid {pid} .*pg_terminate"):
                        await migrating
                    return
                await wait_until(lambda: waits_for_a_table(logs), 20, "the migration to wait")
            await migrating
        assert await database.revisions(ledger) == ("9001", "9001")


async def waits_for_a_table(logs: list[Any]) -> bool:
    return any(one["event"] == "migration waits for a lock of other transactions" for one in logs)


@pytest.mark.slow
@on_sqlite
async def test_a_locked_file_is_named(url: str, monkeypatch):
    """Another program holds SQLite's file: the migration is tried again, then the error says what to do."""
    monkeypatch.setattr(database, "SQLITE_BUSY_S", 0.2)
    monkeypatch.setattr(migrate, "GIVE_UP_S", 0.3)
    async with opened(url) as ledger:
        await fill(ledger, 1, "0005")
        other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match=r"bare\.db.*locked by another program.*fuser"):
            await database.migrate(ledger)
        other.execute("ROLLBACK")
        other.close()
        await database.migrate(ledger)
        assert await database.revisions(ledger) == NEWEST_REVISION


@marked(*on_postgres)
async def test_an_invalid_index_is_built_again(url: str, migrations: Path, monkeypatch):
    """What a killed concurrent build left behind is not taken for the index."""
    async with opened(url) as ledger:
        await fill(ledger, 10, migrate.newest_revision())
        async with ledger.engine.connect() as conn:
            await conn.execution_options(isolation_level="AUTOCOMMIT")
            with contextlib.suppress(Exception):
                await conn.execute(
                    text("CREATE UNIQUE INDEX CONCURRENTLY ix_requests_colour ON requests (user_id)")
                )
        assert not await index_is_valid(ledger, "ix_requests_colour")
        monkeypatch.setattr(migrate, "_MIGRATIONS", migrations)
        await database.migrate(ledger)
        assert await index_is_valid(ledger, "ix_requests_colour")
        definition = "SELECT pg_get_indexdef(to_regclass('ix_requests_colour'))"
        async with ledger.read() as conn:
            assert "(colour)" in str(await conn.scalar(text(definition)))


@pytest.mark.any_ledger
async def test_each_migration_is_a_transaction(url: str, migrations: Path, monkeypatch):
    """One that fails leaves those before it done, and nothing of itself."""
    monkeypatch.setattr(migrate, "_MIGRATIONS", migrations)
    path = migrations / "versions" / "9001_colour.py"
    body = 'def upgrade():\n    op.execute("DELETE FROM breaker")\n    op.execute("SELECT nothing")\n'
    path.write_text(path.read_text().partition("def upgrade")[0] + body)
    async with opened(url) as ledger:
        with pytest.raises(LedgerError, match="nothing"):
            await database.migrate(ledger)
        assert (await database.revisions(ledger))[0] == migrate.known_revisions()[-2]
