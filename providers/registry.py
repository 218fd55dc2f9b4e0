"""Parts that the settings choose: who makes the videos, and who judges what they show."""

from typing import TYPE_CHECKING

from app.settings import Settings, SettingsError
from guardrails.content.moderation import OPENAI_URL, Moderation
from guardrails.content.policy import ContentPolicy
from providers.base import Provider

if TYPE_CHECKING:
    from providers.pricing import PriceList


def choose_provider(settings: Settings) -> Provider:
    """Return the provider that VIDEO_PROVIDER names; adapters are imported only when they are chosen.

    Raises:
        SettingsError: The provider lacks something; the message says what to set.
    """
    if settings.video_provider == "local":
        from sandbox.preview.provider import LocalProvider

        return LocalProvider(settings.var_dir / "provider")
    from providers.base import NotConfigured

    try:
        return _paid_provider(settings)
    except NotConfigured as error:
        raise SettingsError(f"VIDEO_PROVIDER {settings.video_provider}: {error}") from None


def _paid_provider(settings: Settings) -> Provider:
    key = settings.video_api_key.get_secret_value() if settings.video_api_key else ""
    if settings.video_provider == "fal":
        from providers.fal import Fal
        from providers.pricing import FAL_PRICES

        return Fal(key, _prices(settings, FAL_PRICES))
    if settings.video_provider == "replicate":
        from providers.replicate import Replicate

        return Replicate(key, _prices(settings, None))
    from providers.openai_compat import OpenAICompat
    from providers.openai_dialects import DIALECTS
    from providers.pricing import SORA_2_PRICES

    return OpenAICompat(
        settings.video_base_url or "",
        key,
        DIALECTS[settings.video_dialect],
        _prices(settings, SORA_2_PRICES if settings.video_dialect == "openai" else None),
        proxy_retries_off=settings.video_proxy_retries_off,
    )


def _prices(settings: Settings, published: "PriceList | None") -> "PriceList":
    """Return the price list of VIDEO_PRICES, else what the provider itself published.

    A quote is a promise to users, so nobody's prices are guessed.
    """
    from providers.pricing import read_prices

    if settings.video_prices is None:
        if published is not None:
            return published
        raise SettingsError("VIDEO_PRICES is not set: state what your provider asks (docs/providers.md)")
    try:
        return read_prices(settings.video_prices.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"VIDEO_PRICES {settings.video_prices} cannot be used: {error}") from error


def choose_content(settings: Settings) -> tuple[ContentPolicy, Moderation | None]:
    """Return the content policy, and the moderation client in it, which its opener closes."""
    if settings.moderation_api_key is None:
        return ContentPolicy(), None
    moderation = Moderation(settings.moderation_api_key, settings.moderation_base_url or OPENAI_URL)
    return ContentPolicy(moderation=moderation), moderation
