"""Limits how many polls of one provider account all workers send in a second; other questions are few."""

from collections.abc import Mapping

from providers.base import Provider
from worker.rate_limits import Rate, RateLimiter


class PollLimits:
    """The rate of each account, `Capabilities.poll_per_s`, shared by all workers.

    Args:
        limiter: The limiter of this installation.
        providers: By account.
    """

    def __init__(self, limiter: RateLimiter, providers: Mapping[str, Provider]) -> None:
        self._limiter = limiter
        self._rates = {known.account: _rate(known) for known in providers.values()}

    async def take(self, account: str, most: int) -> int:
        """Take up to `most` polls of one account; return how many may be sent now."""
        return await self._limiter.take_up_to(self._rates[account], most)


def _rate(provider: Provider) -> Rate:
    per_s = provider.capabilities.poll_per_s
    return Rate(f"poll:{provider.account}", burst=max(1, round(per_s)), every_s=1 / per_s)
