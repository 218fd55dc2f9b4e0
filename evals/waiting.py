"""Waits for a condition instead of sleeping; measures the machine's lag and scales deadlines with it."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, Self

from guardrails.redis_client import COMMAND_TIMEOUT_S

_POLL_S: Final = 0.02
_WATCH_S: Final = 0.25

BUSY_S: Final = COMMAND_TIMEOUT_S
"""A process that stood still for so long may have missed the app's shortest time limit, without a bug."""


CROWDED: Final = 4.0
"""So many processes for each core are other people's work: a run of the evals itself makes about two."""


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2


def crowding() -> float:
    """Return how many processes shared a core in the last minute, from 1 to 10: all takes as much longer."""
    try:
        return min(10.0, max(1.0, os.getloadavg()[0] / cores()))
    except OSError:  # a system that does not count
        return 1.0


class LagMeter:
    """Measures, inside its block, how late a thread of this process continues after a short pause.

    Attributes:
        worst_s: The longest lateness.
        idle_s: The time inside the block without all lateness: as an idle machine would have needed it.
        crowding: The most that the machine was crowded; see `crowding`.
    """

    def __init__(self) -> None:
        self.worst_s = 0.0
        self.idle_s = 0.0
        self.crowding = crowding()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.crowding = max(self.crowding, crowding())
        self._end.set()
        self._thread.join()

    def _measure(self) -> None:
        began = time.monotonic()
        while not self._end.wait(_POLL_S):
            took = time.monotonic() - began
            self.worst_s = max(self.worst_s, took - _POLL_S)
            self.idle_s += min(_POLL_S, took)
            began = time.monotonic()


class Deadline:
    """A deadline in seconds of an idle machine.

    A pause that takes longer than asked shows how busy the machine is, and so does its load. Only what was
    asked for counts, divided by the processes that share a core. So a machine that is five times slower has
    five times as long, and a condition that never comes true still fails.
    """

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds

    @property
    def is_over(self) -> bool:
        return self._left_s <= 0

    def count(self, seconds: float) -> None:
        """Count time that an idle machine would have spent."""
        self._left_s -= seconds

    async def pause(self, seconds: float = _POLL_S) -> None:
        """Sleep, and count the time that an idle machine would have slept."""
        began = time.monotonic()
        await asyncio.sleep(seconds)
        self.count(min(seconds, time.monotonic() - began) / crowding())


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    """Cancel the block after `seconds` of an idle machine, as `asyncio.timeout` does by the clock.

    Raises:
        TimeoutError: The block was cancelled.
    """
    try:
        async with asyncio.timeout(None) as limit:
            watch = asyncio.create_task(_end(limit, Deadline(seconds)))
            try:
                yield
            finally:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch
    except TimeoutError as error:
        if limit.expired():
            raise TimeoutError(f"not over within {seconds:.0f} s of an idle machine") from error
        raise


async def _end(limit: asyncio.Timeout, deadline: Deadline) -> None:
    while not deadline.is_over:
        await deadline.pause(_WATCH_S)
    limit.reschedule(asyncio.get_running_loop().time())


async def comes_true(
    check: Callable[[], Awaitable[object]], seconds: float, pause_s: float = _POLL_S
) -> bool:
    """Return whether `check` became true within `seconds` of an idle machine."""
    deadline = Deadline(seconds)
    while not await check():
        if deadline.is_over:
            return False
        await deadline.pause(pause_s)
    return True


async def wait_until(check: Callable[[], Awaitable[object]], seconds: float = 10, what: str = "it") -> None:
    """Return as soon as `check` is true.

    Raises:
        AssertionError: It is still false after `seconds` of an idle machine; the message names the condition.
    """
    if not await comes_true(check, seconds):
        raise AssertionError(f"waited {seconds} s for {what}")
