"""Time, which tests may run faster, and the bell that lets waiters wait without polling."""

import asyncio
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Telegram's waits in seconds of this machine.

    Attributes:
        scale: How many Telegram seconds pass in one second here; 1 is the real thing.
        floor: The least time in seconds that the bot gets for its own work, whatever the scale: a fast
            clock must not turn a slow machine into a redelivery.
    """

    scale: float = 1.0
    floor: float = 2.0

    def now(self) -> float:
        """The time of day; dates in messages are never scaled."""
        return time.time()

    def wait(self, seconds: float) -> float:
        """How long a wait of Telegram's takes here."""
        return seconds / self.scale

    def patience(self, seconds: float) -> float:
        """How long the bot is given here where Telegram gives it `seconds`."""
        return max(seconds / self.scale, min(seconds, self.floor))


class Bell:
    """Wakes everybody who waits; a ring that nobody waited for is not kept."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        rung, self._event = self._event, asyncio.Event()
        rung.set()

    def next(self) -> asyncio.Event:
        """The next ring; take it before you look, and none is lost between looking and waiting."""
        return self._event

    async def heard(self, timeout: float | None = None) -> bool:
        """Wait for the next ring; False when `timeout` seconds passed without one."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        return True
