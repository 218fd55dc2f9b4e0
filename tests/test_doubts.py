"""Doubts: "absent" takes two lists, a replay takes a living key, and a job is nobody's that two could own.

The oracle is the provider's own charge log; each law ends with the books compared to it.
"""

import asyncio
from dataclasses import replace

import pytest
from doubts import SLOW, after, in_doubt, late_look
from lives import books

from evals.environment import PRICE
from ledger.database import Ledger
from ledger.models import VideoState
from ledger.schema import videos
from providers.openai_dialects import INWORLD, OPENAI
from providers.pricing import capabilities_of
from worker.context import Timeouts
from worker.sweeper import reconcile_all

V = VideoState


async def test_absent_takes_two_lists_two_minutes_apart(pipeline_env):
    """After the settle time one list is no proof, nor is a second one too soon; two minutes later it is."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    request = await in_doubt(env)
    assert await after(env, 601, request) == [V.IN_DOUBT]
    assert await after(env, 60, request) == [V.IN_DOUBT]
    assert await after(env, 61, request) == [V.FAILED_UNPAID]
    assert len(env.fake_provider.posts()) == 1
    assert await books(env.ledger, request) == {"hold": [PRICE.micros], "release": [PRICE.micros]}


async def test_two_early_lists_do_not_shorten_the_settle_time(pipeline_env):
    """Two lists within the settle time prove nothing yet; the first one after it does, with them."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    request = await in_doubt(env)
    for seconds in (10, 130, 130):
        assert await after(env, seconds, request) == [V.IN_DOUBT]
    assert await after(env, 400, request) == [V.FAILED_UNPAID]


async def test_the_first_absent_survives_a_restart(pipeline_env, ledger_url):
    """The first list was read by a process that is gone: another counts from it, not from its own start."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    request = await in_doubt(env)
    await after(env, 601)
    other = Ledger(ledger_url, shift=env.ledger.shift + 121)
    await reconcile_all(replace(env.worker, ledger=other))
    await other.close()
    assert (await env.video(request)).state is V.FAILED_UNPAID


async def test_an_unclear_answer_between_starts_anew(pipeline_env):
    """A list that could not be read between two "absent" is no news of absence: two new lists are needed."""
    env = await pipeline_env(shape="openai", quick=SLOW | {"settle_s": 1000.0})
    request = await in_doubt(env)
    await after(env, 601)
    assert (await env.video(request)).absent_at
    env.fake_provider.listing = False
    await after(env, 61)
    env.fake_provider.listing = True
    assert await after(env, 500, request) == [V.IN_DOUBT]
    assert await after(env, 121, request) == [V.FAILED_UNPAID]


async def test_a_job_between_the_lists_is_adopted(pipeline_env):
    """What the first list did not show and the second does is ours: one charge, one video, no second POST."""
    env = await pipeline_env(shape="openai", quick=SLOW)
    request = await in_doubt(env, "charge_drop")
    hidden = dict(env.fake_provider.jobs)
    env.fake_provider.jobs.clear()
    assert await after(env, 601, request) == [V.IN_DOUBT]
    env.fake_provider.jobs.update(hidden)
    assert await after(env, 121, request) == [V.ACCEPTED]
    await env.finish(request)
    assert len(env.fake_provider.posts()) == 1


async def test_the_gap_of_a_real_provider_is_two_minutes():
    """Nobody sets it: two minutes are the default; and a keyed provider's doubt waits as long as its key."""
    from evals.environment import PRICES

    listed, keyed = capabilities_of(OPENAI, PRICES), capabilities_of(INWORLD, PRICES)
    assert (listed.absent_gap_s, listed.settle_s, listed.replay_for_s) == (120, 600, 0)
    assert keyed.settle_s == keyed.replay_for_s == 3600


# Replay


async def test_a_replay_ends_with_the_life_of_its_key(pipeline_env):
    """Within the documented life of the key the same bytes are sent again; later nothing is, ever."""
    env = await pipeline_env(quick={"settle_s": 3600.0})
    request = await in_doubt(env, "drop")
    env.fake_provider.script("500", "500")
    await after(env, 10)
    assert len(env.fake_provider.posts()) == 2
    env.ledger.shift += 3590
    await reconcile_all(env.worker)
    assert (await env.video(request)).state is V.HOLD
    await late_look(env)
    assert len(env.fake_provider.posts()) == 2
    assert len({post["digest"] for post in env.fake_provider.posts()}) == 1


async def test_a_keys_life_counts_from_the_first_post(pipeline_env):
    """An order whose first POST was refused for now long ago is not replayed on the age of its last one."""
    env = await pipeline_env(quick={"settle_s": 3600.0})
    request = await in_doubt(env, "drop")
    async with env.ledger.write() as conn:
        now = await env.ledger.now(conn)
        await conn.execute(videos.update().values(submitted_at=now - 3600_000))
    await reconcile_all(env.worker)
    assert (await env.video(request)).state is V.IN_DOUBT
    assert len(env.fake_provider.posts()) == 1


async def test_one_process_asks_at_a_time(pipeline_env):
    """Six workers that find one doubt ask once between them, and the pause grows with the doubt's age."""
    env = await pipeline_env(shape="openai", quick=SLOW, timeouts=Timeouts(slack_s=4, ask_s=2))
    request = await in_doubt(env)
    await asyncio.gather(*(reconcile_all(env.worker) for _ in range(6)))
    assert (
        len(
            [
                one
                for one in env.fake_provider.requests()
                if one["method"] == "GET" and "limit" in one["query"]
            ]
        )
        == 1
    )
    timeouts = Timeouts()
    assert [round(timeouts.reconcile_pause_s(age)) for age in (0, 600, 3600)] == [2, 22, 122]
    assert (await env.video(request)).state is V.IN_DOUBT


# Whose job


@pytest.mark.parametrize("same", [True, False], ids=["the same words", "other words"])
async def test_a_job_that_two_orders_could_own_is_nobodys(pipeline_env, same):
    """Two doubtful orders of the same words and one job: no list says whose it is, so a person does. Other
    words, or a seed, say it.
    """
    env = await pipeline_env(shape="openai", quick={"settle_s": 60.0})
    first = await in_doubt(env, "drop")
    second = await in_doubt(env, "charge_drop", 8, **({} if same else {"prompt": "A quiet harbour."}))
    await reconcile_all(env.worker)
    found = [(await env.video(one)).state for one in (first, second)]
    assert found == ([V.IN_DOUBT] * 2 if same else [V.IN_DOUBT, V.ACCEPTED])
    if same:
        assert await after(env, 61, first, second) == [V.HOLD, V.HOLD]


async def test_a_seed_says_whose_it_is(pipeline_env):
    """The same two orders at a server that shows the seed: the job goes to the order that made it."""
    env = await pipeline_env(shape="vllm_omni", shows=("seed",))
    first, second = await in_doubt(env, "drop"), await in_doubt(env, "charge_drop", 8)
    await reconcile_all(env.worker)
    assert [(await env.video(one)).state for one in (first, second)] == [V.IN_DOUBT, V.ACCEPTED]
