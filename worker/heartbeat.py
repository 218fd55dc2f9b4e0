"""Says in the ledger that this process lives, while it does its work."""

import asyncio
import os
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ledger import heartbeats
from ledger.database import Ledger
from ledger.heartbeats import Role
from telemetry.logs import get_logger
from worker.outages import is_outage

log = get_logger(__name__)

_LEAVE_S: Final = 2.0
_LOOKS_S: Final = 0.5
"""How soon a process that begins to work is seen."""


async def run_heartbeat(
    ledger: Ledger, role: Role, bot_id: int, works: Callable[[], bool], beat_s: float = heartbeats.BEAT_S
) -> None:
    """Write every `beat_s` seconds that this process lives, while `works` says so; until cancelled.

    A process that runs and does not work is silent: it is one of those that operators must hear of.
    """
    process_id = f"{role}:{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    try:
        while True:
            beats = works()
            if beats:
                await _beat(ledger, process_id, role, bot_id)
            await asyncio.sleep(beat_s if beats else min(beat_s, _LOOKS_S))
    finally:
        with suppress(Exception):
            async with asyncio.timeout(_LEAVE_S):
                await heartbeats.leave(ledger, process_id)


async def _beat(ledger: Ledger, process_id: str, role: Role, bot_id: int) -> None:
    try:
        await heartbeats.beat(ledger, process_id, role, bot_id)
    except Exception as error:  # noqa: BLE001 - this loop must survive every error
        report = log.warning if is_outage(error) else log.error
        report("heartbeat not written", role=role, error=type(error).__name__)
