"""Events and expectations of a case."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from sandbox.telegram.faults import How
from sandbox.video_api.server import JobFate, PostOutcome
from telemetry.failpoints import Failpoint


class EvalError(Exception):
    """A run cannot begin or go on; the message is one sentence for the person who started it."""


class CaseModel(BaseModel):
    """Base of everything that a YAML case says: frozen and closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Count(CaseModel):
    """How often something may happen: a number, or its bounds."""

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
    """Let editors know that a bare number is read as well."""
    schema["anyOf"] = [{"type": "integer", "minimum": 0}, {"$ref": schema.pop("$ref")}]


def text_too(schema: dict[str, Any]) -> None:
    """Let editors know that a bare text is read as well."""
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
    """Somebody sends a message. What follows does not wait for its end; see `rest`."""

    send: str
    """The text; `/create` and an idea, as a rule."""
    by: str = ANA
    """One of `people`."""
    chat: str | None = None
    """One of `groups`; without it the chat with the bot."""
    padded: int | None = Field(default=None, ge=1, le=1_000_000)
    """The text is sent again and again, up to so many characters, in pieces as Telegram's apps do."""
    named: str | None = None
    """A name for this message, for `redeliver`, `edit`, `forward` and `quotes`."""
    quotes: str | None = None
    """The name of a message that this one answers; Telegram hands the bot both."""
    number: int | None = Field(default=None, ge=1)
    """The number that Telegram gives it, if it is to be this one; those before it are never used."""


class Redeliver(CaseModel):
    """Telegram delivers an update again."""

    redeliver: str | None = Field(...)
    """The name of a message, `null` for the latest update."""
    times: int = Field(default=1, ge=1, le=50)
    renumbered: bool = False
    """Under new update ids, as after a move to another Bot API server."""


class Edit(CaseModel):
    """Somebody edits a message of theirs."""

    edit: str
    """The new text."""
    of: str
    """The name of the message."""
    by: str = ANA


class Forward(CaseModel):
    """Somebody forwards a message."""

    forward: str
    """The name of the message."""
    by: str = ANA


class Tap(CaseModel):
    """Somebody taps a button of the newest message that has it, so many times at once."""

    tap: str
    """The button's words or the beginning of them."""
    by: str = ANA
    times: int = Field(default=1, ge=1, le=20)


class Rest(CaseModel):
    """Wait until every request rests and its user knows; the end of a case does so by itself."""

    rest: float = Field(gt=0, le=60)
    """Seconds, at most."""


class Until(CaseModel):
    """Wait until somebody's newest request, or its video, is in a state, or past it."""

    until: str
    """A word of `ledger.models`: OPEN, QUEUED, ACCEPTED, …"""
    by: str = ANA


class Hear(CaseModel):
    """Wait until a message of the bot in somebody's own chat holds a text."""

    hear: str
    by: str = ANA


class Shift(CaseModel):
    """Move the stores' clock."""

    shift: str = Field(pattern=r"^[1-9][0-9]*(s|m|h|day)$")
    """How far ahead of now, as in `11m`."""


class Together(CaseModel):
    """Several things at once."""

    together: tuple["CaseEvent", ...]


class Redis(CaseModel):
    """Something happens to the guard's store."""

    redis: Literal["flush", "down", "up", "lose_reply", "forget", "snapshot", "failover"]
    """`lose_reply` carries the next command out and drops its answer; `forget` takes the guard's keys away as
    if their time had run out, the epoch not; `failover` cuts every line and puts back what `snapshot` saw.
    """
    seconds: float | None = Field(default=None, gt=0, le=20)
    """`down` lasts so long; without it, until `up`."""
    to: str | None = None
    """A word of the command whose answer is lost, such as `take`, else it is the next of anybody's."""


class ProviderChange(CaseModel):
    """The provider changes its behaviour from now on."""

    provider: "ProviderScript"


class Telegram(CaseModel):
    """Telegram's next calls of one method go wrong."""

    telegram: str
    """A method of the Bot API, `*` for any."""
    how: How | Literal["lost"] = "drop"
    """`lost` performs the call and drops its answer."""
    times: int = Field(default=1, ge=1)


class Worker(CaseModel):
    """What becomes of the workers of this case."""

    worker: Literal["start", "kill", "stumble"]
    """`kill` lets the next task that reaches `at` die there, without a word to anybody, and the worker with
    it if the queue's own code does not survive that;
    `stumble` raises an ordinary exception there; `start` opens one more house that works.
    """
    at: Failpoint | None = None


class When(CaseModel):
    """Something happens at the moment in which a task next reaches a point, while that task waits."""

    when: Failpoint
    do: "CaseEvent"


class ProviderScript(CaseModel):
    """The provider: what becomes of its next paid POSTs, and what else it does. See `sandbox.video_api`."""

    script: tuple[PostOutcome, ...] = ()
    """The nth entry is the nth POST; after them everything is accepted."""
    fates: tuple[JobFate, ...] = ()
    """What becomes of the nth accepted job."""
    hostile: str | None = None
    """The text in every error message."""
    polls: int | None = Field(default=None, ge=0)
    """Questions until a job is done."""
    bills_failed: bool | None = None
    away: bool | None = None
    """Nobody listens at its port: nothing can be sent."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further attributes of `sandbox.video_api.server.Desk`."""


_ALL = (
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
    Telegram,
    Worker,
    When,
    Hear,
)
_KINDS = {next(iter(kind.model_fields)): kind for kind in _ALL}


def _kind(value: Any) -> str | None:
    names = value if isinstance(value, dict) else type(value).model_fields
    return next((name for name in names if name in _KINDS), None)


CaseEvent = Annotated[
    Annotated[Send, Tag("send")]
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
    | Annotated[Telegram, Tag("telegram")]
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
