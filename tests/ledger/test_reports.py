"""Reports: every figure is a sum of the ledger's own entries, to the micro-dollar, on both databases."""

import time

import pytest

from guardrails.money import ZERO, Money
from ledger import reports, transitions
from ledger.models import VideoState
from ledger.reports import TodayTotals
from ledger.totals import DAY_MS, HOUR_MS
from tests.support.factories import (
    ODD_PRICE,
    ORDER_PRICE,
    accepted,
    new_job,
    one_of_each,
    sum_entries,
)

V = VideoState
pytestmark = pytest.mark.any_ledger


@pytest.fixture(autouse=True)
def _noon(ledger):
    """It is noon: no test here ends in another hour or day than it began in."""
    ledger.shift = 43_200 - int(time.time()) % 86_400


async def test_every_table_adds_up_to_the_entries(ledger, opened):
    """Spans, users, models, requests, days and hours: each adds up to the same entries."""
    await one_of_each(ledger, opened)
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
        assert found == await sum_entries(ledger)
        assert sum(one.videos for one in table) == sum(one.paid_for for one in table) == 2
        assert sum(one.duplicates for one in table) == 2


async def test_a_report_counts_every_command(ledger, opened):
    """Commands that made nothing count as commands; a user's report has that user's requests only."""
    plain, *_ = await one_of_each(ledger, opened)
    report = await reports.read_report(ledger, "30d")
    month = report.spans["30d"]
    assert (month.commands, month.videos_per_command) == (6, 1.0)
    assert (month.charged, month.credited, month.held) == (
        ORDER_PRICE * 2 + ODD_PRICE,
        ORDER_PRICE,
        ORDER_PRICE,
    )
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
    """Further charges and refunds of a job are numbered behind its id, and are still that one job."""
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
    await one_of_each(ledger, opened)
    assert await today(ledger) == TodayTotals(ORDER_PRICE + ODD_PRICE, ORDER_PRICE + ODD_PRICE)
    report = await reports.read_report(ledger)
    assert report.spans["today"].paid == ORDER_PRICE + ODD_PRICE
    ledger.shift += DAY_MS // 1000
    assert await today(ledger) == TodayTotals(ZERO, ZERO)
    moved = await reports.read_report(ledger)
    assert moved.spans["today"].paid == ZERO
    assert moved.days[-2][1].paid == moved.spans["30d"].paid == ORDER_PRICE + ODD_PRICE


@pytest.mark.slow
async def test_a_table_is_no_longer_than_asked(ledger, opened):
    """The most expensive come first, and the rest is cut off; the sums above it are still of all."""
    for cost in (1, 3, 2):
        await accepted(ledger, opened, new_job(), Money(cost))
    report = await reports.read_report(ledger, most=2)
    assert [line.costs.paid.micros for line in report.requests] == [3, 2]
    assert report.spans["today"].paid.micros == 6
