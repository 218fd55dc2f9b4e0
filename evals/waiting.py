"""Waits for a condition instead of sleeping."""

import asyncio
import time
from collections.abc import Awaitable, Callable


async def wait_until(check: Callable[[], Awaitable[object]], seconds: float = 10, what: str = "it") -> None:
    """Return as soon as `check` is true.

    Raises:
        AssertionError: It is still false after `seconds`; the message names what was awaited.
    """
    end = time.monotonic() + seconds
    while not await check():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {what}")
        await asyncio.sleep(0.02)
