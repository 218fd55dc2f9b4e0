"""Brings the schema up to date at start; several processes may do so at once."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from ledger.database import Ledger, LedgerError
from telemetry.redaction import redact

_LOCK: Final = 0x4F6E6554616B65  # any fixed number: PostgreSQL's advisory locks are named by one
_REMEDY: Final = {
    "sqlite": "check that it is a SQLite file in a folder that this process may write, on a disk with room",
    "postgresql": "check that the server answers there, and that user, password and database exist",
}


def _config(conn: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = conn
    return config


def _upgrade(conn: Connection) -> None:
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    command.upgrade(_config(conn), "head")


async def upgrade(ledger: Ledger) -> None:
    """Run the migrations that are missing, in one transaction.

    Raises:
        LedgerError: The database does not answer, cannot be written, or is newer than this code; the message
            says which database.
    """
    try:
        async with ledger.write() as conn:
            await conn.run_sync(_upgrade)
    except CommandError as error:  # Alembic's word for a revision that is in no file here
        where = ledger.url.render_as_string(hide_password=True)
        raise LedgerError(
            f"the ledger {where} was made by a newer version ({error}); run that one, or restore a backup"
        ) from error
    except (SQLAlchemyError, OSError) as error:
        where = ledger.url.render_as_string(hide_password=True)
        # Only the first line: drivers append the statement and its parameters.
        lines = str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__]
        remedy = _REMEDY[ledger.dialect]
        raise LedgerError(f"the ledger {where} cannot be used: {redact(lines[0])}; {remedy}") from error


async def revisions(ledger: Ledger) -> tuple[str | None, str | None]:
    """Return (the revision of the database, the newest one known here)."""

    def read(conn: Connection) -> tuple[str | None, str | None]:
        script = ScriptDirectory.from_config(_config(conn))
        return MigrationContext.configure(conn).get_current_revision(), script.get_current_head()

    async with ledger.read() as conn:
        return await conn.run_sync(read)
