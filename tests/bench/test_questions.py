from itertools import count

import pytest
from sqlalchemy import func, select

from bench import admission
from bench.history import Shape, fill
from bench.questions import questions
from guardrails.money import Money
from ledger import reports, requests
from ledger.database import Ledger
from ledger.models import VideoState
from ledger.schema import videos


@pytest.fixture
async def past(tmp_path):
    """A ledger of 40 delivered videos over ten days, upgraded from the version before."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'past.db'}")
    await fill(ledger, 40, Shape(per_day=4, users=4, all_delivered=True))
    yield ledger
    await ledger.close()


async def test_a_generated_past_is_what_the_ledger_would_have_written(past):
    """The reports read it; a wrong column would measure questions about nothing."""
    async with past.read() as conn:
        delivered = select(func.count()).where(videos.c.state == VideoState.DELIVERED)
        assert await conn.scalar(delivered) == 40
    total = await reports.cost_summary(past)
    assert (total.videos, total.commands, total.charged) == (
        40,
        40,
        Money(sum(2_000_000 + i % 7 * 500_000 for i in range(40))),
    )
    assert total.held == Money(0)
    assert len(await requests.list_for_user(past, 2, 100)) == 10


@pytest.mark.parametrize("name", list(questions()))
async def test_every_timed_question_can_be_asked(past, name):
    """The benchmark must follow the ledger's functions, or it would report a failure as growth."""
    for _ in range(2):
        await questions()[name](past)


async def test_measured_requests_are_not_of_the_past(tmp_path, monkeypatch):
    """An admission of a user who has a past is a new call, whatever its number, and no replay."""
    past = Ledger(f"sqlite:///{tmp_path / 'past.db'}")
    await fill(past, 40, Shape(per_day=40, users=4, first_user_percent=50, all_delivered=True))
    async with past.read() as conn:
        stored = set((await conn.scalars(select(videos.c.request_id))).all())
    await past.close()
    monkeypatch.setattr(admission, "_NUMBERS", count())
    measured = admission.Guarded(None, None, past, "bench", 0)
    assert len(stored) == 40
    assert stored.isdisjoint(measured.ask(1).request_id for _ in range(40))
