"""Request and Video rows, states and allowed transitions, derived ids."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import uuid5

from guardrails.money import Money
from ledger.failures import Failure
from telemetry.redaction import NAMESPACE, short_id

if TYPE_CHECKING:
    from sqlalchemy import Row  # evals read these words without a database


class RequestState(StrEnum):
    """The state of a user's request."""

    OPEN = "OPEN"
    ORDERED = "ORDERED"
    REFUSED = "REFUSED"
    NO_ORDER = "NO_ORDER"
    CANCELLED = "CANCELLED"


class VideoState(StrEnum):
    """The state of the one video of a request; docs/architecture.md says who writes each."""

    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    QUEUED = "QUEUED"
    SUBMITTING = "SUBMITTING"
    ACCEPTED = "ACCEPTED"
    IN_DOUBT = "IN_DOUBT"
    HOLD = "HOLD"
    SUCCEEDED = "SUCCEEDED"
    DELIVERED = "DELIVERED"
    FAILED_UNPAID = "FAILED_UNPAID"
    FAILED_PAID = "FAILED_PAID"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


_V = VideoState
ALLOWED_TRANSITIONS: Final[dict[VideoState, frozenset[VideoState]]] = {
    _V.AWAITING_APPROVAL: frozenset({_V.QUEUED, _V.CANCELLED, _V.EXPIRED}),
    _V.QUEUED: frozenset({_V.SUBMITTING, _V.CANCELLED, _V.EXPIRED}),
    _V.SUBMITTING: frozenset({_V.ACCEPTED, _V.FAILED_UNPAID, _V.IN_DOUBT, _V.QUEUED}),
    _V.IN_DOUBT: frozenset({_V.ACCEPTED, _V.FAILED_UNPAID, _V.HOLD}),
    _V.HOLD: frozenset({_V.ACCEPTED, _V.FAILED_UNPAID, _V.FAILED_PAID}),
    _V.ACCEPTED: frozenset({_V.SUCCEEDED, _V.FAILED_PAID, _V.FAILED_UNPAID, _V.HOLD}),
    _V.SUCCEEDED: frozenset({_V.DELIVERED}),
    _V.FAILED_UNPAID: frozenset({_V.ACCEPTED}),
    _V.DELIVERED: frozenset(),
    _V.FAILED_PAID: frozenset(),
    _V.CANCELLED: frozenset(),
    _V.EXPIRED: frozenset(),
}
"""Every edge of the state machine; `transitions.transition` refuses any other."""

CORRECTIONS: Final[dict[VideoState, frozenset[VideoState]]] = {
    _V.FAILED_UNPAID: frozenset({_V.ACCEPTED, _V.FAILED_PAID}),
    _V.CANCELLED: frozenset({_V.ACCEPTED, _V.FAILED_PAID}),
    _V.EXPIRED: frozenset({_V.ACCEPTED, _V.FAILED_PAID}),
    _V.FAILED_PAID: frozenset({_V.ACCEPTED, _V.FAILED_UNPAID}),
    _V.SUCCEEDED: frozenset({_V.FAILED_PAID}),
}
"""Edges that only a person may take, with a reason, because an end was wrong: see `ledger.corrections`."""

FENCED_TRANSITIONS: Final = frozenset({(_V.SUBMITTING, _V.QUEUED), (_V.SUBMITTING, _V.FAILED_UNPAID)})
"""Edges that give money back or send again: only the holder of SUBMITTING may take them, by its fence."""

UNPAID_END_STATES: Final = frozenset({_V.FAILED_UNPAID, _V.CANCELLED, _V.EXPIRED})
"""End states in which nothing was paid: quota, cooldown and money are given back."""

UNCOUNTED_STATES: Final = UNPAID_END_STATES | {_V.AWAITING_APPROVAL}
"""States that count toward no limit: an offer counts nothing until its user taps."""

QUOTA_FREE_STATES: Final = UNCOUNTED_STATES | {_V.FAILED_PAID}
"""States that do not count toward the user's quota; a paid failure counts toward cooldown and budgets."""

