"""A video's state changes along allowed edges only; of many concurrent changes one wins."""

import asyncio
from itertools import product

import pytest

from guardrails.limits import EVERYONE, BreakerRates, LimitExceeded, Limits, StartRate, user_scope
from guardrails.money import Money
from ledger import breaker, due_work, orders, transitions
from ledger.database import Ledger, LedgerError
from ledger.models import ADOPTABLE_STATES, ALLOWED_TRANSITIONS, VideoState
from ledger.transitions import InvalidTransition, JobTaken
from tests.support.factories import (
    NO_RATES,
    ORDER_PRICE,
    Opener,
    accepted,
    begun,
    booked,
    history,
    new_job,
    order_for,
    ordered,
    put,
    video_of,
)

V = VideoState
pytestmark = pytest.mark.any_ledger

# Written out again, so that a slip in `ALLOWED_TRANSITIONS` cannot agree with itself.
EDGES = """
AWAITING_APPROVAL: QUEUED CANCELLED EXPIRED
QUEUED: SUBMITTING CANCELLED EXPIRED
SUBMITTING: ACCEPTED FAILED_UNPAID IN_DOUBT QUEUED
IN_DOUBT: ACCEPTED FAILED_UNPAID HOLD
HOLD: ACCEPTED FAILED_UNPAID FAILED_PAID
ACCEPTED: SUCCEEDED FAILED_PAID FAILED_UNPAID HOLD
SUCCEEDED: DELIVERED
FAILED_UNPAID: ACCEPTED
"""
ALLOWED = {
    (frm, to)
    for line in EDGES.split("\n")
    if line
    for frm, _, rest in [line.partition(":")]
    for to in rest.split()
}


@pytest.mark.representative
@pytest.mark.parametrize("frm", list(V))
async def test_every_allowed_edge_and_no_other(ledger: Ledger, opened: Opener, frm: VideoState):
    """A change along an allowed edge happens and is logged; any other raises and changes nothing."""
    for to in V:
        request = await ordered(ledger, opened)
        await put(ledger, request, frm, fence="f", job_id=new_job())
        move = transitions.transition(ledger, request, frm, to, "test", "tried", fence="f")
        if (frm, to) in ALLOWED:
            moved = await move
            assert moved, f"{frm} → {to}"
            assert moved.state is to
            assert (await history(ledger, request))[-1] == (frm, to, "test")
        else:
            with pytest.raises(InvalidTransition, match=f"a video in {frm} may move to .*, not to {to}"):
                await move
            assert (await video_of(ledger, request)).state is frm
            assert len(await history(ledger, request)) == 1


def test_the_edges_in_the_code_are_these(dialect):
    """`ALLOWED_TRANSITIONS` has these edges and no others, for every pair of states."""
    for frm, to in product(V, V):
        assert (to in ALLOWED_TRANSITIONS[frm]) == ((frm, to) in ALLOWED), f"{frm} → {to}"


@pytest.mark.slow
async def test_one_of_many_concurrent_transitions_wins(ledger: Ledger, opened: Opener):
    """Cancelled, expired and begun at once: one wins, the others change nothing, the hold ends once."""
    for _ in range(5):
        request = await ordered(ledger, opened)
        results = await asyncio.gather(
            *(transitions.transition(ledger, request, V.QUEUED, V.CANCELLED, "test", "c") for _ in range(4)),
            *(transitions.transition(ledger, request, V.QUEUED, V.EXPIRED, "test", "e") for _ in range(4)),
            *(transitions.begin_submit(ledger, request, f"f{n}", 30, NO_RATES) for n in range(4)),
        )
        won = [one for one in results if one]
        assert len(won) == 1
        state = getattr(won[0], "video", won[0]).state  # `begin_submit` returns more than the row
        assert (await video_of(ledger, request)).state is state
        assert len(await history(ledger, request)) == 2
        assert len((await booked(ledger, request)).get("release", [])) == (state is not V.SUBMITTING)


