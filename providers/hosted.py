"""What the adapters of model hosts (fal, Replicate) share: the key check, capabilities, times in lists."""

from collections.abc import Mapping
from datetime import UTC, datetime

from providers.base import Capabilities, NotConfigured
from providers.pricing import PriceList, Recipe, offered_capabilities


def check_key(key: str, sentence: str) -> str:
    """Return `key`.

    Raises:
        NotConfigured: It is missing (the message is `sentence`), or no header can carry it.
    """
    if not key.strip():
        raise NotConfigured(sentence)
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise NotConfigured("the API key holds a character that no header can carry")
    return key


def hosted_capabilities(
    prices: PriceList,
    recipes: Mapping[str, Recipe],
    notes: tuple[str, ...],
    *,
    pictures: bool = False,
    **times: float,
) -> Capabilities:
    """Return the capabilities of a host without idempotency keys, whose jobs can be listed.

    A model is offered without sound if its recipe knows the switch and its price list what that costs.
    """
    notes = ("This adapter has never met the real service.", *notes)
    silenceable = tuple(
        name for name, model in prices.models.items()
        if model.silent_per_second and name in recipes and recipes[name].sound
    )  # fmt: skip
    return offered_capabilities(
        prices, replay=False, listing=True, pictures=pictures, silenceable=silenceable, notes=notes, **times
    )


def iso_time(seconds: float) -> str:
    """Write a time, in seconds since the epoch, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
