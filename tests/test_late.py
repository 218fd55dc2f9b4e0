"""Doubts and late charges: "absent" takes two lists, a replay takes a living key, and a late job is booked.

The oracle is the provider's own charge log; each law ends with the books compared to it.
"""

import asyncio
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from conftest import wait_until
from lives import books, history
from theatre import PRICE, QUICK_PACE

from chat.texts import texts
from ledger import breaker, looks, moves
from ledger.schema import videos
from ledger.store import Ledger
from ledger.words import VideoState
from tools.studio.late import look_late
from tools.studio.parts import Pace
from tools.studio.providers.catalogue import capabilities_of
from tools.studio.providers.dialects import INWORLD, OPENAI
from tools.studio.sweep import settle_doubts

V = VideoState
MINUTE = 60
SLOW = {"settle_s": 600.0, "absent_gap_s": 120.0}
"""The real times of a provider with a list; the laws move the store's clock."""


async def in_doubt(stage, outcome="drop", user_id=7, **changes):
    stage.peer.script(outcome)
    request = await stage.ordered(user_id, **changes)
    await stage.shoot(request)
    assert (await stage.video(request)).state is V.IN_DOUBT
    return request


async def after(stage, seconds, *requests):
    """Let time pass and ask; return the states."""
    stage.ledger.shift += seconds
    await settle_doubts(stage.studio)
    return [(await stage.video(one)).state for one in requests]


async def lost(stage, user_id=7, **changes):
    """An order that was charged, whose job no list showed in time: it ended unpaid. Return it and its job."""
    request = await in_doubt(stage, "charge_drop", user_id, **changes)
    hidden = dict(stage.peer.jobs)
    stage.peer.jobs.clear()
    for seconds in (601, 121):
        await after(stage, seconds)
    assert (await stage.video(request)).state is V.FAILED_UNPAID
    stage.peer.jobs.update(hidden)
    return request


async def late_look(stage, seconds=61):
    stage.ledger.shift += seconds
    await look_late(stage.studio)


# Absent


async def test_absent_takes_two_lists_two_minutes_apart(backstage):
    """After the settle time one list is no proof, nor is a second one too soon; two minutes later it is."""
    stage = await backstage(shape="openai", quick=SLOW)
    request = await in_doubt(stage)
    assert await after(stage, 601, request) == [V.IN_DOUBT]
    assert await after(stage, 60, request) == [V.IN_DOUBT]
    assert await after(stage, 61, request) == [V.FAILED_UNPAID]
    assert len(stage.peer.posts()) == 1
    assert await books(stage.ledger, request) == {"hold": [PRICE.micros], "release": [PRICE.micros]}


async def test_two_early_lists_do_not_shorten_the_settle_time(backstage):
    """Two lists within the settle time prove nothing yet; the first one after it does, with them."""
    stage = await backstage(shape="openai", quick=SLOW)
    request = await in_doubt(stage)
    for seconds in (10, 130, 130):
        assert await after(stage, seconds, request) == [V.IN_DOUBT]
    assert await after(stage, 400, request) == [V.FAILED_UNPAID]


async def test_the_first_absent_survives_a_restart(backstage, ledger_url):
    """The first list was read by a process that is gone: another counts from it, not from its own start."""
    stage = await backstage(shape="openai", quick=SLOW)
    request = await in_doubt(stage)
    await after(stage, 601)
    other = Ledger(ledger_url, shift=stage.ledger.shift + 121)
    await settle_doubts(replace(stage.studio, ledger=other))
    await other.close()
    assert (await stage.video(request)).state is V.FAILED_UNPAID


async def test_an_unclear_answer_between_starts_anew(backstage):
    """A list that could not be read between two "absent" is no news of absence: two new lists are needed."""
    stage = await backstage(shape="openai", quick=SLOW | {"settle_s": 1000.0})
    request = await in_doubt(stage)
    await after(stage, 601)
    assert (await stage.video(request)).absent_at
    stage.peer.listing = False
    await after(stage, 61)
    stage.peer.listing = True
    assert await after(stage, 500, request) == [V.IN_DOUBT]
    assert await after(stage, 121, request) == [V.FAILED_UNPAID]


async def test_a_job_between_the_lists_is_adopted(backstage):
    """What the first list did not show and the second does is ours: one charge, one video, no second POST."""
    stage = await backstage(shape="openai", quick=SLOW)
    request = await in_doubt(stage, "charge_drop")
    hidden = dict(stage.peer.jobs)
    stage.peer.jobs.clear()
    assert await after(stage, 601, request) == [V.IN_DOUBT]
    stage.peer.jobs.update(hidden)
    assert await after(stage, 121, request) == [V.ACCEPTED]
    await stage.finish(request)
    assert len(stage.peer.posts()) == 1


