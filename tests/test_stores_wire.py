"""PostgreSQL is away, hangs, or loses a commit: nothing is paid, nothing half-written, and the request is
taken up later, exactly once.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import postgres
import pytest
from backstage import PACE, open_backstage
from lives import NO_LIMITS, NO_RATES, books, history, new_job, order_for, video_of
from player import order
from sql_stage import marked, on_postgres, taken_up
from sqlalchemy import event, make_url
from sqlalchemy.exc import SQLAlchemyError
from waiting import wait_until

from ledger import database, orders, requests, transitions
from ledger.database import Ledger
from ledger.history import record_refused_call
from ledger.models import RequestState, VideoState
from ledger.requests import NewRequest, open_request
from sandbox.proxy import Proxy

pytestmark = pytest.mark.all  # minutes in all: `make test-rest`

V = VideoState
AWAY = (SQLAlchemyError, OSError)


@pytest.fixture
async def wire(ledger: Ledger) -> AsyncIterator[Proxy]:
    """A proxy in front of the PostgreSQL under `ledger`."""
    async with Proxy("127.0.0.1", make_url(postgres.SERVER).port) as one:
        yield one


@pytest.fixture
async def far(wire: Proxy, ledger_url: str) -> AsyncIterator[Ledger]:
    """The ledger as reached through the proxy."""
    one = Ledger(make_url(ledger_url).set(port=wire.port).render_as_string(hide_password=False))
    yield one
    wire.mode = "pass"
    wire.cut()
    await one.close()


@marked(pytest.mark.slow, *on_postgres)
async def test_a_server_that_is_away_pays_nothing(far: Ledger, wire: Proxy, redis, opened, tmp_path):
    """PostgreSQL refuses every connection when the order is written, and until the run has ended: nothing is
    paid; when it is back the request is taken up from SQL and makes its one video.
    """

    async def refuse() -> object:
        wire.refuse()
        return [order(), order(prompt="Again.")]

    timeouts = replace(PACE, run_s=1)
    async with open_backstage(
        tmp_path, far, redis, opened, refuse, "no", [order()], timeouts=timeouts
    ) as env:
        request = await env.opened()
        with contextlib.suppress(*AWAY):  # the queue sees a task fail
            await env.run_agent(request)
        wire.mode = "pass"

        async def free() -> bool:
            found = await env.request(request)
            return found.run_until <= await env.worker.now_ms()

        await wait_until(free, what="the end of the lost attempt")
        await taken_up(env, request)


@marked(*on_postgres)
@pytest.mark.parametrize("mode", ["hang", "swallow"])
async def test_a_server_that_hangs_is_left_in_time(far: Ledger, wire: Proxy, opened, mode):
    """Who asks with a time limit is answered in it, although giving a connection up takes its time."""
    request = await opened()
    assert await requests.find(far, request)
    wire.mode = mode
    began = time.monotonic()
    for ask in (record_refused_call(far, request, "tool", "quota", "redis", []), requests.find(far, request)):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await ask
    assert time.monotonic() - began < 1.2
    wire.mode = "pass"
    wire.cut()
    assert await requests.find(far, request)


@marked(pytest.mark.slow, *on_postgres)
async def test_a_server_that_never_answers_is_given_up(ledger_url: str, wire: Proxy, opened, monkeypatch):
    """Without any time limit of the caller's a statement ends as well, with an error that callers know: no
    sweep hangs on a dead connection for ever, and the next statement finds a fresh one.
    """
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT_S", 0.3)
    far = Ledger(make_url(ledger_url).set(port=wire.port).render_as_string(hide_password=False))
    request = await opened()
    assert await requests.find(far, request)
    wire.mode = "hang"
    async with asyncio.timeout(10):
        with pytest.raises(AWAY):
            await requests.update_fields(far, request, caption="never")
    wire.mode = "pass"
    wire.cut()
    async with asyncio.timeout(5):
        await requests.update_fields(far, request, caption="now")
    found = await requests.find(far, request)
    assert found is not None
    assert found.caption == "now"
    await far.close()


class Commits:
    """Loses the connection in one COMMIT: before the server heard of it, or after it was kept."""

    def __init__(self, ledger: Ledger, wire: Proxy) -> None:
        self._wire, self._armed, self._kept = wire, False, False
        event.listen(ledger.engine.sync_engine, "commit", self._lose)

    def _lose(self, _: object) -> None:
        if self._armed and self._kept:
            self._wire.mode = "swallow"
        elif self._armed:
            self._wire.refuse()

    async def lose(self, act, landed, *, kept: bool) -> None:
        """Do an act whose COMMIT is lost, and is kept all the same if `kept`; its caller hears an error."""
        self._armed, self._kept = True, kept
        task = asyncio.create_task(act)
        if kept:
            await wait_until(landed, 5, "the commit")
            self._wire.cut()
        with pytest.raises(AWAY):
            await task
        self._armed, self._wire.mode = False, "pass"


@marked(*on_postgres)
@pytest.mark.parametrize("kept", [False, True], ids=["not kept", "kept"])
async def test_a_lost_commit_may_be_asked_again(far: Ledger, ledger: Ledger, wire: Proxy, kept: bool):
    """The connection is cut during COMMIT, of opening, ordering, beginning to send and booking the job. The
    caller hears an error; asked again, each is done once, with one hold and one charge, kept or not.
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
    commits = Commits(far, wire)
    for act, expected in acts:

        async def landed(wanted=expected) -> bool:
            return await state() == wanted

        await commits.lose(act(), landed, kept=kept)
        assert await landed() is kept
        await act()
        assert await landed()
    assert await books(ledger, new.request_id) == {"hold": [3_000_000], "charge": [3_000_000]}
    assert [to for _, to, _ in await history(ledger, new.request_id)] == ["QUEUED", "SUBMITTING", "ACCEPTED"]
    assert (await video_of(ledger, new.request_id)).submits == 1
