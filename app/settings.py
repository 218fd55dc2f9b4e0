"""Settings from the environment and `.env`, validated once, with errors that name the variable."""

import os
import re
from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from app.secret_files import SUFFIX, SecretFiles, secret_fields
from chat.star_shop import StarShop, parse_packs
from guardrails.money import DOLLAR, Money
from providers.registry import PROVIDERS
from telemetry.exporter import OtlpConfig
from telemetry.logs import LogFormat
from telemetry.redaction import hide_values
from telemetry.resource import Environment

LOCAL: Final = "local"
"""The preview provider of the sandbox: renders on this machine, for test credits."""

MIN_RETENTION_DAYS: Final = 31
"""Reports show the texts of 30 days and of today."""

_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_TOKEN: Final = re.compile(r"[!-~]{20,256}")
_HEADER_SECRETS: Final = ("telegram_bot_token", "openai_api_key", "moderation_api_key", "video_api_key",
    "image_api_key",
)  # fmt: skip
_ADDRESSES: Final = (
    "telegram_api_url", "webhook_url", "openai_base_url", "moderation_base_url", "video_base_url",
    "image_base_url",
    "jaeger_url", "jaeger_api_url",
)  # fmt: skip
_SIMILAR: Final = 0.85
"""Share of letters that a misspelt name has in common with the right one: one or two differ."""


def provider_names() -> tuple[str, ...]:
    """Return every name that VIDEO_PROVIDER may have."""
    return (LOCAL, *PROVIDERS)


class SettingsError(Exception):
    """The configuration cannot be used; the message names the variable and what is allowed."""


METRICS_CLOSED: Final = (
    "HTTP_PORT is public with WEBHOOK_URL: /metrics answers nobody until METRICS_TOKEN is set, which "
    "Prometheus sends as a bearer token"
)


MODERATION_OFF: Final = (
    "MODERATION_API_KEY is not set: ideas are judged by the offline rules only, which some unsafe ones pass "
    "(docs/content.md); set it before strangers use the bot"
)


PICTURES_REFUSED: Final = (
    "without MODERATION_API_KEY pictures are refused; PICTURES=unjudged takes them without any check"
)
PICTURES_UNJUDGED: Final = (
    "PICTURES=unjudged and MODERATION_API_KEY is not set: pictures go to the provider without any check"
)


