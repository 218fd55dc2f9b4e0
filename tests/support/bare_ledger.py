"""Databases without tables, and what a ledger holds, to compare two of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, text

from ledger.database import Ledger
from tests.support import services


@contextmanager
def bare_ledger(dialect: str, folder: Path, name: str = "bare") -> Iterator[str]:
    """Give the URL of a database without tables."""
    if dialect == "sqlite":
        yield f"sqlite:///{folder / name}.db"
    else:
        with services.database() as url:
            yield url


async def contents(ledger: Ledger) -> dict[str, Any]:
    """Return every row of every table, by the names of the columns."""

    def read(conn: Any) -> dict[str, Any]:
        found = inspect(conn)
        return {
            name: sorted(
                (sorted(row._mapping.items()) for row in conn.execute(text(f"SELECT * FROM {name}"))),
                key=repr,
            )
            for name in found.get_table_names()
        }

    async with ledger.read() as conn:
        return await conn.run_sync(read)
