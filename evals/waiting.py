"""Waits for a condition instead of sleeping, and scales each deadline with the lag of the machine."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

_POLL_S: Final = 0.02


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
