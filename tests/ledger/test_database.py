"""The ledger's database: durable commits, retries, cancelled callers, errors that name the remedy."""

import asyncio
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as WaitTimeout

from ledger import (
    database,
    due_work,
    history,
    limits,
    notifications,
    orders,
    reports,
    requests,
    transitions,
)
from ledger.database import Ledger, LedgerError, transaction
from ledger.models import RequestState, VideoState
from ledger.schema import requests as request_rows
from tests.support.factories import NO_LIMITS, NO_RATES, Opener, order_for, ordered, update_fields
from tests.support.pipeline_harness import marked, on_postgres
from tests.support.services import ROOT
from tests.support.statement_counts import count_statements
from tests.support.waiting import wait_until

SECRET = "hunter2"


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_sqlite_is_durable(ledger: Ledger):
    """Every connection that is handed out writes through a WAL, syncs each commit, keeps foreign keys."""
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}

    async def pragmas() -> dict[str, object]:
        async with ledger.read() as conn:
            await asyncio.sleep(0)
            return {name: (await conn.exec_driver_sql(f"PRAGMA {name}")).scalar_one() for name in wanted}

    assert await asyncio.gather(*(pragmas() for _ in range(4))) == [wanted] * 4


@pytest.mark.any_ledger
async def test_a_write_is_all_or_nothing(ledger: Ledger, opened: Opener):
    """A transaction that fails leaves nothing behind, and its connection can be used again."""
    request = await opened()

    async def fail() -> None:
        async with ledger.write() as conn:
            await requests.record_transition(conn, request, "request", "a", "b", "test", "never", 1)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await fail()
    async with ledger.read() as conn:
        assert (await conn.exec_driver_sql("SELECT count(*) FROM transitions")).scalar_one() == 0


@pytest.mark.slow
async def test_many_writers_wait_for_each_other(ledger_url: str, opened: Opener):
    """Four replicas with 40 writers each on one file: none gets "database is locked"."""
    stores = [Ledger(ledger_url) for _ in range(4)]
    request = await opened()
    await asyncio.gather(*(update_fields(stores[n % 4], request, told=str(n)) for n in range(160)))
    for store in stores:
        await store.close()


