"""A job that turns up is booked: once, on its own request, from any doubtful state, however late."""

import asyncio

import pytest
from lives import NO_RATES, PRICE, Opener, accepted, begun, books, new_job, ordered, put, video_of

from ledger import breaker, transitions
from ledger.database import Ledger, LedgerError
from ledger.models import ADOPTABLE_STATES, EVERYONE, VideoState
from ledger.money import Money
from ledger.transitions import JobTaken

V = VideoState
pytestmark = pytest.mark.any_ledger


async def open_scopes(ledger: Ledger) -> list[str]:
    return [one.scope for one in await breaker.open_breakers(ledger)]


@pytest.mark.parametrize("state", sorted(ADOPTABLE_STATES))
async def test_a_late_job_is_adopted(ledger: Ledger, opened: Opener, state: VideoState):
    """From each doubtful state the job is adopted and charged once; the same job again is nothing."""
    request, job = await begun(ledger, opened), new_job()
    await put(ledger, request, state)
    adopted = await transitions.adopt_job(ledger, request, job, "law", None)
    assert adopted
    assert (adopted.state, adopted.job_id) == (V.ACCEPTED, job)
    assert await transitions.adopt_job(ledger, request, job, "law", None) is None
    assert (await books(ledger, request))["charge"] == [PRICE.micros]
    assert await open_scopes(ledger) == []


async def test_one_job_is_accepted_only_once(ledger: Ledger, opened: Opener):
    """Ten that bring the same job at once: one moves it, one charge stands, nobody is alarmed."""
    request, job = await begun(ledger, opened), new_job()
    results = await asyncio.gather(
        *(transitions.adopt_job(ledger, request, job, "law", None) for _ in range(10))
    )
    assert sum(one is not None for one in results) == 1
    assert (await books(ledger, request))["charge"] == [PRICE.micros]
    assert await open_scopes(ledger) == []


async def test_two_jobs_at_once_are_both_booked(ledger: Ledger, opened: Opener):
    """Two jobs of one request that arrive at once: one is its video, both are charged, all starts stop."""
    for _ in range(4):
        request = await begun(ledger, opened)
        jobs = [new_job(), new_job()]
        results = await asyncio.gather(
            *(transitions.adopt_job(ledger, request, job, "law", None) for job in jobs)
        )
        assert sum(one is not None for one in results) == 1
        assert (await books(ledger, request))["charge"] == [PRICE.micros] * 2
        assert await open_scopes(ledger) == [EVERYONE]
        assert await breaker.close(ledger, EVERYONE, "law")


@pytest.mark.parametrize("state", sorted(set(V) - {V.AWAITING_APPROVAL}))
async def test_a_second_job_is_never_hidden(ledger: Ledger, opened: Opener, state: VideoState):
    """In any state a second job is booked once at what it cost, the video stays, and all starts stop."""
    request = await begun(ledger, opened)
    await put(ledger, request, state, job_id=new_job())
    second = new_job()
    for _ in range(2):
        assert await transitions.adopt_job(ledger, request, second, "law", Money(1_500_000)) is None
    assert (await video_of(ledger, request)).state is state
    assert (await books(ledger, request))["charge"] == [1_500_000]
    assert await open_scopes(ledger) == [EVERYONE]


async def test_a_closed_breaker_is_not_opened_twice_for_one_job(ledger: Ledger, opened: Opener):
    """Once the operator has dealt with a second job, the same news changes nothing."""
    request, second = await accepted(ledger, opened, new_job()), new_job()
    await transitions.adopt_job(ledger, request, second, "law", None)
    assert await breaker.close(ledger, EVERYONE, "law")
    await transitions.adopt_job(ledger, request, second, "law", None)
    assert await open_scopes(ledger) == []


@pytest.mark.parametrize("second", [False, True], ids=["its own job", "its second job"])
async def test_another_requests_job_is_refused(ledger: Ledger, opened: Opener, second: bool):
    """A job in the books of one request cannot be booked on another: a plain error, and nothing changes."""
    job = new_job()
    owner = await accepted(ledger, opened, new_job() if second else job)
    await transitions.adopt_job(ledger, owner, job, "law", None)
    await breaker.close(ledger, EVERYONE, "law")
    for state in (V.IN_DOUBT, V.DELIVERED):
        other = await begun(ledger, opened)
        await put(ledger, other, state)
        with pytest.raises(JobTaken, match=f"'{job}' of local belongs to request {owner}, not to {other}"):
            await transitions.adopt_job(ledger, other, job, "law", None)
        assert set(await books(ledger, other)) == {"hold"}
        assert (await video_of(ledger, other)).state is state
    assert issubclass(JobTaken, LedgerError)


async def test_a_job_offered_to_many_requests_at_once_goes_to_one(ledger: Ledger, opened: Opener):
    """Six doubtful orders and one job: one adopts it, five are told whose it is."""
    ids = [await begun(ledger, opened) for _ in range(6)]
    job = new_job()
    results = await asyncio.gather(
        *(transitions.adopt_job(ledger, one, job, "law", None) for one in ids), return_exceptions=True
    )
    assert sum(isinstance(one, JobTaken) for one in results) == 5
    assert sum(getattr(one, "state", None) is V.ACCEPTED for one in results) == 1


async def test_every_booked_job_is_claimed(ledger: Ledger, opened: Opener):
    """A reconciler that lists a provider's jobs sees second jobs as claimed too."""
    first, second = new_job(), new_job()
    request = await accepted(ledger, opened, first)
    await transitions.adopt_job(ledger, request, second, "law", None)
    assert await transitions.claimed_jobs(ledger, "local") == {first, second}
    assert await transitions.claimed_jobs(ledger, "other") == set()


async def test_a_job_needs_an_order(ledger: Ledger):
    """A job for a request that never ordered names the request and the job."""
    with pytest.raises(LookupError, match=r"'tg:none' has no order; job 'j'"):
        await transitions.adopt_job(ledger, "tg:none", "j", "law", None)


async def test_an_order_that_was_charged_is_not_sent_again(ledger: Ledger, opened: Opener):
    """A job for an order that waits (so "not sent" was no proof): no POST, though the breaker was closed."""
    request = await ordered(ledger, opened)
    assert await transitions.adopt_job(ledger, request, new_job(), "law", None) is None
    assert await breaker.close(ledger, EVERYONE, "law")
    assert await transitions.begin_submit(ledger, request, "f", 30, NO_RATES) is None
