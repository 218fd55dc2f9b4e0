"""SQL is locked, or undoes what was begun: nothing is paid, nothing half-written, and the request is
continued later, exactly once.
"""

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import asyncpg
import pytest
from sqlalchemy import event, make_url
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from guardrails.limits import Limits
from ledger import breaker, database, orders, requests, transitions
from ledger.database import Ledger, transaction
from ledger.history import record_refused_call, refused_calls
from ledger.models import RequestState, VideoState
from ledger.orders import Placed
from ledger.requests import NewRequest, open_request
from sandbox.proxy import Proxy
from tests.support import services
from tests.support.factories import (
    NO_LIMITS,
    NO_RATES,
    Opener,
    begun,
    booked,
    history,
    new_job,
    order_for,
    ordered,
    update_fields,
    video_of,
)
from tests.support.models import order
from tests.support.pipeline_harness import (
    PIPELINE_TIMEOUTS,
    PipelineEnvironment,
    assert_resumed,
    marked,
    on_postgres,
    on_sqlite,
    open_pipeline,
)
from tests.support.waiting import Stopwatch, wait_until

pytestmark = pytest.mark.slow


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

    env: PipelineEnvironment = await pipeline_env(lock, unlock, [order()])
    request = await env.open_request()
    await env.run_agent(request)
    await assert_resumed(env, request)


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
async def test_a_locked_file_does_not_delay_its_caller(ledger: Ledger, ledger_url: str, opened: Opener):
    """A caller with a time limit gets its TimeoutError in time, although SQLite waits for its lock much
    longer; a refused call's record is then left out, and the ledger closes normally.
    """
    request = await opened()
    with locked(ledger_url):
        async with Stopwatch() as stopwatch:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await record_refused_call(ledger, request, "tool", "quota", "redis", [])
        assert stopwatch.seconds < 0.8
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
async def test_only_undone_transactions_are_retried(ledger: Ledger, sqlstate: str, failures, turns, ends):
    """A serialization failure and a deadlock are retried, a bounded number of times; a lost connection
    and every other error is raised at once, because what it left is unknown.
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


@marked(*on_postgres)
async def test_a_deadlock_orders_once(ledger: Ledger, ledger_url: str, opened: Opener):
    """PostgreSQL kills the order's transaction to end a deadlock with another one: it is written after
    all, once, with one hold.
    """
    request, ours = await opened(), Ledger(ledger_url)
    async with ledger.write() as conn:
        await breaker.lock(ledger, conn, 7)

    def patient(_, __, ___, options) -> None:
        options["server_settings"] = {"deadlock_timeout": "2s"}

    event.listen(ours.engine.sync_engine, "do_connect", patient)
    # Theirs checks for a ring much later than ours, so that ours is the one that finds it, and dies.
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
    assert await booked(ledger, request) == {"hold": [3_000_000]}
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
    given once, and no user reads that the store is unavailable.
    """
    strict = Ledger(ledger_url)
    strict.engine = strict.engine.execution_options(isolation_level="SERIALIZABLE")
    wanted = [await opened() for _ in range(6)]
    bounds = Limits(quota=2)
    found = await asyncio.gather(*(orders.place(strict, order_for(one), bounds) for one in wanted))
    words = Counter("placed" if isinstance(one, Placed) else one.verdict for one in found)
    assert words == {"placed": 2, "quota": 4}
    await strict.close()


V = VideoState


class Disk:
    """How many pages the ledger's file may have; connections learn of it when they begin."""

    def __init__(self, ledger: Ledger) -> None:
        self.most = 0
        event.listen(ledger.engine.sync_engine, "begin", self._limit)

    def _limit(self, conn) -> None:
        pages = self.most or 2**30
        conn.connection.cursor().execute(f"PRAGMA max_page_count={pages}")

    def fill(self, url: str) -> None:
        """Use up what is left, free pages inside the file too."""
        with closing(sqlite3.connect(make_url(url).database, isolation_level=None)) as other:
            other.execute("CREATE TABLE ballast (it BLOB)")
            self.most = other.execute("PRAGMA page_count").fetchone()[0]
            other.execute(f"PRAGMA max_page_count={self.most}")
            with contextlib.suppress(sqlite3.OperationalError):
                while True:
                    other.execute("INSERT INTO ballast VALUES (zeroblob(900))")


