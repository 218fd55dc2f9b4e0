"""Guards over every store."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from guardrails import Guard, SqlStore
from guardrails.library.claims import ClaimStore
from guardrails.library.memory_store import MemoryStore
from tests.support import services
from tests.support.guarded_agents import Provider

MakeStore = Callable[..., ClaimStore]


@pytest.fixture(scope="session")
def guard_database() -> Iterator[str]:
    """A PostgreSQL database of this test process alone."""
    with services.database() as url:
        yield url.replace("postgresql://", "postgresql+asyncpg://", 1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        is_sql = getattr(metafunc.module, "SQL_ALONE", False)
        every = services.dialects() if is_sql else ["memory", *services.dialects()]
        metafunc.parametrize("kind", getattr(metafunc.module, "KINDS", every), indirect=True)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """Memory, SQLite, and PostgreSQL where there is one."""
    return str(request.param)


@pytest.fixture
def store_url(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> str:
    if kind == "postgresql":
        return str(request.getfixturevalue("guard_database"))
    return f"sqlite+aiosqlite:///{tmp_path}/guard.db"


@pytest.fixture
def prefix_of_tables() -> str:
    return f"t{uuid4().hex[:12]}_"


@pytest.fixture
async def make_store(kind: str, store_url: str, prefix_of_tables: str) -> AsyncIterator[MakeStore]:
    """Open a store: each is the same database again, as a second process has it; memory is one store."""
    memory = MemoryStore()
    opened: list[ClaimStore] = []

    def make(**options: Any) -> ClaimStore:
        if kind == "memory":
            return MemoryStore(**options) if options else memory
        opened.append(SqlStore(store_url, prefix=prefix_of_tables, **options))
        return opened[-1]

    yield make
    for store in opened:
        await store.close()


@pytest.fixture
async def make_guard(make_store: MakeStore) -> AsyncIterator[Callable[..., Awaitable[Guard]]]:
    """Open a guard over the store: `guard = await make_guard(redis=…)`."""
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> Guard:
            guard = Guard(store=options.pop("store", None) or make_store(), **options)
            return await stack.enter_async_context(guard)

        yield make


@pytest.fixture
async def guard(make_guard: Callable[..., Awaitable[Guard]]) -> Guard:
    return await make_guard()


@pytest.fixture
def provider() -> Provider:
    return Provider()


class Clock:
    """Time that a test moves, seconds since the epoch."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()
