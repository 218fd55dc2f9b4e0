"""Stores at the start of a process: one that is unavailable is waited for, and the log says why."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ledger.database import LedgerError
from telemetry.logs import get_logger
from telemetry.redaction import redact
from worker.outages import ends_by_itself

log = get_logger(__name__)

Opened = TypeVar("Opened")

_FIRST_PAUSE_S: Final = 0.5
_MAX_PAUSE_S: Final = 5.0
_REPORT_S: Final = 10.0


async def until_available(open_store: Callable[[], Awaitable[Opened]], name: str) -> Opened:
    """Repeat `open_store` until it succeeds: a process that starts before its stores waits for them.

    Args:
        open_store: Opens the store; what it had begun when it raised, it has undone.
        name: Of the store, for the log.

    Raises:
        Exception: What `open_store` raises, where no waiting mends it, as a wrong password.
    """
    began, report_at, pause_s = time.monotonic(), 0.0, _FIRST_PAUSE_S
    while True:
        try:
            return await open_store()
        except Exception as error:
            cause = error.__cause__ if isinstance(error, LedgerError) else error
            if cause is None or not ends_by_itself(cause):
                raise
            waited_s = time.monotonic() - began
            if waited_s >= report_at:
                why = redact((str(error).splitlines() or [""])[0]) or type(error).__name__
                log.warning("start waits for a store", store=name, why=why, waited_s=round(waited_s))
                report_at = waited_s + _REPORT_S
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _MAX_PAUSE_S)
