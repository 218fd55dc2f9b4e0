"""The acts of docs/operations.md, done in the drill after every alert has fired; each ends what it is for.

By the real commands (`python -m bot`), by the chat, and by what an operator does to machines: a store that is
started again, room on a disk, a worker, a bot. An alert over a window of time (`increase`) ends with that
window and is not waited for.
"""

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from app.settings import Settings
from ledger.models import VideoState
from ledger.schema import entries, videos
from tests.support.services import ROOT

if TYPE_CHECKING:
    from tests.deploy.alert_drill import Drill

ENDS: Final = frozenset({
    "CommandTooDear", "DayDear", "DayTooDear", "BreakerOpen", "HoldForgotten", "TakeStuck", "QueueWaits",
    "NoWorker", "RequestsWait", "PaidNotDelivered", "DiskFull", "BotDeaf", "UpdatesStopped", "WebhookFails",
    "AdminNotTold", "StoreAway", "MetricsAbsent",
})  # fmt: skip
"""Alerts that end with their act; all others are over a window of time, and Watchdog never ends."""


async def bot(it: "Drill", *words: str) -> None:
    """Run one of our commands on the drill's ledger.

    Raises:
        AssertionError: It failed; the message is what it printed.
    """
    kept = {name: one for name, one in os.environ.items() if name.lower() not in Settings.model_fields}
    url = it.app.ledger.url.render_as_string(hide_password=False)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bot", *words, cwd=it.folder,
        env={**kept, "PYTHONPATH": str(ROOT), "DATABASE_URL": url},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode:
        raise AssertionError(f"bot {' '.join(words)}: {output.decode()}")


async def orders(it: "Drill", *states: VideoState) -> list[str]:
    """Return the requests whose order is in one of these states."""
    async with it.app.ledger.read() as conn:
        return list(await conn.scalars(select(videos.c.request_id).where(videos.c.state.in_(states))))


async def correct_the_books(it: "Drill") -> None:
    """The $101 were another's, and the second job is refunded: `correct ID refund JOB`."""
    async with it.app.ledger.read() as conn:
        dear = select(entries.c.request_id, entries.c.job_id).where(
            entries.c.kind == "charge", entries.c.micros > 100_000_000
        )
        found = [tuple(row) for row in await conn.execute(dear)]
        jobs = select(entries.c.request_id, entries.c.job_id).where(entries.c.kind == "charge")
        seen: dict[str, str] = {}
        for request, job in await conn.execute(jobs):
            if request in seen:
                found.append((request, job))
            seen[request] = job
    for request, job in found:
        await bot(it, "correct", request, "refund", job, "--why", "the drill's credit note", "--yes")


async def resolve_what_waits(it: "Drill") -> None:
    """HOLD: `resolve ID unpaid`. Paid, and its file is lost: `correct ID end gone`."""
    for request in await orders(it, VideoState.HOLD):
        await bot(it, "resolve", request, "unpaid", "--why", "not in their list")
    for request in await orders(it, VideoState.SUCCEEDED):
        await bot(it, "correct", request, "end", "gone", "--why", "its file is lost", "--yes")


async def close_the_breaker(it: "Drill") -> None:
    """`breaker close everyone`, once the cause is known."""
    await bot(it, "breaker", "close", "everyone")


async def mend_the_machines(it: "Drill") -> None:
    """Redis is started, the disk has room, the webhook is gone, an admin presses Start, someone writes."""
    await asyncio.to_thread(it.redis.start)
    it.app.worker.media_probe.min_free_bytes = 1
    await it.app.bot.delete_webhook()
    it.app.chat.hearing.read_webhook(await it.app.bot.get_webhook_info(), "", time.time())
    await it.env.user(it.absent).send("/start")


ACTS: Final = (mend_the_machines, correct_the_books, resolve_what_waits, close_the_breaker)
