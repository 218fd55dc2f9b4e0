"""The events that a case may list, and the small types that cases are made of."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from sandbox.telegram.faults import How
from sandbox.video_api.server import JobFate, PostOutcome
from telemetry.failpoints import Failpoint

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INCOMPLETE: Final = 3
"""Exit codes of `python -m evals`."""


class EvalError(Exception):
    """A run cannot start or continue; the message is one sentence for the person who started it."""


class CaseModel(BaseModel):
    """Base of everything that a YAML case holds: frozen, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Count(CaseModel):
    """How often something may happen: an exact number, or bounds."""

    least: int = Field(default=0, ge=0)
    most: int | None = Field(default=None, ge=0)

    def holds(self, found: int) -> bool:
        return self.least <= found and (self.most is None or found <= self.most)

    def __str__(self) -> str:
        if self.most == self.least:
            return str(self.least)
        if self.most is None:
            return f"≥ {self.least}"
        return f"≤ {self.most}" if not self.least else f"{self.least} to {self.most}"


def _count(value: Any) -> Any:
    return {"least": value, "most": value} if isinstance(value, int) else value


def _number_too(schema: dict[str, Any]) -> None:
    """Show editors that a bare number is accepted too."""
    schema["anyOf"] = [{"type": "integer", "minimum": 0}, {"$ref": schema.pop("$ref")}]


def text_too(schema: dict[str, Any]) -> None:
    """Show editors that a bare text is accepted too."""
    other = {key: schema.pop(key) for key in ("$ref", "type", "items") if key in schema}
    schema["anyOf"] = [{"type": "string"}, other]


Counted = Annotated[Count, BeforeValidator(_count), Field(json_schema_extra=_number_too)]
"""`paid: 1`, or `paid: {most: 1}`."""


