"""Totals: what the triggers wrote is what a full recount finds, to the micro-dollar, on both databases."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from contextlib import suppress

import pytest
from sqlalchemy import select, text

from guardrails.money import Money
from ledger import database, history, orders, reports, requests, totals, transitions
from ledger.history import record_refused_call
from ledger.models import RequestState, VideoState
from ledger.schema import cost_totals, entries, videos
from ledger.schema import requests as request_rows
from ledger.schema import transitions as transition_rows
from ledger.totals import DAY_MS, HOUR_MS
from ledger.transitions import HoldNotResolved, Resolution
from telemetry.redaction import short_id
from tests.support.factories import NO_LIMITS, NO_RATES, Opener, accepted, new_job, order_for, ordered

V = VideoState
pytestmark = pytest.mark.any_ledger
FIGURES = (
    "charged", "credited", "reserved", "released", "held", "videos", "paid_for", "commands", "duplicates",
)  # fmt: skip
FIELDS = {"charge": "charged", "credit": "credited", "hold": "reserved", "release": "released"}


class Recount:
    """Counts a whole ledger from its rows, in the plainest way."""

    def __init__(self, rows: dict[str, list]) -> None:
        self.found: dict[tuple, Counter] = defaultdict(Counter)
        self.models = {row.request_id: f"{row.provider}/{row.model}" for row in rows["videos"]}
        users = {row.request_id: row.user_id for row in rows["requests"]}
        for row in rows["requests"]:
            self.add(row, row.created_at, commands=1)
        for row in rows["transitions"]:
            if (row.subject, row.to_state) == ("call", "replay"):
                self._add(row.request_id, users[row.request_id], row.at, duplicates=1)
        of: dict[str, list] = defaultdict(list)
        for row in rows["entries"]:
            of[row.request_id].append(row)
            self.add(row, row.at, **{FIELDS[row.kind]: row.micros})
        self.costs = {request_id: self._count(booked) for request_id, booked in of.items()}

    def _count(self, booked: list) -> tuple[int, int]:
        """Count holds and jobs of one request; return its net cost and its number of paid jobs."""
        if not any(row.kind in ("charge", "release") for row in booked):
            for row in booked:
                self.add(row, row.at, held=row.micros)
        charges = [row for row in booked if row.kind == "charge"]
        credits_ = [row for row in booked if row.kind == "credit"]
        paid = 0
        for job in {row.job_id for row in charges}:
            charged = sum(row.micros for row in charges if row.job_id == job)
            credited = sum(row.micros for row in credits_ if row.job_id == job)
            if charged > credited or credited == 0:
                paid += 1
                self.add(charges[0], min(row.at for row in charges if row.job_id == job), videos=1)
        if paid:
            self.add(charges[0], min(row.at for row in charges), paid_for=1)
        return sum(row.micros for row in charges) - sum(row.micros for row in credits_), paid

    def add(self, row, at: int, **figures: int) -> None:
        self._add(row.request_id, row.user_id, at, **figures)

    def _add(self, request_id: str, user_id: int, at: int, **figures: int) -> None:
        day, model = at // DAY_MS * DAY_MS, self.models.get(request_id)
        keys = [
            ("ever", 0, "all", ""), ("ever", 0, "user", str(user_id)),
            ("hour", at // HOUR_MS * HOUR_MS, "all", ""), ("day", day, "all", ""),
            ("day", day, "user", str(user_id)), *([("day", day, "model", model)] if model else []),
        ]  # fmt: skip
        for key in keys:
            self.found[key].update(figures)

    def window(self, first: int) -> dict[tuple, Counter]:
        """Sum the days from `first` on."""
        found: dict[tuple, Counter] = defaultdict(Counter)
        for (period, start, dimension, key), figures in self.found.items():
            if period == "day" and start >= first and dimension != "all":
                found["30d", 0, dimension, key].update(figures)
        return found


async def recount(ledger) -> Recount:
    tables = {
        "requests": request_rows, "videos": videos, "entries": entries, "transitions": transition_rows,
    }  # fmt: skip
    async with ledger.read() as conn:
        return Recount({name: (await conn.execute(select(table))).all() for name, table in tables.items()})


def without_zeros(found: dict[tuple, Counter]) -> dict[tuple, dict[str, int]]:
    plain = {key: {name: n for name, n in figures.items() if n} for key, figures in found.items()}
    return {key: figures for key, figures in plain.items() if figures}


async def stored_totals(ledger) -> dict[tuple, Counter]:
    async with ledger.read() as conn:
        rows = (await conn.execute(select(cost_totals))).all()
    for row in rows:
        assert row.tool == "generate_video"
        assert row.net == row.charged - row.credited
    return {
        (row.period, row.start, row.dimension, row.key): Counter({n: getattr(row, n) for n in FIGURES})
        for row in rows
    }


async def check(ledger) -> None:
    """Compare everything stored with a recount."""
    await totals.roll_off(ledger)
    found, stored = await recount(ledger), await stored_totals(ledger)
    async with ledger.read() as conn:
        first = totals.first_day(await ledger.now(conn))
        costs = (
            await conn.execute(select(videos.c.request_id, videos.c.cost_micros, videos.c.paid_jobs))
        ).all()
    window = found.window(first)
    assert without_zeros(stored) == without_zeros(found.found | window)
    assert not [key for key in stored if key[0] == "30d" and key not in window]
    assert {row[0]: (row[1], row[2]) for row in costs} == found.costs


class Actions:
    """One random step after another on a ledger, of the kind that the app makes."""

    def __init__(self, ledger, opened: Opener, seed: int) -> None:
        self.ledger, self.opened, self.random = ledger, opened, random.Random(seed)
        self.requests: list[str] = []

    async def step(self) -> None:
        kinds = (self.open, self.order, self.send, self.send, self.end, self.hold, self.resolve, self.late)
        await self.random.choice((*kinds, self.second, self.cancel, self.replay, self.wait))()

    async def pick(self, *states: V) -> str | None:
        found = []
        for one in self.requests:
            both = await requests.find_with_video(self.ledger, one)
            if both and (not states or (both[1] and both[1].state in states)):
                found.append(one)
        return self.random.choice(found) if found else None

    def price(self) -> Money:
        return Money(self.random.choice((0, 1, 1_234_567, 3_000_000)))

    async def open(self) -> None:
        self.requests.append(await self.opened(user_id=self.random.randrange(1, 5)))

    async def order(self) -> None:
        await self.open()
        quote = Money(self.random.choice((1, 1_234_567, 3_000_000)))
        order = order_for(self.requests[-1], quote, valid_s=10**8)
        await orders.place(self.ledger, order, NO_LIMITS)

    async def send(self) -> None:
        if request := await self.pick(V.QUEUED):
            await transitions.begin_submit(self.ledger, request, "f", 0, NO_RATES)
            if self.random.random() < 0.7:
                billed = self.price() if self.random.random() < 0.3 else None
                await transitions.adopt_job(self.ledger, request, new_job(), "test", billed)

    async def end(self) -> None:
        if request := await self.pick(V.ACCEPTED):
            to = self.random.choice((V.SUCCEEDED, V.FAILED_PAID, V.FAILED_UNPAID, V.HOLD))
            billed = self.price() if to in (V.SUCCEEDED, V.FAILED_PAID) else None
            failure = "gone" if to is V.HOLD else None
            await transitions.transition(
                self.ledger, request, V.ACCEPTED, to, "test", "it ended", billed=billed, failure=failure
            )

    async def hold(self) -> None:
        if request := await self.pick(V.SUBMITTING):
            await transitions.transition(self.ledger, request, V.SUBMITTING, V.IN_DOUBT, "test", "no answer")
            await transitions.transition(self.ledger, request, V.IN_DOUBT, V.HOLD, "test", "unsure")

    async def resolve(self) -> None:
        if request := await self.pick(V.HOLD):
            outcome = self.random.choice(("paid", "unpaid", "gone"))
            job = "" if outcome == "unpaid" else new_job()
            with suppress(HoldNotResolved):
                await transitions.resolve_hold(self.ledger, request, Resolution(outcome, job), "test")

    async def late(self) -> None:
        if request := await self.pick(V.FAILED_UNPAID):
            both = await requests.find_with_video(self.ledger, request)
            job = (both and both[1] and both[1].job_id) or new_job()
            await transitions.adopt_job(self.ledger, request, job, "late", None)

    async def second(self) -> None:
        request = await self.pick(V.ACCEPTED, V.SUCCEEDED, V.FAILED_PAID)
        if request and self.random.random() < 0.3:
            await transitions.adopt_job(self.ledger, request, new_job(), "test", self.price())
            async with self.ledger.write() as conn:
                await conn.execute(text("UPDATE breaker SET state = 'closed'"))

    async def cancel(self) -> None:
        if request := await self.pick():
            both = await requests.find_with_video(self.ledger, request)
            await transitions.cancel(self.ledger, request, both[0].user_id)

    async def replay(self) -> None:
        if request := await self.pick():
            word = self.random.choice(("replay", "replay", "quota"))
            await record_refused_call(self.ledger, request, "generate_video", word, "redis", ["prompt"])

    async def wait(self) -> None:
        self.ledger.shift += self.random.choice((600, 3600, 86_400, 5 * 86_400, 13 * 86_400))


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 9))])
async def test_totals_are_a_recount(ledger, opened, seed):
    """Over months of opens, orders, jobs, refunds, second jobs, holds and repeated calls."""
    actions = Actions(ledger, opened, seed)
    for step in range(150):
        await actions.step()
        if step % 30 == 29:
            await check(ledger)
    ever = await reports.cost_summary(ledger)
    assert ever.paid.micros == sum(cost for cost, _ in (await recount(ledger)).costs.values())
    before = {key: one for key, one in (await stored_totals(ledger)).items() if key[0] != "30d"}
    if ledger.dialect == "sqlite":  # the database of PostgreSQL is shared with the next test
        await database.downgrade(ledger, "0008")
        await database.migrate(ledger)
        after = {key: one for key, one in (await stored_totals(ledger)).items() if key[0] != "30d"}
        assert without_zeros(after) == without_zeros(before)


async def test_a_report_is_a_recount(ledger, opened):
    """Spans, days, hours and tables of everyone and of one user, an hour, a day and a month later."""
    ledger.shift = 43_200 - int(time.time()) % 86_400
    actions = Actions(ledger, opened, 5)
    for _ in range(60):
        await actions.step()
    for span, user in (("today", None), ("30d", None), ("30d", 2), ("hour", 2), ("hour", None)):
        report = await reports.read_report(ledger, span, user)
        found = (await recount(ledger)).found
        who = ("all", "") if user is None else ("user", str(user))
        for at, one in report.days:
            figures = found[("day", at, *who)]
            assert one.charged.micros == figures["charged"]
            assert one.held.micros == figures["held"]
            assert (one.videos, one.commands, one.duplicates) == tuple(
                figures[name] for name in ("videos", "commands", "duplicates")
            )
        assert report.spans["30d"] == totals.add_up(one for _, one in report.days)
        if user is None:
            assert totals.add_up(line.costs for line in report.users) == report.spans[span]
            models = totals.add_up(line.costs for line in report.models)
            assert (models.paid, models.videos) == (report.spans[span].paid, report.spans[span].videos)


@pytest.mark.slow
async def test_the_hour_and_a_user_read_entries_with_the_same_meaning(ledger, opened):
    """Within one hour, what is summed from entries equals what the totals say, figure by figure."""
    ledger.shift = 43_200 + 1800 - int(time.time()) % 86_400
    actions = Actions(ledger, opened, 11)
    actions.wait = actions.send
    for _ in range(80):
        await actions.step()
    report = await reports.read_report(ledger, "hour")
    assert report.spans["hour"] == report.spans["today"] == report.hours[-1][1]
    for line in report.users:
        mine = await reports.read_report(ledger, "today", int(line.name))
        assert mine.users[0] == line
        assert mine.hours[-1][1] == mine.spans["today"] == line.costs


async def test_a_day_leaves_the_month_however_late(ledger, opened):
    """Workers take old days off at once, a month late; a later refund of such a day does not return it."""
    request = await accepted(ledger, opened, new_job())
    await accepted(ledger, opened, new_job(), Money(5))
    ledger.shift += 35 * 86_400
    await accepted(ledger, opened, new_job(), Money(7))
    assert [line.costs.paid.micros for line in (await reports.read_report(ledger, "30d")).users] == [7]
    ledger.shift += 65 * 86_400
    await asyncio.gather(*(totals.roll_off(ledger) for _ in range(4)))
    assert (await reports.read_report(ledger, "30d")).users == []
    await transitions.transition(ledger, request, V.ACCEPTED, V.FAILED_UNPAID, "test", "stated unbilled")
    month = await reports.read_report(ledger, "30d")
    assert [line.costs.credited for line in month.users] == [month.spans["30d"].credited]
    await check(ledger)


@pytest.mark.slow
async def test_many_at_once_count_once_each(ledger, opened):
    """Forty orders of eight users end at once, while days roll off and reports are read: nothing is lost."""
    ids = [await ordered(ledger, opened, 1 + n % 8) for n in range(40)]
    for one in ids:
        await transitions.begin_submit(ledger, one, "f", 0, NO_RATES)

    async def adopt(request: str) -> None:
        await transitions.adopt_job(ledger, request, new_job(), "test", None)
        await transitions.transition(ledger, request, V.ACCEPTED, V.FAILED_UNPAID, "test", "unbilled")
        await record_refused_call(ledger, request, "generate_video", "replay", "redis", [])

    await asyncio.gather(*(adopt(one) for one in ids), *(totals.roll_off(ledger) for _ in range(3)))
    await check(ledger)


async def test_the_version_before_is_counted(ledger, opened):
    """It writes no short id, and no job and number of an entry; its rows are found and counted."""
    request = await ordered(ledger, opened)
    async with ledger.write() as conn:
        await conn.execute(text("UPDATE requests SET short_id = NULL"))
        written = (("charge", "job-1", 5), ("credit", "job-1", 2), ("charge", "job-1 (2)", 3))
        for kind, cause, micros in written:
            await conn.execute(
                text(
                    "INSERT INTO entries (request_id, user_id, kind, cause, micros, at)"
                    " SELECT request_id, user_id, :kind, :cause, :micros, ordered_at FROM videos"
                ),
                {"kind": kind, "cause": cause, "micros": micros},
            )
    await check(ledger)
    assert (await reports.net_charged(ledger, request)).micros == 6
    name = short_id(request)
    async with ledger.read() as conn:
        assert await requests.find_ids(conn, name) == [request]
    assert await requests.name_requests(ledger) == 1
    assert await requests.name_requests(ledger) == 0
    async with ledger.read() as conn:
        assert await requests.find_ids(conn, f"#{name.upper()}") == [request]


async def end(ledger, request: str) -> None:
    await transitions.transition(ledger, request, V.ACCEPTED, V.FAILED_PAID, "test", "it ended")


async def test_an_outcome_waits_for_its_report_once(ledger, opened):
    """Each end of a request or a video is listed, the oldest first, until it is claimed, by old code too."""
    assert await history.unreported(ledger) == []
    first = await accepted(ledger, opened, new_job())
    await end(ledger, first)
    ledger.shift += 1
    refused = await opened(user_id=8)
    await requests.close_request(ledger, refused, RequestState.REFUSED, "test", "policy")
    ledger.shift += 1
    held = await accepted(ledger, opened, new_job())
    await transitions.transition(ledger, held, V.ACCEPTED, V.HOLD, "test", "gone", failure="gone")
    await accepted(ledger, opened, new_job())
    assert await history.unreported(ledger) == [first, refused, held]
    assert (await history.claim_outcome(ledger, first)).outcome == "failed_paid"
    assert await history.claim_outcome(ledger, first) is None
    assert (await history.claim_outcome(ledger, held)).outcome == "hold"
    assert await history.unreported(ledger) == [refused]
    async with ledger.write() as conn:
        await conn.execute(text("UPDATE requests SET reported = state WHERE state = 'REFUSED'"))
    assert await history.unreported(ledger) == []
    await transitions.resolve_hold(ledger, held, Resolution("gone"), "test")
    assert await history.unreported(ledger) == [held]


async def test_an_end_that_comes_while_another_is_claimed_is_not_lost(ledger, opened):
    """The claim of HOLD comes after the order left it: the new end is still to be reported."""
    held = await accepted(ledger, opened, new_job())
    await transitions.transition(ledger, held, V.ACCEPTED, V.HOLD, "test", "gone", failure="gone")
    await transitions.resolve_hold(ledger, held, Resolution("gone"), "test")
    async with ledger.write() as conn:
        await conn.execute(text("UPDATE requests SET reported = 'HOLD'"))
    assert await history.unreported(ledger) == [held]
    assert (await history.claim_outcome(ledger, held)).request.reported == "HOLD"
    assert await history.unreported(ledger) == []