@on_sqlite
async def test_a_full_disk_leaves_no_partial_order(ledger: Ledger, ledger_url: str, opened: Opener):
    """The disk is full in the middle of an order: a clear error, and no row of it is kept; what was booked
    before is still read. With space again the same order is written, once.
    """
    earlier, wanted = await ordered(ledger, opened), await opened()
    disk = Disk(ledger)
    disk.fill(ledger_url)
    big = replace(order_for(wanted, approval_nonce=None), prompt="market " * 3000)
    for _ in range(2):
        with pytest.raises(OperationalError, match="full"):
            await orders.place(ledger, big, NO_LIMITS)
    found = await requests.find_with_video(ledger, wanted)
    assert found is not None
    assert (found[0].state, found[1]) == (RequestState.OPEN, None)
    assert await booked(ledger, wanted) == {}
    assert (await video_of(ledger, earlier)).state is V.QUEUED
    disk.most = 0
    placed = await orders.place(ledger, big, NO_LIMITS)
    assert isinstance(placed, Placed)
    assert placed.created
    assert await booked(ledger, wanted) == {"hold": [3_000_000]}


@on_sqlite
async def test_a_full_disk_at_order_time_pays_nothing(pipeline_env, ledger: Ledger, ledger_url: str):
    """The disk is full when the tool writes its order: nothing is paid, and with space again the request is
    taken up and makes its one video.
    """
    disk = Disk(ledger)
    long = "\N{DROMEDARY CAMEL}" * 1500  # four bytes each: more than a page

    async def fill() -> object:
        disk.fill(ledger_url)
        return [order(prompt=long), order(prompt=long + "again")]

    async def clear() -> str:
        disk.most = 0
        return "It did not work."

    env: PipelineEnvironment = await pipeline_env(fill, clear, [order()])
    request = await env.open_request()
    await env.run_agent(request)
    await assert_resumed(env, request)


@on_sqlite
async def test_a_full_disk_after_the_post_charges_once(ledger: Ledger, ledger_url: str, opened: Opener):
    """The job's id cannot be booked because the disk is full: the error is raised, the video stays in
    SUBMITTING for the reconciler, and the booking that is tried later charges once.
    """
    request, job = await begun(ledger, opened), new_job()
    long_name = "video " * 4000  # any text that takes more than a page
    disk = Disk(ledger)
    disk.fill(ledger_url)
    with pytest.raises(OperationalError, match="full"):
        await transitions.adopt_job(ledger, request, job, long_name, None)
    assert (await video_of(ledger, request)).state is V.SUBMITTING
    disk.most = 0
    assert (await video_of(ledger, request)).job_id is None
    assert await transitions.adopt_job(ledger, request, job, "shoot", None)
    assert await transitions.adopt_job(ledger, request, job, "reconcile", None) is None
    assert await booked(ledger, request) == {"hold": [3_000_000], "charge": [3_000_000]}


AWAY = (SQLAlchemyError, OSError)


@pytest.fixture
async def proxy(ledger: Ledger) -> AsyncIterator[Proxy]:
    """A proxy in front of the PostgreSQL under `ledger`."""
    async with Proxy("127.0.0.1", make_url(services.SERVER).port) as one:
        yield one


@pytest.fixture
async def far(proxy: Proxy, ledger_url: str) -> AsyncIterator[Ledger]:
    """The ledger as reached through the proxy."""
    one = Ledger(make_url(ledger_url).set(port=proxy.port).render_as_string(hide_password=False))
    yield one
    proxy.mode = "pass"
    proxy.cut()
    await one.close()


@marked(*on_postgres)
async def test_nothing_is_paid_while_sql_is_unavailable(far: Ledger, proxy: Proxy, redis, opened, tmp_path):
    """PostgreSQL refuses every connection when the order is written, and until the run has ended: nothing is
    paid; when it is back the request is continued from SQL and makes its one video.
    """

    async def refuse() -> object:
        proxy.refuse()
        return [order(), order(prompt="Again.")]

    timeouts = replace(PIPELINE_TIMEOUTS, run_s=1)
    async with open_pipeline(tmp_path, far, redis, refuse, "no", [order()], timeouts=timeouts) as env:
        request = await env.open_request()
        with contextlib.suppress(*AWAY):  # the queue sees a task fail
            await env.run_agent(request)
        proxy.mode = "pass"

        async def free() -> bool:
            found = await env.request(request)
            return found.run_until <= await env.worker.now_ms()

        await wait_until(free, what="the end of the lost attempt")
        await assert_resumed(env, request)


