"""Reports: once for each message, joined while one is open, bounded by the hour, pruned when decided."""

import pytest
from sqlalchemy import select

from ledger import requests, user_reports
from ledger.database import Ledger
from ledger.notifications import Notification, claim, mark_sent
from ledger.schema import user_reports as table
from ledger.user_reports import NewReport
from telemetry.redaction import short_id

pytestmark = pytest.mark.any_ledger


async def states(ledger):
    async with ledger.read() as conn:
        return list(await conn.scalars(select(table.c.state).order_by(table.c.report_id)))


@pytest.fixture
async def request_id(ledger: Ledger, opened):
    return await opened(user_id=7)


async def bot_of(ledger, request_id):
    return (await requests.find(ledger, request_id)).bot_id


async def test_an_open_report_is_due_until_everyone_was_alerted(ledger: Ledger, request_id):
    new = NewReport("m1", await bot_of(ledger, request_id), 9, short_id(request_id), None, "why")
    assert await user_reports.add(ledger, new) is None
    [found] = await user_reports.open_reports(ledger, new.bot_id, 2)
    assert (found.author_id, found.reporter_id, found.words) == (7, 9, "why")
    assert await user_reports.open_reports(ledger, new.bot_id + 1, 2) == []
    for reader in (0, 1):
        alert = Notification(f"report:{found.report_id}", found.at)
        await claim(ledger, alert, reader)
        await mark_sent(ledger, alert, reader)
    assert await user_reports.open_reports(ledger, new.bot_id, 2) == []
    assert len(await user_reports.open_reports(ledger, new.bot_id, 3)) == 1


async def test_a_decision_is_made_once_and_closes_what_joined(ledger: Ledger, request_id):
    bot = await bot_of(ledger, request_id)
    for number in range(3):
        await user_reports.add(ledger, NewReport(f"m{number}", bot, 9, short_id(request_id), None, ""))
    assert await states(ledger) == ["open", "joined", "joined"]
    [found] = await user_reports.open_reports(ledger, bot, 1)
    decide = user_reports.decide
    assert [await decide(ledger, found.report_id, "dismissed", "admin:1") for _ in range(2)] == [True, False]
    assert await states(ledger) == ["dismissed"] * 3
    await user_reports.add(ledger, NewReport("m9", bot, 9, short_id(request_id), None, ""))
    assert (await states(ledger))[-1] == "open", "what happens after a decision is new"


async def test_pruning_keeps_what_is_open(ledger: Ledger, request_id):
    bot = await bot_of(ledger, request_id)
    await user_reports.add(ledger, NewReport("m1", bot, 9, short_id(request_id), None, ""))
    await user_reports.add(ledger, NewReport("m2", bot, 9, "0f0f0f", None, ""))
    async with ledger.read() as conn:
        now = await ledger.now(conn)
    assert await user_reports.prune(ledger, now + 1000) == 1
    assert await states(ledger) == ["open"]


async def test_a_group_sees_its_own_alone(ledger: Ledger, request_id):
    """And in private, one's own before another's of the same name."""
    bot = await bot_of(ledger, request_id)
    await user_reports.add(ledger, NewReport("m1", bot, 9, short_id(request_id), -5, ""))
    await user_reports.add(ledger, NewReport("m2", bot, 9, short_id(request_id), None, ""))
    assert await states(ledger) == ["unknown", "open"]