async def test_the_gap_of_a_real_provider_is_two_minutes():
    """Nobody sets it: two minutes are the default; and a keyed provider's doubt waits as long as its key."""
    from theatre import PRICES

    listed, keyed = capabilities_of(OPENAI, PRICES), capabilities_of(INWORLD, PRICES)
    assert (listed.absent_gap_s, listed.settle_s, listed.replay_for_s) == (120, 600, 0)
    assert keyed.settle_s == keyed.replay_for_s == 3600


# Replay


async def test_a_replay_ends_with_the_life_of_its_key(backstage):
    """Within the documented life of the key the same bytes are sent again; later nothing is, ever."""
    stage = await backstage(quick={"settle_s": 3600.0})
    request = await in_doubt(stage, "drop")
    stage.peer.script("500", "500")
    await after(stage, 10)
    assert len(stage.peer.posts()) == 2
    stage.ledger.shift += 3590
    await settle_doubts(stage.studio)
    assert (await stage.video(request)).state is V.HOLD
    await late_look(stage)
    assert len(stage.peer.posts()) == 2
    assert len({post["digest"] for post in stage.peer.posts()}) == 1


async def test_a_keys_life_counts_from_the_first_post(backstage):
    """An order whose first POST was refused for now long ago is not replayed on the age of its last one."""
    stage = await backstage(quick={"settle_s": 3600.0})
    request = await in_doubt(stage, "drop")
    async with stage.ledger.write() as conn:
        now = await stage.ledger.now(conn)
        await conn.execute(videos.update().values(submitted_at=now - 3600_000))
    await settle_doubts(stage.studio)
    assert (await stage.video(request)).state is V.IN_DOUBT
    assert len(stage.peer.posts()) == 1


async def test_one_process_asks_at_a_time(backstage):
    """Six workers that find one doubt ask once between them, and the pause grows with the doubt's age."""
    stage = await backstage(shape="openai", quick=SLOW, pace=Pace(slack_s=4, ask_s=2))
    request = await in_doubt(stage)
    await asyncio.gather(*(settle_doubts(stage.studio) for _ in range(6)))
    assert (
        len([one for one in stage.peer.requests() if one["method"] == "GET" and "limit" in one["query"]]) == 1
    )
    pace = Pace()
    assert [round(pace.asks_again_s(age)) for age in (0, 600, 3600)] == [2, 22, 122]
    assert (await stage.video(request)).state is V.IN_DOUBT


# Whose job


@pytest.mark.parametrize("same", [True, False], ids=["the same words", "other words"])
async def test_a_job_that_two_orders_could_own_is_nobodys(backstage, same):
    """Two doubtful orders of the same words and one job: no list says whose it is, so a person does. Other
    words, or a seed, say it.
    """
    stage = await backstage(shape="openai", quick={"settle_s": 60.0})
    first = await in_doubt(stage, "drop")
    second = await in_doubt(stage, "charge_drop", 8, **({} if same else {"prompt": "A quiet harbour."}))
    await settle_doubts(stage.studio)
    found = [(await stage.video(one)).state for one in (first, second)]
    assert found == ([V.IN_DOUBT] * 2 if same else [V.IN_DOUBT, V.ACCEPTED])
    if same:
        assert await after(stage, 61, first, second) == [V.HOLD, V.HOLD]


async def test_a_seed_says_whose_it_is(backstage):
    """The same two orders at a server that shows the seed: the job goes to the order that made it."""
    stage = await backstage(shape="vllm_omni", shows=("seed",))
    first, second = await in_doubt(stage, "drop"), await in_doubt(stage, "charge_drop", 8)
    await settle_doubts(stage.studio)
    assert [(await stage.video(one)).state for one in (first, second)] == [V.IN_DOUBT, V.ACCEPTED]


# Late charges


async def test_a_late_charge_is_booked_and_its_video_made(backstage):
    """An order that ended unpaid turns out to have a job: adopted, charged, made; nothing is ever sent."""
    stage = await backstage(shape="openai", quick=SLOW)
    request = await lost(stage)
    await late_look(stage)
    video = await stage.video(request)
    assert (video.state, video.failure) == (V.ACCEPTED, "late")
    assert ("FAILED_UNPAID", "ACCEPTED", "late") in await history(stage.ledger, request)
    [(_, made)] = await stage.finish(request)
    assert made.state is V.SUCCEEDED
    assert await stage.paid() == sum(stage.peer.net().values()) == PRICE.micros
    assert len(stage.peer.posts()) == 1
    assert await breaker.opened(stage.ledger) == []


