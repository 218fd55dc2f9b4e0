"""The way back after an upgrade, walked on both stores: killed, restored, rolled back, and the sums agree.

The older version is schema 0021. The newer one has tables that it does not know (`credit_lots` and others).
"""

import asyncio
import io
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import text

from app import backup_command
from app.settings import Settings, read_settings
from guardrails.money import Money
from ledger import backup as rows
from ledger import database, migrate, transitions
from ledger.database import Ledger, LedgerError
from ledger.models import VideoState
from ledger.requests import NewRequest, open_request
from ledger.schema import credit_lots, metadata
from tests.support.bare_ledger import bare_ledger, contents
from tests.support.factories import accepted, new_job, update_fields
from tests.support.services import ROOT

OLDER = "0021"
UNKNOWN = {"credit_lots", "star_payments", "credit_notices", "star_checks"}
"""Tables that the older version does not know."""

NEW_REQUEST = (
    "INSERT INTO requests (request_id, bot_id, chat_id, message_id, user_id, language, idea, state,"
    " created_at, updated_at) VALUES (:id, 1, 1, 1, 7, 'en', 'an idea', 'ORDERED', 1, 1)"
)
NEW_ORDER = (
    "INSERT INTO videos (request_id, user_id, state, provider, model, prompt, seconds, size, quote_micros,"
    " expires_at, ordered_at, updated_at)"
    " VALUES (:id, 7, 'DELIVERED', 'p', 'm', '', 8, '', 3000000, 1, 1795000000000, 1)"
)
NEW_ENTRY = (
    "INSERT INTO entries (request_id, user_id, kind, cause, job_id, n, micros, at)"
    " VALUES (:id, 7, :kind, :cause, :job, 1, 3000000, 1795000000000)"
)


