"""A write that says whether the ledger takes writes now."""

from typing import Final

from sqlalchemy import select

from ledger.database import Ledger, transaction
from ledger.schema import news, requests

SUBJECT: Final = "health"
"""The one row of `news` that is no alert: when a process last wrote it is its `free_at`."""


@transaction
async def write(ledger: Ledger) -> None:
    """Commit a row; nothing reads it. A full disk, a read-only server and a lost standby show only then.

    Raises:
        Exception: The ledger does not take it.
    """
    statement = ledger.upsert(news, {"subject": SUBJECT, "at": 0, "reader": 0}, {"free_at": ledger.time()})
    async with ledger.write() as conn:
        await conn.execute(statement)
        await conn.execute(select(requests.c.request_id).limit(1))
