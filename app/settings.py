"""Settings from the environment and `.env`, validated once, with errors that name the variable."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from guardrails.money import DOLLAR, Money
from providers.registry import PROVIDERS
from telemetry.exporter import OtlpConfig
from telemetry.logs import LogFormat

LOCAL: Final = "local"
"""The preview provider of the sandbox: renders on this machine, for test credits."""

MIN_RETENTION_DAYS: Final = 31
"""Reports show the texts of 30 days and of today."""

_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_TOKEN: Final = re.compile(r"[!-~]{20,256}")


def provider_names() -> tuple[str, ...]:
    """Return every name that VIDEO_PROVIDER may have."""
    return (LOCAL, *PROVIDERS)


class SettingsError(Exception):
    """The configuration cannot be used; the message names the variable and what is allowed."""


class Settings(BaseSettings):
    """Everything that can be configured. With nothing set, every part is embedded.

    Secrets are `SecretStr`, which prints as stars.
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
    day_cost_warn: int = Field(default=80, ge=1)
    day_cost_page: int = Field(default=100, ge=1)

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
    moderation_api_key: SecretStr | None = None
    moderation_base_url: str | None = None

    video_provider: str = LOCAL
    video_base_url: str | None = None
    video_api_key: SecretStr | None = None
    video_dialect: Literal["openai", "vllm_omni", "sglang", "inworld"] = "openai"
    video_model: str | None = None
    video_prices: Path | None = None
    video_proxy_retries_off: bool = False

    worker: Literal["inside", "apart"] = "inside"
    worker_concurrency: int = Field(default=100, ge=1, le=1000)
    admin_token: SecretStr | None = None
    jaeger_url: str | None = None
    otel_exporter_otlp_endpoint: str | None = None
    otel_exporter_otlp_traces_endpoint: str | None = None
    otel_exporter_otlp_headers: SecretStr | None = None
    trace_content: bool = False
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8080, ge=0, le=65535)
    chat_port: int = Field(default=8081, ge=0, le=65535)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: LogFormat = "console"
    clock_shift: int = 0

    @field_validator("allowed_users", "admins", mode="before")
    @classmethod
    def _ids(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = value.replace(",", " ").split()
        if wrong := [part for part in parts if not part.isdigit()]:
            raise ValueError(f"{wrong[0]!r} is not a Telegram user id; write ids such as 1001,1002")
        return frozenset(map(int, parts))

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

    @field_validator("admin_token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError(
                "it opens the admin page: use 20 to 256 characters without spaces, for example from "
                "`python -c 'import secrets; print(secrets.token_urlsafe(24))'`"
            )
        return value

    @field_validator("jaeger_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise ValueError("it is not an address; use one that begins with http:// or https://")
        return value

    @model_validator(mode="after")
    def _webhook(self) -> "Settings":
        if self.webhook_url is None:
            return self
        secret = self.webhook_secret.get_secret_value() if self.webhook_secret else ""
        if not _SECRET.fullmatch(secret):
            raise ValueError("WEBHOOK_URL needs WEBHOOK_SECRET (1 to 256 of A-Z a-z 0-9 _ -)")
        if not self.webhook_url.startswith(("https://", "http://")):
            raise ValueError("WEBHOOK_URL is not an address; use one that begins with https://")
        return self

    @property
    def media(self) -> Path:
        """The folder of finished videos; workers on several machines need a shared one."""
        return self.media_dir or self.var_dir / "media"

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
        )

    @property
    def ledger_url(self) -> str:
        """The URL of the ledger's database; by default a SQLite file."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.var_dir / 'ledger.db'}"


def read_settings(**overrides: object) -> Settings:
    """Read the settings.

    Raises:
        SettingsError: One sentence for each variable that cannot be used, without the values of secrets.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks the names
    except ValidationError as error:
        lines = [
            f"{'_'.join(map(str, one['loc'])).upper()}: {one['msg'].removeprefix('Value error, ')}".lstrip(
                ": "
            )
            for one in error.errors()
        ]
        raise SettingsError("; ".join(lines)) from None
    except UnicodeDecodeError:
        raise SettingsError(".env is not UTF-8") from None
