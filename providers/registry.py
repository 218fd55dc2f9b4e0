"""Paid video providers by name. Add a provider here.

The module of an adapter defines `from_config(config) -> Provider`; it is imported only if its provider is
chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Final

from providers.base import NotConfigured, Provider

if TYPE_CHECKING:
    from providers.pricing import PriceList

PROVIDERS: Final[dict[str, str]] = {
    "openai_compat": "providers.openai_compat",
    "fal": "providers.fal",
    "replicate": "providers.replicate",
}
"""The name, as in VIDEO_PROVIDER, orders and metrics, and the adapter's module."""


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """What an adapter is built from. Each uses what it needs and ignores the rest.

    Attributes:
        api_key: VIDEO_API_KEY; empty if not set.
        base_url: VIDEO_BASE_URL; empty for the adapter's own.
        dialect: VIDEO_DIALECT, for the one adapter that speaks several.
        prices: The price list of VIDEO_PRICES; None if not set.
        proxy_retries_off: VIDEO_PROXY_RETRIES_OFF.
    """

    api_key: str = field(default="", repr=False)
    base_url: str = ""
    dialect: str = "openai"
    prices: "PriceList | None" = None
    proxy_retries_off: bool = False

    def prices_or(self, published: "PriceList | None") -> "PriceList":
        """Return the configured price list, or the one that the provider published.

        A quote is a promise to users, so no price is guessed.

        Raises:
            NotConfigured: There is neither.
        """
        if (prices := self.prices or published) is None:
            raise NotConfigured("VIDEO_PRICES is not set: state what your provider asks (docs/providers.md)")
        return prices


def create_provider(name: str, config: ProviderConfig) -> Provider:
    """Build the adapter of this name.

    Raises:
        NotConfigured: The configuration is incomplete or wrong; the message says what to set.
        KeyError: No provider has this name.
    """
    from_config: Callable[[ProviderConfig], Provider] = import_module(PROVIDERS[name]).from_config
    return from_config(config)
