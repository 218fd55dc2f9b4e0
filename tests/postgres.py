"""PostgreSQL for the laws that are marked `any_ledger`: a database of its own for each test process."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import asyncpg

SERVER = "postgresql://postgres@127.0.0.1:5432/"
ABSENT = "ONETAKE_TEST_NO_POSTGRES"
"""Set for this run, and inherited by its xdist workers, to the reason why PostgreSQL takes no part."""


async def _execute(statement: str) -> None:
    conn = await asyncpg.connect(f"{SERVER}postgres", timeout=3)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()


def look() -> None:
    """Find out once, before anything is collected, whether the server answers."""
    if ABSENT in os.environ:
        return
    try:
        asyncio.run(_execute("SELECT 1"))
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        os.environ[ABSENT] = f"{type(error).__name__}: {error}"
    else:
        os.environ[ABSENT] = ""


def looked_up() -> bool:
    """Say whether the server answered when this run began."""
    look()
    return not os.environ[ABSENT]


def dialects() -> list[str]:
    return ["sqlite"] if os.environ.get(ABSENT) else ["sqlite", "postgresql"]


@contextmanager
def database() -> Iterator[str]:
    """Make an empty database and drop it afterwards; gives its URL."""
    name = f"onetake_test_{uuid4().hex[:12]}"
    asyncio.run(_execute(f"CREATE DATABASE {name}"))
    try:
        yield SERVER + name
    finally:
        asyncio.run(_execute(f"DROP DATABASE {name} WITH (FORCE)"))