def _many(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


StringOrList = Annotated[tuple[str, ...], BeforeValidator(_many), Field(json_schema_extra=text_too)]
"""One text, or several."""


ANA = "ana"


class Send(CaseModel):
    """A person sends a message. The next event does not wait for its outcome; see `rest`."""

    send: str
    """The text; `/create` and an idea, as a rule."""
    by: str = ANA
    """One of `people`."""
    chat: str | None = None
    """One of `groups`; without it, the private chat with the bot."""
    padded: int | None = Field(default=None, ge=1, le=1_000_000)
    """Repeat the text up to this many characters, sent in pieces as Telegram's apps do."""
    named: str | None = None
    """A name for this message, for `redeliver`, `edit`, `forward` and `quotes`."""
    quotes: str | None = None
    """The name of a message that this one replies to; Telegram sends the bot both."""
    topic: int = Field(default=0, ge=0)
    """The topic of a forum; see `group`."""
    newer: bool = False
    """The update holds something of a newer Bot API that this aiogram refuses to parse."""
    number: int | None = Field(default=None, ge=1)
    """Force this message id; ids before it are never used."""


class Redeliver(CaseModel):
    """Telegram delivers an update again."""

    redeliver: str | None = Field(...)
    """The name of a message; `null` for the latest update."""
    times: int = Field(default=1, ge=1, le=50)
    renumbered: bool = False
    """Under new update ids, as after a move to another Bot API server."""


class Edit(CaseModel):
    """A person edits a message of theirs."""

    edit: str
    """The new text."""
    of: str
    """The name of the message."""
    by: str = ANA


class Forward(CaseModel):
    """A person forwards a message."""

    forward: str
    """The name of the message."""
    by: str = ANA


class Tap(CaseModel):
    """A person taps a button of the newest message that has it, `times` times at once."""

    tap: str
    """The button's text, or the beginning of it."""
    by: str = ANA
    times: int = Field(default=1, ge=1, le=20)


class Rest(CaseModel):
    """Wait until every request is settled and its user is notified; the end of a case always does so."""

    rest: float = Field(gt=0, le=60)
    """Seconds, at most."""


class Until(CaseModel):
    """Wait until a person's newest request, or its video, is in this state."""

    until: str
    """A state of `ledger.models`: OPEN, QUEUED, ACCEPTED, …"""
    by: str = ANA


class Hear(CaseModel):
    """Wait until a message in a person's private chat holds this text."""

    hear: str
    by: str = ANA


class Shift(CaseModel):
    """Move the ledger's clock."""

    shift: str = Field(pattern=r"^[1-9][0-9]*(s|m|h|day)$")
    """How far to move it ahead, as in `11m`."""


class Restart(CaseModel):
    """The application of a foreign agent ends and starts again; what its guard kept is what was stored."""

    restart: Literal["agent"]


class Together(CaseModel):
    """Several things at once."""

    together: tuple["CaseEvent", ...]


class Redis(CaseModel):
    """Something happens to the guard's Redis."""

    redis: Literal["flush", "down", "up", "lose_reply", "forget", "snapshot", "failover"]
    """`lose_reply` executes the next command and drops its answer; `forget` deletes the guard's keys as if
    they had expired, except the epoch; `failover` restores what `snapshot` saved and cuts every connection.
    """
    seconds: float | None = Field(default=None, gt=0, le=20)
    """How long `down` lasts; without it, until `up`."""
    to: str | None = None
    """A word of the command whose answer is lost, such as `reserve`; without it, the next command."""


class ProviderChange(CaseModel):
    """The provider changes its behaviour from now on."""

    provider: "ProviderScript"


class PriceChange(CaseModel):
    """The provider, and the price list that the bot has of it, change their price."""

    price: str = Field(pattern=r"^\$[0-9]+(\.[0-9]+)?$")
    """Of one second of video, as in `$0.20`; whole cents."""


class Telegram(CaseModel):
    """Telegram's next calls of one method fail."""

    telegram: str
    """A method of the Bot API; `*` for any."""
    how: How | Literal["lost", "refused", "healed"] = "drop"
    """`lost` performs the call and drops its answer; `refused` answers with `code` and `words`; `healed`
    drops every fault.
    """
    times: int = Field(default=1, ge=1)
    code: int = Field(default=400, ge=400, le=599)
    words: str = "Bad Request: wrong file identifier/HTTP URL specified"
    """Telegram's description, in the Bot API server's words."""


class GroupChange(CaseModel):
    """What the bot may do in a group changes; see `sandbox.telegram.chats.Group`."""

    group: str
    """One of `groups`."""
    muted: bool | None = None
    """The bot may read and not send."""
    kicked: bool | None = None
    refusal: str | None = None
    """Telegram's name of the error that every message gets, such as `CHAT_RESTRICTED`."""
    topics: dict[str, bool] | None = None
    """The forum's topics by id, and whether each is closed; 1 is the general one."""


class Block(CaseModel):
    """A person blocks the bot. Their next private message unblocks it."""

    block: str
    """One of `people`."""


class Worker(CaseModel):
    """A worker is started, killed, or fails."""

    worker: Literal["start", "kill", "stumble"]
    """`kill` ends the next task that reaches `at` as SIGKILL would, and its worker too if the queue's own
    code does not survive that; `stumble` raises an ordinary exception there; `start` starts one more worker
    in an app of its own.
    """
    at: Failpoint | None = None


class When(CaseModel):
    """An event happens when a task next reaches a failpoint, while that task waits."""

    when: Failpoint
    do: "CaseEvent"


class ProviderScript(CaseModel):
    """How the provider answers its next paid POSTs, and its other behavior. See `sandbox.video_api`."""

    script: tuple[PostOutcome, ...] = ()
    """The nth entry is the outcome of the nth POST; after the last, every POST is accepted."""
    fates: tuple[JobFate, ...] = ()
    """The nth entry is the outcome of the nth accepted job."""
    hostile: str | None = None
    """The text in every error message."""
    polls: int | None = Field(default=None, ge=0)
    """Number of polls until a job is done."""
    bills_failed: bool | None = None
    away: bool | None = None
    """The provider's port is closed: nothing can be sent."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further attributes of `sandbox.video_api.openai.FakeProvider`."""


_ALL = (
    Restart,
    Send,
    Redeliver,
    Edit,
    Forward,
    Tap,
    Rest,
    Until,
    Shift,
    Together,
    Redis,
    ProviderChange,
    PriceChange,
    Telegram,
    GroupChange,
    Block,
    Worker,
    When,
    Hear,
)
_KINDS = {next(iter(kind.model_fields)): kind for kind in _ALL}


def _kind(value: Any) -> str | None:
    names = value if isinstance(value, dict) else type(value).model_fields
    return next((name for name in names if name in _KINDS), None)


CaseEvent = Annotated[
    Annotated[Restart, Tag("restart")]
    | Annotated[Send, Tag("send")]
    | Annotated[Redeliver, Tag("redeliver")]
    | Annotated[Edit, Tag("edit")]
    | Annotated[Forward, Tag("forward")]
    | Annotated[Tap, Tag("tap")]
    | Annotated[Rest, Tag("rest")]
    | Annotated[Until, Tag("until")]
    | Annotated[Hear, Tag("hear")]
    | Annotated[Shift, Tag("shift")]
    | Annotated[Together, Tag("together")]
    | Annotated[Redis, Tag("redis")]
    | Annotated[ProviderChange, Tag("provider")]
    | Annotated[PriceChange, Tag("price")]
    | Annotated[Telegram, Tag("telegram")]
    | Annotated[GroupChange, Tag("group")]
    | Annotated[Block, Tag("block")]
    | Annotated[Worker, Tag("worker")]
    | Annotated[When, Tag("when")],
    Discriminator(
        _kind,
        custom_error_type="event",
        custom_error_message=f"an event begins with one of: {', '.join(_KINDS)}",
    ),
]

Together.model_rebuild()
ProviderChange.model_rebuild()
When.model_rebuild()