ADOPTABLE_STATES: Final = frozenset({_V.SUBMITTING, _V.IN_DOUBT, _V.HOLD, _V.FAILED_UNPAID})
"""States in which a job that the provider turns out to have is linked to its order."""

LATE_CHARGE: Final = Failure.LATE
"""The `failure` of a video whose job was found after its user had been told that nothing was paid."""

CHAT_REFUSED: Final = Failure.CHAT_REFUSED
"""The reason of a request, and the `failure` of a video, that was cancelled because Telegram refused to show
anything in its chat: nothing is paid that its user could not be told of.
"""

CANCELLABLE_STATES: Final = frozenset({_V.AWAITING_APPROVAL, _V.QUEUED})
"""States before the point of no return: the user may still cancel."""

FINAL_STATES: Final = frozenset({_V.DELIVERED, _V.FAILED_PAID, *UNPAID_END_STATES})
"""States in which the worker has nothing left to do."""

PACED_STATES: Final[frozenset[str]] = frozenset(
    {RequestState.OPEN, RequestState.ORDERED, _V.QUEUED, _V.SUBMITTING, _V.ACCEPTED}
)
"""States of a request in progress: an edit that shows one may wait until the message may be edited again.
All others are shown at once. Migration 0008 names the same.
"""


class Credit(StrEnum):
    """Whether a video is above its user's quota, and paid with a credit (`ledger.video_credits`).

    An offer is OFFERED where its text says that it uses one. A video that HELD one counts toward no quota;
    a trigger makes it BACK when it ends in one of `QUOTA_FREE_STATES`, and it never holds one again.
    """

    NONE = ""
    OFFERED = "offered"
    HELD = "held"
    BACK = "back"


OrderKind = Literal["video", "image"]
"""What an order makes: a video, or one still, which has no length."""

EntryKind = Literal["hold", "release", "charge", "credit"]
Language = Literal["en", "es", "pt"]
"""The languages in which users are answered."""

LANGUAGE_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"en": "English", "es": "Spanish", "pt": "Portuguese"}
)
"""Their English names, as instructions for models say them."""


VIDEO_TOOL: Final = "generate_video"
"""The paid tool whose order stands under its request's own id, as every order did at first."""

_BESIDE: Final = "#"
"""Divides request and tool in the id of another order. No id of an act has it (`chat.updates`)."""


def order_id(request_id: str, tool: str) -> str:
    """Return the key of the one order of this tool for this request: an id in `videos` and `requests`."""
    return request_id if tool == VIDEO_TOOL else f"{request_id}{_BESIDE}{tool}"


def act_of(order: str) -> str:
    """Return the user's request that an order belongs to: the inverse of `order_id`."""
    return order.partition(_BESIDE)[0]


def provider_key(order: str) -> str:
    """Return the idempotency key under which an order is submitted, from its id alone."""
    return str(uuid5(NAMESPACE, order))


def seed(order: str) -> int:
    """Return a whole number below 2**31: the fingerprint by which a provider's job list is searched."""
    return uuid5(NAMESPACE, f"seed:{order}").int % 2**31


@dataclass(frozen=True, slots=True)
class Request:
    """One `/create` of one user. Times are milliseconds since the epoch; see `ledger.schema`."""

    request_id: str
    bot_id: int
    chat_id: int
    message_id: int
    message_thread_id: int | None
    user_id: int
    language: str
    idea: str
    state: RequestState
    attempts: int
    run_until: int
    reason: str | None
    reason_until: int | None
    reason_quote: str | None
    caption: str | None
    status_message_id: int | None
    told: str
    told_after: int
    notify_at: int | None
    notify_failures: int
    edit_after: int
    shown: str
    traceparent: str | None
    reported: str
    parent_id: str | None
    erasure: str | None
    created_at: int
    updated_at: int
    picture: str | None = None
    corrected_at: int | None = None
    correction_told: int | None = None
    tool: str = VIDEO_TOOL

    @property
    def short_id(self) -> str:
        """The six letters by which people name the request."""
        return short_id(self.request_id)

    @property
    def correction_due(self) -> bool:
        """Whether its user has to be told that what they read of its cost was corrected."""
        return self.corrected_at is not None and self.corrected_at != self.correction_told

    @classmethod
    def from_row(cls, row: "Row[Any]") -> "Request":
        return cls(**_columns(cls, row) | {"state": RequestState(row.state)})