COMMANDS_OF_ONE_PROCESS = """
import asyncio, sys
from ledger import due_work, orders, requests, transitions
from ledger.database import Ledger
from tests.support.factories import NO_LIMITS, NO_RATES, order_for, update_fields

async def command(ledger, user, n):
    new = requests.NewRequest(f"tg:1:-:{user}:{n}", 1, user, n, user, "en", "a market")
    assert (await requests.open_request(ledger, new))[1]
    assert await due_work.claim_runs(ledger, 1, 60, new.request_id)
    await update_fields(ledger, new.request_id, status_message_id=2)
    assert (await orders.place(ledger, order_for(new.request_id), NO_LIMITS)).created
    assert await transitions.begin_submit(ledger, new.request_id, "f", 30, NO_RATES)
    assert await transitions.adopt_job(ledger, new.request_id, f"job-{user}-{n}", "test", None)
    for state in "abcd":
        await update_fields(ledger, new.request_id, told=state)

async def main():
    ledger = Ledger(sys.argv[1])
    await asyncio.gather(*(command(ledger, int(sys.argv[2]), n) for n in range(40)))
    await ledger.close()

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_forty_commands_at_once_in_each_of_three_processes(ledger: Ledger, ledger_url: str):
    """On SQLite all of them are opened, ordered, submitted and accepted: waiting for a turn is no error."""
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            COMMANDS_OF_ONE_PROCESS,
            ledger_url,
            str(user),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        for user in (11, 12, 13)
    ]
    for process in started:
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
    async with ledger.read() as conn:
        count = await conn.scalar(select(func.count()).where(request_rows.c.state == RequestState.ORDERED))
    assert count == 120


@pytest.mark.any_ledger
async def test_two_hundred_callers_wait_in_order(ledger: Ledger, opened: Opener, monkeypatch):
    """More callers than connections wait as long as transactions end, however long that takes in all."""
    # In all they wait for longer than one wait may last; a busy machine's disk may take seconds for a write.
    monkeypatch.setattr(database, "_WAIT_S", 5.0)
    request, ended = await opened(), []
    began = time.monotonic()

    async def write(number: int) -> None:
        async with ledger.write() as conn:
            await conn.execute(
                text("UPDATE requests SET told = :n WHERE request_id = :r"), {"n": str(number), "r": request}
            )
            await asyncio.sleep(0.03 if ledger.dialect == "sqlite" else 0)
        ended.append(number)

    await asyncio.gather(*(write(number) for number in range(200)))
    assert sorted(ended) == list(range(200))
    if ledger.dialect == "sqlite":
        assert ended == list(range(200))
        assert time.monotonic() - began > 5.0


@pytest.mark.any_ledger
async def test_a_wait_without_progress_ends(ledger: Ledger, opened: Opener, monkeypatch):
    """Where every connection is taken by transactions that do not end, the next one is an error in time."""
    request = await opened()
    monkeypatch.setattr(database, "_WAIT_S", 0.2)
    release = asyncio.Event()

    async def hold() -> None:
        async with ledger.write():
            await release.wait()

    most = 1 if ledger.dialect == "sqlite" else database._POSTGRESQL_CONNECTIONS
    holders = [asyncio.create_task(hold()) for _ in range(most)]
    await asyncio.sleep(0.05)
    with pytest.raises(WaitTimeout, match="no transaction ended"):
        await update_fields(ledger, request, told="x")
    release.set()
    await asyncio.gather(*holders)
    await update_fields(ledger, request, told="x")


async def _end_backends(ledger: Ledger) -> int:
    """End every other connection of this database, as a failover does."""
    query = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with ledger.read() as conn:
        return int(await conn.scalar(text(query)) or 0)


@marked(*on_postgres)
async def test_a_connection_that_was_closed_while_idle_is_replaced(
    ledger: Ledger, ledger_url: str, opened: Opener
):
    """The server ended all connections between two transactions: the next ones succeed, without a ping."""
    request, killer = await opened(), Ledger(ledger_url)
    await asyncio.gather(*(requests.find(ledger, request) for _ in range(5)))
    assert await _end_backends(killer) >= 1
    with count_statements(ledger) as counts:
        await asyncio.gather(*(update_fields(ledger, request, told="x") for _ in range(5)))
    assert len(counts.statements) in range(5, 11)  # a connection whose end was not seen yet is tried once
    await killer.close()


@marked(*on_postgres)
@pytest.mark.parametrize("fault", ["killed", "read only"])
@pytest.mark.parametrize("fresh", [False, True])
async def test_a_stale_connection_is_retried_once(
    ledger: Ledger, ledger_url: str, opened: Opener, fault: str, fresh: bool
):
    """A pooled connection that turns out to be dead, or of a server that became read-only, is dropped; the
    transaction, of which nothing was kept, runs again. On a new connection the same error is raised.
    """
    request, ours, killer = await opened(), Ledger(ledger_url), Ledger(ledger_url)
    if not fresh:
        await requests.find(ours, request)
    attempts = []

    @transaction
    async def write(ledger: Ledger) -> None:
        attempts.append(1)
        async with ledger.write() as conn:
            if len(attempts) == 1 and fault == "killed":
                await conn.scalar(text("SELECT 1"))
                await _end_backends(killer)
            elif len(attempts) == 1:
                await conn.execute(text("SET TRANSACTION READ ONLY"))
            await conn.execute(text("UPDATE requests SET caption = 'kept'"))

    if fresh:
        with pytest.raises(DBAPIError):
            await write(ours)
    else:
        await write(ours)
    found = await requests.find(ours, request)
    assert found
    assert (len(attempts), found.caption) == ((1, None) if fresh else (2, "kept"))
    await ours.close()
    await killer.close()


@marked(*on_postgres)
async def test_a_full_server_keeps_its_connections(ledger: Ledger):
    """An error of class 53 (out of memory, disk, connections) is raised; its connection stays in the pool."""

    async def backend() -> int:
        async with ledger.read() as conn:
            return int(await conn.scalar(text("SELECT pg_backend_pid()")) or 0)

    before = await backend()
    with pytest.raises(DBAPIError, match="no room"):
        async with ledger.read() as conn:
            await conn.execute(text("DO $$ BEGIN RAISE 'no room' USING ERRCODE = '53100'; END $$"))
    assert await backend() == before


Act = Callable[[Ledger, str], Awaitable[object]]
_NEWS = notifications.Notification("breaker", 5)
ONE_STATEMENT: dict[str, Act] = {
    "open_request": lambda it, _: requests.open_request(
        it, requests.NewRequest("tg:1:-:9:9", 1, 9, 9, 9, "en", "a market")
    ),
    "claim_runs": lambda it, _: due_work.claim_runs(it, 5, 60),
    "pause_run": lambda it, one: requests.pause_run(it, one, 1, 5),
    "update_fields": lambda it, one: update_fields(it, one, told="x"),
    "set_once": lambda it, one: requests.set_once(it, one, "caption", "x"),
    "claim": lambda it, _: notifications.claim(it, _NEWS, 7),
    "mark_sent": lambda it, _: notifications.mark_sent(it, _NEWS, 7),
    "release": lambda it, _: notifications.release(it, _NEWS, 7, 0, 5),
    "recipients_due": lambda it, _: notifications.recipients_due(it, _NEWS, [7]),
    "claim_videos": lambda it, _: due_work.claim_videos(it, [VideoState.QUEUED], 5, 60),
    "make_due": lambda it, _: due_work.make_due(it, VideoState.QUEUED),
    "next_due": lambda it, _: due_work.next_due(it, 1),
}


@pytest.mark.any_ledger
@pytest.mark.parametrize("name", ONE_STATEMENT)
async def test_a_step_is_one_statement(ledger: Ledger, opened: Opener, name: str):
    """What these functions do takes one statement, in one transaction: the time is inside the statement."""
    request = await opened()
    with count_statements(ledger) as counts:
        await ONE_STATEMENT[name](ledger, request)
    assert (counts.transactions, len(counts.statements)) == (1, 1), counts.statements


@pytest.mark.any_ledger
async def test_an_operator_alert_is_claimed_once(ledger: Ledger):
    """One of several processes gets the claim; after a release in the past it can be claimed again, and not
    after it was sent.
    """
    claims = await asyncio.gather(*(notifications.claim(ledger, _NEWS, 7) for _ in range(5)))
    [lease] = [one for one in claims if one is not None]
    await notifications.release(ledger, _NEWS, 7, lease, -1)
    again = await notifications.claim(ledger, _NEWS, 7)
    assert again
    await notifications.release(ledger, _NEWS, 7, again, -1)
    await notifications.mark_sent(ledger, _NEWS, 7)
    assert not await notifications.claim(ledger, _NEWS, 7)


@pytest.mark.any_ledger
async def test_the_time_is_sql(ledger: Ledger, ledger_url: str, opened: Opener):
    """`time` can be written, compared and selected, and moves with `shift`."""
    moved = Ledger(ledger_url, shift=86_400)
    request = await opened()
    rows = request_rows.update().where(request_rows.c.created_at <= ledger.time())
    async with ledger.write() as conn, moved.read() as other:
        written = await conn.scalar(rows.values(run_until=ledger.time()).returning(request_rows.c.run_until))
        there = await other.scalar(select(moved.time() + 5))
        late = select(request_rows.c.request_id).where(request_rows.c.created_at > moved.time() - 86_300_000)
        assert (await other.scalars(late)).all() == []
    assert written
    assert there
    assert 0 <= there - written - 86_400_005 < 2000
    found = await requests.find(ledger, request)
    assert found
    assert found.run_until == written
    await moved.close()


@marked(*on_postgres)
async def test_the_time_is_compared_by_index(ledger: Ledger):
    """PostgreSQL takes the time for a constant of the statement, so that an index can find what is due."""
    query = select(request_rows.c.request_id).where(request_rows.c.created_at <= ledger.time())
    async with ledger.read() as conn:
        await conn.execute(text("SET LOCAL enable_seqscan = off"))
        compiled = query.compile(dialect=ledger.engine.dialect, compile_kwargs={"literal_binds": True})
        plan = (await conn.execute(text(f"EXPLAIN {compiled}"))).scalars().all()
    assert any("Index Cond" in line for line in plan), plan


async def test_a_reader_does_not_wait_for_a_writer(ledger: Ledger, opened: Opener):
    """While one transaction writes, others read what was committed before."""
    request = await opened()
    async with ledger.write() as conn:
        await requests.record_transition(conn, request, "request", "a", "b", "test", "open", 1)
        async with asyncio.timeout(1):
            assert await requests.find(ledger, request)


@pytest.mark.any_ledger
async def test_the_clock_is_the_stores(ledger: Ledger, ledger_url: str):
    """Time is the database's, in milliseconds; `shift` moves it by seconds."""
    moved = Ledger(ledger_url, shift=86_400)
    async with ledger.read() as conn, moved.read() as other:
        here, there = await ledger.now(conn), await moved.now(other)
    assert 1_700_000_000_000 < here < 10_000_000_000_000
    assert 0 <= there - here - 86_400_000 < 2000
    await moved.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"{SECRET}", ["DATABASE_URL", "characters without ://", "sqlite:///PATH"]),
        ("", ["DATABASE_URL", "0 characters"]),
        (
            f"postgresql://bot:{SECRET}@db:port/x",
            ["DATABASE_URL", "postgresql://…", "a port is not a number"],
        ),
        (f"mysql://bot:{SECRET}@db/x", ["DATABASE_URL", "'mysql'", "postgresql://USER@HOST/NAME"]),
        ("sqlite://", ["DATABASE_URL", "in memory", "sqlite:///PATH"]),
        ("sqlite:///:memory:", ["DATABASE_URL", "in memory"]),
        (
            "sqlite:////etc/hostname/ledger.db",
            ["DATABASE_URL", "/etc/hostname", "name one that you may write"],
        ),
        ("sqlite:////tmp", ["DATABASE_URL", "/tmp", "is a folder"]),
    ],
)
def test_a_wrong_url_is_named(url: str, words: list[str]):
    """The error says what is wrong, with which value, and what to do; it and its cause have no password."""
    with pytest.raises(LedgerError) as caught:
        Ledger(url)
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert SECRET not in message
    assert caught.value.__cause__ is None or SECRET not in str(caught.value.__cause__)


