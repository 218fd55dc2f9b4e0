"""Orders in doubt, and time that passes over them."""

from ledger.models import VideoState
from worker.reconcile import check_late_charges
from worker.sweeper import reconcile_all

V = VideoState
SLOW = {"settle_s": 600.0, "absent_gap_s": 120.0}
"""The real times of a provider with a list; the laws move the store's clock."""


async def in_doubt(env, outcome="drop", user_id=7, **changes):
    env.fake_provider.script(outcome)
    request = await env.ordered(user_id, **changes)
    await env.submit(request)
    assert (await env.video(request)).state is V.IN_DOUBT
    return request


async def after(env, seconds, *requests):
    """Let time pass and ask; return the states."""
    env.ledger.shift += seconds
    await reconcile_all(env.worker)
    return [(await env.video(one)).state for one in requests]


async def lost(env, user_id=7, **changes):
    """An order that was charged, whose job no list showed in time: it ended unpaid. Return it and its job."""
    request = await in_doubt(env, "charge_drop", user_id, **changes)
    hidden = dict(env.fake_provider.jobs)
    env.fake_provider.jobs.clear()
    for seconds in (601, 121):
        await after(env, seconds)
    assert (await env.video(request)).state is V.FAILED_UNPAID
    env.fake_provider.jobs.update(hidden)
    return request


async def late_look(env, seconds=61):
    env.ledger.shift += seconds
    await check_late_charges(env.worker)