class Settings(BaseSettings):
    """Everything that can be configured. With nothing set, every part is embedded.

    Secrets are `SecretStr`, which prints as stars. Each may be in a file that NAME_FILE names.
    """

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    telegram_bot_token: SecretStr | None = None
    telegram_api_url: str = "https://api.telegram.org"
    webhook_url: str | None = None
    webhook_secret: SecretStr | None = None
    allowed_users: Annotated[frozenset[int], NoDecode] = frozenset()
    admins: Annotated[frozenset[int], NoDecode] = frozenset()
    access: Literal["open", "invite"] = "open"
    day_cost_warn: int = Field(default=80, ge=1)
    day_cost_page: int = Field(default=100, ge=1)

    stars: Literal["on", "off"] = "off"
    star_packs: str = "3:750,10:2400,25:5700"
    star_prices_of: date = date(2026, 11, 28)

    redis_url: SecretStr | None = None
    database_url: SecretStr | None = None
    key_prefix: str = Field(default="onetake", pattern=r"^[a-z0-9_-]{1,40}$")
    var_dir: Path = Path("var")
    media_dir: Path | None = None
    agents_dir: Path | None = None
    retention_days: int = Field(default=400, ge=0)
    media_days: int = Field(default=30, ge=0)

    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = None
    openai_api: Literal["responses", "chat"] = "responses"
    model_prices: Path | None = None
    model_day_cap: Decimal | None = Field(default=None, gt=0)
    model_user_day_cap: Decimal | None = Field(default=None, gt=0)
    moderation_api_key: SecretStr | None = None
    moderation_base_url: str | None = None
    pictures: Literal["judged", "unjudged", "off"] | None = None

    video_provider: str = LOCAL
    video_base_url: str | None = None
    video_api_key: SecretStr | None = None
    video_dialect: Literal["openai", "vllm_omni", "sglang", "inworld", "litellm"] = "openai"
    video_model: str | None = None
    video_prices: Path | None = None
    video_proxy_retries_off: bool = False
    video_account: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")
    video_drain: Path | None = None
    image_base_url: str | None = None
    image_api_key: SecretStr | None = None
    image_model: str | None = None
    image_prices: Path | None = None

    worker: Literal["inside", "apart"] = "inside"
    worker_concurrency: int = Field(default=100, ge=1, le=1000)
    admin_token: SecretStr | None = None
    admin_url: str | None = None
    metrics_token: SecretStr | None = None
    jaeger_url: str | None = None
    jaeger_api_url: str | None = None
    otel_exporter_otlp_endpoint: str | None = None
    otel_exporter_otlp_traces_endpoint: str | None = None
    otel_exporter_otlp_headers: SecretStr | None = None
    trace_content: bool = False
    deployment_environment: Environment | None = None
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8080, ge=0, le=65535)
    chat_port: int = Field(default=8081, ge=0, le=65535)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: LogFormat = "console"
    clock_shift: int = 0

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a folder of files, not ours
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read secrets from files too, which NAME_FILE in the environment or in `.env` names."""
        dotenv = dotenv_values(file) if (file := getattr(dotenv_settings, "env_file", None)) else {}
        files = SecretFiles(settings_cls, os.environ, dotenv)
        return init_settings, env_settings, dotenv_settings, files

    @field_validator("allowed_users", "admins", mode="before")
    @classmethod
    def _ids(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = value.replace(",", " ").split()
        if wrong := [part for part in parts if not part.isdigit()]:
            raise ValueError(f"{wrong[0]!r} is not a Telegram user id; write ids such as 1001,1002")
        if not parts:
            raise ValueError(f"{value!r} names nobody; write ids such as 1001,1002, or leave it out")
        return frozenset(map(int, parts))

    @field_validator("star_packs")
    @classmethod
    def _three_packs(cls, value: str) -> str:
        parse_packs(value)
        return value

    @field_validator(*_ADDRESSES)
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None and (why := wrong_address(value)):
            raise ValueError(f"{why}; use an address such as https://host/path")
        return value

    @field_validator(*_HEADER_SECRETS)
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value is not None else ""
        if not (text.isascii() and text.isprintable()) or " " in text:
            raise ValueError("it has a space, a line break or another character that no header can carry")
        return value

    @field_validator("video_provider")
    @classmethod
    def _known_provider(cls, value: str) -> str:
        if value not in (known := provider_names()):
            raise ValueError(f"{value!r} is not known; known: {', '.join(known)}")
        return value

    @field_validator("retention_days")
    @classmethod
    def _longer_than_reports(cls, value: int) -> int:
        if 0 < value < MIN_RETENTION_DAYS:
            raise ValueError(f"use {MIN_RETENTION_DAYS} days or more, or 0 to keep everything")
        return value

    @field_validator("clock_shift")
    @classmethod
    def _no_shift(cls, value: int) -> int:
        if value:
            raise ValueError("only 0 is allowed; tests alone shift the clock")
        return value

    @field_validator("admin_token", "metrics_token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and not _TOKEN.fullmatch(value.get_secret_value()):
            page = "the admin page" if info.field_name == "admin_token" else "/metrics"
            raise ValueError(
                f"it opens {page}: use 20 to 256 characters without spaces, for example from "
                "`python -c 'import secrets; print(secrets.token_urlsafe(24))'`"
            )
        return value

    @model_validator(mode="after")
    def _webhook(self) -> "Settings":
        if self.webhook_url is None:
            return self
        secret = self.webhook_secret.get_secret_value() if self.webhook_secret else ""
        if not _SECRET.fullmatch(secret):
            raise ValueError("WEBHOOK_URL needs WEBHOOK_SECRET (1 to 256 of A-Z a-z 0-9 _ -)")
        return self

    @model_validator(mode="after")
    def _warned_before_paged(self) -> "Settings":
        if self.day_cost_warn > self.day_cost_page:
            raise ValueError(
                f"DAY_COST_WARN {self.day_cost_warn} is above DAY_COST_PAGE {self.day_cost_page}: the admins "
                "would be alarmed before they are warned"
            )
        return self

    @model_validator(mode="after")
    def _priced_before_capped(self) -> "Settings":
        if self.model_prices is None and (self.model_day_cap or self.model_user_day_cap):
            raise ValueError("MODEL_DAY_CAP and MODEL_USER_DAY_CAP need MODEL_PRICES, by which cost is known")
        return self

    @property
    def page_url(self) -> str:
        """The address of the admin page for people, which alerts link to; empty if it is not known."""
        if self.admin_token is None:
            return ""
        if self.admin_url is not None:
            return self.admin_url.rstrip("/")
        hook = urlsplit(self.webhook_url or "")
        return f"{hook.scheme}://{hook.netloc}/admin" if hook.netloc else ""

    @property
    def star_shop(self) -> StarShop | None:
        """The credits on sale for Telegram Stars; None: nothing is."""
        return StarShop(parse_packs(self.star_packs), self.star_prices_of) if self.stars == "on" else None

    @property
    def jaeger_query_url(self) -> str | None:
        """Jaeger's address for this process; JAEGER_URL is for links that people open."""
        return self.jaeger_api_url or self.jaeger_url

    @property
    def media(self) -> Path:
        """The folder of finished videos; workers on several machines need a shared one."""
        return self.media_dir or self.var_dir / "media"

    @property
    def picture_policy(self) -> Literal["judged", "unjudged", "off"]:
        """Whether pictures are used: only after moderation, also without a key for it, or not at all."""
        return self.pictures or "judged"

    @property
    def day_cost_thresholds(self) -> tuple[Money, Money]:
        """The cost of one UTC day above which the admins are warned, and above which they must act."""
        return DOLLAR * self.day_cost_warn, DOLLAR * self.day_cost_page

    @property
    def otlp(self) -> OtlpConfig:
        """The collector that spans are sent to, and what they may contain."""
        headers, token = self.otel_exporter_otlp_headers, self.telegram_bot_token
        return OtlpConfig(
            self.otel_exporter_otlp_endpoint,
            self.otel_exporter_otlp_traces_endpoint,
            headers.get_secret_value() if headers else "",
            self.trace_content,
            token.get_secret_value() if token else "",
            self.environment,
        )

    @property
    def environment(self) -> Environment:
        """Where this process runs, as spans say it: what is paid for is production, unless it is named."""
        return self.deployment_environment or ("sandbox" if self.video_provider == LOCAL else "production")

    @property
    def ledger_url(self) -> str:
        """The URL of the ledger's database; by default a SQLite file."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.var_dir / 'ledger.db'}"


def log_format() -> LogFormat:
    """Return LOG_FORMAT even where other variables cannot be used, for the sentence that says so."""
    try:
        asked = os.environ.get("LOG_FORMAT") or dotenv_values(".env").get("LOG_FORMAT")
    except (OSError, UnicodeDecodeError):
        asked = None  # `read_settings` says so
    return "json" if asked == "json" else "console"


def read_settings(**overrides: object) -> Settings:
    """Read the settings. Every secret in them is hidden from now on wherever its value would be written.

    Raises:
        SettingsError: One sentence for each variable that cannot be used, without the values of secrets.
    """
    try:
        wrong = misspelt_names({*os.environ, *_dotenv_names(overrides)})
        settings = Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks the names
    except ValidationError as error:
        raise SettingsError("; ".join([*wrong, *map(_sentence, error.errors())])) from None
    except UnicodeDecodeError:
        raise SettingsError(".env is not UTF-8") from None
    except ValueError as error:  # of a secret's file: its message has no value
        raise SettingsError("; ".join([*wrong, str(error)])) from None
    if wrong:
        raise SettingsError("; ".join(wrong))
    hide_values(secret_values(settings))
    return settings


def _dotenv_names(overrides: dict[str, object]) -> Iterable[str]:
    file: Any = overrides.get("_env_file", Settings.model_config.get("env_file"))
    return dotenv_values(file) if file else ()


def _sentence(error: Any) -> str:
    name = "_".join(map(str, error["loc"])).upper()
    return f"{name}: {error['msg'].removeprefix('Value error, ')}".lstrip(": ")


def misspelt_names(names: Iterable[str]) -> list[str]:
    """Return a sentence for each name that is almost one of ours, while the right one is not set.

    Where both are set, as on platforms that give REDIS_URI beside REDIS_URL, nothing was meant to be read.
    """
    given = {name.upper() for name in names}
    known = {name.upper() for name in Settings.model_fields}
    known |= {f"{name.upper()}{SUFFIX}" for name in secret_fields(Settings)}
    found = []
    for name in sorted(given - known):
        close = get_close_matches(name, known, 1, _SIMILAR)
        if close and close[0] not in given:
            found.append(f"{name} is not a variable of OneTake; did you mean {close[0]}?")
    return found


def wrong_address(value: str) -> str:
    """Say what is wrong with an HTTP address, without its text, which may hold a password; empty: nothing."""
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - it raises where the port is no number
    except ValueError:
        return "it cannot be read as an address"
    if parts.scheme not in ("http", "https"):
        return "it does not begin with http:// or https://"
    if not parts.hostname:
        return "it names no host"
    if not value.isprintable() or " " in value:
        return "it has a space or a line break"
    return ""


def secret_values(settings: Settings) -> Iterator[str]:
    """Yield the value of every secret that is set, and the parts of it that libraries write by themselves."""
    for name in Settings.model_fields:
        secret = getattr(settings, name)
        if isinstance(secret, SecretStr):
            value = secret.get_secret_value()
            yield value
            yield from _parts(value)


def _parts(value: str) -> Iterator[str]:
    """Yield the password of a URL, and the values of a list of headers (`name=value,…`)."""
    if "://" in value:
        userinfo = value.partition("://")[2].rpartition("@")[0]
        yield userinfo.partition(":")[2]
    else:
        for header in value.split(","):
            yield from (header.strip(), header.partition("=")[2].strip())