@marked(*on_postgres)
@pytest.mark.parametrize("mode", ["hang", "swallow"])
async def test_a_server_that_hangs_does_not_delay_its_caller(far: Ledger, proxy: Proxy, opened, mode):
    """A caller with a time limit gets its TimeoutError in time, although closing a connection is slow."""
    request = await opened()
    assert await requests.find(far, request)
    proxy.mode = mode
    asks = (record_refused_call(far, request, "tool", "quota", "redis", []), requests.find(far, request))
    async with Stopwatch() as stopwatch:
        for ask in asks:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await ask
    assert stopwatch.seconds < 1.2
    proxy.mode = "pass"
    proxy.cut()
    assert await requests.find(far, request)


@marked(*on_postgres)
async def test_a_server_that_never_answers_is_given_up(ledger_url: str, proxy: Proxy, opened, monkeypatch):
    """Without any time limit of the caller's a statement ends as well, with an error that callers know: no
    sweep waits endlessly on a dead connection, and the next statement finds a fresh one.
    """
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT_S", 0.3)
    far = Ledger(make_url(ledger_url).set(port=proxy.port).render_as_string(hide_password=False))
    request = await opened()
    assert await requests.find(far, request)
    proxy.mode = "hang"
    async with asyncio.timeout(10):
        with pytest.raises(AWAY):
            await update_fields(far, request, caption="never")
    proxy.mode = "pass"
    proxy.cut()
    async with asyncio.timeout(5):
        await update_fields(far, request, caption="now")
    found = await requests.find(far, request)
    assert found is not None
    assert found.caption == "now"
    await far.close()


class Commits:
    """Loses the connection in one COMMIT: before the server received it, or after it was stored."""

    def __init__(self, ledger: Ledger, proxy: Proxy) -> None:
        self._proxy, self._armed, self._kept = proxy, False, False
        event.listen(ledger.engine.sync_engine, "commit", self._lose)

    def _lose(self, _: object) -> None:
        if self._armed and self._kept:
            self._proxy.mode = "swallow"
        elif self._armed:
            self._proxy.refuse()

    async def lose(self, act, landed, *, kept: bool) -> None:
        """Run an act whose COMMIT is lost, yet stored if `kept`; its caller gets an error."""
        self._armed, self._kept = True, kept
        task = asyncio.create_task(act)
        if kept:
            await wait_until(landed, 5, "the commit")
            self._proxy.cut()
        with pytest.raises(AWAY):
            await task
        self._armed, self._proxy.mode = False, "pass"


@marked(*on_postgres)
@pytest.mark.parametrize("kept", [False, True], ids=["not kept", "kept"])
async def test_an_act_with_a_lost_commit_can_be_repeated(
    far: Ledger, ledger: Ledger, proxy: Proxy, kept: bool
):
    """The connection is cut during COMMIT, of opening, ordering, beginning to send and booking the job. The
    caller gets an error; repeated, each is done once, with one hold and one charge, kept or not.
    """
    new = NewRequest("tg:1:-:7:99", 1, 7, 99, 7, "en", "a market")
    job = new_job()

    async def state() -> tuple[object, ...]:
        found = await requests.find_with_video(ledger, new.request_id)
        return (found and found[0].state, found and found[1] and found[1].state)

    def begin():
        return transitions.begin_submit(far, new.request_id, "f", 0, NO_RATES)

    acts = (
        (lambda: open_request(far, new), (RequestState.OPEN, None)),
        (lambda: orders.place(far, order_for(new.request_id), NO_LIMITS), (RequestState.ORDERED, V.QUEUED)),
        (begin, (RequestState.ORDERED, V.SUBMITTING)),
        (
            lambda: transitions.adopt_job(far, new.request_id, job, "shoot", None),
            (RequestState.ORDERED, V.ACCEPTED),
        ),
    )
    commits = Commits(far, proxy)
    for act, expected in acts:

        async def landed(wanted=expected) -> bool:
            return await state() == wanted

        await commits.lose(act(), landed, kept=kept)
        assert await landed() is kept
        await act()
        assert await landed()
        await update_fields(ledger, new.request_id, status_message_id=2)  # the chat's part
    assert await booked(ledger, new.request_id) == {"hold": [3_000_000], "charge": [3_000_000]}
    assert [to for _, to, _ in await history(ledger, new.request_id)] == ["QUEUED", "SUBMITTING", "ACCEPTED"]
    assert (await video_of(ledger, new.request_id)).submits == 1