@pytest.mark.parametrize("to", [V.QUEUED, V.FAILED_UNPAID])
async def test_only_the_owner_requeues_or_fails_an_order(ledger: Ledger, opened: Opener, to: VideoState):
    """Out of SUBMITTING back to the queue or to unpaid needs the fence: another's changes nothing."""
    request = await begun(ledger, opened, "mine")
    with pytest.raises(InvalidTransition, match="give its fence"):
        await transitions.transition(ledger, request, V.SUBMITTING, to, "test", "no fence")
    assert (
        await transitions.transition(ledger, request, V.SUBMITTING, to, "test", "stale", fence="theirs")
        is None
    )
    assert await transitions.transition(ledger, request, V.SUBMITTING, to, "test", "holder", fence="mine")


async def test_a_stale_fence_changes_nothing(ledger: Ledger, opened: Opener):
    """After the order was claimed again, the first fence is no longer valid."""
    request = await begun(ledger, opened, "first")
    await transitions.transition(ledger, request, V.SUBMITTING, V.QUEUED, "test", "not sent", fence="first")
    assert await transitions.begin_submit(ledger, request, "second", 30, NO_RATES)
    for to in (V.QUEUED, V.FAILED_UNPAID, V.IN_DOUBT):
        assert (
            await transitions.transition(ledger, request, V.SUBMITTING, to, "test", "stale", fence="first")
            is None
        )


async def test_others_move_it_to_in_doubt_only_after_the_deadline(
    ledger: Ledger, ledger_url: str, opened: Opener
):
    """Before the deadline only the owner says how a POST ended; then any worker moves it to IN_DOUBT."""
    request = await begun(ledger, opened)
    assert await due_work.claim_videos(ledger, [V.SUBMITTING], 9, 0) == []
    assert await transitions.transition(ledger, request, V.SUBMITTING, V.IN_DOUBT, "sweep", "early") is None
    later = Ledger(ledger_url, shift=31)
    overdue = await due_work.claim_videos(later, [V.SUBMITTING], 9, 0)
    assert [one.video.request_id for one in overdue] == [request]
    assert await transitions.transition(later, request, V.SUBMITTING, V.IN_DOUBT, "sweep", "deadline")
    await later.close()


async def test_the_owner_may_report_an_unknown_outcome_at_once(ledger: Ledger, opened: Opener):
    """After an ambiguous answer the owner moves its order to IN_DOUBT at once."""
    request = await begun(ledger, opened, "mine")
    assert await transitions.transition(
        ledger, request, V.SUBMITTING, V.IN_DOUBT, "shoot", "502", fence="mine"
    )


async def test_a_job_belongs_to_one_request(ledger: Ledger, opened: Opener):
    """(provider, job id) is unique: a transition that names another's job is refused and changes nothing."""
    job = new_job()
    await accepted(ledger, opened, job)
    second = await begun(ledger, opened)
    with pytest.raises(JobTaken, match="belongs to another request"):
        await transitions.transition(
            ledger, second, V.SUBMITTING, V.ACCEPTED, "test", "taken", fence="f1", job_id=job
        )
    assert (await video_of(ledger, second)).state is V.SUBMITTING
    assert set(await booked(ledger, second)) == {"hold"}


async def test_nothing_is_accepted_without_a_job(ledger: Ledger, opened: Opener):
    """ACCEPTED means that the provider's job is known."""
    request = await begun(ledger, opened)
    with pytest.raises(InvalidTransition, match="job id"):
        await transitions.transition(ledger, request, V.SUBMITTING, V.ACCEPTED, "test", "no job", fence="f1")
    assert (await video_of(ledger, request)).state is V.SUBMITTING


def test_late_jobs_are_linked_in_every_state_before_accepted(dialect):
    """A late job is linked in exactly the states that have an edge to ACCEPTED."""
    assert {frm for frm, to in ALLOWED if to == V.ACCEPTED} == ADOPTABLE_STATES


async def test_progress_never_goes_back(ledger: Ledger, opened: Opener):
    """Progress is written while the job is accepted, and only forward."""
    request = await accepted(ledger, opened, new_job())
    for said in (10, 60, 30):
        await transitions.set_progress(ledger, request, said)
    assert (await video_of(ledger, request)).progress == 60
    await transitions.transition(ledger, request, V.ACCEPTED, V.HOLD, "test", "gone")
    await transitions.set_progress(ledger, request, 90)
    assert (await video_of(ledger, request)).progress == 60


async def start(ledger: Ledger, request: str, rates: BreakerRates = NO_RATES):
    return await transitions.begin_submit(ledger, request, "f", 30, rates)


