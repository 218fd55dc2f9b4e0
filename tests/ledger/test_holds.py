"""An operator resolves a HOLD: by one transition, in the operator's name."""

import io
from uuid import uuid4

import pytest
from pydantic import SecretStr
from rich.console import Console

from app.operator_commands import resolve as by_keyboard
from app.settings import read_settings
from guardrails.money import ZERO
from ledger import breaker, reports, transitions
from ledger.database import Ledger
from ledger.models import VideoState
from ledger.schema import MAX_JOB_ID
from ledger.transitions import HoldNotResolved, JobTaken, Resolution
from telemetry.redaction import short_id
from tests.support.factories import (
    ORDER_PRICE,
    Opener,
    accepted,
    begun,
    booked,
    ordered,
    out_of_hold,
    put,
    video_of,
)
from tests.support.factories import ORDER_PRICE as QUOTE

V = VideoState


async def held(ledger, opened, user_id=7, **columns):
    request = await begun(ledger, opened, user_id=user_id)
    await put(ledger, request, V.HOLD, **{"failure": "in_doubt"} | columns)
    return request


@pytest.mark.any_ledger
@pytest.mark.parametrize(
    ("resolution", "to", "net"),
    [
        (Resolution("paid", "job-1", "seen in their list"), V.ACCEPTED, QUOTE.micros),
        (Resolution("unpaid", why="their invoice"), V.FAILED_UNPAID, 0),
        (Resolution("gone", "job-1"), V.FAILED_PAID, QUOTE.micros),
        (Resolution("gone"), V.FAILED_PAID, QUOTE.micros),
    ],
    ids=["paid", "unpaid", "gone", "gone, unknown job"],
)
async def test_each_resolution_books_its_money(ledger, opened, resolution, to, net):
    """paid, unpaid and gone move the order with its money, once, with who and why in the transitions."""
    job = resolution.job_id and f"job-{uuid4().hex[:6]}"
    request = await held(ledger, opened)
    moved = await transitions.resolve_hold(
        ledger, request, Resolution(resolution.outcome, job, resolution.why), "operator:eva"
    )
    assert (moved.state, moved.job_id) == (to, job or None)
    found = await booked(ledger, request)
    assert sum(found.get("charge", [])) - sum(found.get("credit", [])) == net
    assert found.get("release", []) == ([] if net else [QUOTE.micros])
    [(state, who, why)] = await out_of_hold(ledger, request)
    assert (state, who) == (to, "operator:eva")
    assert resolution.why in why
    with pytest.raises(HoldNotResolved, match="somebody else"):
        await transitions.resolve_hold(ledger, request, resolution, "operator:late")


@pytest.mark.any_ledger
async def test_a_charged_job_found_unpaid_is_refunded(ledger, opened):
    """A held job that was charged and is found unpaid is refunded once: the sum is zero."""
    request = await accepted(ledger, opened, "job-1")
    await put(ledger, request, V.HOLD, failure="gone")
    await transitions.resolve_hold(ledger, request, Resolution("unpaid"), "operator:eva")
    assert await booked(ledger, request) == {
        "hold": [QUOTE.micros], "charge": [QUOTE.micros], "credit": [QUOTE.micros]
    }  # fmt: skip


@pytest.mark.parametrize("failure", ["gone", "overdue", "no_provider"])
async def test_a_wrong_job_id_can_be_set_right(ledger, opened, failure):
    """A job id that a person gave is replaced, however its order came back to HOLD: refunded, the right one
    charged, both changes in the transitions; no breaker opens over a typing error.
    """
    request = await held(ledger, opened)
    await transitions.resolve_hold(ledger, request, Resolution("paid", "job-wrong"), "operator:eva")
    await put(ledger, request, V.HOLD, failure=failure)
    moved = await transitions.resolve_hold(ledger, request, Resolution("paid", "job-right"), "operator:eva")
    assert (moved.state, moved.job_id) == (V.ACCEPTED, "job-right")
    found = await booked(ledger, request)
    assert sum(found["charge"]) - sum(found["credit"]) == QUOTE.micros
    assert [to for to, _, _ in await out_of_hold(ledger, request)] == [
        V.ACCEPTED, V.FAILED_UNPAID, V.ACCEPTED
    ]  # fmt: skip
    assert await breaker.open_breakers(ledger) == []


async def test_an_id_that_the_provider_confirmed_is_not_replaced(ledger, opened):
    """A person gave it, and later the provider named it too: another id would hide a charge."""
    request = await held(ledger, opened)
    await transitions.resolve_hold(ledger, request, Resolution("paid", "job-1", "seen"), "operator:eva")
    await put(ledger, request, V.HOLD, failure="overdue")
    assert await transitions.adopt_job(ledger, request, "job-1", "late", None)
    await put(ledger, request, V.HOLD, failure="overdue")
    with pytest.raises(HoldNotResolved, match="has job job-1"):
        await transitions.resolve_hold(ledger, request, Resolution("paid", "job-2"), "operator:eva")


@pytest.mark.any_ledger
async def test_a_long_job_id_is_kept_whole(ledger, opened):
    """512 characters fit everywhere: in the order, its entries, and what a second one of them is called."""
    job = "video_" + "a" * (MAX_JOB_ID - 6)
    request = await accepted(ledger, opened, job)
    await put(ledger, request, V.HOLD)
    await transitions.resolve_hold(ledger, request, Resolution("unpaid"), "operator:eva")
    assert await transitions.adopt_job(ledger, request, job, "late", None)
    assert (await video_of(ledger, request)).job_id == job
    assert len((await booked(ledger, request))["charge"]) == 2


