"""Limits how many jobs of one provider account all workers poll in a second."""

from collections.abc import Mapping

from providers.base import Provider
from worker.rate_limits import Rate, RateLimiter


class PollLimits:
    """The rate of each provider, `Capabilities.poll_per_s`, shared by all workers.

    Args:
        limiter: The limiter of this installation.
        providers: By name.
    """

    def __init__(self, limiter: RateLimiter, providers: Mapping[str, Provider]) -> None:
        self._limiter = limiter
        self._rates = {name: _rate(known) for name, known in providers.items()}

    async def take(self, provider: str, most: int) -> int:
        """Take up to `most` polls of one provider; return how many may be sent now."""
        return await self._limiter.take_up_to(self._rates[provider], most)


def _rate(provider: Provider) -> Rate:
    per_s = provider.capabilities.poll_per_s
    return Rate(f"poll:{provider.name}", burst=max(1, round(per_s)), every_s=1 / per_s)
