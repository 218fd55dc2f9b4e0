"""SQL is locked, or undoes what was begun: nothing is paid, nothing half-written, and the request is taken up
later, exactly once.
"""

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import asyncpg
import pytest
from backstage import Backstage
from lives import NO_LIMITS, Opener, books, history, order_for
from player import order
from sql_stage import marked, on_postgres, on_sqlite, taken_up
from sqlalchemy import event, make_url
from sqlalchemy.exc import DBAPIError
from waiting import wait_until

from ledger import breaker, database, orders, requests
from ledger.database import Ledger, transaction
from ledger.history import record_refused_call, refused_calls
from ledger.limits import Limits
from ledger.orders import Placed

pytestmark = pytest.mark.all  # minutes in all: `make test-rest`


@contextmanager
def locked(url: str) -> Iterator[sqlite3.Connection]:
    """Hold SQLite's file for this connection alone; `execute("ROLLBACK")` lets go of it earlier."""
    path = make_url(url).database
    assert path
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other


def impatient(ledger: Ledger, milliseconds: int) -> None:
    """Let every connection from now on wait only so long for SQLite's lock."""

    def shorten(raw, _):
        raw.cursor().execute(f"PRAGMA busy_timeout={milliseconds}")

    event.listen(ledger.engine.sync_engine, "connect", shorten)


@pytest.mark.slow
@on_sqlite
async def test_a_file_that_is_locked_too_long_pays_nothing(pipeline_env, ledger, ledger_url: str):
    """Another connection holds the file longer than the busy timeout when the order is written: nothing is
    ordered or paid, the request stays open, and the next attempt makes its one video.
    """
    impatient(ledger, 150)
    held = []

    async def lock() -> object:
        held.append(locked(ledger_url))
        held[0].__enter__()
        return [order(), order(prompt="Again.")]

    async def unlock() -> str:
        held[0].__exit__(None, None, None)
        return "It did not work."

    env: Backstage = await pipeline_env(lock, unlock, [order()])
    request = await env.opened()
    await env.run_agent(request)
    await taken_up(env, request)


@on_sqlite
async def test_a_file_that_is_locked_for_a_while_is_waited_for(ledger: Ledger, ledger_url: str, opened):
    """Shorter than the busy timeout: writers wait, and none of them fails or writes twice."""
    wanted = [await opened(user_id=user) for user in range(8)]
    with locked(ledger_url) as other:
        writing = asyncio.gather(*(orders.place(ledger, order_for(one), NO_LIMITS) for one in wanted))
        done, _ = await asyncio.wait({writing}, timeout=0.3)
        assert not done
        other.execute("ROLLBACK")
        assert [one.created for one in await writing] == [True] * 8


@on_sqlite
async def test_a_caller_in_a_hurry_leaves_a_locked_file(ledger: Ledger, ledger_url: str, opened: Opener):
    """Who asks with a time limit is answered in it, although SQLite waits for its lock much longer; a refused
    call's record is then left behind, and the ledger closes in order.
    """
    request = await opened()
    with locked(ledger_url):
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await record_refused_call(ledger, request, "tool", "quota", "redis", [])
        assert time.monotonic() - began < 0.8
        assert await requests.find(ledger, request), "readers do not wait for a lock"
    assert await refused_calls(ledger, request) == []


def undone(sqlstate: str) -> DBAPIError:
    class Undone(Exception):
        pass

    raised = Undone("could not serialize access")
    raised.sqlstate = sqlstate
    return DBAPIError("UPDATE", {}, raised)


@pytest.mark.parametrize(
    ("sqlstate", "failures", "turns", "ends"),
    [
        ("40001", 2, 3, "done"),
        ("40P01", 4, 5, "done"),
        ("40001", 99, database.MAX_TRANSACTION_ATTEMPTS, "raised"),
        ("57P01", 99, 1, "raised"),
        ("08006", 99, 1, "raised"),
        ("23505", 99, 1, "raised"),
    ],
)
async def test_only_what_was_undone_is_repeated(ledger: Ledger, sqlstate: str, failures, turns, ends):
    """A serialization failure and a deadlock are begun again, a bounded number of times; a lost connection
    and every other error is raised at once, because nobody knows what it left.
    """
    begun_ = []

    @transaction
    async def work(_: Ledger) -> str:
        begun_.append(1)
        if len(begun_) <= failures:
            raise undone(sqlstate)
        return "done"

    try:
        found = await work(ledger)
    except DBAPIError:
        found = "raised"
    assert (found, len(begun_)) == (ends, turns)


@marked(pytest.mark.slow, *on_postgres)
async def test_a_deadlock_orders_once(ledger: Ledger, ledger_url: str, opened: Opener):
    """PostgreSQL kills the order's transaction to end a deadlock with somebody else's: it is written after
    all, once, with one hold.
    """
    request, ours = await opened(), Ledger(ledger_url)
    async with ledger.write() as conn:
        await breaker.lock(ledger, conn, 7)

    def patient(_, __, ___, options) -> None:
        options["server_settings"] = {"deadlock_timeout": "2s"}

    event.listen(ours.engine.sync_engine, "do_connect", patient)
    # Theirs looks for a ring much later than ours, so that ours is the one that finds it, and dies.
    other = await asyncpg.connect(ledger_url, server_settings={"deadlock_timeout": "60s"})
    try:
        async with other.transaction():
            await other.execute("SELECT 1 FROM breaker WHERE scope = 'everyone' FOR UPDATE")
            placing = asyncio.create_task(orders.place(ours, order_for(request), NO_LIMITS))

            async def waits() -> bool:
                return await some_wait(ledger)

            await wait_until(waits, what="our order to wait for their lock")
            # Our row's lock becomes theirs only because our transaction is killed.
            async with asyncio.timeout(20):
                await other.execute("UPDATE requests SET caption = 'theirs' WHERE request_id = $1", request)
        placed = await placing
    finally:
        await other.close()
        await ours.close()
    assert isinstance(placed, Placed)
    assert placed.created
    assert await books(ledger, request) == {"hold": [3_000_000]}
    assert await history(ledger, request) == [("", "QUEUED", "tool")]


async def some_wait(ledger: Ledger) -> bool:
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with ledger.read() as conn:
        return bool((await conn.exec_driver_sql(query)).scalar_one())


@marked(*on_postgres)
async def test_serializable_orders_are_written_once(ledger: Ledger, ledger_url: str, opened: Opener):
    """Where transactions are serializable, orders that race for a place fail and are repeated: each place is
    given once, and nobody is told that the store is away.
    """
    strict = Ledger(ledger_url)
    strict.engine = strict.engine.execution_options(isolation_level="SERIALIZABLE")
    wanted = [await opened() for _ in range(6)]
    bounds = Limits(quota=2)
    found = await asyncio.gather(*(orders.place(strict, order_for(one), bounds) for one in wanted))
    words = Counter("placed" if isinstance(one, Placed) else one.verdict for one in found)
    assert words == {"placed": 2, "quota": 4}
    await strict.close()
