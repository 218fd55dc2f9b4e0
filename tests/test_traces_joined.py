"""What comes later to a request, a tap or a question about a doubt, hangs in the request's own trace."""

import pytest
from chat_stage import state_is
from otlp import receiver
from test_chat_approval import MAKE, offer_of
from test_traces import lawful, open_stage, settled
from waiting import wait_until

from ledger.models import VideoState
from telemetry import semconv

USER = 7_300_451_199


@pytest.fixture
async def collector():
    async with receiver() as made:
        yield made


async def test_a_tap_goes_on_in_its_requests_trace(app_env, collector):
    """Who taps [Make it] an hour later is seen in the trace of the command; nobody's number is in it."""
    env = await open_stage(app_env, collector, changes={"approval": "always"})
    offer = await offer_of(env, USER)
    await env.user(USER).tap(offer.id, MAKE)
    await state_is(env, VideoState.DELIVERED, USER)
    (trace,) = await settled(collector)
    lawful(trace)
    tap = trace.one("telegram callback")
    assert (tap.kind, trace.parent(tap)) == ("SERVER", trace.roots[0])
    moves = {
        event[1][semconv.WHO]
        for event in trace.one(semconv.VIDEO).events
        if event[0] == semconv.STATE_CHANGED
    }
    assert moves == {"tool", "user", "shoot", "watch", "tell"}
    assert str(USER).encode() not in collector.raw


async def test_a_tap_about_nothing_is_a_trace_of_its_own(app_env, collector):
    """A second tap decides nothing: it stays out of the request's trace, and is still seen."""
    env = await open_stage(app_env, collector, changes={"approval": "always"})
    offer = await offer_of(env)
    for _ in range(2):
        query = await env.user().tap(offer.id, MAKE)
        await env.user().wait_for_answer(query)
    await settled(collector)

    async def seen() -> bool:
        return sum(bool(one.named("telegram callback")) for one in collector.traces().values()) == 2

    await wait_until(seen, 20, "both taps")
    (trace,) = await settled(collector)
    lawful(trace)
    trace.one("telegram callback")


async def test_a_question_about_a_doubt_is_below_its_video(app_env, collector):
    """A charge whose answer was lost: each question is a span that says what the provider answered; none is
    an error, since the doubt is the error of `submit video`.
    """
    env = await open_stage(app_env, collector, shape="openai")
    env.fake_provider.script("charge_drop")
    _, video = await env.create()
    assert video.state is VideoState.DELIVERED
    (trace,) = await settled(collector)
    lawful(trace)
    questions = trace.named(semconv.RECONCILE)
    assert {trace.parent(one).name for one in questions} == {semconv.VIDEO}
    found = [event[1][semconv.FINDING] for one in questions for event in one.events]
    assert len(found) == len(questions)
    assert set(found) <= {"found", "absent", "unsure"}
    assert "found" in found
    assert not any(one.error for one in questions)
    assert trace.one(semconv.SUBMIT).error
