"""Fills a ledger with a long history, for measurements and for tests of query plans.

    python -m bench.history sqlite:////tmp/big.db 1000000

The rows are the same on every run and on both databases: so many requests a day back from now, with every
kind of end; the newest `ACTIVE` orders are under way, however long the history is. `Shape` has other pasts.
They are inserted by the database itself into an old revision, then migrated: a new column needs no word here,
and the time of the migrations' back-fill is seen too.
"""

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import create_async_engine

from ledger import migrate
from ledger.database import Ledger

ACTIVE: Final = 60
_REVISION: Final = "0007"


@dataclass(frozen=True, slots=True)
class Shape:
    """How a history of any size is spread.

    Attributes:
        per_day: Requests a day.
        users: Users whose requests take turns.
        first_user_percent: Of the requests, those that are user 1's instead.
        all_delivered: Every request has a delivered video; else they end in every way, or are under way.
    """

    per_day: float = 1000
    users: int = 10_000
    first_user_percent: int = 0
    all_delivered: bool = False


DEFAULT: Final = Shape()

# Request i, the newest is 0. `kind` is its fate; `made` says whether it has a video.
_STATES: Final = ("QUEUED", "SUBMITTING", "ACCEPTED", "IN_DOUBT", "HOLD", "AWAITING_APPROVAL")
_ENDS: Final = {
    12: "REFUSED", 13: "NO_ORDER", 14: "CANCELLED", 15: "FAILED_UNPAID", 16: "FAILED_UNPAID", 17: "EXPIRED",
    18: "FAILED_PAID",
}  # fmt: skip
_NO_VIDEO: Final = "(12, 13, 14)"


def _base(shape: Shape) -> str:
    active = "0" if shape.all_delivered else f"CASE WHEN i < {ACTIVE} THEN 1 ELSE 0 END"
    kind = "0" if shape.all_delivered else "CASE WHEN active = 1 THEN 0 ELSE i % 20 END"
    under_way = " ".join(f"WHEN {n} THEN '{state}'" for n, state in enumerate(_STATES))
    ends = " ".join(f"WHEN {n} THEN '{state}'" for n, state in _ENDS.items())
    step_us = int(86_400_000_000 / shape.per_day)
    user = (
        f"CASE WHEN i % 100 < {shape.first_user_percent} THEN 1"
        f" ELSE {min(shape.first_user_percent, 1)} + 1 + (i * 7919) % {shape.users} END"
    )
    return f"""
SELECT i, at, user_id, active, kind, 'tg:1:-:' || user_id || ':' || i AS request_id,
  CASE WHEN active = 1 THEN CASE i % {len(_STATES)} {under_way} END
  ELSE CASE kind {ends} ELSE 'DELIVERED' END END AS state,
  CASE WHEN active = 0 AND kind NOT IN (15, 17)
    OR active = 1 AND i % {len(_STATES)} = 2 THEN 'job-' || i END AS job,
  2000000 + (i % 7) * 500000 AS price
FROM (
  SELECT i, at, user_id, active, {kind} AS kind
  FROM (SELECT i, :now - 1000 - i * {step_us} / 1000 AS at, {user} AS user_id, {active} AS active
    FROM {{numbers}}) numbered
) base
"""


