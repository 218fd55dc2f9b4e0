"""Ledgers of any size: rows of the version before the counters in SQL, upgraded by our own migrations.

The rows are written in bulk into the schema of revision 0007, which names every column that a ledger of that
version has. Then the newer migrations run, and whatever they add (sums, due times, short ids) is filled by
their own back-fill.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from sqlalchemy.engine import URL

from ledger import migrate
from ledger.database import Ledger

REVISION: Final = "0007"
PRICE_MICROS: Final = 800_000
_CHUNK: Final = 20_000
_COLUMNS: Final = {
    "requests": (
        "request_id", "bot_id", "chat_id", "message_id", "user_id", "language", "idea", "state", "told",
        "reported", "created_at", "updated_at",
    ),
    "videos": (
        "request_id", "user_id", "state", "provider", "model", "prompt", "seconds", "size", "quote_micros",
        "expires_at", "submits", "job_id", "ordered_at", "submitted_at", "sent_at", "accepted_at",
        "updated_at",
    ),
    "entries": ("request_id", "user_id", "kind", "cause", "micros", "at", "job_id", "n"),
    "transitions": ("request_id", "subject", "from_state", "to_state", "who", "why", "at"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class History:
    """The past: `orders` delivered videos, evenly over `days` and `users`.

    Attributes:
        of_first_user: The share that user 1 ordered; the others are spread.
        prefix: Begins every request id.
    """

    orders: int
    days: float
    users: int = 1000
    of_first_user: float = 0.0
    prefix: str = "tg:1:-"

    def rows(self, now: int) -> Iterator[tuple[int, str, int]]:
        """Yield time (milliseconds), request id and user of each order, oldest first."""
        span = int(self.days * 86_400_000)
        for number in range(self.orders):
            at = now - span + int(span * (number + 0.5) / self.orders)
            first = (number % 100) < self.of_first_user * 100
            user = 1 if first else 2 + number % self.users
            yield at, f"{self.prefix}:{user}:{number}", user


async def fill(ledger: Ledger, history: History) -> None:
    """Write the history into an empty database and upgrade it to the newest revision."""
    await migrate.upgrade(ledger, REVISION)
    if ledger.dialect == "sqlite":
        _fill_sqlite(ledger.url, history)
    else:
        await _fill_postgres(ledger.url, history)
    await migrate.upgrade(ledger)
    if ledger.dialect == "postgresql":  # which does this by itself after a while; SQLite never does
        conn = await _connect(ledger.url)
        try:
            await conn.execute("VACUUM ANALYZE")
        finally:
            await conn.close()


def _chunks(history: History) -> Iterator[dict[str, list[tuple[Any, ...]]]]:
    chunk: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _COLUMNS}
    for at, request, user in history.rows(int(time.time() * 1000)):
        job = f"job-{request}"
        chunk["requests"].append(
            (request, 1, user, 1, user, "en", "a market", "ORDERED", "DELIVERED", "DELIVERED", at, at)
        )
        chunk["videos"].append(
            (request, user, "DELIVERED", "bench", "instant", "a market at dawn", 8, "720x1280", PRICE_MICROS,
             at + 1_800_000, 1, job, at, at, at, at, at)
        )  # fmt: skip
        chunk["entries"] += [
            (request, user, "hold", "order", PRICE_MICROS, at, None, 1),
            (request, user, "charge", job, PRICE_MICROS, at, job, 1),
        ]
        chunk["transitions"] += [
            (request, "request", "OPEN", "ORDERED", "tool", "ordered", at),
            (request, "video", "", "QUEUED", "tool", "ordered", at),
            (request, "video", "SUBMITTING", "ACCEPTED", "bench", "accepted", at),
            (request, "video", "SUCCEEDED", "DELIVERED", "bench", "delivered", at),
        ]
        if len(chunk["requests"]) == _CHUNK:
            yield chunk
            chunk = {name: [] for name in _COLUMNS}
    if chunk["requests"]:
        yield chunk


def _fill_sqlite(url: URL, history: History) -> None:
    conn = sqlite3.connect(str(url.database), isolation_level=None)
    try:
        conn.execute("PRAGMA synchronous=OFF")
        for chunk in _chunks(history):
            conn.execute("BEGIN IMMEDIATE")
            for table, columns in _COLUMNS.items():
                marks = ", ".join("?" * len(columns))
                conn.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", chunk[table])
            conn.execute("COMMIT")
    finally:
        conn.close()


async def _connect(url: URL) -> asyncpg.Connection:
    """Open a connection without the ledger's time limit for one statement."""
    return await asyncpg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))


async def _fill_postgres(url: URL, history: History) -> None:
    conn = await _connect(url)
    try:
        for chunk in _chunks(history):
            async with conn.transaction():
                for table, columns in _COLUMNS.items():
                    records: Sequence[tuple[Any, ...]] = chunk[table]
                    await conn.copy_records_to_table(table, records=records, columns=columns)
    finally:
        await conn.close()