@pytest.fixture
def urls(dialect: str, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A database for the ledger, and a new one for the way back."""
    with bare_ledger(dialect, tmp_path, "first") as first, bare_ledger(dialect, tmp_path, "second") as second:
        yield first, second


def settings_of(url: str, redis_url: str, prefix: str, folder: Path) -> Settings:
    return read_settings(
        _env_file=None, database_url=SecretStr(url), redis_url=SecretStr(redis_url), key_prefix=prefix,
        var_dir=folder, media_dir=folder / "media",
    )  # fmt: skip


async def write_as_older(ledger: Ledger, request_id: str) -> None:
    """Order, hold and charge a video with the columns that the older version has."""
    async with ledger.write() as conn:
        await conn.execute(text(NEW_REQUEST), {"id": request_id})
        await conn.execute(text(NEW_ORDER), {"id": request_id})
        for kind, cause, job in (
            ("hold", "order", None),
            ("charge", f"job-{request_id}", f"job-{request_id}"),
        ):
            values = {"id": request_id, "kind": kind, "cause": cause, "job": job}
            await conn.execute(text(NEW_ENTRY), values)


@pytest.fixture
async def older(urls: tuple[str, str]) -> AsyncIterator[Ledger]:
    """A ledger of the older version, with two videos."""
    ledger = Ledger(urls[0])
    async with migrate.migration_lock(ledger) as lock_pid:
        await migrate.run_locked(ledger, lambda conn: migrate._upgrade_on(conn, OLDER), lock_pid)
    await write_as_older(ledger, "a")
    await write_as_older(ledger, "b")
    yield ledger
    await ledger.close()


async def use_newer(ledger: Ledger) -> None:
    """What the newer version writes: a grant, in a table of its own, and one more video."""

    async def opened(user_id: int = 7, **_: object) -> str:
        await open_request(ledger, NewRequest("newer", 1, 1, 1, user_id, "en", "an idea"))
        await update_fields(ledger, "newer", status_message_id=2)
        return "newer"

    grant = {"lot_id": "grant:x", "user_id": 7, "kind": "grant", "credits": 2, "who": "admin:1", "at": 1}
    async with ledger.write() as conn:
        await conn.execute(credit_lots.insert().values(**grant))
    request = await accepted(ledger, opened, new_job(), Money(3_100_000))
    frm, to = VideoState.ACCEPTED, VideoState.FAILED_PAID
    await transitions.transition(ledger, request, frm, to, "watch", "moderated")


async def sums(ledger: Ledger) -> dict[str, int]:
    """Return the micro-dollars by kind; entries, orders and totals must say the same."""

    def read(conn) -> dict[str, int]:
        money = rows.sums_by_kind(conn)
        assert rows._agrees(conn, money)
        return money

    async with ledger.read() as conn:
        return await conn.run_sync(read)


async def tables(ledger: Ledger) -> set[str]:
    return set(await contents(ledger)) - {"alembic_version"}


KILLED = """
import asyncio, os, signal, sys
from sqlalchemy import text
from ledger.database import Ledger
async def main():
    ledger = Ledger(sys.argv[1])
    async with ledger.write() as conn:
        await conn.execute(text("UPDATE entries SET micros = micros + 1"))
        await conn.execute(text("UPDATE credit_lots SET credits = 9"))
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def kill_a_writer(ledger: Ledger) -> None:
    """Kill a process of the newer version within a transaction."""
    url = ledger.url.render_as_string(hide_password=False).replace("+aiosqlite", "").replace("+asyncpg", "")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, url, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert await process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_there_and_back(older: Ledger, urls, redis_url, redis, prefix, tmp_path):
    """Back up, upgrade, use, lose a process, go back by a downgrade and by the backup: no cent is lost."""
    await older.engine.dispose()
    first = settings_of(urls[0], redis_url, prefix, tmp_path / "one")
    second = settings_of(urls[1], redis_url, prefix, tmp_path / "two")
    console, before, was = Console(file=io.StringIO()), await sums(older), await contents(older)
    assert before == {"hold": 6_000_000, "charge": 6_000_000}
    await backup_command.backup(first, console, tmp_path / "b", media=True)

    await database.migrate(older)
    assert await tables(older) == set(metadata.tables) >= UNKNOWN
    assert await sums(older) == before
    await use_newer(older)
    used = await sums(older)
    assert used["charge"] == before["charge"] + 3_100_000
    await kill_a_writer(older)
    assert await sums(older) == used

    # Back to the older version with all that was written: its tables alone, every entry.
    await database.downgrade(older, OLDER)
    assert not await tables(older) & UNKNOWN
    assert await sums(older) == used
    await write_as_older(older, "c")
    assert (await sums(older))["charge"] == used["charge"] + 3_000_000

    # And up again.
    await database.migrate(older)
    assert (await sums(older))["charge"] == used["charge"] + 3_000_000

    # The backup is not mixed into what is there, whatever its schema.
    with pytest.raises(LedgerError, match="not empty"):
        await backup_command.restore(first, console, tmp_path / "b", nothing_sent=False)
    # Into a new database it is the ledger of the older version, to the byte.
    await backup_command.restore(second, console, tmp_path / "b", nothing_sent=False)
    restored = Ledger(urls[1])
    assert await contents(restored) == was
    assert await sums(restored) == before
    await write_as_older(restored, "d")
    await database.migrate(restored)
    assert (await sums(restored))["charge"] == before["charge"] + 3_000_000
    await restored.close()


@pytest.mark.any_ledger
async def test_the_older_version_refuses_a_newer_backup(
    ledger, opened, urls, redis_url, redis, prefix, tmp_path, monkeypatch
):
    """A version that does not know a backup's schema restores nothing of it, and names the one that does."""
    await accepted(ledger, opened, new_job())
    source = settings_of(ledger.url.render_as_string(hide_password=False), redis_url, prefix, tmp_path)
    target = settings_of(urls[1], redis_url, prefix, tmp_path)
    await backup_command.backup(source, Console(file=io.StringIO()), tmp_path / "b", media=True)
    known = [one for one in migrate.known_revisions() if one <= OLDER]
    monkeypatch.setattr(migrate, "known_revisions", lambda: known)
    with pytest.raises(LedgerError, match=rf"by version .* known here up to {OLDER}\); use that one"):
        await backup_command.restore(target, Console(), tmp_path / "b", nothing_sent=False)
    new = Ledger(urls[1])
    assert await contents(new) == {}
    await new.close()
