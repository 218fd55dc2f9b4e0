"""The ledger's entries and the provider's charges agree after every transition."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.limits import EVERYONE
from guardrails.money import Money
from ledger import breaker, transitions
from ledger.database import Ledger
from ledger.models import Video, VideoState
from tests.support.factories import (
    NO_RATES,
    ORDER_PRICE,
    OVER_STORES,
    Opener,
    accepted,
    begun,
    booked,
    new_job,
    ordered,
    put,
    video_of,
)
from tests.support.services import wipe

V = VideoState
pytestmark = pytest.mark.any_ledger
DONE = {V.DELIVERED, V.FAILED_PAID, V.FAILED_UNPAID, V.CANCELLED, V.EXPIRED}


@pytest.mark.slow
@dataclass
class Life:
    """One order and the provider that it is sent to; `bill` is what the provider really took, by job."""

    ledger: Ledger
    request: str
    billed: Money | None = None
    bill: dict[str, int] = field(default_factory=dict)

    def events(self, video: Video) -> list[Callable[[Video], Awaitable[None]]]:
        """Everything that may happen to a video in this state."""
        per_state = {
            V.QUEUED: [self.begin, self.cancel, self.expire],
            V.SUBMITTING: [self.answer, self.not_sent, self.reject, self.unknown_outcome, self.answer],
            V.IN_DOUBT: [self.answer, self.unpaid, self.hold],
            V.HOLD: [self.answer, self.unpaid, self.paid],
            V.ACCEPTED: [self.succeed, self.paid, self.unpaid, self.hold, self.unpaid],
            V.SUCCEEDED: [self.deliver],
            V.FAILED_UNPAID: [self.answer],
        }
        return [*per_state.get(video.state, []), self.second_job, self.again]

    async def _move(self, video: Video, to: VideoState, **more) -> None:
        for turn in range(2):  # everything arrives twice
            moved = await transitions.transition(
                self.ledger, self.request, video.state, to, "test", "any", **more
            )
            assert bool(moved) == (turn == 0)

    async def begin(self, video: Video) -> None:
        assert await transitions.begin_submit(self.ledger, self.request, "f", 30, NO_RATES)

    async def cancel(self, video: Video) -> None:
        assert (await transitions.cancel(self.ledger, self.request, 7)).state is V.CANCELLED

    async def expire(self, video: Video) -> None:
        await self._move(video, V.EXPIRED)

    async def answer(self, video: Video) -> None:
        """The provider's job is known: it took the billed figure, or what it asked for."""
        job = video.job_id or new_job()
        known = self.bill.get(job, 0) if video.state is V.HOLD else 0
        took = self.billed.micros if self.billed is not None else known or ORDER_PRICE.micros
        assert await transitions.adopt_job(self.ledger, self.request, job, "test", self.billed)
        self.bill[job] = took

    async def not_sent(self, video: Video) -> None:
        await self._move(video, V.QUEUED, fence="f")

    async def reject(self, video: Video) -> None:
        await self._move(video, V.FAILED_UNPAID, fence="f")

    async def unknown_outcome(self, video: Video) -> None:
        await self._move(video, V.IN_DOUBT, fence="f")

    async def hold(self, video: Video) -> None:
        await self._move(video, V.HOLD)

    async def unpaid(self, video: Video) -> None:
        """Proof that this job took nothing, or gave it back."""
        await self._move(video, V.FAILED_UNPAID)
        if video.job_id:
            self.bill[video.job_id] = 0

    async def paid(self, video: Video) -> None:
        job = video.job_id or "unknown"
        await self._move(video, V.FAILED_PAID, billed=self.billed)
        self.bill[job] = (
            self.billed.micros if self.billed is not None else self.bill.get(job, ORDER_PRICE.micros)
        )

    async def succeed(self, video: Video) -> None:
        await self._move(video, V.SUCCEEDED)

    async def deliver(self, video: Video) -> None:
        await self._move(video, V.DELIVERED)

    async def second_job(self, video: Video) -> None:
        if video.job_id is None:
            return
        job = new_job()
        self.bill[job] = self.billed.micros if self.billed is not None else ORDER_PRICE.micros
        for _ in range(2):
            assert await transitions.adopt_job(self.ledger, self.request, job, "test", self.billed) is None
        assert await breaker.close(self.ledger, EVERYONE, "test")

    async def again(self, video: Video) -> None:
        if video.job_id and video.state is not V.FAILED_UNPAID and video.state is not V.HOLD:
            assert (
                await transitions.adopt_job(self.ledger, self.request, video.job_id, "test", ORDER_PRICE)
                is None
            )

    async def check(self, *, released_before: bool) -> bool:
        """Compare entries and bill; return whether the hold was released."""
        video, found = await video_of(self.ledger, self.request), await booked(self.ledger, self.request)
        assert sum(found.get("charge", [])) - sum(found.get("credit", [])) == sum(self.bill.values())
        assert found["hold"] == [ORDER_PRICE.micros]
        released = found.get("release", [])
        assert released in ([], [ORDER_PRICE.micros])
        if released and not released_before:
            assert not found.get("charge"), "a hold that was charged cannot be given back"
        if video.state in DONE:
            assert released or found.get("charge"), f"the hold is still open in {video.state}"
        return bool(released)