def broken(folder: Path) -> None:
    (folder / "it.db").write_bytes(b"this is no database" * 100)


def readonly(folder: Path) -> None:
    sqlite3.connect(folder / "it.db").close()


@pytest.mark.parametrize(
    ("prepare", "url", "words"),
    [
        (broken, "sqlite:///{}/it.db", ["it.db", "not a database", "check that it is a SQLite file"]),
        (readonly, "sqlite:///file:{}/it.db?mode=ro&uri=true", ["it.db", "readonly", "may write"]),
        (readonly, "sqlite:///file:{}/gone/it.db?uri=true", ["gone/it.db", "unable to open", "may write"]),
        (
            readonly,
            f"postgresql://bot:{SECRET}@127.0.0.1:1/x",
            ["bot:***@127.0.0.1:1/x", "check that the server answers"],
        ),
    ],
    ids=["not a database", "read only", "no folder", "no server"],
)
async def test_a_ledger_that_cannot_be_used_is_named(tmp_path: Path, prepare, url: str, words: list[str]):
    """At start one line says which ledger, what is wrong and what to check, without a password."""
    prepare(tmp_path)
    before = set(threading.enumerate())
    ledger = Ledger(url.format(tmp_path))
    with pytest.raises(LedgerError) as caught:
        await database.migrate(ledger)
    await ledger.close()
    # A connection that could not be prepared is closed by its own thread, which answers to this test's loop.
    await wait_until(lambda: _ended(before), what="the connection's thread to end")
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert SECRET not in message
    assert "\n" not in message