async def test_a_post_that_came_late_is_caught(backstage, monkeypatch):
    """A worker stops between its last look at the clock and the first byte, for longer than the settle time:
    the order ended unpaid, then its POST goes out, and its answer dies with the worker. The charge is found.
    """
    stage = await backstage(shape="openai", quick=SLOW | {"submit_timeout_s": 5.0})
    provider = stage.studio.providers["openai_compat"]
    asleep, awake, send = asyncio.Event(), asyncio.Event(), provider.submit

    async def submit(take):
        asleep.set()
        await awake.wait()
        await send(take)
        raise SystemError("the worker is killed")

    monkeypatch.setattr(provider, "submit", submit)
    request = await stage.ordered()
    worker = asyncio.create_task(stage.shoot(request))
    await asyncio.wait_for(asleep.wait(), 5)
    stage.ledger.shift += 30
    async with stage.ledger.read() as conn:
        assert (await stage.video(request)).deadline_at < await stage.ledger.now(conn)
    from tools.studio.sweep import sweep

    await sweep(stage.studio)
    for seconds in (1200, 121):
        await after(stage, seconds)
    assert (await stage.video(request)).state is V.FAILED_UNPAID
    stage.peer.clock_s = stage.ledger.shift
    awake.set()
    await worker
    assert (await stage.video(request)).state is V.FAILED_UNPAID
    await late_look(stage)
    assert (await stage.video(request)).state is V.ACCEPTED
    assert len(stage.peer.charges()) == 1


async def test_a_late_charge_may_exceed_a_limit(backstage):
    """The day's budget was spent on another video meanwhile: the late charge is booked all the same, and the
    next order is refused.
    """
    stage = await backstage(shape="openai", quick=SLOW, changes={"budget": "{user: $0.80/day}"})
    request = await lost(stage)
    second = await stage.ordered(prompt="A quiet harbour.")
    await stage.finish(second)
    await late_look(stage)
    [(_, made)] = await stage.finish(request)
    assert made.state is V.SUCCEEDED
    assert await stage.paid() == sum(stage.peer.net().values()) == 2 * PRICE.micros
    with pytest.raises(AssertionError, match="budget"):
        await stage.ordered(prompt="A third thing.")


async def test_a_held_order_is_looked_at_too(backstage):
    """The list was away when the settle time ended: HOLD; a day is long, and the list shows the job in it."""
    stage = await backstage(shape="openai", quick={"settle_s": 1.0}, listing=False)
    request = await in_doubt(stage, "charge_drop")
    assert await after(stage, 2, request) == [V.HOLD]
    stage.peer.listing = True
    await late_look(stage)
    video = await stage.video(request)
    assert (video.state, video.failure) == (V.ACCEPTED, None)
    await stage.finish(request)


async def test_a_held_order_that_is_absent_stays_held(backstage):
    """What a person must settle is not settled by silence: absent from a late list changes nothing."""
    stage = await backstage(shape="openai", quick={"settle_s": 1.0}, listing=False)
    request = await in_doubt(stage)
    assert await after(stage, 2, request) == [V.HOLD]
    stage.peer.listing = True
    for seconds in (61, 600, 600):
        await late_look(stage, seconds)
    assert (await stage.video(request)).state is V.HOLD


@pytest.mark.parametrize(
    ("word", "ends"), [("completed", V.SUCCEEDED), ("failed", V.FAILED_UNPAID), ("", V.HOLD)]
)
async def test_a_held_job_that_ends_late_is_brought_to_its_end(backstage, word, ends):
    """An overdue job is asked about by its own id: finished, it is made; failed, it is settled as it is
    billed; still running, it stays with the person.
    """
    stage = await backstage(shape="vllm_omni", quick={"overdue_s": 0.05}, polls=10**6)
    request = await stage.accepted()
    stage.ledger.shift += 1
    await stage.watch(request)
    assert (await stage.video(request)).failure == "overdue"
    [job] = stage.peer.jobs.values()
    job.word, job.fate = word, "fail" if word == "failed" else "video"
    await late_look(stage)
    if word:
        await stage.finish(request)
    assert (await stage.video(request)).state is ends


async def test_a_job_without_its_file_does_not_go_round(backstage):
    """A held job that is said to be finished and whose file is gone stays held: no look makes it move."""
    stage = await backstage()
    request = await stage.accepted()
    stage.peer.content = "410"
    await stage.watch(request)
    assert (await stage.video(request)).failure == "gone"
    moves_before = await history(stage.ledger, request)
    for seconds in (61, 3600):
        await late_look(stage, seconds)
    assert await history(stage.ledger, request) == moves_before
    stage.peer.content = "video"
    await late_look(stage, 7200)
    [(_, made)] = await stage.finish(request)
    assert made.state is V.SUCCEEDED