@dataclass(frozen=True, slots=True)
class Video:
    """The one order of a request and a tool, or its intent. `progress` is per cent, `version` counts states.

    `charged_at` is the first charge of any of its jobs, also of one that was refunded since.
    """

    request_id: str
    user_id: int
    state: VideoState
    provider: str
    account: str | None
    model: str
    prompt: str
    seconds: int
    size: str
    quote_micros: int
    nonce: str | None
    offered_micros: int | None
    expires_at: int
    fence: str | None
    deadline_at: int
    submits: int
    retry_at: int
    look_at: int
    absent_at: int | None
    job_id: str | None
    status_url: str | None
    result_url: str | None
    progress: int
    failure: str | None
    failure_detail: str | None
    asset_path: str | None
    asset_seconds: int | None
    asset_width: int | None
    asset_height: int | None
    file_id: str | None
    ordered_at: int
    submitted_at: int | None
    sent_at: int | None
    accepted_at: int | None
    updated_at: int
    due_at: int | None
    due_failures: int
    bad_assets: int
    denied_at: int | None
    denials: int
    version: int
    charged_at: int | None
    cost_micros: int
    style: str | None = None
    style_prompt: str | None = None
    sound: int | None = None
    avoid: str | None = None
    chosen: str | None = None
    options_open: int = 0
    picture: str | None = None
    picture_format: str | None = None
    picture_allowed_at: int | None = None
    credit: str = Credit.NONE
    credit_lot: str | None = None
    tool: str = VIDEO_TOOL

    @property
    def kind(self) -> "OrderKind":
        """What is made; it is delivered accordingly."""
        return "video" if self.seconds else "image"

    @property
    def act_id(self) -> str:
        """The user's request, by which guards know its calls; for a video the same as `request_id`."""
        return act_of(self.request_id)

    @property
    def short_id(self) -> str:
        """The six letters by which people name the request."""
        return short_id(self.request_id)

    @property
    def asks_for_rights(self) -> bool:
        """Whether its person must first say that they may use its picture."""
        return self.picture is not None and self.picture_allowed_at is None

    @property
    def account_names(self) -> tuple[str, ...]:
        """Its account, and its provider, by which orders of the version before go that have none yet."""
        return (self.provider,) if self.account is None else (self.account, self.provider)

    @property
    def quote(self) -> Money:
        """The provider's price at the time of the order."""
        return Money(self.quote_micros)

    @property
    def with_sound(self) -> bool:
        """Whether it was ordered with sound, as far as its provider makes sound at all."""
        return self.sound != 0

    @property
    def own_prompt(self) -> str:
        """The prompt without the sentence of its style."""
        return (
            self.prompt.removesuffix(self.style_prompt or "").rstrip() if self.style_prompt else self.prompt
        )

    @property
    def offered(self) -> Money | None:
        """The price that its offer showed before it had to change; None: it never did."""
        return None if self.offered_micros is None else Money(self.offered_micros)

    @property
    def cost(self) -> Money:
        """What its request was charged, less what was refunded."""
        return Money(self.cost_micros)

    @classmethod
    def from_row(cls, row: "Row[Any]") -> "Video":
        return cls(**_columns(cls, row) | {"state": VideoState(row.state)})


def _columns(cls: "type[Request | Video]", row: "Row[Any]") -> dict[str, Any]:
    """Return the columns of a row that `cls` has fields for; others are the database's own."""
    found = row._mapping  # noqa: SLF001 - SQLAlchemy's public name for a row's columns
    return {field.name: found[field.name] for field in fields(cls)}