async def _ended(before: set[threading.Thread]) -> bool:
    return not [
        one for one in threading.enumerate() if one not in before and "_connection_worker" in one.name
    ]


@pytest.mark.any_ledger
async def test_an_error_holds_no_values(ledger: Ledger):
    """What a statement was filled with (an idea, a prompt) is not in the text of its error."""
    with pytest.raises(DBAPIError) as caught:
        async with ledger.write() as conn:
            await conn.execute(text("SELECT :idea FROM nowhere"), {"idea": "a secret market"})
    assert "nowhere" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.any_ledger
async def test_claimed_orders_know_their_own_requests(ledger: Ledger):
    """Orders that are claimed together have each its own user's text and its own trace."""
    wanted = {}
    for user in range(1, 4):
        trace = f"00-{user:032x}-{user:016x}-01"
        request = f"tg:1:-:{user}:1"
        new = requests.NewRequest(request, 1, user, 1, user, "en", f"idea {user}", trace)
        await requests.open_request(ledger, new)
        await update_fields(ledger, request, status_message_id=2)
        await orders.place(ledger, order_for(request), NO_LIMITS)
        wanted[request] = (f"idea {user}", trace)
    claimed = await due_work.claim_videos(ledger, [VideoState.QUEUED], 9, 5)
    assert {one.video.request_id: (one.idea, one.traceparent) for one in claimed} == wanted
    alone = await due_work.claim_video(ledger, request, VideoState.QUEUED, 5)
    assert alone is not None
    assert (alone.idea, alone.traceparent) == wanted[request]


