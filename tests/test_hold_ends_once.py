"""A hold ends once: a charge uses it up or a release gives it back, never both."""

import pytest
from lives import PRICE, Opener, accepted, begun, books, ordered

from ledger import reports, transitions
from ledger.database import Ledger
from ledger.models import VideoState
from ledger.money import ZERO

V = VideoState
M = PRICE.micros


@pytest.mark.any_ledger
@pytest.mark.parametrize("end", [V.EXPIRED, V.CANCELLED])
async def test_what_was_charged_is_not_released(ledger: Ledger, opened: Opener, end: VideoState):
    """A job turns up for an order that waits: it is charged, and the order's end gives nothing back."""
    request = await ordered(ledger, opened)
    assert await transitions.adopt_job(ledger, request, "job-1", "law", None) is None
    assert await transitions.transition(ledger, request, V.QUEUED, end, "law", "its end")
    assert await books(ledger, request) == {"hold": [M], "charge": [M]}
    sums = await reports.cost_summary(ledger)
    assert (sums.paid, sums.held) == (PRICE, ZERO)


@pytest.mark.any_ledger
@pytest.mark.parametrize("end", [V.EXPIRED, V.CANCELLED])
async def test_what_was_not_charged_is_released(ledger: Ledger, opened: Opener, end: VideoState):
    """Without a charge the whole hold comes back, and a job that turns up later is charged all the same."""
    request = await ordered(ledger, opened)
    assert await transitions.transition(ledger, request, V.QUEUED, end, "law", "its end")
    assert await books(ledger, request) == {"hold": [M], "release": [M]}
    await transitions.adopt_job(ledger, request, "job-1", "law", None)
    assert await books(ledger, request) == {"hold": [M], "release": [M], "charge": [M]}


@pytest.mark.any_ledger
async def test_an_unbilled_failure_is_credited_not_released(ledger: Ledger, opened: Opener):
    """An accepted job that was not billed after all: a credit for its charge, and no release beside it."""
    request = await accepted(ledger, opened, "job-1")
    assert await transitions.transition(ledger, request, V.ACCEPTED, V.FAILED_UNPAID, "law", "unbilled")
    assert await books(ledger, request) == {"hold": [M], "charge": [M], "credit": [M]}


@pytest.mark.any_ledger
async def test_an_order_charged_for_another_job_is_not_released(ledger: Ledger, opened: Opener):
    """Back in the queue as "not sent", then a job turns up and its user cancels: the charge stands alone."""
    request = await begun(ledger, opened)
    assert await transitions.transition(
        ledger, request, V.SUBMITTING, V.QUEUED, "law", "not sent", fence="f1"
    )
    await transitions.adopt_job(ledger, request, "job-2", "late", None)
    assert await transitions.cancel(ledger, request, 7) is V.CANCELLED
    assert await books(ledger, request) == {"hold": [M], "charge": [M]}
