"""What may be ordered and at which price; how long an order waits."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Final

from guardrails.limits import Limits
from guardrails.money import Money
from guardrails.policy import GuardPolicy
from ledger.offers import Terms
from providers.base import Capabilities

APPROVAL_TIMEOUT_S: Final = 900
"""How long an order waits for the user's approval."""
STILL_SECONDS: Final = 0
"""The length of a still, by which its price is asked for."""
ORDER_TIMEOUT_S: Final = 1800
"""How long an order waits for a worker before it expires unpaid."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The model on offer and its prices. They come from the adapter; no text states a price itself."""

    provider: str
    model: str
    capabilities: Capabilities
    quote: Callable[..., Money]
    account: str

    @property
    def silenceable(self) -> bool:
        """Whether this model makes videos with sound, and without where that is asked for."""
        return self.model in self.capabilities.silenceable

    def price(self, seconds: int, size: str, *, sound: bool = True) -> Money:
        """Return the price of one video.

        Raises:
            ValueError: It is not on offer; the message names what is.
        """
        return self.quote(self.model, seconds, size, sound=sound)

    def terms(self, seconds: int, size: str, *, sound: bool = True) -> Terms | None:
        """Return on which terms one video may be ordered now; None: it is not on offer."""
        with suppress(ValueError):
            if sound or self.silenceable:
                price = self.price(seconds, size, sound=sound)
                return Terms(self.provider, self.model, self.account, price)
        return None

    def offers(self, seconds: int, size: str, *, sound: bool = True) -> bool:
        """Return whether one such video may be ordered now."""
        return self.terms(seconds, size, sound=sound) is not None

    def cheapest(self) -> Money:
        """Return the lowest price of this model over all lengths and sizes that it makes.

        Raises:
            ValueError: This model makes none of the lengths and sizes on offer.
        """
        prices = [price for one in self.prices().values() for price in one]
        if not prices:
            raise ValueError(f"{self.provider} offers nothing of the model {self.model!r}")
        return min(prices)

    def prices(self) -> dict[int, dict[Money, list[str]]]:
        """Return what is on offer: each length in seconds, its prices, and the sizes that have each."""
        found: dict[int, dict[Money, list[str]]] = {}
        for seconds, size in product(self.capabilities.seconds, self.capabilities.sizes):
            with suppress(ValueError):  # this model does not make that length in that size
                price = self.price(seconds, size)
                found.setdefault(seconds, {}).setdefault(price, []).append(size)
        return found

    def price_list(self) -> str:
        """Return every length with its price, for the model's instructions.

        If the price depends on the size, each price names its sizes: `4 s: $0.40 (720x1280) or …`.
        """
        return ", ".join(f"{seconds} s: {_priced(prices)}" for seconds, prices in self.prices().items())


@dataclass(frozen=True, slots=True)
class PaidOffer:
    """What a paid tool may order here: its offer, and its guards in the declaration with their limits."""

    offer: Offer
    policy: GuardPolicy
    limits: Limits


def _priced(prices: dict[Money, list[str]]) -> str:
    if len(prices) == 1:
        return str(next(iter(prices)))
    return " or ".join(f"{price} ({', '.join(sizes)})" for price, sizes in prices.items())
