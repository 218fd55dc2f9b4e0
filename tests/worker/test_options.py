"""An order is made with what its person usually chooses, whatever the model writes; its row is sent."""

from dataclasses import replace

import pytest

from guardrails.money import Money
from ledger import options, people
from ledger.due_work import ClaimedVideo
from ledger.models import VideoState
from tests.support.counters import held_by
from tests.support.models import order
from tools.options import wanted
from tools.styles import STYLES
from worker.approval import approve
from worker.submit import build_video_request

ASKS = {"approval": "always", "cooldown": None}
NEVER = {"approval": "never", "cooldown": None}
DOLLAR = Money.parse("$1.20")


async def offered(env, idea: str | None = None):
    request = await env.open_request(7, idea=idea) if idea else await env.open_request(7)
    await env.run_agent(request)
    return await env.video(request)


async def choose(env, video, option, value, bounds):
    return await options.choose(
        env.ledger, video.request_id, 7, option,
        lambda row: wanted(env.agent_factory.offer, row, option, value), bounds, valid_s=900,
    )  # fmt: skip


async def test_what_a_person_chose_last_reaches_the_next_order(pipeline_env):
    """Chosen on an offer that was taken; the model writes 8 seconds upright all the same."""
    env = await pipeline_env([order(), order()], changes=ASKS)
    video = await offered(env)
    bounds = (await env.run_context(video.request_id)).limits
    for option, value in (("seconds", "12"), ("shape", "wide"), ("style", "clay")):
        choice = await choose(env, video, option, value, bounds)
        assert choice.outcome == "chosen"
    assert (await people.find(env.ledger, 7)).default_seconds is None
    tapped = await approve(env.worker, env.agent_factory.offer, bounds, choice.video.nonce, 7)
    assert (tapped.outcome, tapped.video.quote) == ("approved", DOLLAR)
    person = await people.find(env.ledger, 7)
    assert (person.default_seconds, person.default_size, person.style) == (12, "1280x720", "clay")


@pytest.mark.parametrize("changes", [ASKS, NEVER], ids=["asks", "never"])
async def test_the_usual_is_ordered_and_counted_at_its_price(pipeline_env, changes):
    """Guard and body act on the same length: what Redis counts is what the ledger holds."""
    env = await pipeline_env([order()], changes=changes)
    await people.save(env.ledger, 7, default_seconds=12, default_size="1280x720", style="anime", sound=False)
    video = await offered(env)
    assert (video.seconds, video.size, video.style, video.quote) == (12, "1280x720", "anime", DOLLAR)
    assert video.prompt.endswith(STYLES["anime"])
    assert video.sound is None, "its model has no switch"
    held = await held_by(env.worker.admission, 7)
    counts = changes is NEVER
    assert (held.takes, held.micros) == ((1, DOLLAR.micros) if counts else (0, 0))


async def test_a_usual_length_is_asked_for_at_its_price(pipeline_env):
    """ "Don't ask below $1" reads the price of what is ordered, not of what the model wrote."""
    env = await pipeline_env([order()], changes=ASKS)
    await people.save(env.ledger, 7, default_seconds=12, ask_below=Money.parse("$1"))
    assert (await offered(env)).state is VideoState.AWAITING_APPROVAL


async def test_defaults_that_cannot_be_read_change_nothing(pipeline_env, monkeypatch):
    env = await pipeline_env([order()], changes=ASKS)
    await people.save(env.ledger, 7, default_seconds=12)

    async def away(*_: object):
        raise ConnectionError

    monkeypatch.setattr(people, "find", away)
    assert (await offered(env)).seconds == 8


async def test_choices_between_two_taps_count_once_in_redis(pipeline_env):
    """A tap at the old price, a choice, a tap at the new one: the order of the row is counted, once."""
    env = await pipeline_env([order()], changes=ASKS)
    video = await offered(env)
    bounds = (await env.run_context(video.request_id)).limits
    choice = await choose(env, video, "seconds", "12", bounds)
    offer = env.agent_factory.offer
    old = await approve(env.worker, offer, bounds, video.nonce, 7)
    new = await approve(env.worker, offer, bounds, choice.video.nonce, 7)
    assert (old.outcome, new.outcome) == ("gone", "approved")
    await env.worker.admission.refresh()
    held = await held_by(env.worker.admission, 7)
    assert (held.takes, held.micros) == (1, DOLLAR.micros)


async def test_what_is_sent_is_the_row(pipeline_env):
    """Style, sound and what to avoid come from the row alone: the same in every process, at every replay."""
    env = await pipeline_env([order()], changes=NEVER)
    await people.save(env.ledger, 7, style="clay")
    video = await offered(env)
    claimed = ClaimedVideo(
        replace(video, sound=0, avoid="people"), now=0, clock=0, idea="a market", traceparent=None
    )
    sent = build_video_request(claimed)
    assert sent.prompt == video.prompt
    assert (sent.sound, sent.avoid, sent.style) == (False, "people", "clay")
