"""A video moves along the edges of DESIGN §6 and no others; of many that move it at once, one does."""

import asyncio
from itertools import product

import pytest
from lives import NO_RATES, Opener, accepted, begun, books, history, new_job, ordered, put, video_of

from ledger import pending_work, transitions
from ledger.database import Ledger
from ledger.models import ADOPTABLE_STATES, ALLOWED_TRANSITIONS, VideoState
from ledger.transitions import InvalidTransition, JobTaken

V = VideoState
pytestmark = pytest.mark.any_ledger

# Written out from DESIGN §6 once more, so that a slip in `words.EDGES` cannot agree with itself.
DESIGN = """
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
    for line in DESIGN.split("\n")
    if line
    for frm, _, rest in [line.partition(":")]
    for to in rest.split()
}


@pytest.mark.parametrize("frm", list(V))
async def test_every_edge_of_the_design_and_no_other(ledger: Ledger, opened: Opener, frm: VideoState):
    """A move along an edge of DESIGN §6 happens and is logged; any other raises and changes nothing."""
    for to in V:
        request = await ordered(ledger, opened)
        await put(ledger, request, frm, fence="f", job_id=new_job())
        move = transitions.transition(ledger, request, frm, to, "law", "tried", fence="f")
        if (frm, to) in ALLOWED:
            moved = await move
            assert moved, f"{frm} → {to}"
            assert moved.state is to
            assert (await history(ledger, request))[-1] == (frm, to, "law")
        else:
            with pytest.raises(InvalidTransition, match=f"a video in {frm} may move to .*, not to {to}"):
                await move
            assert (await video_of(ledger, request)).state is frm
            assert len(await history(ledger, request)) == 1


def test_the_edges_in_the_code_are_those_of_the_design(dialect):
    """`words.EDGES` says what DESIGN §6 says, for every pair of states."""
    for frm, to in product(V, V):
        assert (to in ALLOWED_TRANSITIONS[frm]) == ((frm, to) in ALLOWED), f"{frm} → {to}"


async def test_of_many_moves_at_once_one_wins(ledger: Ledger, opened: Opener):
    """Cancelled, expired and begun at once: one move wins, the others change nothing, the hold ends once."""
    for _ in range(5):
        request = await ordered(ledger, opened)
        results = await asyncio.gather(
            *(transitions.transition(ledger, request, V.QUEUED, V.CANCELLED, "law", "c") for _ in range(4)),
            *(transitions.transition(ledger, request, V.QUEUED, V.EXPIRED, "law", "e") for _ in range(4)),
            *(transitions.begin_submit(ledger, request, f"f{n}", 30, NO_RATES) for n in range(4)),
        )
        won = [one for one in results if one]
        assert len(won) == 1
        assert (await video_of(ledger, request)).state is won[0].state
        assert len(await history(ledger, request)) == 2
        assert len((await books(ledger, request)).get("release", [])) == (won[0].state is not V.SUBMITTING)


@pytest.mark.parametrize("to", [V.QUEUED, V.FAILED_UNPAID])
async def test_only_the_holder_gives_back_or_sends_again(ledger: Ledger, opened: Opener, to: VideoState):
    """Out of SUBMITTING back to the queue or to unpaid needs the fence: another's changes nothing."""
    request = await begun(ledger, opened, "mine")
    with pytest.raises(InvalidTransition, match="give its fence"):
        await transitions.transition(ledger, request, V.SUBMITTING, to, "law", "no fence")
    assert (
        await transitions.transition(ledger, request, V.SUBMITTING, to, "law", "stale", fence="theirs")
        is None
    )
    assert await transitions.transition(ledger, request, V.SUBMITTING, to, "law", "holder", fence="mine")


async def test_a_stale_holder_moves_nothing(ledger: Ledger, opened: Opener):
    """After the order was taken again, the fence of the first taker fits no more."""
    request = await begun(ledger, opened, "first")
    await transitions.transition(ledger, request, V.SUBMITTING, V.QUEUED, "law", "not sent", fence="first")
    assert await transitions.begin_submit(ledger, request, "second", 30, NO_RATES)
    for to in (V.QUEUED, V.FAILED_UNPAID, V.IN_DOUBT):
        assert (
            await transitions.transition(ledger, request, V.SUBMITTING, to, "law", "stale", fence="first")
            is None
        )


async def test_others_call_it_doubtful_only_after_the_deadline(
    ledger: Ledger, ledger_url: str, opened: Opener
):
    """Before its deadline the holder alone says what became of a POST; afterwards anybody doubts it."""
    request = await begun(ledger, opened)
    assert await pending_work.in_state(ledger, V.SUBMITTING, past_deadline=True) == []
    assert await transitions.transition(ledger, request, V.SUBMITTING, V.IN_DOUBT, "sweep", "early") is None
    later = Ledger(ledger_url, shift=31)
    assert [v.request_id for v in await pending_work.in_state(later, V.SUBMITTING, past_deadline=True)] == [
        request
    ]
    assert await transitions.transition(later, request, V.SUBMITTING, V.IN_DOUBT, "sweep", "deadline")
    await later.close()


async def test_the_holder_may_doubt_at_once(ledger: Ledger, opened: Opener):
    """An ambiguous answer is in doubt at once, on the holder's word."""
    request = await begun(ledger, opened, "mine")
    assert await transitions.transition(
        ledger, request, V.SUBMITTING, V.IN_DOUBT, "shoot", "502", fence="mine"
    )


async def test_a_job_belongs_to_one_request(ledger: Ledger, opened: Opener):
    """(provider, job id) is unique: a move that names another's job is refused and changes nothing."""
    job = new_job()
    await accepted(ledger, opened, job)
    second = await begun(ledger, opened)
    with pytest.raises(JobTaken, match="belongs to another request"):
        await transitions.transition(
            ledger, second, V.SUBMITTING, V.ACCEPTED, "law", "taken", fence="f1", job_id=job
        )
    assert (await video_of(ledger, second)).state is V.SUBMITTING
    assert set(await books(ledger, second)) == {"hold"}


async def test_nothing_is_accepted_without_a_job(ledger: Ledger, opened: Opener):
    """ACCEPTED means that the provider's job is known."""
    request = await begun(ledger, opened)
    with pytest.raises(InvalidTransition, match="job id"):
        await transitions.transition(ledger, request, V.SUBMITTING, V.ACCEPTED, "law", "no job", fence="f1")
    assert (await video_of(ledger, request)).state is V.SUBMITTING


def test_late_jobs_are_adopted_where_the_design_says(dialect):
    """The doubtful states are those that have an edge to ACCEPTED."""
    assert {frm for frm, to in ALLOWED if to == V.ACCEPTED} == ADOPTABLE_STATES


async def test_progress_never_goes_back(ledger: Ledger, opened: Opener):
    """Progress is written while the job is accepted, and only forward."""
    request = await accepted(ledger, opened, new_job())
    for said in (10, 60, 30):
        await transitions.set_progress(ledger, request, said)
    assert (await video_of(ledger, request)).progress == 60
    await transitions.transition(ledger, request, V.ACCEPTED, V.HOLD, "law", "gone")
    await transitions.set_progress(ledger, request, 90)
    assert (await video_of(ledger, request)).progress == 60
