"""Rows as values: what the other rooms are given to read."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from ledger import identity
from ledger.money import Money
from ledger.words import RequestState, VideoState


@dataclass(frozen=True, slots=True)
class Request:
    """One act of one user. Times are milliseconds since the epoch; see `ledger.schema` for the columns."""

    request_id: str
    bot_id: int
    chat_id: int
    message_id: int
    user_id: int
    language: str
    idea: str
    state: RequestState
    attempts: int
    run_until: int
    reason: str | None
    reason_layer: str | None
    reason_until: int | None
    reason_quote: str | None
    caption: str | None
    status_message_id: int | None
    told: str
    told_after: int
    traceparent: str | None
    reported: str
    created_at: int
    updated_at: int

    @property
    def short_id(self) -> str:
        """Six letters for people."""
        return identity.short_id(self.request_id)

    @classmethod
    def of(cls, row: Row[Any]) -> "Request":
        fields = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for a row's columns
        return cls(**fields | {"state": RequestState(fields["state"])})


@dataclass(frozen=True, slots=True)
class Video:
    """The one video of a request, or its intent. `progress` is whole per cent."""

    request_id: str
    user_id: int
    state: VideoState
    provider: str
    model: str
    prompt: str
    seconds: int
    size: str
    quote_micros: int
    nonce: str | None
    expires_at: int
    fence: str | None
    deadline_at: int
    submits: int
    retry_at: int
    look_at: int
    absent_at: int | None
    job_id: str | None
    progress: int
    failure: str | None
    failure_detail: str | None
    asset_path: str | None
    asset_seconds: int | None
    file_id: str | None
    ordered_at: int
    submitted_at: int | None
    sent_at: int | None
    accepted_at: int | None
    updated_at: int

    @property
    def short_id(self) -> str:
        """Six letters for people."""
        return identity.short_id(self.request_id)

    @property
    def quote(self) -> Money:
        """What the provider asked before the order."""
        return Money(self.quote_micros)

    @classmethod
    def of(cls, row: Row[Any]) -> "Video":
        fields = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for a row's columns
        return cls(**fields | {"state": VideoState(fields["state"])})