async def test_looks_are_few_and_end_with_the_day(backstage, monkeypatch):
    """Within a day a lost order is asked about some twenty times, by one worker of three, then no more."""
    stage = await backstage(shape="openai", quick=SLOW)
    request = await in_doubt(stage)
    await after(stage, 601)
    assert await after(stage, 121, request) == [V.FAILED_UNPAID]
    asked = []
    provider = stage.studio.providers["openai_compat"]

    async def lookup(take, sent_at, claimed, now, *, until=None):
        asked.append(until)
        raise OSError("away")

    monkeypatch.setattr(provider, "lookup", lookup)
    for _ in range(26 * 6):
        stage.ledger.shift += 600
        await asyncio.gather(*(look_late(stage.studio) for _ in range(3)))
    assert 10 <= len(asked) <= 30
    assert asked[-1] - asked[0] <= 86_400
    assert all(round(later - one) >= 600 for one, later in pairwise(asked))


async def test_a_sweep_looks_at_few_and_starves_none(backstage):
    """Of many that are due, one sweep takes the most that it may; those that waited longest come next."""
    stage = await backstage(
        shape="openai", quick={"settle_s": 0.1}, pace=Pace(slack_s=4, ask_s=0, late_most=2)
    )
    stage.peer.script(*["refuse_400"] * 5)
    ids = [await stage.ordered(user) for user in range(1, 6)]
    for one in ids:
        await stage.shoot(one)
    lists = []
    stage.ledger.shift += 61
    for _ in range(3):
        before = len(stage.peer.requests())
        await look_late(stage.studio)
        lists.append(len(stage.peer.requests()) - before)
    assert lists == [2, 2, 1]
    assert all([(await stage.video(one)).look_at for one in ids])


async def test_what_was_never_sent_is_not_asked_about(backstage):
    """An order that was cancelled or expired before any send has no late charge: nobody is asked."""
    stage = await backstage(shape="openai")
    request = await stage.ordered()
    await moves.cancel(stage.ledger, request, 7)
    stage.ledger.shift += 61
    assert await looks.late(stage.ledger, 60, 86_400, 20, ("local", "openai_compat")) == []


# Money


async def test_refunds_come_twice_late_and_out_of_order(backstage):
    """A job that turned up late, failed unbilled, and is told of again by everybody: charged once, credited
    once, whatever comes when.
    """
    stage = await backstage(shape="vllm_omni", quick=SLOW)
    stage.peer.fates.append("fail")
    request = await lost(stage)
    [job] = stage.peer.jobs
    await asyncio.gather(
        look_late(stage.studio),
        late_look(stage),
        *(moves.adopt(stage.ledger, request, job, "a stale worker", None) for _ in range(3)),
    )
    await asyncio.gather(*(stage.watch(request) for _ in range(3)))
    for _ in range(3):
        await late_look(stage, 600)
        await stage.watch(request)
    assert (await stage.video(request)).state is V.FAILED_UNPAID
    found = await books(stage.ledger, request)
    assert found["charge"] == found["credit"] == [PRICE.micros]
    assert len(stage.peer.refunds()) == 1
    assert stage.peer.net() == {}
    assert await stage.paid() == 0


async def test_a_refund_before_its_charge_gives_back_once(backstage):
    """The money was released, then the job is brought by two at once: one charge, no second release."""
    stage = await backstage(shape="openai", quick=SLOW)
    request = await lost(stage)
    [job] = stage.peer.jobs
    await asyncio.gather(
        late_look(stage), *(moves.adopt(stage.ledger, request, job, "a stale worker", None) for _ in range(2))
    )
    found = await books(stage.ledger, request)
    assert found == {"hold": [PRICE.micros], "release": [PRICE.micros], "charge": [PRICE.micros]}
    await stage.finish(request)


# Words


async def test_the_user_reads_the_truth_at_every_step(theatre):
    """First "never reached, nothing paid"; then that it was paid after all, and for how much; then the video,
    with the booked price and a ping that says so.
    """
    stage = await theatre(
        shape="openai",
        pace=replace(QUICK_PACE, late_s=1.0),
        capabilities={"settle_s": 0.4, "absent_gap_s": 0.1},
        peer_options={"polls": 6},
    )
    say = texts("en")
    stage.peer.script("charge_drop")
    ana, hidden = stage.user(), {}
    await ana.send("/create a quiet market at dawn")
    end = time.monotonic() + 10

    async def charged():
        hidden.update(stage.peer.jobs)
        stage.peer.jobs.clear()
        return hidden or time.monotonic() > end

    await wait_until(charged, 10, "the charge")
    first = await ana.wait_for(lambda bubble: say("failed_absent") in bubble.text)
    stage.peer.jobs.update(hidden)
    paid = await ana.wait_for(lambda bubble: "after all" in bubble.text and str(PRICE) in bubble.text)
    assert paid.id == first.id
    [(request, video)] = await stage.ended()
    assert video.state is V.DELIVERED
    last = ana.history()[-1]
    assert last.text == say("ready_late", id=request.short_id)
    assert str(PRICE) in next(one.text for one in ana.history() if one.media)
    assert len(stage.peer.posts()) == 1
