"""Orders in doubt, and time that passes over them."""

from ledger.models import VideoState
from worker.reconcile import check_late_charges
from worker.sweeper import reconcile_all

V = VideoState
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
    await reconcile_all(stage.studio)
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
    await check_late_charges(stage.studio)
