"""Waits for a condition instead of sleeping; measures waiting in seconds of an idle machine."""

import asyncio
import time
from contextlib import suppress
from typing import Self

from evals.waiting import wait_until

__all__ = ["Stopwatch", "wait_until"]

_TICK_S = 0.01


class Stopwatch:
    """Measures, inside its `async with`, how long its caller waits, in seconds of an idle machine.

    A task sleeps in short steps, and of each step only what it asked for counts: a process that got no
    processor time did not wait for what is measured. So load breaks no upper limit, and a wait that is too
    long is still seen.

    Attributes:
        seconds: How long until now; after the block, how long it took.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._count())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _count(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(_TICK_S)
            self.seconds += min(_TICK_S, time.monotonic() - began)
