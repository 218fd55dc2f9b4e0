"""A person corrects what is booked: refunds, invoices, wrong ends; every sum follows, once."""

import asyncio

import pytest
from sqlalchemy import select

from guardrails.limits import Limits
from guardrails.money import ZERO, Money
from ledger import breaker, corrections, limits, operator_log, reports, transitions
from ledger.corrections import NotCorrected, parse_correction
from ledger.history import read_history
from ledger.models import VideoState
from ledger.schema import requests
from ledger.totals import is_current
from ledger.transitions import JobTaken
from tests.support.factories import (
    ORDER_PRICE,
    accepted,
    begun,
    booked,
    new_job,
    ordered,
    put,
    sum_entries,
    video_of,
)

V = VideoState
HALF = Money.parse("$1.50")


async def corrected(ledger, request, *words, source="form-1", who="web:Olga"):
    """Plan and make a correction as the page does."""
    wanted = parse_correction(*words, why="their invoice of May")
    planned = await corrections.plan(ledger, request, wanted)
    return await corrections.correct(ledger, planned, who, source)


async def delivered(ledger, opened):
    request = await accepted(ledger, opened, new_job())
    for frm, to in ((V.ACCEPTED, V.SUCCEEDED), (V.SUCCEEDED, V.DELIVERED)):
        assert await transitions.transition(ledger, request, frm, to, "test", "done")
    return request


async def unpaid(ledger, opened, days=3):
    """Return an order that ended as FAILED_UNPAID, after its last late-charge check."""
    request = await begun(ledger, opened)
    ended = await transitions.transition(
        ledger, request, V.SUBMITTING, V.FAILED_UNPAID, "reconcile", "absent", fence="f1"
    )
    assert ended
    await put(
        ledger, request, V.FAILED_UNPAID, failure="absent", updated_at=ended.updated_at - days * 86_400_000
    )
    return request


async def sums_agree(ledger):
    """Assert that the totals, the entries and each request's own cost are the same; return what was paid."""
    charge, credit, held = await sum_entries(ledger)
    for span in ("today", "30d"):
        report = await reports.read_report(ledger, span)
        found = report.spans[span]
        assert (found.charged.micros, found.credited.micros, found.held.micros) == (charge, credit, held)
        assert sum(one.costs.paid.micros for one in report.users) == charge - credit
        assert sum(one.costs.paid.micros for one in report.requests) == charge - credit
    async with ledger.read() as conn:
        assert await is_current(conn, await ledger.now(conn))
    return charge - credit


async def budget_used(ledger, user_id=7):
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        return (
            await limits.current_usage(conn, user_id, ZERO, Limits(user_budget=ORDER_PRICE * 9), now)
        ).spent


@pytest.mark.any_ledger
async def test_a_refund_of_a_delivered_video(ledger, opened):
    """A part and then the rest come back: each an entry with name and reason, the video stays delivered."""
    request = await delivered(ledger, opened)
    done = await corrected(ledger, request, "refund", "$1.50")
    assert (done.plan.before, done.plan.after, done.plan.to) == (ORDER_PRICE, HALF, None)
    assert await reports.net_charged(ledger, request) == HALF
    assert await sums_agree(ledger) == HALF.micros
    await corrected(ledger, request, "refund", source="form-2")
    assert await booked(ledger, request) == {
        "hold": [ORDER_PRICE.micros], "charge": [ORDER_PRICE.micros], "credit": [HALF.micros] * 2,
    }  # fmt: skip
    assert await sums_agree(ledger) == 0
    assert (await video_of(ledger, request)).state is V.DELIVERED
    assert (await reports.read_report(ledger)).spans["today"].videos == 0
    with pytest.raises(NotCorrected, match="nothing is charged"):
        await corrected(ledger, request, "refund", source="form-3")
    entries = [one for one in (await read_history(ledger, request)).events if one.what == "credit"]
    assert [one.why for one in entries] == ["web:Olga: their invoice of May"] * 2
    count, acts = await operator_log.latest(ledger)
    assert count == len(acts) == 2
    assert (acts[0].action, acts[0].who, acts[0].amount, acts[0].request_id) == (
        "refund",
        "web:Olga",
        HALF,
        request,
    )


@pytest.mark.any_ledger
async def test_the_same_source_corrects_once(ledger, opened):
    """A form or message that comes twice, also at once, books one entry."""
    request = await delivered(ledger, opened)
    wanted = parse_correction("refund", "$1.50", why="w")
    planned = await corrections.plan(ledger, request, wanted)
    asked = (corrections.correct(ledger, planned, "web:Olga", "form-1") for _ in range(3))
    assert sorted([one.new for one in await asyncio.gather(*asked)]) == [False, False, True]
    with pytest.raises(NotCorrected, match="changed meanwhile"):
        await corrections.correct(ledger, planned, "web:Eva", "form-2")
    assert (await booked(ledger, request))["credit"] == [HALF.micros]


@pytest.mark.any_ledger
async def test_a_charge_by_invoice(ledger, opened):
    """What an invoice shows above the price counts in the sums and in the budgets."""
    request = await delivered(ledger, opened)
    await corrected(ledger, request, "charge", "$1.50")
    assert await sums_agree(ledger) == (ORDER_PRICE + HALF).micros
    assert await budget_used(ledger) == ORDER_PRICE + HALF
    assert (await reports.read_report(ledger)).spans["today"].videos == 1