@pytest.mark.any_ledger
async def test_what_waits_is_found_in_sql(ledger: Ledger, ledger_url: str, opened: Opener):
    """What is due (to run, to submit, to notify) is read from the rows alone."""
    request, order = await opened(), await ordered(ledger, opened)
    due = await due_work.next_due(ledger, (await requests.find(ledger, order)).bot_id)
    assert set(due) == {"run", "notify", "QUEUED"}
    assert max(due.values()) <= 0
    assert [one.request_id for one in await due_work.claim_runs(ledger, 9, 0)] == [request]
    assert await history.count_in_flight(ledger) == {"local": 1}
    queued = await due_work.claim_videos(ledger, [VideoState.QUEUED], 9, 0)
    assert [one.video.request_id for one in queued] == [order]


@pytest.mark.any_ledger
async def test_a_bot_runs_its_own_requests(ledger: Ledger, opened: Opener):
    """Another bot's worker would order at its own account and price: it is not given the run."""
    request = await opened()
    bot = (await requests.find(ledger, request)).bot_id
    assert "run" not in await due_work.next_due(ledger, bot + 1)
    assert await due_work.claim_runs(ledger, 9, 0, bot_id=bot + 1) == []
    assert await due_work.claim_runs(ledger, 9, 0, request, bot + 1) == []
    assert [one.request_id for one in await due_work.claim_runs(ledger, 9, 0, bot_id=bot)] == [request]


AT_ONCE = 12


async def writes(ledger: Ledger, opened: Opener, dice: random.Random) -> None:
    """What several tasks write for one request."""
    request = await opened(user_id=dice.randrange(1, 5))
    await orders.place(ledger, order_for(request), limits.Limits())
    await transitions.begin_submit(ledger, request, "f", 30, NO_RATES)
    await transitions.adopt_job(ledger, request, f"job-{request}", "test", None)
    await reports.net_charged(ledger, request)


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.any_ledger
@pytest.mark.parametrize("seed", range(3))
async def test_a_write_is_possible_at_once(ledger: Ledger, opened: Opener, seed: int):
    """Hundreds of transactions are cancelled at random instants, in queues for the lock and inside it: after
    each burst another process's connection writes without waiting.
    """
    dice = random.Random(seed)
    other = Ledger(ledger.url.render_as_string(hide_password=False))
    for _ in range(8):
        tasks = [asyncio.create_task(writes(ledger, opened, dice)) for _ in range(AT_ONCE)]
        for task in sorted(tasks, key=lambda _: dice.random()):
            await asyncio.sleep(dice.random() * 0.01)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(4):  # less than the time that SQLite waits for a lock
            await orders.place(other, order_for(await written(other)), limits.Limits())
    await wait_until(lambda: free(ledger), 20, "every connection back in its pool")
    await other.close()


async def written(other: Ledger) -> str:
    new = requests.NewRequest(f"tg:1:-:9:{random.getrandbits(40)}", 1, 9, 1, 9, "en", "a market")
    await requests.open_request(other, new)
    return new.request_id


async def free(ledger: Ledger) -> bool:
    return ledger.engine.pool.checkedout() == 0


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_a_cancelled_caller_leaves_all_or_nothing(ledger: Ledger, opened: Opener):
    """What a cancelled caller wrote is complete or absent: no order exists without its hold."""
    dice = random.Random(7)
    made = [await opened() for _ in range(20)]
    for request in made:
        task = asyncio.create_task(orders.place(ledger, order_for(request), limits.Limits()))
        await asyncio.sleep(dice.random() * 0.008)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await wait_until(lambda: free(ledger), 20, "every transaction to end")
    standing = [found[1] for one in made if (found := await requests.find_with_video(ledger, one))]
    held = sum(video.quote_micros for video in standing if video is not None)
    assert (await reports.cost_summary(ledger)).held.micros == held
    after = await ordered(ledger, opened)
    assert await transitions.begin_submit(ledger, after, "f", 30, NO_RATES)
