"""Migrations of a ledger that is written meanwhile by the version before, and that are interrupted.

Whatever happens on the way, at the end all sums and marks are what a full recount finds.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from alembic import command
from sqlalchemy import event, text

from bench.history import fill_old
from ledger import database, due_work, migrate, requests
from ledger.database import Ledger, transaction
from ledger.migrations import steps
from ledger.models import VideoState
from telemetry.redaction import short_id
from tests.ledger.test_migration_lock import assert_all_come_up, start
from tests.ledger.test_totals import check
from tests.support import services
from tests.support.ledger_schema import NEWEST_REVISION, schema_differences
from tests.support.pipeline_harness import marked, on_postgres

ROWS = 300


@pytest.fixture
def url(dialect: str, tmp_path) -> Iterator[str]:
    """A database without tables."""
    if dialect == "sqlite":
        yield f"sqlite:///{tmp_path}/bare.db"
        return
    with services.database() as found:
        yield found


@pytest.fixture
async def old(url: str) -> AsyncIterator[Ledger]:
    """A ledger with some days of history, as the version before has it."""
    ledger = Ledger(url)
    await fill_old(ledger, ROWS)
    yield ledger
    await ledger.close()


@pytest.fixture(autouse=True)
def small_batches(monkeypatch) -> None:
    monkeypatch.setattr(steps, "BATCH_SIZE", 40)


class OldWriter:
    """Writes as the version before: it knows no column, table or trigger that came after it."""

    def __init__(self, url: str, seed: int = 0) -> None:
        self.ledger, self.random, self.made, self.name = Ledger(url), random.Random(seed), 0, f"new{seed}"

    async def step(self) -> None:
        kind = self.random.choice(
            (self.open, self.order, self.order, self.send, self.send, self.end, self.expire, self.refund,
             self.second, self.replay, self.refuse, self.notify)
        )  # fmt: skip
        await _write(self.ledger, kind)
        self.made += 1

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Write until the block ends."""
        ended = asyncio.Event()
        task = asyncio.create_task(self._work(ended))
        try:
            yield
        finally:
            ended.set()
            await task  # raises what the version before met

    async def _work(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            await self.step()
            await asyncio.sleep(0.002)

    async def pick(self, conn: Any, where: str) -> Any:
        query = (
            "SELECT r.request_id, r.user_id, v.state, v.job_id, v.quote_micros FROM requests r"
            f" LEFT JOIN videos v ON v.request_id = r.request_id WHERE {where}"
            " ORDER BY r.created_at DESC LIMIT 300"
        )
        rows = (await conn.execute(text(query))).all()
        return self.random.choice(rows) if rows else None

    async def open(self, conn: Any, now: int) -> str:
        request_id, user = f"tg:{self.name}:{self.made}", self.random.randrange(1, 6)
        await conn.execute(
            text(
                "INSERT INTO requests (request_id, bot_id, chat_id, message_id, user_id, language, idea,"
                " state, created_at, updated_at) VALUES (:id, 1, 1, :n, :user, 'en', '', 'OPEN', :now, :now)"
            ),
            {"id": request_id, "n": 10**6 + self.made, "user": user, "now": now},
        )
        return request_id

    async def order(self, conn: Any, now: int) -> None:
        if self.random.random() < 0.5 or not (found := await self.pick(conn, "r.state = 'OPEN'")):
            await self.open(conn, now)
            found = await self.pick(conn, "r.state = 'OPEN'")
        await self.set_request(conn, found.request_id, "ORDERED", now)
        await conn.execute(
            text(
                "INSERT INTO videos (request_id, user_id, state, provider, model, prompt, seconds, size,"
                " quote_micros, expires_at, ordered_at, updated_at)"
                " VALUES (:id, :user, 'QUEUED', 'p', 'm', '', 8, '', 7, :now, :now, :now)"
            ),
            {"id": found.request_id, "user": found.user_id, "now": now},
        )
        await self.book(conn, found, "hold", "order", 7, now)

    async def send(self, conn: Any, now: int) -> None:
        if found := await self.pick(conn, "v.state IN ('QUEUED', 'SUBMITTING')"):
            job = f"job-{found.request_id}"
            await self.set_video(conn, found, "SUBMITTING", now)
            await self.set_video(conn, found, "ACCEPTED", now, f"job_id = '{job}', submits = submits + 1,")
            await self.book(conn, found, "charge", job, found.quote_micros, now)

    async def end(self, conn: Any, now: int) -> None:
        if found := await self.pick(conn, "v.state = 'ACCEPTED'"):
            state = self.random.choice(("SUCCEEDED", "FAILED_PAID", "FAILED_UNPAID", "HOLD"))
            await self.set_video(conn, found, state, now)
            if state == "FAILED_UNPAID":
                await self.book(conn, found, "credit", found.job_id, found.quote_micros, now)
            elif state == "SUCCEEDED":
                await self.set_video(conn, found, "DELIVERED", now)

    async def expire(self, conn: Any, now: int) -> None:
        if found := await self.pick(conn, "v.state = 'QUEUED'"):
            await self.set_video(conn, found, "EXPIRED", now)
            await self.book(conn, found, "release", "order", found.quote_micros, now)

    async def refund(self, conn: Any, now: int) -> None:
        """Of any job that was ever paid, in part or in full."""
        if found := await self.pick(
            conn, "v.state IN ('DELIVERED', 'FAILED_PAID', 'HOLD') AND v.job_id <> ''"
        ):
            await self.set_video(conn, found, "FAILED_UNPAID", now)
            await self.book(
                conn, found, "credit", found.job_id, self.random.choice((1, found.quote_micros)), now
            )

    async def second(self, conn: Any, now: int) -> None:
        """A second job, or the same one charged again."""
        if found := await self.pick(conn, "v.state IN ('DELIVERED', 'FAILED_UNPAID') AND v.job_id <> ''"):
            await self.set_video(conn, found, "HOLD", now)
            cause = self.random.choice((f"{found.job_id} (2)", f"other-{found.job_id}"))
            await self.book(conn, found, "charge", cause, 5, now)

    async def replay(self, conn: Any, now: int) -> None:
        found = await self.pick(conn, "1 = 1")
        await conn.execute(
            text(
                "INSERT INTO transitions (request_id, subject, from_state, to_state, who, why, at)"
                " VALUES (:id, 'call', 'redis', 'replay', 'generate_video', 'prompt', :now)"
            ),
            {"id": found.request_id, "now": now},
        )

    async def refuse(self, conn: Any, now: int) -> None:
        if found := await self.pick(conn, "r.state = 'OPEN'"):
            await self.set_request(conn, found.request_id, "REFUSED", now)

    async def notify(self, conn: Any, now: int) -> None:
        if found := await self.pick(conn, "r.told <> COALESCE(v.state, r.state)"):
            await conn.execute(
                text(
                    "UPDATE requests SET told = :state, reported = :state WHERE request_id = :id"
                    " AND state <> 'OPEN'"
                ),
                {"state": found.state or "REFUSED", "id": found.request_id},
            )

    async def set_request(self, conn: Any, request_id: str, state: str, now: int) -> None:
        await conn.execute(
            text("UPDATE requests SET state = :state, updated_at = :now WHERE request_id = :id"),
            {"state": state, "now": now, "id": request_id},
        )

    async def set_video(self, conn: Any, found: Any, state: str, now: int, more: str = "") -> None:
        await conn.execute(
            text(f"UPDATE videos SET {more} state = :state, updated_at = :now WHERE request_id = :id"),
            {"state": state, "now": now, "id": found.request_id},
        )

    async def book(self, conn: Any, found: Any, kind: str, cause: str, micros: int, now: int) -> None:
        await conn.execute(
            text(
                "INSERT INTO entries (request_id, user_id, kind, cause, micros, at)"
                " VALUES (:id, :user, :kind, :cause, :micros, :now) ON CONFLICT DO NOTHING"
            ),
            {"id": found.request_id, "user": found.user_id, "kind": kind, "cause": cause, "micros": micros,
             "now": now},
        )  # fmt: skip


@transaction
async def _write(ledger: Ledger, kind: Any) -> None:
    async with ledger.write() as conn:
        await kind(conn, await ledger.now(conn))


ENDS = "('DELIVERED', 'FAILED_PAID', 'FAILED_UNPAID', 'CANCELLED', 'EXPIRED', 'HOLD', 'REFUSED', 'NO_ORDER')"
UNPAID = ("FAILED_UNPAID", "CANCELLED", "EXPIRED")
WINDOWS = {1: 7200, 60: 3 * 86_400, 900: 32 * 86_400}


async def count(ledger: Ledger, query: str) -> int:
    async with ledger.read() as conn:
        return int(await conn.scalar(text(query)) or 0)


async def check_everything(ledger: Ledger) -> None:
    """Compare all that migrations 0008 to 0011 keep with a full recount."""
    assert await database.revisions(ledger) == NEWEST_REVISION
    async with ledger.read() as conn:
        assert await conn.run_sync(schema_differences) == []
    await check(ledger)
    await check_usage(ledger)
    active = "('AWAITING_APPROVAL', 'QUEUED', 'SUBMITTING', 'ACCEPTED', 'IN_DOUBT', 'HOLD')"
    due = f"state IN {active} OR (state = 'FAILED_UNPAID' AND submits > 0)"
    assert await count(ledger, f"SELECT count(*) FROM videos WHERE due_at IS NULL AND ({due})") == 0
    joined = "FROM requests r LEFT JOIN videos v ON v.request_id = r.request_id WHERE"
    state = "COALESCE(v.state, r.state)"
    unseen = f"SELECT count(*) {joined} r.told <> {state} AND r.notify_at IS NULL"
    assert await count(ledger, unseen) == 0
    waits = f"CASE WHEN {state} IN {ENDS} AND r.reported <> {state} THEN 1 ELSE 0 END"
    marked = "CASE WHEN r.report_at IS NULL THEN 0 ELSE 1 END"
    assert await count(ledger, f"SELECT count(*) {joined} {waits} <> {marked}") == 0
    while await requests.name_requests(ledger):
        pass
    async with ledger.read() as conn:
        for row in await conn.execute(text("SELECT request_id, short_id FROM requests")):
            assert row.short_id == short_id(row.request_id)


async def check_usage(ledger: Ledger) -> None:
    found: Counter[tuple] = Counter()
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        orders = (
            await conn.execute(
                text("SELECT user_id, state, quote_micros, cost_micros, ordered_at FROM videos")
            )
        ).all()
        stored = (await conn.execute(text("SELECT * FROM usage_buckets"))).all()
    for one in orders:
        for width_s in WINDOWS:
            for scope in ("everyone", f"user:{one.user_id}"):
                key = (scope, width_s, one.ordered_at // (width_s * 1000))
                paid = one.state not in (*UNPAID, "AWAITING_APPROVAL")  # an offer counts as nothing
                found[(*key, "takes")] += paid and one.state != "FAILED_PAID"
                found[(*key, "starts")] += paid
                found[(*key, "micros")] += max(one.quote_micros, one.cost_micros) if paid else 0
    kept: Counter[tuple] = Counter()
    for row in stored:
        for name in ("takes", "starts", "micros"):
            kept[row.scope, row.width_s, row.bucket, name] = getattr(row, name)

    def reachable(counts: Counter[tuple]) -> dict[tuple, int]:
        return {
            key: n for key, n in counts.items()
            if n and key[2] * key[1] > now // 1000 - WINDOWS[key[1]] + key[1]
        }  # fmt: skip

    assert reachable(kept) == reachable(found)


class Killed(Exception):
    pass


@pytest.fixture
def budget(monkeypatch) -> dict[str, int]:
    """How many statements a migration may send until it is killed; none if it says nothing."""
    left: dict[str, int] = {}
    original = migrate._migration_engine

    def limited(*args: Any, **kwargs: Any) -> Any:
        engine = original(*args, **kwargs)

        def spend(*_: Any) -> None:
            if left:
                left["n"] -= 1
                if left["n"] < 0:
                    raise Killed

        event.listen(engine.sync_engine, "before_cursor_execute", spend)
        return engine

    monkeypatch.setattr(migrate, "_migration_engine", limited)
    return left


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_the_version_before_writes_while_it_is_migrated(old: Ledger, url: str):
    """No row of its is missed or counted twice, whatever is filled in just then."""
    writer = OldWriter(url)
    async with writer.at_work():
        await database.migrate(old)
        await asyncio.sleep(0.2)
    assert writer.made > 5
    await check_everything(old)
    for _ in range(30):
        await writer.step()
    await check_everything(old)
    await writer.ledger.close()


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_a_killed_migration_is_continued(old: Ledger, url: str, budget: dict[str, int]):
    """It is killed again and again, each time some statements later, and the version before writes on."""
    writer, kills = OldWriter(url, 1), 0
    while True:
        budget["n"] = 7 + 19 * kills
        try:
            async with writer.at_work():
                await database.migrate(old)
            break
        except Killed:
            kills += 1
        for _ in range(3):
            await writer.step()
    assert kills > 4
    await check_everything(old)
    await writer.ledger.close()


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_down_and_up_again_with_writers(old: Ledger, url: str):
    """The version before continues on the schema that is taken back, and nothing of its is lost later."""
    writer = OldWriter(url, 2)
    await database.migrate(old)
    for _ in range(20):
        await writer.step()
    await database.downgrade(old, "0007")
    for _ in range(20):
        await writer.step()
    async with writer.at_work():
        await database.migrate(old)
    await check_everything(old)
    await writer.ledger.close()


@pytest.mark.any_ledger
async def test_what_the_version_before_writes_is_found(old: Ledger, url: str):
    """After the migration: its order is due, its user is notified, its state changes raise the version."""
    await database.migrate(old)
    writer = OldWriter(url, 4)
    await _write(writer.ledger, writer.order)
    async with old.read() as conn:
        found = await writer.pick(conn, f"r.request_id LIKE 'tg:{writer.name}:%' AND v.state = 'QUEUED'")
    claimed = await due_work.claim_videos(old, {VideoState.QUEUED}, 500, 60)
    assert found.request_id in [one.video.request_id for one in claimed]
    notified = await due_work.claim_notifications(old, 1, 1, 60, delivery=False, request_id=found.request_id)
    assert [one.request.request_id for one in notified] == [found.request_id]
    version = f"SELECT version FROM videos WHERE request_id = '{found.request_id}'"
    was = await count(old, version)
    await _write(writer.ledger, lambda conn, now: writer.set_video(conn, found, "SUBMITTING", now))
    await _write(writer.ledger, lambda conn, now: writer.set_video(conn, found, "SUCCEEDED", now))
    assert await count(old, version) == was + 2
    old.shift += 61
    ready = await due_work.claim_notifications(old, 1, 1, 60, delivery=True, request_id=found.request_id)
    assert [one.request.request_id for one in ready] == [found.request_id]
    await writer.ledger.close()


@pytest.mark.any_ledger
async def test_a_migration_within_the_callers_transaction(old: Ledger):
    """All of it happens in that one."""
    async with old.write() as conn:
        await conn.run_sync(lambda sync: command.upgrade(migrate.alembic_config(sync), "head"))
    await check_everything(old)


@pytest.mark.slow
@marked(*on_postgres)
async def test_three_workers_start_on_a_large_ledger(url: str):
    """One migrates, two wait, the version before writes; all come up."""
    ledger = Ledger(url)
    await fill_old(ledger, 30_000)
    writer = OldWriter(url, 3)
    async with writer.at_work():
        await assert_all_come_up([await start(url) for _ in range(3)])
    await check_everything(ledger)
    await writer.ledger.close()
    await ledger.close()
