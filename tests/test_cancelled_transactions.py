"""A transaction that is cancelled anywhere leaves no lock behind: the next write goes through at once."""

import asyncio
import random
from contextlib import suppress

import pytest
from lives import NO_RATES, Opener, order_for, ordered
from waiting import wait_until

from ledger import limits, orders, reports, requests, transitions
from ledger.database import Ledger
from ledger.models import VideoState

AT_ONCE = 12


async def writes(ledger: Ledger, opened: Opener, dice: random.Random) -> None:
    """One life, as several tasks write it."""
    request = await opened(user_id=dice.randrange(1, 5))
    await orders.place(ledger, order_for(request), limits.Limits())
    await transitions.begin_submit(ledger, request, "f", 30, NO_RATES)
    await transitions.adopt_job(ledger, request, f"job-{request}", "law", None)
    await reports.net_charged(ledger, request)


@pytest.mark.any_ledger
@pytest.mark.parametrize("seed", range(3))
async def test_a_write_is_possible_at_once(ledger: Ledger, opened: Opener, seed: int):
    """Hundreds of transactions are cancelled at random instants, in queues for the lock and inside it: after
    each burst another process's connection writes without waiting for anybody.
    """
    dice = random.Random(seed)
    other = Ledger(ledger.url.render_as_string(hide_password=False))
    for _ in range(8):
        tasks = [asyncio.create_task(writes(ledger, opened, dice)) for _ in range(AT_ONCE)]
        for task in sorted(tasks, key=lambda _: dice.random()):
            await asyncio.sleep(dice.random() * 0.01)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(4):  # less than the patience with which SQLite waits for a lock
            await orders.place(other, order_for(await written(other)), limits.Limits())
    await wait_until(lambda: free(ledger), 20, "every connection back in its pool")
    await other.close()


async def written(other: Ledger) -> str:
    new = requests.NewRequest(f"tg:1:-:9:{random.getrandbits(40)}", 1, 9, 1, 9, "en", "a market")
    await requests.open_request(other, new)
    return new.request_id


async def free(ledger: Ledger) -> bool:
    return ledger.engine.pool.checkedout() == 0


@pytest.mark.any_ledger
async def test_a_cancelled_caller_leaves_all_or_nothing(ledger: Ledger, opened: Opener):
    """What a cancelled caller wrote is whole or not there: no order stands without its hold."""
    dice = random.Random(7)
    made = [await opened() for _ in range(20)]
    for request in made:
        task = asyncio.create_task(orders.place(ledger, order_for(request), limits.Limits()))
        await asyncio.sleep(dice.random() * 0.008)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await wait_until(lambda: free(ledger), 20, "every transaction to end")
    standing = [found[1] for one in made if (found := await requests.find_with_video(ledger, one))]
    held = sum(video.quote_micros for video in standing if video is not None)
    assert (await reports.cost_summary(ledger)).held.micros == held
    after = await ordered(ledger, opened)
    assert (await transitions.begin_submit(ledger, after, "f", 30, NO_RATES)).state is VideoState.SUBMITTING
