"""The ledger behind the real PgBouncer in transaction mode."""

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger import database, requests
from ledger.database import Ledger
from ledger.models import VideoState as V
from ledger.requests import NewRequest, open_request
from tests.support.app_harness import open_app_env, wait_for_state
from tests.support.private_servers import Postgres, private_pgbouncer, private_postgres
from worker.outages import ends_by_itself, is_outage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with private_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def pooled(postgres: Postgres) -> Iterator[Postgres]:
    """The same server behind a PgBouncer with six sessions."""
    with private_pgbouncer(postgres) as port:
        yield Postgres(port)


@pytest.fixture
async def name(postgres: Postgres) -> str:
    """An empty database."""
    found = f"onetake_{uuid4().hex[:8]}"
    await postgres.execute(f"CREATE DATABASE {found}")
    return found


async def _fill(ledger: Ledger, user: int, count: int) -> None:
    for n in range(count):
        new = NewRequest(f"tg:1:-:{user}:{n}", 1, user, n, user, "en", "a market")
        await open_request(ledger, new)
        await requests.set_once(ledger, new.request_id, "caption", str(n))
        found = await requests.find(ledger, new.request_id)
        assert found
        assert found.caption == str(n)


async def test_a_pooler_is_found_out(postgres: Postgres, pooled: Postgres, name: str):
    """The first connection tells a pooler from the server itself."""
    for server, present in ((postgres, False), (pooled, True)):
        ledger = Ledger(server.url(name))
        await database.migrate(ledger)
        assert ledger.pooler.present is present
        await ledger.close()


async def test_thirty_callers_share_six_sessions(pooled: Postgres, postgres: Postgres, name: str):
    """Three processes' pools with forty callers each: every one reads what it wrote, none meets another's
    statement, and no prepared statement stays behind in a session.
    """
    stores = [Ledger(pooled.url(name)) for _ in range(3)]
    await asyncio.gather(*(database.migrate(one) for one in stores))
    await asyncio.gather(*(_fill(stores[user % 3], user, 8) for user in range(100, 140)))
    async with stores[0].read() as conn:
        assert await conn.scalar(text("SELECT count(*) FROM requests")) == 320
        assert await conn.scalar(text("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")) == 0
    for one in stores:
        await one.close()


async def test_migrations_wait_for_each_other(pooled: Postgres, postgres: Postgres, name: str):
    """Who migrates through the pooler and who does it directly exclude each other, and no lock is left."""
    stores = [Ledger(server.url(name)) for server in (pooled, postgres, pooled, postgres)]
    await asyncio.gather(*(database.migrate(one) for one in stores))
    found, newest = await database.revisions(stores[0])
    assert found == newest
    conn = await asyncpg.connect(postgres.url(name))
    assert await conn.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    await conn.close()
    for one in stores:
        await one.close()


async def test_the_app_runs_behind_a_pooler(pooled: Postgres, name: str, redis_url: str, tmp_path):
    """A command is one video for one charge."""
    settings = {"database_url": SecretStr(pooled.url(name))}
    async with open_app_env(tmp_path, redis_url, settings=settings) as env:
        await env.user().send("/create a lighthouse in a storm")
        await wait_for_state(env, V.DELIVERED, seconds=30)
        assert len(env.fake_provider.charges()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_client_conn": "1"}, "no more connections allowed"),
        ({"query_wait_timeout": "1", "default_pool_size": "1"}, "query_wait_timeout"),
    ],
)
async def test_what_a_pooler_says_of_itself_is_an_outage(
    postgres: Postgres, name: str, options: dict[str, str], words: str
):
    """A pooler without room refuses; that is an outage that ends."""
    with private_pgbouncer(postgres, **options) as port:
        ledger = Ledger(Postgres(port).url(name))
        if "query_wait_timeout" in options:
            await database.revisions(ledger)
        blocker = await asyncpg.connect(Postgres(port).url(name))
        block = blocker.transaction()
        await block.start()
        with pytest.raises((DBAPIError, OSError), match=words) as error:
            async with ledger.read() as conn:
                await conn.execute(text("SELECT 1"))
        assert is_outage(error.value)
        assert ends_by_itself(error.value)
        await block.rollback()
        await blocker.close()
        await ledger.close()


async def test_a_parameter_that_a_pooler_refuses_is_no_outage_to_wait_for(pooled: Postgres, name: str):
    """PgBouncer names the parameter that it does not know; a start says so instead of waiting."""
    ledger = Ledger(f"{pooled.url(name)}?options=-csearch_path%3Dpublic")
    with pytest.raises(database.LedgerError, match="unsupported startup parameter: options") as error:
        await database.migrate(ledger)
    assert not ends_by_itself(error.value.__cause__)
    await ledger.close()
