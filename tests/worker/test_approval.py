"""The tap: Redis and the ledger agree, whichever process takes it, and whichever store refuses."""

import asyncio
from dataclasses import replace

import pytest

from guardrails.admission import Admission
from guardrails.limits import LimitExceeded
from guardrails.money import Money
from ledger import people, transitions
from ledger.models import VideoState
from tests.support.counters import held_by
from tests.support.models import order
from worker.approval import approve

ASKS = {"approval": "always", "cooldown": None}
PRICE = Money.parse("$0.80")


async def offered(env, user_id: int = 7):
    """Run the agent for a new request; return its offer."""
    request = await env.open_request(user_id)
    await env.run_agent(request)
    video = await env.video(request)
    assert video.state is VideoState.AWAITING_APPROVAL
    return video


async def tap(env, video, user_id: int = 7, **changes):
    offer = replace(env.agent_factory.offer, **changes)
    bounds = (await env.run_context(video.request_id)).limits
    return await approve(env.worker, offer, bounds, video.nonce, user_id)


async def takes(env) -> int:
    return (await held_by(env.worker.admission, 7)).takes


async def test_an_offer_is_counted_with_its_tap_and_made_once(pipeline_env):
    """Nothing is counted before; eight taps at once are one order, one count and one charge."""
    env = await pipeline_env([order()], changes=ASKS)
    video = await offered(env)
    await env.worker.admission.refresh()
    assert await takes(env) == 0
    found = await asyncio.gather(*(tap(env, video) for _ in range(8)))
    assert sorted(one.outcome for one in found) == ["already"] * 7 + ["approved"]
    assert await takes(env) == 1
    assert await env.finish_video(video.request_id) is VideoState.SUCCEEDED
    await env.worker.admission.refresh()
    assert await takes(env) == 1
    assert (await tap(env, video)).outcome == "already"


async def test_what_the_ledger_refuses_is_given_back_in_redis(pipeline_env, monkeypatch):
    """Redis admits, SQL does not: the tap is refused in the ledger's words, and Redis counts nothing."""
    env = await pipeline_env([order()], changes={**ASKS, "quota": "1/day"})
    video = await offered(env)
    monkeypatch.setattr("ledger.limits.recount", _refuse)
    refused = await tap(env, video)
    assert refused.denied is not None
    assert (refused.outcome, refused.denied.verdict) == ("refused", "quota")
    assert await takes(env) == 0


async def _refuse(*_: object, **__: object):
    return LimitExceeded("quota", None, 1, 1)


async def test_without_redis_nothing_is_lost(pipeline_env, monkeypatch):
    """The tap is refused as `closed`, the offer stays, and the next tap makes it."""
    env = await pipeline_env([order()], changes=ASKS)
    video = await offered(env)
    with monkeypatch.context() as away:
        away.setattr(Admission, "_run_admit", _away)
        refused = await tap(env, video)
    assert refused.denied is not None
    assert (refused.outcome, refused.denied.verdict) == ("refused", "closed")
    assert (await env.video(video.request_id)).state is VideoState.AWAITING_APPROVAL
    assert (await tap(env, video)).outcome == "approved"


async def _away(*_: object, **__: object):
    raise ConnectionError


async def test_a_changed_price_is_offered_again_and_counts_nothing(pipeline_env):
    env = await pipeline_env([order()], changes=ASKS)
    video = await offered(env)
    again = await tap(env, video, quote=lambda *_, **__: Money.parse("$1.60"))
    assert (again.outcome, again.video.quote, again.video.offered) == ("changed", Money.parse("$1.60"), PRICE)
    assert await takes(env) == 0
    assert ("notify", video.request_id) in env.queue.asked


async def test_a_tap_and_a_cancel_agree_with_redis(pipeline_env):
    """Whichever comes first, nothing stays counted of what was cancelled."""
    env = await pipeline_env([order()], changes=ASKS)
    video = await offered(env)

    async def cancel():
        await env.worker.apply_effects((await transitions.cancel(env.ledger, video.request_id, 7)).video)

    await asyncio.gather(tap(env, video), cancel())
    assert (await env.video(video.request_id)).state is VideoState.CANCELLED
    await env.worker.admission.refresh()
    assert await takes(env) == 0


@pytest.mark.parametrize(
    ("approval", "below", "state"),
    [
        ("always", "$0.81", "QUEUED"),
        ("always", "$0.80", "AWAITING_APPROVAL"),
        ("always", None, "AWAITING_APPROVAL"),
        ("over $0.79", "$0.50", "AWAITING_APPROVAL"),
        ("over $0.79", "$1", "QUEUED"),
        ("over $0.80", None, "QUEUED"),
        ("never", None, "QUEUED"),
    ],
)
async def test_a_person_lifts_the_question_up_to_an_amount(pipeline_env, approval, below, state):
    """Below the amount that its user has set, a video is ordered without a tap; at it and above, not."""
    env = await pipeline_env([order()], changes={**ASKS, "approval": approval})
    if below is not None:
        await people.save(env.ledger, 7, ask_below=Money.parse(below))
    request = await env.open_request(7)
    await env.run_agent(request)
    assert (await env.video(request)).state == state
    assert await takes(env) == (state == "QUEUED")


async def test_a_setting_that_cannot_be_read_asks(pipeline_env, monkeypatch):
    env = await pipeline_env([order()], changes=ASKS)
    await people.save(env.ledger, 7, ask_below=Money.parse("$9"))

    async def away(*_: object):
        raise ConnectionError

    monkeypatch.setattr(people, "find", away)
    assert (await offered(env)).state is VideoState.AWAITING_APPROVAL
