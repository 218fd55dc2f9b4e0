"""Migrations: from an empty database to the code's schema, once for any number of starts, and back."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.limits import BreakerRates, Limits
from guardrails.money import Money
from ledger import database, migrate, orders, transitions
from ledger.database import Ledger, LedgerError
from ledger.entries import add_entry
from ledger.orders import Order, Placed
from ledger.requests import NewRequest, open_request
from ledger.schema import entries, metadata, requests, usage_buckets, videos
from tests.support import services
from tests.support.factories import update_fields
from tests.support.ledger_schema import NEWEST_REVISION, schema_differences
from tests.support.services import ROOT

pytestmark = pytest.mark.any_ledger


@pytest.fixture
def bare_url(dialect: str, tmp_path) -> Iterator[str]:
    """A database without tables."""
    if dialect == "sqlite":
        yield f"sqlite:///{tmp_path}/new/bare.db"
        return
    with services.database() as url:
        yield url


async def tables(ledger: Ledger) -> set[str]:
    async with ledger.read() as conn:
        return set(await conn.run_sync(lambda sync: inspect(sync).get_table_names()))


async def test_upgrade_twice(bare_url: str):
    """From nothing to the newest revision; a second run finds nothing to do."""
    ledger = Ledger(bare_url)
    for _ in range(2):
        await database.migrate(ledger)
        assert await database.revisions(ledger) == NEWEST_REVISION
    assert await tables(ledger) == {*metadata.tables, "alembic_version"}
    await ledger.close()


@pytest.mark.slow
async def test_six_engines_upgrade_at_once(bare_url: str):
    """Replicas that start together migrate once; the others wait and find it done."""
    ledgers = [Ledger(bare_url) for _ in range(6)]
    await asyncio.gather(*(database.migrate(one) for one in ledgers))
    assert {await database.revisions(one) for one in ledgers} == {NEWEST_REVISION}
    for one in ledgers:
        await one.close()


def test_two_processes_upgrade_at_once(bare_url: str):
    """Two processes that start together on an empty database both start."""
    code = (
        "import asyncio, sys; from ledger import database; from ledger.database import Ledger\n"
        "async def main():\n"
        "    ledger = Ledger(sys.argv[1]); await database.migrate(ledger); await ledger.close()\n"
        "asyncio.run(main())"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, bare_url], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in started:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said.decode()


async def test_a_newer_ledger_is_left_alone(bare_url: str):
    """A ledger that a newer version made is not touched; one sentence says which version to run."""
    ledger = Ledger(bare_url)
    await database.migrate(ledger)
    async with ledger.write() as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerError, match=r"newer version.*9999"):
        await database.migrate(ledger)
    async with ledger.read() as conn:
        assert await conn.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    await ledger.close()


async def test_the_migrated_schema_is_the_codes(bare_url: str):
    """What the migrations build is what `ledger.schema` says: tables, columns, types, keys, defaults."""
    ledger = Ledger(bare_url)
    await database.migrate(ledger)

    async with ledger.read() as conn:
        assert await conn.run_sync(schema_differences) == []
    await ledger.close()


async def test_the_unique_keys_are_there(bare_url: str):
    """The keys behind "one request, one video" and "each entry once" exist in the database itself."""
    ledger = Ledger(bare_url)
    await database.migrate(ledger)

    def keys(conn: Connection) -> set[tuple[str, ...]]:
        found = inspect(conn)
        return {
            (table, *one["column_names"])
            for table in ("videos", "entries", "accounts")
            for one in [*found.get_unique_constraints(table), *found.get_indexes(table)]
            if one.get("unique", True) and None not in one["column_names"]  # an expression: see below
        } | {
            (table, *found.get_pk_constraint(table)["constrained_columns"])
            for table in ("videos", "requests", "accounts")
        }

    async with ledger.read() as conn:
        assert await conn.run_sync(keys) == {
            ("videos", "request_id"),
            ("requests", "request_id"),
            ("accounts", "bot_id", "provider"),
            ("accounts", "bot_id", "account"),
            ("videos", "nonce"),
            ("videos", "approved_nonce"),
            ("entries", "request_id", "kind", "cause"),
            ("entries", "request_id", "kind", "job_id", "n"),
            ("entries", "request_id", "kind", "n"),
        }
    await ledger.close()


async def test_down_and_up_again(bare_url: str):
    """All revisions can be undone and run again."""
    ledger = Ledger(bare_url)
    await database.migrate(ledger)
    await database.downgrade(ledger, "base")
    assert await tables(ledger) == {"alembic_version"}
    await database.migrate(ledger)
    assert await database.revisions(ledger) == NEWEST_REVISION
    await ledger.close()


# Request, kind and `cause` as the first edition wrote them, in order; and the job and number that they mean.
WRITTEN_BEFORE = [
    ("a", "hold", "order", None, 1),
    ("a", "charge", "video_1", "video_1", 1),
    ("a", "credit", "video_1", "video_1", 1),
    ("a", "charge", "video_1 (2)", "video_1", 2),
    ("a", "credit", "video_1 (2)", "video_1", 2),
    ("a", "charge", "video_1 (3)", "video_1", 3),
    ("b", "hold", "order", None, 1),
    ("b", "charge", "video_black_door(2)", "video_black_door(2)", 1),
    ("b", "charge", "video_black_door(2) (2)", "video_black_door(2)", 2),
    ("b", "credit", "video_1 (2)", "video_1 (2)", 1),
    ("b", "charge", "a job (2) of theirs", "a job (2) of theirs", 1),
    ("c", "hold", "order", None, 1),
    ("c", "release", "order", None, 1),
    ("d", "hold", "order", None, 1),
    ("d", "charge", "unknown", None, 1),
    ("e", "hold", "order", None, 1),
    ("e", "charge", "unknown", "unknown", 1),
    ("e", "charge", "unknown (2)", "unknown", 2),
]
JOBS = {"a": "video_1", "b": "video_black_door(2)", "c": None, "d": None, "e": "unknown"}


async def write_as_before(conn: AsyncConnection, rows: list[tuple[str, str, str, str | None, int]]) -> int:
    """Insert entries as the version before does: it knows no other column than `cause`."""
    done = 0
    for request_id, kind, cause, _, _ in rows:
        values = {"request_id": request_id, "user_id": 7, "kind": kind, "cause": cause, "micros": 1, "at": 1}
        names = ", ".join(values)
        result = await conn.execute(
            text(
                f"INSERT INTO entries ({names}) VALUES (:{names.replace(', ', ', :')}) ON CONFLICT DO NOTHING"
            ),
            values,
        )
        done += result.rowcount
    return done


async def open_old_ledger(url: str) -> Ledger:
    """Return a ledger of the revision before the columns, with a request and a video for each of `JOBS`."""
    ledger = Ledger(url)
    async with ledger.write() as conn:
        await conn.run_sync(lambda sync: command.upgrade(migrate.alembic_config(sync), "0006"))
        for number, (request_id, job_id) in enumerate(JOBS.items()):
            await conn.execute(
                requests.insert().values(
                    request_id=request_id, bot_id=1, chat_id=1, message_id=number, user_id=7, language="en",
                    idea="", state="ORDERED", created_at=1, updated_at=1,
                )
            )  # fmt: skip
            await conn.execute(
                videos.insert().values(
                    request_id=request_id, user_id=7, state="HOLD", provider=f"p{number}", model="m",
                    prompt="", seconds=8, size="", quote_micros=1, expires_at=1, job_id=job_id, ordered_at=1,
                    updated_at=1,
                )
            )  # fmt: skip
    return ledger


async def stored_entries(ledger: Ledger) -> list[tuple[str, str, str, str | None, int]]:
    async with ledger.read() as conn:
        columns = [
            entries.c[name] for name in ("request_id", "kind", "cause", "job_id", "n")
        ]  # of old tables
        rows = await conn.execute(select(*columns).order_by(entries.c.entry_id))
        return [(row.request_id, row.kind, row.cause, row.job_id, row.n) for row in rows]


async def test_old_causes_become_jobs_and_numbers(bare_url: str):
    """Each cause of the first edition is read as what it meant; a bracket that is part of an id stays."""
    ledger = await open_old_ledger(bare_url)
    async with ledger.write() as conn:
        assert await write_as_before(conn, WRITTEN_BEFORE) == len(WRITTEN_BEFORE)
    await database.migrate(ledger)
    assert await stored_entries(ledger) == WRITTEN_BEFORE
    await ledger.close()


async def test_the_version_before_can_still_write(bare_url: str):
    """During a rolling upgrade both versions write: an old process's rows get job and number at once, and the
    same entry from both is one row.
    """
    ledger = await open_old_ledger(bare_url)
    await database.migrate(ledger)
    async with ledger.write() as conn:
        assert await write_as_before(conn, WRITTEN_BEFORE) == len(WRITTEN_BEFORE)
        assert await write_as_before(conn, WRITTEN_BEFORE) == 0
    assert await stored_entries(ledger) == WRITTEN_BEFORE
    async with ledger.write() as conn:
        for request_id in JOBS:
            video = await orders.find(conn, request_id)
            assert video
            assert not await add_entry(ledger, conn, video, "hold", Money(1), 1)
        video = await orders.find(conn, "a")
        assert video
        assert await add_entry(ledger, conn, video, "charge", Money(1), 1, "video_1", 4)
        assert await write_as_before(conn, [("a", "charge", "video_1 (4)", "video_1", 4)]) == 0
        assert not await add_entry(ledger, conn, video, "charge", Money(1), 1, "video_1", 4)
    assert (await stored_entries(ledger))[-1] == ("a", "charge", "video_1 (4)", "video_1", 4)
    await ledger.close()


async def test_the_columns_alone_make_an_entry_unique(bare_url: str):
    """The same job and number is refused whatever `cause` says; so is the same number without a job."""
    ledger = await open_old_ledger(bare_url)
    await database.migrate(ledger)
    for job_id in ("video_1", None):
        row = {
            "request_id": "a",
            "user_id": 7,
            "kind": "charge",
            "job_id": job_id,
            "n": 1,
            "micros": 1,
            "at": 1,
        }
        async with ledger.write() as conn:
            await conn.execute(entries.insert().values(cause=f"{job_id} first", **row))
        with pytest.raises(IntegrityError):
            async with ledger.write() as conn:
                await conn.execute(entries.insert().values(cause=f"{job_id} second", **row))
    await ledger.close()


@pytest.mark.slow
async def test_the_version_before_can_be_restored(bare_url: str):
    """After a downgrade the old columns hold everything that the new version wrote, and it upgrades again."""
    ledger = await open_old_ledger(bare_url)
    await database.migrate(ledger)
    async with ledger.write() as conn:
        for request_id, kind, _, job_id, n in WRITTEN_BEFORE:
            video = await orders.find(conn, request_id)
            assert video
            assert await add_entry(ledger, conn, video, kind, Money(1), 1, job_id, n)
    await database.downgrade(ledger, "0006")
    async with ledger.write() as conn:
        assert await write_as_before(conn, WRITTEN_BEFORE) == 0
        assert await write_as_before(conn, [("a", "charge", "video_1 (4)", "video_1", 4)]) == 1
    await database.migrate(ledger)
    assert await stored_entries(ledger) == [*WRITTEN_BEFORE, ("a", "charge", "video_1 (4)", "video_1", 4)]
    await ledger.close()


# The sums that the limits are counted from (migration 0009)

LATEST = 1_795_000_000_000
OLD_ORDERS = [
    # Request, user, state, age in seconds before the latest, price.
    ("now", 7, "DELIVERED", 0, 5),
    ("minute", 7, "FAILED_PAID", 70, 7),
    ("unpaid", 7, "CANCELLED", 80, 11),
    ("hours", 8, "ACCEPTED", 3 * 3600, 13),
    ("days", 8, "HOLD", 5 * 86_400, 17),
    ("old", 8, "DELIVERED", 40 * 86_400, 19),
]


async def sums(ledger: Ledger) -> dict[tuple[str, int], tuple[int, int, int]]:
    """Return the sums by scope and width."""
    query = text(
        "SELECT scope, width_s, sum(takes) AS takes, sum(starts) AS starts, sum(micros) AS micros"
        " FROM usage_buckets WHERE tool = 'generate_video' GROUP BY scope, width_s"
    )
    async with ledger.read() as conn:
        rows = await conn.execute(query)
        return {(row.scope, row.width_s): (row.takes, row.starts, row.micros) for row in rows}


@pytest.mark.slow
async def test_old_orders_are_summed(bare_url: str):
    """The orders that any window reaches are in the sums, each in the buckets that are long enough for it."""
    ledger = Ledger(bare_url)
    async with ledger.write() as conn:
        await conn.run_sync(lambda sync: command.upgrade(migrate.alembic_config(sync), "0007"))
        for number, (request_id, user, state, age_s, micros) in enumerate(OLD_ORDERS):
            await conn.execute(
                text(
                    "INSERT INTO requests (request_id, bot_id, chat_id, message_id, user_id, language, idea,"
                    " state, created_at, updated_at) VALUES (:id, 1, 1, :n, :user, 'en', '', 'ORDERED', 1, 1)"
                ),
                {"id": request_id, "n": number, "user": user},
            )
            await conn.execute(
                text(
                    "INSERT INTO videos (request_id, user_id, state, provider, model, prompt, seconds, size,"
                    " quote_micros, expires_at, ordered_at, updated_at)"
                    " VALUES (:id, :user, :state, 'p', 'm', '', 8, '', :micros, 1, :at, 1)"
                ),
                {"id": request_id, "user": user, "state": state, "micros": micros,
                 "at": LATEST - age_s * 1000},
            )  # fmt: skip
    await database.migrate(ledger)
    found = {
        ("everyone", 1): (1, 2, 12), ("user:7", 1): (1, 2, 12),
        ("everyone", 60): (2, 3, 25), ("user:7", 60): (1, 2, 12), ("user:8", 60): (1, 1, 13),
        ("everyone", 900): (3, 4, 42), ("user:7", 900): (1, 2, 12), ("user:8", 900): (2, 2, 30),
    }  # fmt: skip
    assert await sums(ledger) == found
    await database.downgrade(ledger, "0007")
    await database.migrate(ledger)
    assert await sums(ledger) == found
    await ledger.close()


NEW_REQUEST = (
    "INSERT INTO requests (request_id, bot_id, chat_id, message_id, user_id, language, idea, state,"
    " created_at, updated_at) VALUES (:id, 1, 1, :n, 7, 'en', '', 'ORDERED', 1, 1)"
)
NEW_ORDER = (
    "INSERT INTO videos (request_id, user_id, state, provider, model, prompt, seconds, size, quote_micros,"
    " expires_at, ordered_at, updated_at)"
    " VALUES (:id, 7, :state, 'p', 'm', '', 8, '', :micros, 1, :at, 1)"
)
BILLED = [
    # Request, state, price, entries; what budgets count before migration 0011, and after it.
    ("above", "DELIVERED", 5, (("charge", 5), ("charge", 7)), 5, 12),
    ("below", "DELIVERED", 7, (("charge", 3),), 7, 7),
    ("refunded", "DELIVERED", 11, (("charge", 20), ("credit", 6)), 11, 14),
    ("waits", "QUEUED", 13, (), 13, 13),
    ("unpaid", "FAILED_UNPAID", 17, (("charge", 90), ("credit", 90)), 0, 0),
]


@pytest.mark.slow
async def test_old_bills_above_the_quote_are_counted(bare_url: str):
    """Orders that were billed above their quote before migration 0011 are counted with that by it, once: also
    where it is run again, and after a downgrade.
    """
    ledger = Ledger(bare_url)
    async with ledger.write() as conn:
        await conn.run_sync(lambda sync: command.upgrade(migrate.alembic_config(sync), "0010"))
    for number, (request_id, state, micros, booked, _, _) in enumerate(BILLED):
        values = {"id": request_id, "n": number, "state": state, "micros": micros, "at": LATEST}
        async with ledger.write() as conn:
            for statement in (NEW_REQUEST, NEW_ORDER):
                known = {name: value for name, value in values.items() if f":{name}" in statement}
                await conn.execute(text(statement), known)
            for n, (kind, amount) in enumerate(booked, start=1):
                await conn.execute(
                    text(
                        "INSERT INTO entries (request_id, user_id, kind, cause, job_id, n, micros, at)"
                        " VALUES (:id, 7, :kind, :cause, 'job', :n, :amount, :at)"
                    ),
                    {"id": request_id, "kind": kind, "cause": f"job {n}", "n": n, "amount": amount,
                     "at": LATEST},
                )  # fmt: skip
    before, after = sum(one[4] for one in BILLED), sum(one[5] for one in BILLED)
    assert (await sums(ledger))["everyone", 900][2] == before
    for _ in range(2):
        await database.migrate(ledger)
        assert {money for _, _, money in (await sums(ledger)).values()} == {after}
        async with ledger.write() as conn:  # as if it had been interrupted at its end
            await conn.execute(text("UPDATE alembic_version SET version_num = '0010'"))
        await database.migrate(ledger)
        assert {money for _, _, money in (await sums(ledger)).values()} == {after}
        await database.downgrade(ledger, "0010")
        assert {money for _, _, money in (await sums(ledger)).values()} == {before}
    await ledger.close()


async def buckets(ledger: Ledger) -> set[tuple[int, int, int]]:
    async with ledger.read() as conn:
        return {(row.takes, row.starts, row.micros) for row in await conn.execute(select(usage_buckets))}


async def test_the_counts_of_old_offers_are_taken_back(bare_url: str):
    """Offers of before 0016 stop to count, an order next to them does not; the way back counts all, and gives
    each the hold that the version before releases at its end.
    """
    ledger = Ledger(bare_url)
    async with ledger.write() as conn:
        await conn.run_sync(lambda sync: command.upgrade(migrate.alembic_config(sync), "0015"))
        for request_id, state in (("a", "AWAITING_APPROVAL"), ("b", "QUEUED"), ("c", "AWAITING_APPROVAL")):
            await conn.execute(
                text(
                    "INSERT INTO requests (request_id, bot_id, chat_id, message_id, user_id, language, idea,"
                    " state, created_at, updated_at) VALUES (:id, 1, 1, 1, 7, 'en', '', 'ORDERED', 1, 1)"
                ),
                {"id": request_id},
            )
            await conn.execute(
                text(
                    "INSERT INTO videos (request_id, user_id, state, provider, model, prompt, seconds, size,"
                    " quote_micros, expires_at, ordered_at, updated_at)"
                    " VALUES (:id, 7, :state, 'p', 'm', '', 8, '', 5, 1, 1000, 1)"
                ),
                {"id": request_id, "state": state},
            )
        await write_as_before(conn, [("a", "hold", "order", None, 1)])
    assert await buckets(ledger) == {(3, 3, 15)}
    for _ in range(2):
        await database.migrate(ledger)
        assert await buckets(ledger) == {(1, 1, 5)}
        await database.downgrade(ledger, "0015")
        assert await buckets(ledger) == {(3, 3, 15)}
        held = [(one[0], one[1]) for one in await stored_entries(ledger)]
        assert held == [("a", "hold"), ("c", "hold")]
    await ledger.close()


async def test_orders_of_other_tools_go_down_and_up(bare_url: str):
    """Down, an unpaid one ends and a paid one waits for a person, and both count as before; up, limits know
    whose they are again.
    """
    ledger = Ledger(bare_url)
    await database.migrate(ledger)
    for name in ("queued", "paid"):
        request = f"tg:1:-:7:{name}"
        await open_request(ledger, NewRequest(request, 1, 7, 1, 7, "en", "an idea"))
        still = Order(
            request, "local_images", "poster", "a fox", 0, "64x64", Money(40_000), tool="generate_image"
        )
        assert isinstance(await orders.place(ledger, still, Limits()), Placed)
    paid = "tg:1:-:7:paid#generate_image"
    await update_fields(ledger, paid, status_message_id=2)
    assert await transitions.begin_submit(ledger, paid, "tool-f", 30, BreakerRates())
    await transitions.adopt_job(ledger, paid, "still-1", "shoot", None)
    assert await tool_sums(ledger) == {"generate_image": (2, 80_000)}

    await database.downgrade(ledger, "0025")
    async with ledger.read() as conn:
        states = {row[0]: row[1] for row in await conn.execute(text("SELECT request_id, state FROM videos"))}
        held = await conn.scalar(
            text("SELECT held FROM cost_totals WHERE period = 'ever' AND dimension = 'all'")
        )
    assert states == {"tg:1:-:7:queued#generate_image": "EXPIRED", paid: "HOLD"}
    assert await tool_sums(ledger) == {"generate_video": (1, 40_000)}
    assert held == 0

    await database.migrate(ledger)
    found = await tool_sums(ledger)
    assert {tool: one for tool, one in found.items() if any(one)} == {"generate_image": (1, 40_000)}
    await ledger.close()


async def tool_sums(ledger: Ledger) -> dict[str, tuple[int, int]]:
    query = (
        "SELECT tool, sum(takes) AS takes, sum(micros) AS micros FROM usage_buckets"
        " WHERE scope = 'everyone' AND width_s = 60 GROUP BY tool"
    )
    async with ledger.read() as conn:
        return {row.tool: (int(row.takes), int(row.micros)) for row in await conn.execute(text(query))}
