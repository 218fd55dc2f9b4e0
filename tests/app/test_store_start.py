"""A process that starts before its stores waits for them, and ends where waiting does not help."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as NoConnection
from structlog.testing import capture_logs

from app import store_start
from app.store_start import until_available
from ledger import database
from ledger.database import Ledger, LedgerError
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_start, "_FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(store_start, "_MAX_PAUSE_S", 0.05)


@pytest.mark.parametrize("migrated", [False, True])
async def test_a_locked_sqlite_is_waited_for(
    tmp_path: Path, empty_file: Path, monkeypatch: pytest.MonkeyPatch, migrated: bool
):
    """Another process holds the file for longer than SQLite waits: the start says why it waits, and continues
    when the file is free.
    """
    monkeypatch.setattr(database, "SQLITE_BUSY_S", 0.05)
    path = tmp_path / "ledger.db"
    if migrated:
        shutil.copy(empty_file, path)
    ledger = Ledger(f"sqlite:///{path}")
    with capture_logs() as logs, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        start = asyncio.create_task(until_available(partial(database.migrate, ledger), "the ledger"))

        async def waits() -> bool:
            return any(one["event"] == "start waits for a store" for one in logs) or start.done()

        await wait_until(waits, 20, "the log")
        await asyncio.sleep(0.3)
        assert not start.done()
        other.execute("ROLLBACK")
    await asyncio.wait_for(start, 30)
    assert (await database.revisions(ledger))[0] == (await database.revisions(ledger))[1]
    [said] = [one for one in logs if one["event"] == "start waits for a store"]
    assert "locked" in said["why"]
    await ledger.close()


async def test_a_store_that_does_not_answer_is_waited_for(ledger_url: str):
    """A server whose port is closed is there later: the start succeeds then."""
    tries = []

    async def open_store() -> str:
        tries.append(1)
        if len(tries) < 4:
            raise NoConnection("Error 111 connecting to 127.0.0.1:1")
        return "open"

    with capture_logs() as logs:
        assert await until_available(open_store, "the queue") == "open"
    assert [one["event"] for one in logs] == ["start waits for a store"], "said once in ten seconds"


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("invalid username-password pair"),
        LedgerError("made by a newer version"),
        KeyError("x"),
    ],
)
async def test_what_waiting_does_not_mend_ends_the_start(error: Exception):
    """A wrong password, a newer schema and a defect are raised at once."""

    async def open_store() -> None:
        raise error

    with pytest.raises(type(error)):
        await until_available(open_store, "the queue")


async def test_an_unreadable_file_ends_the_start(tmp_path: Path):
    """A file that is no database is named, not waited for."""
    (tmp_path / "ledger.db").write_text("not a database " * 100)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    with pytest.raises(LedgerError, match="not a database"):
        await asyncio.wait_for(until_available(partial(database.migrate, ledger), "the ledger"), 30)
    await ledger.close()
