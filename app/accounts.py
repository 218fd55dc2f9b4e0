"""The provider accounts of one process: the one that takes new orders, and those that drain.

The accounts that drain are listed in the YAML file of VIDEO_DRAIN. Each finishes the orders that it has, and
takes no new ones. Keys are not in the file: an entry names the environment variable that holds its key.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from app.settings import Settings, SettingsError
from ledger.models import Video
from providers.accounts import named_account
from providers.base import NotConfigured, Provider
from providers.images import ImagePrices
from providers.pricing import PriceList, read_prices
from providers.registry import PROVIDERS, ProviderConfig, create_provider

EXAMPLE: Final = "docs/providers.md shows an example"


@dataclass(frozen=True)
class Accounts:
    """The accounts of one process.

    Attributes:
        primary: Takes new orders.
        by_account: All of them, by account. One that has a name is there under its own account as well, so
            that orders from before it was named stay its own.
    """

    primary: Provider
    by_account: Mapping[str, Provider]

    def provider_of(self, video: Video) -> Provider | None:
        """Return whom to ask a free question about an order; None if its account is not configured.

        For an order of the version before that is not adopted yet: the provider of its name.
        """
        if video.account is not None:
            return self.by_account.get(video.account)
        return self.primary if self.primary.name == video.provider else None

    async def close(self) -> None:
        """Close every provider, once."""
        for provider in {id(one): one for one in self.by_account.values()}.values():
            await provider.close()


class _Draining(BaseModel):
    """One entry of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str
    api_key_env: str = ""
    base_url: str = ""
    dialect: str = "openai"
    prices: Path | None = None
    account: str = ""
    proxy_retries_off: bool = False


def collect_accounts(settings: Settings, primary: Provider) -> Accounts:
    """Return the accounts that the settings name, with `primary` as the one that takes new orders.

    Raises:
        SettingsError: An account lacks something, or is named twice; the message says where.
    """
    found: dict[str, Provider] = {}
    _add(
        found, primary, "" if primary.name not in PROVIDERS else settings.video_account or "", "VIDEO_ACCOUNT"
    )
    if settings.video_drain is not None:
        for number, entry in enumerate(_read(settings.video_drain), 1):
            where = f"VIDEO_DRAIN {settings.video_drain}, entry {number}"
            _add(found, _build(entry, where), entry.account, where)
    return Accounts(primary, found)


def _add(found: dict[str, Provider], provider: Provider, name: str, where: str) -> None:
    names = [provider.account]
    if name:
        try:
            provider.account = named_account(provider.name, name)
        except ValueError as error:
            raise SettingsError(f"{where}: {error}") from None
        names.insert(0, provider.account)
    if taken := [one for one in names if one in found]:
        raise SettingsError(f"{where}: account {taken[0]} is configured twice; remove one")
    found.update(dict.fromkeys(names, provider))


def _read(path: Path) -> list[_Draining]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        # Neither chained nor quoted whole: the file may hold a key by mistake.
        why = getattr(error, "strerror", None) or "it is not YAML"
        raise SettingsError(f"VIDEO_DRAIN {path} cannot be read: {why}; {EXAMPLE}") from None
    if not isinstance(entries, list):
        raise SettingsError(f"VIDEO_DRAIN {path} is no list of accounts; {EXAMPLE}")
    return [_entry(path, number, entry) for number, entry in enumerate(entries, 1)]


def _entry(path: Path, number: int, entry: Any) -> _Draining:
    try:
        return _Draining.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "it"
        known = ", ".join(_Draining.model_fields)
        raise SettingsError(
            f"VIDEO_DRAIN {path}, entry {number}: {field}: {first['msg']}; fields: {known}"
        ) from None


def _build(entry: _Draining, where: str) -> Provider:
    if entry.provider not in PROVIDERS:
        raise SettingsError(f"{where}: provider {entry.provider[:40]!r} is not known: {', '.join(PROVIDERS)}")
    config = ProviderConfig(
        api_key=_secret(entry.api_key_env, where),
        base_url=entry.base_url,
        dialect=entry.dialect,
        prices=read_price_list(entry.prices, f"{where}, prices"),
        proxy_retries_off=entry.proxy_retries_off,
    )
    try:
        return create_provider(entry.provider, config)
    except NotConfigured as error:
        raise SettingsError(f"{where}: {error}") from None
    except KeyError:
        raise SettingsError(f"{where}: dialect {entry.dialect[:40]!r} is not known") from None


def _secret(name: str, where: str) -> str:
    """Return the value of an environment variable, or of the file that NAME_FILE names."""
    if not name:
        return ""
    if value := os.environ.get(name):
        return value
    if file := os.environ.get(f"{name}_FILE"):
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            raise SettingsError(f"{where}: the file of {name}_FILE cannot be read") from None
    raise SettingsError(f"{where}: api_key_env names {name[:60]}, and neither it nor {name[:60]}_FILE is set")


def read_image_price_list(path: Path | None) -> ImagePrices:
    """Return the price list of IMAGE_PRICES.

    Raises:
        SettingsError: It is not set, or its file cannot be used.
    """
    if path is None:
        raise SettingsError("IMAGE_PRICES is not set: state what your image server asks (docs/providers.md)")
    try:
        return ImagePrices.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"IMAGE_PRICES {path} cannot be used: {error}") from error


def read_price_list(path: Path | None, where: str) -> PriceList | None:
    """Return the price list in a file; None without one.

    Raises:
        SettingsError: The file cannot be used; the message begins with `where`.
    """
    if path is None:
        return None
    try:
        return read_prices(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{where} {path} cannot be used: {error}") from error
