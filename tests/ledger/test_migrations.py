"""Migrations: from nothing to the schema that the code knows, once, whoever runs them, and back."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from ledger import database
from ledger.database import Ledger, LedgerError
from ledger.schema import metadata
from tests.support import services
from tests.support.services import ROOT

pytestmark = pytest.mark.any_ledger
NEWEST = (max(path.name[:4] for path in (ROOT / "ledger/migrations/versions").glob("0*.py")),) * 2


@pytest.fixture
def bare_url(dialect: str, tmp_path) -> Iterator[str]:
    """A database without tables."""
    if dialect == "sqlite":
        yield f"sqlite:///{tmp_path}/new/bare.db"
        return
    with services.database() as url:
        yield url


async def tables(ledger: Ledger) -> set[str]:
    async with ledger.read() as conn:
        return set(await conn.run_sync(lambda sync: inspect(sync).get_table_names()))


async def test_upgrade_twice(bare_url: str):
    """From nothing to the newest revision; a second run finds nothing to do."""
    ledger = Ledger(bare_url)
    for _ in range(2):
        await database.migrate(ledger)
        assert await database.revisions(ledger) == NEWEST
    assert await tables(ledger) == {*metadata.tables, "alembic_version"}
    await ledger.close()


async def test_six_engines_upgrade_at_once(bare_url: str):
    """Replicas that start together migrate once; the others wait and find it done."""
    ledgers = [Ledger(bare_url) for _ in range(6)]
    await asyncio.gather(*(database.migrate(one) for one in ledgers))
    assert {await database.revisions(one) for one in ledgers} == {NEWEST}
    for one in ledgers:
        await one.close()


@pytest.mark.slow
def test_two_processes_upgrade_at_once(bare_url: str):
    """Two processes that start together on an empty database both come up."""
    code = (
        "import asyncio, sys; from ledger import database; from ledger.database import Ledger\n"
        "async def main():\n"
        "    ledger = Ledger(sys.argv[1]); await database.migrate(ledger); await ledger.close()\n"
        "asyncio.run(main())"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, bare_url], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in started:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said.decode()


async def test_a_newer_ledger_is_left_alone(bare_url: str):
    """A ledger that a newer version made is not touched; one sentence says which version to run."""
    ledger = Ledger(bare_url)
    await database.migrate(ledger)
    async with ledger.write() as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerError, match=r"newer version.*9999"):
        await database.migrate(ledger)
    async with ledger.read() as conn:
        assert await conn.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    await ledger.close()


async def test_the_migrated_schema_is_the_codes(bare_url: str):
    """What the migrations build is what `ledger.schema` says: tables, columns, types, keys, defaults."""
    ledger = Ledger(bare_url)
    await database.migrate(ledger)

    def differences(conn: Connection) -> list[object]:
        # Alembic takes SQLite's empty default for another one than the code's.
        opts = {"compare_type": True, "compare_server_default": conn.dialect.name != "sqlite"}
        return list(compare_metadata(MigrationContext.configure(conn, opts=opts), metadata))

    async with ledger.read() as conn:
        assert await conn.run_sync(differences) == []
    await ledger.close()


async def test_the_unique_keys_are_there(bare_url: str):
    """The keys on which "one request, one video" and "each entry once" stand exist in the database itself."""
    ledger = Ledger(bare_url)
    await database.migrate(ledger)

    def keys(conn: Connection) -> set[tuple[str, ...]]:
        found = inspect(conn)
        return {
            (table, *one["column_names"])
            for table in ("videos", "entries")
            for one in [*found.get_unique_constraints(table)]
        } | {
            (table, *found.get_pk_constraint(table)["constrained_columns"])
            for table in ("videos", "requests")
        }

    async with ledger.read() as conn:
        assert await conn.run_sync(keys) == {
            ("videos", "request_id"),
            ("requests", "request_id"),
            ("videos", "provider", "job_id"),
            ("videos", "nonce"),
            ("entries", "request_id", "kind", "cause"),
        }
    await ledger.close()


async def test_down_and_up_again(bare_url: str):
    """The first revision can be taken back whole, and run again."""
    ledger = Ledger(bare_url)
    await database.migrate(ledger)
    async with ledger.write() as conn:
        await conn.run_sync(lambda sync: command.downgrade(database._alembic_config(sync), "base"))
    assert await tables(ledger) == {"alembic_version"}
    await database.migrate(ledger)
    assert await database.revisions(ledger) == NEWEST
    await ledger.close()