@settings(OVER_STORES, max_examples=20)
@given(
    path=st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([None, None, 0, 1_250_000, 4_000_000])),
        min_size=4,
        max_size=12,
    )
)
async def test_the_ledger_says_what_the_provider_charged(ledger: Ledger, opened: Opener, path):
    """Charged − refunded is what the provider kept, after every transition; a hold is released once or
    charged, and a charge that comes after the release is booked as a charge.
    """
    await wipe(ledger)
    life, released = Life(ledger, await ordered(ledger, opened)), False
    for choice, billed in path:
        life.billed = None if billed is None else Money(billed)
        video = await video_of(ledger, life.request)
        events = life.events(video)
        await events[choice % len(events)](video)
        released = await life.check(released_before=released)


async def test_a_release_twice_is_impossible(ledger: Ledger, opened: Opener):
    """However many workers report at once that nothing was charged, the hold is released once."""
    request = await begun(ledger, opened)
    await asyncio.gather(
        *(
            transitions.transition(
                ledger, request, V.SUBMITTING, V.FAILED_UNPAID, "test", "refused", fence="f1"
            )
            for _ in range(8)
        )
    )
    assert await booked(ledger, request) == {"hold": [ORDER_PRICE.micros], "release": [ORDER_PRICE.micros]}


async def test_refunds_twice_and_out_of_order(ledger: Ledger, opened: Opener):
    """ "Unbilled" before the job is known, the job late, "unbilled" again, twice: each counts once."""
    request, job = await begun(ledger, opened), new_job()
    await transitions.transition(
        ledger, request, V.SUBMITTING, V.FAILED_UNPAID, "test", "refused", fence="f1"
    )
    assert await transitions.adopt_job(ledger, request, job, "late", None)
    for _ in range(2):
        await transitions.transition(ledger, request, V.ACCEPTED, V.FAILED_UNPAID, "test", "unbilled")
    price = [ORDER_PRICE.micros]
    assert await booked(ledger, request) == {
        "hold": price,
        "release": price,
        "charge": price,
        "credit": price,
    }


async def test_a_refund_that_was_wrong_is_charged_again(ledger: Ledger, opened: Opener):
    """A job said to be unbilled that turns up as billed after all costs what it costs, however often."""
    job = new_job()
    request = await accepted(ledger, opened, job)
    for _ in range(3):
        assert await transitions.transition(ledger, request, V.ACCEPTED, V.FAILED_UNPAID, "test", "unbilled")
        assert await transitions.adopt_job(ledger, request, job, "late", None)
    found = await booked(ledger, request)
    assert (len(found["charge"]), len(found["credit"])) == (4, 3)
    assert sum(found["charge"]) - sum(found["credit"]) == ORDER_PRICE.micros


@pytest.mark.parametrize("billed", [0, 1, 2_000_000, 9_000_000])
async def test_a_charge_is_the_billed_figure(ledger: Ledger, opened: Opener, billed: int):
    """The provider's own figure is booked, nothing at all too; the quote only where it names none."""
    request = await accepted(ledger, opened, new_job(), Money(billed))
    assert (await booked(ledger, request))["charge"] == [billed]


@pytest.mark.parametrize("billed", [0, 1_000_000, 5_000_000])
async def test_a_later_figure_corrects_the_ledger(ledger: Ledger, opened: Opener, billed: int):
    """A job that ends at another price than it began: the difference is refunded or charged."""
    request = await accepted(ledger, opened, new_job())
    await transitions.transition(
        ledger, request, V.ACCEPTED, V.FAILED_PAID, "test", "moderated", billed=Money(billed)
    )
    found = await booked(ledger, request)
    assert sum(found["charge"]) - sum(found.get("credit", [])) == billed


async def test_a_hold_resolved_as_paid_is_charged(ledger: Ledger, opened: Opener):
    """A HOLD resolved as paid without a job id charges the quote, once."""
    request = await ordered(ledger, opened)
    await put(ledger, request, V.HOLD)
    for _ in range(2):
        await transitions.transition(
            ledger, request, V.HOLD, V.FAILED_PAID, "admin:1", "on the provider's invoice"
        )
    assert await booked(ledger, request) == {"hold": [ORDER_PRICE.micros], "charge": [ORDER_PRICE.micros]}


async def test_every_send_that_a_gateway_admits_is_booked(ledger: Ledger, opened: Opener) -> None:
    """Sent three times, one job known: three charges, and the breaker opens; a repeated answer adds none."""
    request = await begun(ledger, opened)
    moved = await transitions.adopt_job(ledger, request, "job-1", "shoot", None, sends=3)
    assert moved is not None
    assert (moved.state, moved.job_id) == (V.ACCEPTED, "job-1")
    assert await transitions.adopt_job(ledger, request, "job-1", "shoot", None, sends=3) is None
    assert (await booked(ledger, request))["charge"] == [ORDER_PRICE.micros] * 3
    assert (await video_of(ledger, request)).cost == ORDER_PRICE * 3
    [opening] = await breaker.open_breakers(ledger)
    assert opening.scope == EVERYONE
    assert "3 times" in opening.why


async def test_an_unbilled_failure_refunds_the_known_job_alone(ledger: Ledger, opened: Opener) -> None:
    """What the other sends made is unknown: they stay charged until a person says otherwise."""
    request = await begun(ledger, opened)
    await transitions.adopt_job(ledger, request, "job-1", "shoot", None, sends=2)
    await transitions.transition(ledger, request, V.ACCEPTED, V.FAILED_UNPAID, "test", "unbilled")
    assert (await video_of(ledger, request)).cost == ORDER_PRICE