async def test_an_order_is_begun_by_one(ledger: Ledger, opened: Opener):
    """Of eight workers that begin one order at once, one holds it; the row carries its fence and deadline."""
    request = await ordered(ledger, opened)
    results = await asyncio.gather(
        *(transitions.begin_submit(ledger, request, f"f{n}", 30, NO_RATES) for n in range(8))
    )
    held = [one for one in results if one]
    assert len(held) == 1
    video = await video_of(ledger, request)
    assert (video.state, video.fence, video.submits) == (V.SUBMITTING, held[0].video.fence, 1)
    assert video.submitted_at
    assert video.deadline_at == video.submitted_at + 30_000


@pytest.mark.parametrize("state", sorted(set(V) - {V.QUEUED}))
async def test_only_what_is_queued_is_begun(ledger: Ledger, opened: Opener, state: VideoState):
    """No other state may be sent, and an unknown request neither."""
    request = await ordered(ledger, opened)
    await put(ledger, request, state)
    assert await start(ledger, request) is None
    assert await start(ledger, "tg:unknown") is None


@pytest.mark.parametrize("scope", [EVERYONE, user_scope(7)])
async def test_nothing_begins_while_a_breaker_is_open(ledger: Ledger, opened: Opener, scope: str):
    """An open breaker stops the starts of its scope, its orders too, until an operator closes it."""
    request, other = await ordered(ledger, opened), await ordered(ledger, opened, user_id=8)
    async with ledger.write() as conn:
        await breaker.open_for_everyone(ledger, conn, "test", "tried", 1)
        await breaker._set(conn, EVERYONE, "closed", "test", "", 1)
        await breaker._set(conn, scope, "open", "test", "tried", 1)
    assert await start(ledger, request) is None
    assert await orders.place(ledger, order_for(await opened()), Limits()) == LimitExceeded("breaker")
    assert bool(await start(ledger, other)) == (scope != EVERYONE)
    assert [one.scope for one in await breaker.open_breakers(ledger)] == [scope]
    assert await breaker.close(ledger, scope, "operator")
    assert not await breaker.close(ledger, scope, "operator")
    assert await start(ledger, request)


@pytest.mark.parametrize(
    ("rates", "scope"),
    [
        (BreakerRates(user=StartRate(3, 300)), user_scope(7)),
        (BreakerRates(everyone=StartRate(3, 300)), EVERYONE),
    ],
    ids=["user", "everyone"],
)
async def test_more_starts_than_the_rate_open_it(
    ledger: Ledger, opened: Opener, rates: BreakerRates, scope: str
):
    """Three in five minutes begin; the fourth opens the breaker, and it stays open."""
    ids = [await ordered(ledger, opened) for _ in range(5)]
    results = await asyncio.gather(*(start(ledger, one, rates) for one in ids))
    assert sum(one is not None for one in results) == 3
    found = await breaker.open_breakers(ledger)
    assert [(one.scope, one.why) for one in found] == [(scope, "4 paid starts in 300 s, allowed 3")]
    assert await start(ledger, left_waiting(ids, results), BreakerRates()) is None


def left_waiting(ids, results) -> str:
    return next(one for one, held in zip(ids, results, strict=True) if held is None)


async def test_the_breakers_window_rolls(ledger: Ledger, ledger_url: str, opened: Opener):
    """Starts that are older than the window do not count."""
    rates = BreakerRates(user=StartRate(1, 300))
    first, second = [await ordered(ledger, opened) for _ in range(2)]
    assert await start(ledger, first, rates)
    later = Ledger(ledger_url, shift=301)
    assert await start(later, second, rates)
    assert await breaker.open_breakers(ledger) == []
    await later.close()


async def test_another_users_starts_do_not_count(ledger: Ledger, opened: Opener):
    """The user's rate counts the user's own starts."""
    rates = BreakerRates(user=StartRate(1, 300))
    for user in range(1, 5):
        assert await start(ledger, await ordered(ledger, opened, user_id=user), rates)
    assert await breaker.open_breakers(ledger) == []


async def test_a_requeued_order_counts_as_one_start(ledger: Ledger, opened: Opener):
    """An order that comes back proved unsent is sent again without counting once more."""
    request, rates = (
        await ordered(ledger, opened),
        BreakerRates(user=StartRate(1, 300), everyone=StartRate(1, 300)),
    )
    for turn in range(1, 5):
        started = await start(ledger, request, rates)
        assert started
        assert started.video.submits == turn
        await transitions.transition(ledger, request, V.SUBMITTING, V.QUEUED, "test", "not sent", fence="f")
    assert await breaker.open_breakers(ledger) == []


