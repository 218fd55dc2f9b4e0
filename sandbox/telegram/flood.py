"""Telegram's flood control, which can be switched: too many sends are refused with 429 and `retry_after`."""

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from sandbox.telegram.base import ApiError, Clock

PREFIXES = ("send", "edit", "copy")
FREE = frozenset({"sendChatAction"})
Pacing = Literal["production", "fast"]
"""production: Telegram's limits hold. fast: nothing is refused, so that no one waits for a sandbox."""


@dataclass(frozen=True)
class Window:
    """At most `calls` in any `seconds` of Telegram's time."""

    calls: int
    seconds: float


@dataclass(frozen=True)
class FloodLimits:
    """What one bot may send. Telegram's FAQ names the figures; how long a burst may be, it does not say.

    Attributes:
        total: Over all chats.
        chat: To one chat: one a second, where a short burst passes.
        group: To one group, in addition.
    """

    total: Window = Window(30, 1)
    chat: Window = Window(12, 10)
    group: Window = Window(20, 60)


class FloodControl:
    """Counts the accepted sends of each limit in sliding windows; without limits it refuses nothing."""

    def __init__(self, limits: FloodLimits | None, clock: Clock) -> None:
        self._limits = limits
        self._production = limits or FloodLimits()
        self._clock = clock
        self._sent: dict[str, deque[float]] = {}

    @property
    def pacing(self) -> Pacing:
        return "fast" if self._limits is None else "production"

    def pace(self, pacing: Pacing) -> None:
        """Switch the limits on or off; what was sent before does not count."""
        self._limits = self._production if pacing == "production" else None
        self._sent.clear()

    def count(self, method: str, chat_id: str) -> None:
        """Count one call.

        Raises:
            ApiError: 429; the call must not be performed and is not counted.
        """
        limits = self._limits
        if limits is None or not method.startswith(PREFIXES) or method in FREE:
            return
        now = time.monotonic()
        wanted = [
            (self._sent.setdefault(name, deque()), window) for name, window in _windows(limits, chat_id)
        ]
        wait = max(self._wait(sent, window, now) for sent, window in wanted)
        if wait > 0:
            seconds = math.ceil(wait)
            raise ApiError(429, f"Too Many Requests: retry after {seconds}", {"retry_after": seconds})
        for sent, _ in wanted:
            sent.append(now)

    def _wait(self, sent: deque[float], window: Window, now: float) -> float:
        """Return the seconds until one more call fits."""
        seconds = self._clock.wait(window.seconds)
        while sent and sent[0] <= now - seconds:
            sent.popleft()
        return sent[0] + seconds - now if len(sent) >= window.calls else 0.0


def _windows(limits: FloodLimits, chat_id: str) -> list[tuple[str, Window]]:
    windows = [("total", limits.total)]
    if chat_id:
        windows.append((f"chat {chat_id}", limits.chat))
    if chat_id.startswith("-"):
        windows.append((f"group {chat_id}", limits.group))
    return windows
