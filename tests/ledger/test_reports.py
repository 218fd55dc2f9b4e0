"""Reports: every figure is a sum of the ledger's own entries, to the micro-dollar, on both databases."""

import time

import pytest
from sqlalchemy import select, update

from guardrails.money import ZERO, Money
from ledger import history, reports, transitions
from ledger.models import VideoState
from ledger.reports import DAY_MS, HOUR_MS, TodayTotals
from ledger.schema import entries
from tests.support.factories import ORDER_PRICE, accepted, begun, new_job, ordered, put

V = VideoState
pytestmark = pytest.mark.any_ledger
ODD = Money(1_234_567)
"""More decimals than a float's sum would keep."""


@pytest.fixture(autouse=True)
def _noon(ledger):
    """It is noon: no test here ends in another hour or day than it began in."""
    ledger.shift = 43_200 - int(time.time()) % 86_400


async def lives(ledger, opened):
    """One of each: charged, charged at an odd price, refunded, held, released, refused twice."""
    plain = await accepted(ledger, opened, new_job())
    odd = await accepted(ledger, opened, new_job(), ODD)
    back = await accepted(ledger, opened, new_job())
    await transitions.transition(ledger, back, V.ACCEPTED, V.FAILED_UNPAID, "test", "stated unbilled")
    held = await begun(ledger, opened, user_id=8)
    await put(ledger, held, V.HOLD)
    released = await ordered(ledger, opened, user_id=8)
    await transitions.cancel(ledger, released, 8)
    for _ in range(2):
        await history.record_refused_call(ledger, plain, "generate_video", "replay", "redis", ["prompt"])
    await history.record_refused_call(ledger, odd, "generate_video", "quota", "redis", ["prompt"])
    await opened(user_id=9)
    return plain, odd, back, held, released


async def sums(ledger):
    """Add the entries up in the plainest way there is."""
    async with ledger.read() as conn:
        rows = (await conn.execute(select(entries))).all()
    found = {kind: sum(row.micros for row in rows if row.kind == kind) for kind in ("charge", "credit")}
    ended = {row.request_id for row in rows if row.kind in ("charge", "release")}
    held = sum(row.micros for row in rows if row.kind == "hold" and row.request_id not in ended)
    return found["charge"], found["credit"], held


async def test_every_table_adds_up_to_the_entries(ledger, opened):
    """Spans, payers, models, requests, days and hours: each adds up to the same entries."""
    await lives(ledger, opened)
    report = await reports.read_report(ledger)
    tables = (
        [report.spans["hour"]],
        [report.spans["30d"]],
        [line.costs for line in report.users],
        [line.costs for line in report.models],
        [line.costs for line in report.requests],
        [one for _, one in report.days],
        [one for _, one in report.hours],
    )
    for table in tables:
        found = tuple(
            sum(getattr(one, name).micros for one in table) for name in ("charged", "credited", "held")
        )
        assert found == await sums(ledger)
        assert sum(one.videos for one in table) == sum(one.paid_for for one in table) == 2
        assert sum(one.duplicates for one in table) == 2


async def test_the_figures_of_a_report(ledger, opened):
    """Commands that made nothing count as commands; a user's report is that user's alone."""
    plain, *_ = await lives(ledger, opened)
    report = await reports.read_report(ledger, "30d")
    month = report.spans["30d"]
    assert (month.commands, month.videos_per_command) == (6, 1.0)
    assert (month.charged, month.credited, month.held) == (ORDER_PRICE * 2 + ODD, ORDER_PRICE, ORDER_PRICE)
    assert {line.name for line in report.users} == {"7", "8", "9"}
    assert [line.name for line in report.models] == ["local/preview"]
    assert report.requests[0].request_id == plain
    assert (len(report.days), len(report.hours)) == (30, 24)
    assert report.days[-1][0] == report.at // DAY_MS * DAY_MS
    assert report.hours[-1][0] == report.at // HOUR_MS * HOUR_MS
    mine = await reports.read_report(ledger, "30d", user_id=8)
    assert mine.spans["30d"].paid == ZERO
    assert mine.spans["30d"].held == ORDER_PRICE
    assert {line.user_id for line in mine.requests} == {8}


async def test_two_paid_videos_of_one_command_show(ledger, opened):
    """A second paid job makes it two videos for one command; a job that was refunded in full is none."""
    job = new_job()
    request = await accepted(ledger, opened, job)
    assert (await reports.cost_summary(ledger)).videos_per_command == 1
    await transitions.adopt_job(ledger, request, new_job(), "test", None)
    found = await reports.cost_summary(ledger)
    assert (found.videos, found.paid_for, found.videos_per_command) == (2, 1, 2.0)
    await transitions.transition(ledger, request, V.ACCEPTED, V.FAILED_UNPAID, "test", "stated unbilled")
    assert (await reports.cost_summary(ledger)).videos == 1


@pytest.mark.parametrize("billed", [9, 3])
async def test_a_corrected_price_is_one_video(ledger, opened, billed):
    """Further charges and credits of a job are numbered behind its id, and are still that one job."""
    request = await accepted(ledger, opened, new_job(), Money(5))
    await transitions.transition(
        ledger, request, V.ACCEPTED, V.FAILED_PAID, "test", "billed again", billed=Money(billed)
    )
    found = await reports.cost_summary(ledger)
    assert (found.videos, found.paid) == (1, Money(billed))


async def test_a_free_video_is_a_video(ledger, opened):
    """A provider that bills nothing made a video all the same."""
    await accepted(ledger, opened, new_job(), ZERO)
    assert (await reports.cost_summary(ledger)).videos == 1


async def today(ledger):
    async with ledger.read() as conn:
        return await reports.today_totals(conn, await ledger.now(conn))


@pytest.mark.slow
async def test_today_is_the_utc_day(ledger, opened):
    """The gauges' figures: what the UTC day cost, and the user who cost most; yesterday is not included."""
    assert await today(ledger) == TodayTotals(ZERO, ZERO)
    await lives(ledger, opened)
    assert await today(ledger) == TodayTotals(ORDER_PRICE + ODD, ORDER_PRICE + ODD)
    report = await reports.read_report(ledger)
    assert report.spans["today"].paid == ORDER_PRICE + ODD
    async with ledger.write() as conn:
        await conn.execute(update(entries).values(at=report.days[-2][0] + DAY_MS - 1))
    assert await today(ledger) == TodayTotals(ZERO, ZERO)
    moved = await reports.read_report(ledger)
    assert moved.spans["today"].paid == ZERO
    assert moved.days[-2][1].paid == moved.spans["30d"].paid == ORDER_PRICE + ODD


async def test_a_table_is_no_longer_than_asked(ledger, opened):
    """The most expensive come first, and the rest is cut off; the sums above it are still of all."""
    for cost in (1, 3, 2):
        await accepted(ledger, opened, new_job(), Money(cost))
    report = await reports.read_report(ledger, most=2)
    assert [line.costs.paid.micros for line in report.requests] == [3, 2]
    assert report.spans["today"].paid.micros == 6
