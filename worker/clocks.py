"""Clocks are checked, not trusted: the store's against this machine's, the provider's against the store's.

Ages of orders are measured on the store's clock. If that clock is set while an order is under way, its age is
wrong by the step: a POST that is being answered would look overdue, or a key that the provider has forgotten
would look young. And where the provider's clock differs from the store's, its list may be searched at the
wrong time, and show no job that is there.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from ledger.database import Ledger
from ledger.models import Video
from providers.base import Provider, SeenDate
from telemetry import metrics
from telemetry.clocks import boot_clock
from telemetry.logs import get_logger

log = get_logger(__name__)

MAX_SKEW_S: Final = 60.0
"""A provider whose clock differs by more proves nothing by what its list does not show."""

STEP_S: Final = 10.0
"""A change of the store's clock against this machine's that is no drift and no delay of an answer."""

_SAMPLE_S: Final = 2.0
"""A reading that takes longer says too little about when it was true."""


@dataclass(frozen=True, slots=True)
class ClockStep:
    """The latest step of the store's clock that this process noticed.

    Attributes:
        seconds: How far; a negative number is backward.
        noticed: When, on this machine's clock.
        fresh_after: Times of the store after this one, in milliseconds, were written after the step.
    """

    seconds: float
    noticed: float
    fresh_after: int


class Clocks:
    """What one process knows of the clocks.

    Args:
        ledger: Its clock is the store's. `Ledger.shift`, by which tests let time pass, is not part of it.
        boot: This machine's clock.
    """

    def __init__(self, ledger: Ledger, boot: Callable[[], float] = boot_clock) -> None:
        self._ledger, self._boot = ledger, boot
        self._offset: float | None = None
        self._watched_since: int | None = None
        self.step: ClockStep | None = None

    async def look(self) -> None:
        """Read the store's clock, and notice whether it was set since the last reading."""
        before = self._boot()
        async with self._ledger.read() as conn:
            now = await self._ledger.now(conn) / 1000 - self._ledger.shift
        after = self._boot()
        if after - before > _SAMPLE_S:
            return
        offset, known = now - (before + after) / 2, self._offset
        self._offset = offset
        if self._watched_since is None:
            self._watched_since = int((now + self._ledger.shift) * 1000)
        if known is not None and abs(offset - known) > STEP_S:
            seconds = offset - known
            latest = max(now, now - seconds) + self._ledger.shift
            self.step = ClockStep(seconds, after, int(latest * 1000))
            metrics.CLOCK_STEPS.add()
            log.error("the store's clock was set", seconds=round(seconds, 1))

    def known_age_s(self, age_s: float) -> float:
        """Return the age that is certain: no more than the time since the clock was set."""
        return age_s if self.step is None else min(age_s, self._boot() - self.step.noticed)

    def predates_step(self, at_ms: int) -> bool:
        """Return whether a time of the store may have been written before its clock was set."""
        return self.step is not None and at_ms <= self.step.fresh_after

    def skew_s(self, provider: Provider) -> float | None:
        """Return how far the provider's clock is ahead of the store's; None if its answers show no time."""
        seen: SeenDate | None = getattr(provider, "date", None)  # adapters of services without HTTP have none
        if seen is None or self._offset is None:
            return None
        return seen.at - (seen.boot + self._offset)

    def voids_absence(self, provider: Provider, video: Video) -> str | None:
        """Return why a list without the job proves nothing; None if it may."""
        skew = self.skew_s(provider)
        if skew is not None and abs(skew) > MAX_SKEW_S:
            return f"the provider's clock differs from ours by {skew:.0f} s, so its list proves nothing"
        if self.predates_step(video.sent_at or 0):
            return "our clock was set after the order was sent, so the list may be searched at the wrong time"
        return None

    def voids_key_age(self, provider: Provider, video: Video) -> str | None:
        """Return why the age of an order's key says nothing; None if it may be judged.

        A step before this process watched the clocks was not noticed here: where the provider's clock differs
        now, the step may lie in the life of an older order.
        """
        if self.predates_step(video.submitted_at or 0):
            return "our clock was set after the order was sent"
        skew, watched_since = self.skew_s(provider), self._watched_since
        is_older = watched_since is None or (video.submitted_at or 0) <= watched_since
        if is_older and skew is not None and abs(skew) > MAX_SKEW_S:
            return f"the provider's clock differs from ours by {skew:.0f} s"
        return None

    def skewed(self, providers: Collection[Provider]) -> dict[str, float]:
        """Return the accounts whose clock differs too much, with by how much; the metric follows."""
        worst: dict[str, float] = {}
        found: dict[str, float] = {}
        for provider in providers:
            skew = self.skew_s(provider)
            if skew is None:
                continue
            worst[provider.name] = max(worst.get(provider.name, 0.0), abs(skew))
            if abs(skew) > MAX_SKEW_S:
                found[provider.account] = skew
        for name, seconds in worst.items():
            metrics.CLOCK_SKEW.set(seconds, provider=name)
        return found