async def test_nothing_begins_before_its_time_or_after_its_end(
    ledger: Ledger, ledger_url: str, opened: Opener
):
    """`retry_at` holds an order back, `expires_at` ends it."""
    request = await begun(ledger, opened)
    now = (await video_of(ledger, request)).updated_at
    await transitions.transition(
        ledger, request, V.SUBMITTING, V.QUEUED, "test", "429", fence="f1", retry_at=now + 60_000
    )
    assert await start(ledger, request) is None
    for shift, begins in ((1801, False), (61, True)):
        later = Ledger(ledger_url, shift=shift)
        assert bool(await start(later, request)) is begins
        await later.close()


@pytest.mark.slow
async def test_orders_and_starts_lock_in_one_order(ledger: Ledger, opened: Opener):
    """Orders, starts, late jobs and cancels of many users at once end without a deadlock or a locked file."""
    ids = [await ordered(ledger, opened, user_id=user) for user in range(1, 9)]
    fresh = [await opened(user_id=user) for user in range(1, 9)]
    await asyncio.gather(
        *(orders.place(ledger, order_for(one), Limits(quota=9)) for one in fresh),
        *(
            start(ledger, one, BreakerRates(user=StartRate(9, 300), everyone=StartRate(99, 300)))
            for one in ids
        ),
        *(transitions.cancel(ledger, one, user) for user, one in enumerate(ids, start=1)),
        *(transitions.adopt_job(ledger, one, f"job-{one}", "test", None) for one in ids),
    )


async def open_scopes(ledger: Ledger) -> list[str]:
    return [one.scope for one in await breaker.open_breakers(ledger)]


@pytest.mark.parametrize("state", sorted(ADOPTABLE_STATES))
async def test_a_late_job_is_adopted(ledger: Ledger, opened: Opener, state: VideoState):
    """From each such state the job is linked and charged once; the same job again changes nothing."""
    request, job = await begun(ledger, opened), new_job()
    await put(ledger, request, state)
    adopted = await transitions.adopt_job(ledger, request, job, "test", None)
    assert adopted
    assert (adopted.state, adopted.job_id) == (V.ACCEPTED, job)
    assert await transitions.adopt_job(ledger, request, job, "test", None) is None
    assert (await booked(ledger, request))["charge"] == [ORDER_PRICE.micros]
    assert await open_scopes(ledger) == []


async def test_one_job_is_accepted_only_once(ledger: Ledger, opened: Opener):
    """Ten that bring the same job at once: one changes it, one charge is booked, no breaker opens."""
    request, job = await begun(ledger, opened), new_job()
    results = await asyncio.gather(
        *(transitions.adopt_job(ledger, request, job, "test", None) for _ in range(10))
    )
    assert sum(one is not None for one in results) == 1
    assert (await booked(ledger, request))["charge"] == [ORDER_PRICE.micros]
    assert await open_scopes(ledger) == []


async def test_two_jobs_at_once_are_both_booked(ledger: Ledger, opened: Opener):
    """Two jobs of one request that arrive at once: one is its video, both are charged, all starts stop."""
    for _ in range(4):
        request = await begun(ledger, opened)
        jobs = [new_job(), new_job()]
        results = await asyncio.gather(
            *(transitions.adopt_job(ledger, request, job, "test", None) for job in jobs)
        )
        assert sum(one is not None for one in results) == 1
        assert (await booked(ledger, request))["charge"] == [ORDER_PRICE.micros] * 2
        assert await open_scopes(ledger) == [EVERYONE]
        assert await breaker.close(ledger, EVERYONE, "test")


@pytest.mark.parametrize("state", sorted(set(V) - {V.AWAITING_APPROVAL}))
async def test_a_second_job_is_never_hidden(ledger: Ledger, opened: Opener, state: VideoState):
    """In any state a second job is booked once at what it cost, the video stays, and all starts stop."""
    request = await begun(ledger, opened)
    await put(ledger, request, state, job_id=new_job())
    second = new_job()
    for _ in range(2):
        assert await transitions.adopt_job(ledger, request, second, "test", Money(1_500_000)) is None
    assert (await video_of(ledger, request)).state is state
    assert (await booked(ledger, request))["charge"] == [1_500_000]
    assert await open_scopes(ledger) == [EVERYONE]


