"""The ledger's disk is full: nothing is paid, nothing half-written, and the request is taken up later,
exactly once.
"""

import contextlib
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from backstage import Backstage
from lives import NO_LIMITS, Opener, begun, books, new_job, order_for, ordered, video_of
from player import order
from sql_stage import on_sqlite, taken_up
from sqlalchemy import event, make_url
from sqlalchemy.exc import OperationalError

from ledger import orders, requests, transitions
from ledger.database import Ledger
from ledger.models import RequestState, VideoState
from ledger.orders import Placed

pytestmark = pytest.mark.all  # minutes in all: `make test-rest`

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
async def test_a_full_disk_writes_nothing_half(ledger: Ledger, ledger_url: str, opened: Opener):
    """The disk is full in the middle of an order: a clear error, and no row of it stays; what was booked
    before is still read. With space again the same order is written, once.
    """
    stands, wanted = await ordered(ledger, opened), await opened()
    disk = Disk(ledger)
    disk.fill(ledger_url)
    big = replace(order_for(wanted, approval_nonce=None), prompt="market " * 3000)
    for _ in range(2):
        with pytest.raises(OperationalError, match="full"):
            await orders.place(ledger, big, NO_LIMITS)
    found = await requests.find_with_video(ledger, wanted)
    assert found is not None
    assert (found[0].state, found[1]) == (RequestState.OPEN, None)
    assert await books(ledger, wanted) == {}
    assert (await video_of(ledger, stands)).state is V.QUEUED
    disk.most = 0
    placed = await orders.place(ledger, big, NO_LIMITS)
    assert isinstance(placed, Placed)
    assert placed.created
    assert await books(ledger, wanted) == {"hold": [3_000_000]}


@pytest.mark.slow
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

    env: Backstage = await pipeline_env(fill, clear, [order()])
    request = await env.opened()
    await env.run_agent(request)
    await taken_up(env, request)


@on_sqlite
async def test_a_full_disk_after_the_point_of_no_return(ledger: Ledger, ledger_url: str, opened: Opener):
    """The job's id cannot be booked because the disk is full: the error is raised, the video stays in
    SUBMITTING for the reconciler, and the booking that is tried later charges once.
    """
    request, job = await begun(ledger, opened), new_job()
    long_name = "shoot " * 4000  # any text that takes more than a page
    disk = Disk(ledger)
    disk.fill(ledger_url)
    with pytest.raises(OperationalError, match="full"):
        await transitions.adopt_job(ledger, request, job, long_name, None)
    assert (await video_of(ledger, request)).state is V.SUBMITTING
    disk.most = 0
    assert (await video_of(ledger, request)).job_id is None
    assert await transitions.adopt_job(ledger, request, job, "shoot", None)
    assert await transitions.adopt_job(ledger, request, job, "reconcile", None) is None
    assert await books(ledger, request) == {"hold": [3_000_000], "charge": [3_000_000]}
