"""The first edition's ledger and queue under today's code: all is read, and what was in progress ends."""

import asyncio
import base64
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy import select

from app.processes import run_polling, run_worker
from evals.environment import AppEnvironment, EnvironmentConfig, open_environment
from ledger import breaker, database, history, reports, requests
from ledger.database import Ledger
from ledger.overview import read_overview
from ledger.schema import entries
from sandbox.model import SandboxModel
from sandbox.telegram.server import TOKEN
from sandbox.telegram.user import Person
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FakeJob
from tests.support import services
from tests.support.ledger_schema import NEWEST_REVISION, schema_differences
from tests.support.services import ROOT
from tests.support.waiting import wait_until
from web.serializers import order_as_json, report_as_json

DATA = ROOT / "tests/data/first_edition"
EXPECTED = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
BY_QUEUE = ("open", "queued", "accepted", "succeeded")
BY_SWEEP = ("submitting", "in_doubt")
BOT_ID = int(TOKEN.partition(":")[0])


def restore_sqlite(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as conn:
        conn.executescript((DATA / "ledger.sql").read_text(encoding="utf-8"))
    conn.close()


async def restore_postgresql(url: str) -> None:
    conn = await asyncpg.connect(url)
    await conn.execute((DATA / "ledger.pg.sql").read_text(encoding="utf-8"))
    await conn.close()


async def restore_redis(url: str) -> int:
    """Write the first edition's keys into an empty Redis; return how many tasks wait there."""
    client: Any = Redis.from_url(url)
    await client.flushall()
    tasks = 0
    for item in json.loads((DATA / "redis.json").read_text(encoding="utf-8")):
        await _restore_key(client, item)
        if item["ttl_ms"] > 0:
            await client.pexpire(item["key"], item["ttl_ms"])
        if item["key"] in (f"onetake-{BOT_ID}:stream", f"onetake-{BOT_ID}:queue"):
            tasks += len(item["value"])
    await client.aclose()
    return tasks


async def _restore_key(client: Any, item: dict[str, Any]) -> None:
    key, value = item["key"], item["value"]
    decode = base64.b64decode if item["encoding"] == "base64" else str
    match item["type"]:
        case "string":
            await client.set(key, decode(value))
        case "hash":
            await client.hset(key, mapping={name: decode(text) for name, text in value.items()})
        case "zset":
            await client.zadd(key, dict(value))
        case "stream":
            for number, fields in value:
                await client.xadd(key, {name: decode(text) for name, text in fields}, id=number)
            for group, last in item["groups"]:
                await client.xgroup_create(key, group, id=last, mkstream=True)


def shift_to_dump(dialect: str) -> int:
    """Seconds from now back to when the ledger was dumped."""
    read_at = datetime.fromisoformat(EXPECTED[dialect]["cli"]["costs --json"]["at"])
    return int((read_at - datetime.now(UTC)).total_seconds())


@pytest.fixture
def old_url(dialect: str, tmp_path: Path) -> Iterator[str]:
    """A database with the first edition's ledger."""
    if dialect == "sqlite":
        restore_sqlite(tmp_path / "ledger.db")
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
        return
    with services.database() as url:
        asyncio.run(restore_postgresql(url))
        yield url


@pytest.fixture
async def old_ledger(old_url: str, dialect: str) -> AsyncIterator[Ledger]:
    """The first edition's ledger, migrated by today's code, at the time of its dump."""
    ledger = Ledger(old_url, shift_to_dump(dialect))
    await database.migrate(ledger)
    yield ledger
    await ledger.close()


@pytest.mark.any_ledger
async def test_the_migrated_schema_is_todays(old_ledger: Ledger):
    """A ledger of the first edition has every table, column, type, key and index that today's code names."""
    async with old_ledger.read() as conn:
        assert await conn.run_sync(schema_differences) == []
    assert await database.revisions(old_ledger) == NEWEST_REVISION


@pytest.mark.any_ledger
async def test_every_request_reads_as_before(old_ledger: Ledger, dialect: str):
    """State, last notification, job, net cost and entries of each request, by today's functions."""
    for name, was in EXPECTED[dialect]["requests"].items():
        found = await requests.find_with_video(old_ledger, was["request_id"])
        assert found, name
        request, video = found
        read = await history.read_history(old_ledger, f"#{request.short_id}")
        outcome = await history.request_outcome(old_ledger, was["request_id"])
        assert outcome
        assert {
            "request_id": read.request_id,
            "request_state": request.state,
            "video_state": video and video.state,
            "told": request.told,
            "job_id": video and video.job_id,
            "net_micros": (await reports.net_charged(old_ledger, was["request_id"])).micros,
            "entries": [
                [one.what, one.who, one.amount.micros] for one in read.events if one.amount is not None
            ],
        } == was, name
        assert outcome.cost.micros == was["net_micros"], name
        assert outcome.outcome == (was["video_state"] or was["request_state"]).lower()


def meaning(kind: str, cause: str) -> tuple[str | None, int]:
    """Job and number of an entry, as the first edition's causes say them (see the README of the data)."""
    if cause in ("order", "unknown"):
        return None, 1
    numbered = re.fullmatch(r"(\S+) \((\d+)\)", cause)
    return (numbered[1], int(numbered[2])) if numbered else (cause, 1)


@pytest.mark.any_ledger
async def test_causes_became_jobs_and_numbers(old_ledger: Ledger, dialect: str):
    """Every entry has its job and number, and its old cause for the version before."""
    async with old_ledger.read() as conn:
        rows = (await conn.execute(select(entries).order_by(entries.c.entry_id))).all()
    assert len(rows) == 68
    assert [(row.job_id, row.n) for row in rows] == [meaning(row.kind, row.cause) for row in rows]
    late = (EXPECTED[dialect]["requests"][name]["job_id"] for name in ("late_delivered", "late_refunded"))
    assert {row.cause for row in rows if row.n > 1} == {f"{job} (2)" for job in (*late, "video_billed_more")}
    assert ("video_black_door(2)", 1) in {(row.job_id, row.n) for row in rows}


@pytest.mark.any_ledger
async def test_totals_read_as_before(old_ledger: Ledger, dialect: str):
    """Entries by kind, sums of all and by user, as the first edition summed them."""
    was = EXPECTED[dialect]
    async with old_ledger.read() as conn:
        rows = (await conn.execute(select(entries))).all()
    assert was["entries"] == {
        kind: {
            "count": sum(row.kind == kind for row in rows),
            "micros": sum(row.micros for row in rows if row.kind == kind),
        }
        for kind in ("hold", "release", "charge", "credit")
    }
    ever = await reports.cost_summary(old_ledger)
    assert was["costs_in_all"] == {
        "commands": ever.commands,
        "videos": ever.videos,
        "duplicates": ever.duplicates,
        "charged": ever.charged.micros,
        "credited": ever.credited.micros,
        "paid": ever.paid.micros,
        "held": ever.held.micros,
    }
    assert was["net_micros_by_user"] == {
        user: (await reports.cost_summary(old_ledger, 0, int(user))).paid.micros
        for user in was["net_micros_by_user"]
    }


def shown_video(order: dict[str, Any]) -> list[Any]:
    return [order["request"], order["state"], order["job"], order["failure"], order["quote"]["micros"]]


@pytest.mark.any_ledger
async def test_commands_print_as_before(old_ledger: Ledger, dialect: str):
    """What `costs`, `videos` and `duplicates` print as JSON is what the first edition printed."""
    was = EXPECTED[dialect]["cli"]
    pending, stopped = await history.pending_orders(old_ledger), await breaker.open_breakers(old_ledger)
    overview = await read_overview(old_ledger, "today")
    costs = report_as_json(await reports.read_report(old_ledger), overview, pending, stopped)
    costs["by_day"] = [one for one in costs["by_day"] if one["commands"]]
    for name in ("in_flight", "holds"):
        costs[name] = [shown_video(one) for one in costs[name]]
    expected = was["costs --json"]
    assert {name: costs[name] for name in expected if name != "at"} == {
        name: value for name, value in expected.items() if name != "at"
    }
    latest = [shown_video(order_as_json(one)) for one in await history.latest_orders(old_ledger)]
    assert latest == was["videos --json"]
    prevented = await history.prevented_duplicates(old_ledger, 2)
    assert [(one.request_id, one.tool, one.layer, one.calls) for one in prevented] == [
        (one["request_id"], one["tool"], one["layer"], one["calls"])
        for one in was["duplicates --days 2 --json"]
    ]


class RememberingProvider(FakeProvider):
    """The provider of the first edition: it knows the jobs and the idempotency keys from before."""

    async def __aenter__(self) -> Self:
        known = json.loads((DATA / "provider.json").read_text(encoding="utf-8"))
        self.jobs = {
            name: FakeJob(id=name, model=job["fields"]["model"], **job) for name, job in known["jobs"].items()
        }
        self.keys = {key: (digest, job) for key, (digest, job) in known["keys"].items()}
        return await super().__aenter__()


@pytest.mark.slow
async def test_the_old_queues_tasks_are_run(valkey, tmp_path: Path):
    """Tasks under their old names, a ledger and counters of the first edition: today's worker delivers each
    of the six requests under way exactly once, for the money that the first edition paid for them.
    """
    restore_sqlite(tmp_path / "var/ledger.db")
    url = str(valkey.connection_url)
    assert await restore_redis(url) == 21
    people_are_there = asyncio.Event()

    async def work(app) -> None:
        await people_are_there.wait()  # Telegram lets no bot write to people who never wrote to it
        await run_worker(app)

    def at_the_dump(app):
        app.ledger.shift = shift_to_dump("sqlite")
        return run_polling(app), work(app)

    plan = EnvironmentConfig(
        tmp_path,
        url,
        SandboxModel(),
        settings={"key_prefix": "onetake"},
        wake=at_the_dump,
        fake_provider=RememberingProvider,
    )
    async with open_environment(plan) as env:
        ledger = env.app.ledger
        assert env.app.docket.name == f"onetake-{BOT_ID}"
        for name in EXPECTED["sqlite"]["requests"]:  # an order of someone else would be cancelled unpaid
            await person_of(env, name).send("/start")
        people_are_there.set()
        await wait_until(partial(delivered, ledger, (*BY_QUEUE, *BY_SWEEP)), 60, "all to be delivered")

        async def taken() -> bool:
            state = await env.app.docket.snapshot()
            return not state.future and not state.running

        await wait_until(taken, 60, "the old queue's tasks to be taken by this version")
        for name in (*BY_QUEUE, *BY_SWEEP):
            request, video = await requests.find_with_video(ledger, id_of(name))
            mark = f"#{request.short_id}"
            shown = [one for one in person_of(env, name).history() if one.media and mark in one.text]
            assert (name, video.state, len(shown)) == (name, "DELIVERED", 1)
            charges = [one for one in await entries_of(ledger, id_of(name)) if one.kind == "charge"]
            assert [(one.job_id, one.n) for one in charges] == [(video.job_id, 1)], name
        sums = await reports.cost_summary(ledger)
        assert (sums.paid.micros, sums.held.micros) == (17_600_000, 2_800_000)
        # One POST each for open, queued, submitting and in_doubt; the provider knew the job of the last.
        assert (len(env.fake_provider.posts()), len(env.fake_provider.charges())) == (4, 3)


def id_of(name: str) -> str:
    return EXPECTED["sqlite"]["requests"][name]["request_id"]


def person_of(env: AppEnvironment, name: str) -> Person:
    return env.api.user(int(id_of(name).split(":")[3]), name)


async def delivered(ledger: Ledger, names: Iterable[str]) -> bool:
    found = [await requests.find(ledger, id_of(name)) for name in names]
    return all(one is not None and one.told == "DELIVERED" for one in found)


async def entries_of(ledger: Ledger, request_id: str) -> list[Any]:
    async with ledger.read() as conn:
        query = select(entries).where(entries.c.request_id == request_id).order_by(entries.c.entry_id)
        return list((await conn.execute(query)).all())