@pytest.mark.any_ledger
async def test_an_invoice_for_another_job_is_paid_twice(ledger, opened):
    """Another job of the same request counts as paid twice and stops paid work; its refund takes it back."""
    request, other = await delivered(ledger, opened), new_job()
    taken = await delivered(ledger, opened)
    done = await corrected(ledger, request, "charge", "$3", other)
    assert done.plan.second_job
    assert [one.scope for one in await breaker.open_breakers(ledger)] == ["everyone"]
    assert (await reports.read_report(ledger)).spans["today"].videos == 3
    await corrected(ledger, request, "refund", "", other, source="form-2")
    assert (await reports.read_report(ledger)).spans["today"].videos == 2
    with pytest.raises(JobTaken):
        await corrected(
            ledger, taken, "charge", "$3", (await video_of(ledger, request)).job_id, source="form-3"
        )


@pytest.mark.any_ledger
async def test_an_unpaid_end_was_charged(ledger, opened):
    """FAILED_UNPAID, days later: charged and without a video. Sums and budget follow, the quota does not."""
    request = await unpaid(ledger, opened)
    assert await budget_used(ledger) == ZERO
    job = new_job()
    await corrected(ledger, request, "end", "", job, "gone")
    video = await video_of(ledger, request)
    assert (video.state, video.failure, video.job_id) == (V.FAILED_PAID, "gone", job)
    assert await sums_agree(ledger) == ORDER_PRICE.micros
    assert await budget_used(ledger) == ORDER_PRICE
    assert (await reports.read_report(ledger)).requests[0].state == V.FAILED_PAID
    # And back: it was not charged after all.
    await corrected(ledger, request, "end", "", "", "unpaid", source="form-2")
    assert (await video_of(ledger, request)).state is V.FAILED_UNPAID
    assert await sums_agree(ledger) == 0
    assert await budget_used(ledger) == ZERO


@pytest.mark.any_ledger
async def test_an_unpaid_end_has_its_video(ledger, opened):
    """FAILED_UNPAID, days later: the provider has the job, so it is fetched; a wrong `gone` too."""
    request, job = await unpaid(ledger, opened), new_job()
    done = await corrected(ledger, request, "end", "", job, "paid")
    assert (done.video.state, done.video.failure, done.video.job_id) == (V.ACCEPTED, "late", job)
    assert done.video.due_at is not None
    assert await sums_agree(ledger) == ORDER_PRICE.micros
    other = await unpaid(ledger, opened)
    await corrected(ledger, other, "end", "$2", "-", "gone", source="form-2")
    assert await reports.net_charged(ledger, other) == Money.parse("$2")
    right = new_job()
    done = await corrected(ledger, other, "end", "", right, "paid", source="form-3")
    assert (done.video.state, done.video.failure, done.video.job_id) == (V.ACCEPTED, None, right)


@pytest.mark.any_ledger
async def test_a_full_refund_of_a_paid_failure_is_unpaid(ledger, opened):
    """Where all of a failed order comes back, nothing was charged: state, budget and sums say so."""
    request = await accepted(ledger, opened, new_job())
    assert await transitions.transition(
        ledger, request, V.ACCEPTED, V.FAILED_PAID, "poll", "moderated", failure="moderated"
    )
    done = await corrected(ledger, request, "refund")
    assert (done.plan.to, done.video.state, done.video.failure) == (
        V.FAILED_UNPAID,
        V.FAILED_UNPAID,
        "settled",
    )
    assert await sums_agree(ledger) == 0
    assert await budget_used(ledger) == ZERO


@pytest.mark.any_ledger
async def test_the_user_is_told_where_the_cost_changed(ledger, opened):
    """A refund is due to be told; a job that is fetched after all is told by its own texts."""
    request, late = await delivered(ledger, opened), await unpaid(ledger, opened)
    await corrected(ledger, request, "refund", "$1.50")
    await corrected(ledger, late, "end", "", new_job(), "paid", source="form-2")
    async with ledger.read() as conn:
        rows = {row.request_id: row for row in await conn.execute(select(requests))}
    assert rows[request].corrected_at == rows[request].notify_at
    assert rows[late].corrected_at is None
    assert rows[late].notify_at is not None


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("gift",), "no correction"),
        (("charge",), "needs its amount"),
        (("refund", "3 euros"), "not an amount"),
        (("refund", "$0"), "more than \\$0"),
        (("end", "", "", "maybe"), "the outcome is"),
        (("end", "", "", "paid"), "job id"),
        (("end", "$1", "", "unpaid"), "takes no amount"),
    ],
)
def test_words_are_checked(words, why):
    with pytest.raises(NotCorrected, match=why):
        parse_correction(*words, why="w")


async def test_a_reason_is_needed():
    with pytest.raises(NotCorrected, match="say why"):
        parse_correction("refund", why=" ")


async def test_what_is_not_ended_is_not_corrected(ledger, opened):
    """An order that is under way or on HOLD keeps its figure; each refusal says what to do instead."""
    made = await accepted(ledger, opened, new_job())
    held = await begun(ledger, opened)
    await put(ledger, held, V.HOLD)
    queued = await ordered(ledger, opened)
    done, failed = await delivered(ledger, opened), await unpaid(ledger, opened)
    for request, words, why in (
        (made, ("refund",), "when it has ended"),
        (made, ("end", "", "", "unpaid"), "when it has ended"),
        (held, ("end", "", "", "unpaid"), "resolve it"),
        (held, ("charge", "$1"), "resolve it"),
        (queued, ("charge", "$1"), "when it has ended"),
        (done, ("end", "", "", "unpaid"), "refund or charge"),
        (done, ("refund", "$4"), "less than"),
        (done, ("charge", "$1", "-"), "is known"),
        (failed, ("charge", "$1"), "end gone"),
        (failed, ("end", "", "", "unpaid"), "paid or gone"),
    ):
        with pytest.raises(NotCorrected, match=why):
            await corrected(ledger, request, *words)
    await sums_agree(ledger)
    assert (await operator_log.latest(ledger))[0] == 0