_ROWS: Final = {
    "requests": (
        "request_id, bot_id, chat_id, message_id, user_id, language, idea, state, told, reported, reason,"
        " created_at, updated_at",
        "SELECT request_id, 1, user_id, i, user_id, 'en', 'a market at dawn', CASE WHEN kind IN "
        f"{_NO_VIDEO} THEN state ELSE 'ORDERED' END, state,"
        f" CASE WHEN active = 1 AND state <> 'HOLD' THEN '' ELSE state END,"
        " CASE WHEN kind = 12 THEN 'quota' END, at, at + 60000 FROM base",
    ),
    "videos": (
        "request_id, user_id, state, provider, model, prompt, seconds, size, quote_micros, expires_at,"
        " deadline_at, submits, job_id, ordered_at, submitted_at, sent_at, accepted_at, updated_at",
        "SELECT request_id, user_id, state, 'openai_compat', 'model-' || i % 3, i || ' people at a market, at"
        " dawn, from above', 8, '720x1280', price, at + 1800000, at + 60000, CASE WHEN state IN ('QUEUED',"
        " 'AWAITING_APPROVAL', 'EXPIRED') THEN 0 ELSE 1 END, job, at + 1000, at + 2000, at + 2000,"
        f" CASE WHEN job IS NULL THEN NULL ELSE at + 3000 END, at + 60000 FROM base"
        f" WHERE kind NOT IN {_NO_VIDEO}",
    ),
    "entries": (
        "request_id, user_id, kind, cause, micros, at, job_id, n",
        "SELECT request_id, user_id, 'hold', 'order', price, at + 1000, NULL, 1 FROM base"
        f" WHERE kind NOT IN {_NO_VIDEO}"
        " UNION ALL SELECT request_id, user_id, 'release', 'order', price, at + 5000, NULL, 1 FROM base"
        f" WHERE active = 0 AND kind IN (15, 17)"
        " UNION ALL SELECT request_id, user_id, 'charge', job, price, at + 3000, job, 1 FROM base"
        f" WHERE job IS NOT NULL AND kind NOT IN {_NO_VIDEO}"
        " UNION ALL SELECT request_id, user_id, 'credit', job,"
        " CASE WHEN kind = 16 THEN price ELSE 500000 END,"
        f" at + 60000, job, 1 FROM base WHERE active = 0 AND kind IN (16, 19)",
    ),
    "transitions": (
        "request_id, subject, from_state, to_state, who, why, at",
        "SELECT request_id, 'request', 'OPEN', 'ORDERED', 'tool', 'ordered', at + 1000 FROM base"
        f" WHERE kind NOT IN {_NO_VIDEO}"
        " UNION ALL SELECT request_id, 'video', 'SUCCEEDED', state, 'tell', 'it ended', at + 60000 FROM base"
        f" WHERE active = 0"
        " UNION ALL SELECT request_id, 'call', 'redis', 'replay', 'generate_video', 'prompt', at + 4000"
        " FROM base WHERE i % 10 = 3",
    ),
}


_NUMBERS: Final = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :size)"
    " SELECT i FROM n) numbers",
    "postgresql": "(SELECT CAST(i AS BIGINT) AS i FROM generate_series(0, :size - 1) i) numbers",
}


async def fill_old(ledger: Ledger, size: int, shape: Shape = DEFAULT) -> dict[str, float]:
    """Fill an empty database with `size` requests as an old revision has them; return seconds by table."""
    # Without a time limit for a statement, which is the ledger's own on PostgreSQL.
    engine = ledger.engine if ledger.dialect == "sqlite" else create_async_engine(ledger.url)
    took, begun = {}, time.perf_counter()
    await migrate.upgrade(ledger, _REVISION)
    async with engine.begin() as conn:
        now = await ledger.now(conn)
    for table, (columns, rows) in _ROWS.items():
        base = _base(shape).format(numbers=_NUMBERS[ledger.dialect])
        statement = f"INSERT INTO {table} ({columns}) WITH base AS ({base}) {rows}"
        async with engine.begin() as conn:
            await conn.exec_driver_sql(statement.replace(":now", str(now)).replace(":size", str(size)))
        took[table], begun = time.perf_counter() - begun, time.perf_counter()
    if ledger.dialect != "sqlite":
        await engine.dispose()
    return took


async def fill(ledger: Ledger, size: int, shape: Shape = DEFAULT) -> dict[str, float]:
    """Fill an empty database with `size` requests and migrate it; return the seconds of each part."""
    took = await fill_old(ledger, size, shape)
    begun = time.perf_counter()
    await migrate.upgrade(ledger)
    took["migrate"], begun = time.perf_counter() - begun, time.perf_counter()
    if ledger.dialect != "sqlite":  # PostgreSQL does this by itself after a while, SQLite never
        engine = create_async_engine(ledger.url)
        async with engine.connect() as conn:
            auto = await conn.execution_options(isolation_level="AUTOCOMMIT")
            await auto.exec_driver_sql("VACUUM ANALYZE")
        await engine.dispose()
    took["analyze"] = time.perf_counter() - begun
    return took


async def main() -> None:
    url, size = sys.argv[1], int(sys.argv[2])
    ledger = Ledger(url)
    took = await fill(ledger, size)
    print({name: round(seconds, 1) for name, seconds in took.items()})
    await ledger.close()


if __name__ == "__main__":
    asyncio.run(main())
