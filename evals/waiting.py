"""Waits for a condition instead of sleeping; measures the machine's lag and scales deadlines with it."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final, Self

from guardrails.redis_client import COMMAND_TIMEOUT_S

_POLL_S: Final = 0.02

BUSY_S: Final = COMMAND_TIMEOUT_S
"""A process that stood still for so long may have missed the app's shortest time limit, without a bug."""


class LagMeter:
    """Measures, inside its block, how late a thread of this process continues after a short pause.

    Attributes:
        worst_s: The longest lateness.
    """

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _measure(self) -> None:
        began = time.monotonic()
        while not self._end.wait(_POLL_S):
            now = time.monotonic()
            self.worst_s = max(self.worst_s, now - began - _POLL_S)
            began = time.monotonic()


class Deadline:
    """A deadline in seconds of an idle machine.

    A pause that takes longer than asked shows how busy the machine is. Only what was asked for counts, so a
    machine that is ten times slower has ten times as long, and a condition that never comes true still fails.
    """

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds

    @property
    def is_over(self) -> bool:
        return self._left_s <= 0

    async def pause(self, seconds: float = _POLL_S) -> None:
        """Sleep, and count the time that an idle machine would have slept."""
        began = time.monotonic()
        await asyncio.sleep(seconds)
        self._left_s -= min(seconds, time.monotonic() - began)


async def wait_until(check: Callable[[], Awaitable[object]], seconds: float = 10, what: str = "it") -> None:
    """Return as soon as `check` is true.

    Raises:
        AssertionError: It is still false after `seconds` of an idle machine; the message names the condition.
    """
    deadline = Deadline(seconds)
    while not await check():
        if deadline.is_over:
            raise AssertionError(f"waited {seconds} s for {what}")
        await deadline.pause()