async def test_a_resolution_that_contradicts_the_ledger_is_refused(ledger, opened):
    """Another request's job, a second job next to a live one, another HOLD than shown: nothing changes."""
    owner, request = await accepted(ledger, opened, "job-1"), await held(ledger, opened, 8)
    with pytest.raises(JobTaken, match="job-1"):
        await transitions.resolve_hold(ledger, request, Resolution("paid", "job-1"), "eva")
    await put(ledger, owner, V.HOLD, failure="overdue")
    with pytest.raises(HoldNotResolved, match="has job job-1"):
        await transitions.resolve_hold(ledger, owner, Resolution("paid", "job-2"), "eva")
    with pytest.raises(HoldNotResolved, match="somebody else"):
        await transitions.resolve_hold(ledger, request, Resolution("unpaid"), "eva", seen_at=1)
    for one in (owner, request):
        assert (await video_of(ledger, one)).state is V.HOLD
    assert await breaker.open_breakers(ledger) == []


@pytest.mark.parametrize(
    "words",
    [("maybe",), ("paid",), ("unpaid", "job-1"), ("paid", "two words"), ("paid", "x" * 513), ("gone", "\n")],
)  # fmt: skip
def test_a_resolution_is_read_strictly(words):
    """Words that are no resolution are refused with what is allowed."""
    with pytest.raises(HoldNotResolved, match=r"`paid|job id"):
        transitions.parse_resolution(*words)


async def test_an_order_is_found_by_what_people_read(ledger, opened):
    """#letters, capital letters and the whole id name a HOLD; the error for another name lists them."""
    request = await held(ledger, opened)
    name = short_id(request)
    for wanted in (f"#{name}", name, name.upper(), request):
        assert (await transitions.find_hold(ledger, wanted)).request_id == request
    with pytest.raises(HoldNotResolved, match=f"on HOLD: #{name}"):
        await transitions.find_hold(ledger, "nobody")


async def test_the_command_line_resolves_as_the_chat_does(ledger, ledger_url, opened):
    """`python -m bot resolve … gone` does what the chat does, in the name of the user of that terminal."""
    request = await held(ledger, opened)
    given = read_settings(_env_file=None, database_url=SecretStr(ledger_url))
    console = Console(file=io.StringIO(), width=200)
    await by_keyboard(given, console, f"#{short_id(request)}", "gone", "job-1", "they refunded nothing")
    [(to, who, why)] = await out_of_hold(ledger, request)
    assert to == V.FAILED_PAID
    assert who.startswith("operator:")
    assert "refunded nothing" in why


M = ORDER_PRICE.micros


@pytest.mark.any_ledger
@pytest.mark.parametrize("end", [V.EXPIRED, V.CANCELLED])
async def test_what_was_charged_is_not_released(ledger: Ledger, opened: Opener, end: VideoState):
    """A job turns up for an order that waits: it is charged, and the order's end gives nothing back."""
    request = await ordered(ledger, opened)
    assert await transitions.adopt_job(ledger, request, "job-1", "test", None) is None
    assert await transitions.transition(ledger, request, V.QUEUED, end, "test", "its end")
    assert await booked(ledger, request) == {"hold": [M], "charge": [M]}
    sums = await reports.cost_summary(ledger)
    assert (sums.paid, sums.held) == (ORDER_PRICE, ZERO)


@pytest.mark.any_ledger
@pytest.mark.parametrize("end", [V.EXPIRED, V.CANCELLED])
async def test_what_was_not_charged_is_released(ledger: Ledger, opened: Opener, end: VideoState):
    """Without a charge the whole hold comes back, and a job that turns up later is charged all the same."""
    request = await ordered(ledger, opened)
    assert await transitions.transition(ledger, request, V.QUEUED, end, "test", "its end")
    assert await booked(ledger, request) == {"hold": [M], "release": [M]}
    await transitions.adopt_job(ledger, request, "job-1", "test", None)
    assert await booked(ledger, request) == {"hold": [M], "release": [M], "charge": [M]}


@pytest.mark.any_ledger
async def test_an_unbilled_failure_is_refunded_not_released(ledger: Ledger, opened: Opener):
    """An accepted job that was not billed after all: a refund of its charge, and no release."""
    request = await accepted(ledger, opened, "job-1")
    assert await transitions.transition(ledger, request, V.ACCEPTED, V.FAILED_UNPAID, "test", "unbilled")
    assert await booked(ledger, request) == {"hold": [M], "charge": [M], "credit": [M]}


@pytest.mark.any_ledger
async def test_an_order_charged_for_another_job_is_not_released(ledger: Ledger, opened: Opener):
    """Back in the queue as "not sent", a job is found, its user cancels: only the charge is booked."""
    request = await begun(ledger, opened)
    assert await transitions.transition(
        ledger, request, V.SUBMITTING, V.QUEUED, "test", "not sent", fence="f1"
    )
    await transitions.adopt_job(ledger, request, "job-2", "late", None)
    assert (await transitions.cancel(ledger, request, 7)).state is V.CANCELLED
    assert await booked(ledger, request) == {"hold": [M], "charge": [M]}