async def test_a_closed_breaker_is_not_opened_twice_for_one_job(ledger: Ledger, opened: Opener):
    """Once the operator has dealt with a second job, the same report changes nothing."""
    request, second = await accepted(ledger, opened, new_job()), new_job()
    await transitions.adopt_job(ledger, request, second, "test", None)
    assert await breaker.close(ledger, EVERYONE, "test")
    await transitions.adopt_job(ledger, request, second, "test", None)
    assert await open_scopes(ledger) == []


@pytest.mark.parametrize("second", [False, True], ids=["its own job", "its second job"])
async def test_another_requests_job_is_refused(ledger: Ledger, opened: Opener, second: bool):
    """A job of one request cannot be booked on another: a plain error, and nothing changes."""
    job = new_job()
    owner = await accepted(ledger, opened, new_job() if second else job)
    await transitions.adopt_job(ledger, owner, job, "test", None)
    await breaker.close(ledger, EVERYONE, "test")
    for state in (V.IN_DOUBT, V.DELIVERED):
        other = await begun(ledger, opened)
        await put(ledger, other, state)
        with pytest.raises(JobTaken, match=f"'{job}' of local belongs to request {owner}, not to {other}"):
            await transitions.adopt_job(ledger, other, job, "test", None)
        assert set(await booked(ledger, other)) == {"hold"}
        assert (await video_of(ledger, other)).state is state
    assert issubclass(JobTaken, LedgerError)


async def test_a_job_offered_to_many_requests_at_once_goes_to_one(ledger: Ledger, opened: Opener):
    """Six orders with an unknown outcome and one job: one gets it, five errors name its owner."""
    ids = [await begun(ledger, opened) for _ in range(6)]
    job = new_job()
    results = await asyncio.gather(
        *(transitions.adopt_job(ledger, one, job, "test", None) for one in ids), return_exceptions=True
    )
    assert sum(isinstance(one, JobTaken) for one in results) == 5
    assert sum(getattr(one, "state", None) is V.ACCEPTED for one in results) == 1


async def test_every_booked_job_is_claimed(ledger: Ledger, opened: Opener):
    """A reconciler that lists a provider's jobs sees second jobs as claimed too."""
    first, second = new_job(), new_job()
    request = await accepted(ledger, opened, first)
    await transitions.adopt_job(ledger, request, second, "test", None)
    many = [first, second, *(f"no job of ours {n}" for n in range(1200))]
    assert await transitions.claimed_jobs(ledger, ["local"], many) == {first, second}
    assert await transitions.claimed_jobs(ledger, ["local"], [second]) == {second}
    assert await transitions.claimed_jobs(ledger, ["other"], many) == set()
    assert await transitions.claimed_jobs(ledger, ["local"], []) == set()


async def test_a_job_needs_an_order(ledger: Ledger):
    """A job for a request that never ordered names the request and the job."""
    with pytest.raises(LookupError, match=r"'tg:none' has no order; job 'j'"):
        await transitions.adopt_job(ledger, "tg:none", "j", "test", None)


async def test_an_order_that_was_charged_is_not_sent_again(ledger: Ledger, opened: Opener):
    """A job for an order that waits (so "not sent" was no proof): no POST, though the breaker was closed."""
    request = await ordered(ledger, opened)
    assert await transitions.adopt_job(ledger, request, new_job(), "test", None) is None
    assert await breaker.close(ledger, EVERYONE, "test")
    assert await transitions.begin_submit(ledger, request, "f", 30, NO_RATES) is None


@pytest.mark.any_ledger
async def test_a_pause_longer_than_the_order_may_wait_ends_it_in_time(ledger: Ledger, opened: Opener):
    """A provider asks to wait for longer than the order is valid: it is due when it expires."""
    request = await begun(ledger, opened)
    expires_at = (await video_of(ledger, request)).expires_at
    moved = await transitions.transition(
        ledger, request, VideoState.SUBMITTING, VideoState.QUEUED, "shoot", "throttled",
        fence="f1", retry_at=expires_at + 7_200_000,
    )  # fmt: skip
    assert moved is not None
    assert moved.due_at == expires_at
