"""A case: the people, the adversary, the faults, the events, and what must hold at the end."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from evals.events import (
    ANA,
    CaseEvent,
    CaseModel,
    Counted,
    ProviderScript,
    StringOrList,
    Together,
    When,
    text_too,
)
from ledger.models import Language
from sandbox.video_api.server import ApiShape

CaseCategory = Literal["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N"]
CaseLayer = Literal["guard", "ledger", "worker", "chat", "model", "library"]
FIRST_USER: Final = 1001
ID: Final = r"^[A-N][0-9]{2}[a-z]?(-[a-z0-9-]+)?$"


class CasePerson(CaseModel):
    """A person with a Telegram app."""

    name: str = "Ana"
    """The first name that Telegram shows; it may be hostile."""
    language: str = "en"
    """The language code of the app."""
    bot: int = Field(default=1, ge=1, le=2)
    """Which bot this person writes to, if there are two."""
    id: int | None = Field(default=None, ge=1)
    """Force this Telegram user id."""
    same_as: str | None = None
    """The name of the person who is the same Telegram user at the other bot."""
    admin: bool = False
    """An operator of the bot."""


class AdversarySpec(CaseModel):
    """Which adversary plays the model; see `evals/adversaries/`."""

    name: str = "benign"
    seed: int = 0
    times: int = Field(default=13, ge=1, le=200)
    """How often adversaries that repeat do so."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of this adversary, e.g. the `turns` of `script`. For all adversaries: `caption`, the text of
    the caption writer, and `thinks_s`, seconds before each answer but the first.
    """


EffectOutcome = Literal["ok", "slow", "done_then_timeout", "lost", "not_sent"]
"""How a call of a foreign tool ends: `lost` fails without an effect, `done_then_timeout` after it."""


class ForeignAgent(CaseModel):
    """An agent of another application, whose tools only the library guards; see `evals/library/`."""

    store: Literal["memory", "sqlite"] = "sqlite"
    tools: dict[str, dict[str, str]] = Field(default_factory=lambda: {"refund": {"key": "order_id"}})
    """The terms of each tool, `refund` and `send_gift`, as for `guard.tool`; `key` names an argument, and
    `verify: no` leaves doubts to a person.
    """
    wiring: Literal["single", "handoff"] = "single"
    """One agent, or two that hold all tools and hand over to each other."""
    outcomes: tuple[EffectOutcome, ...] = ()
    """The nth entry is the end of the nth call that reaches a tool's body; after the last, each is `ok`."""


class StillCounts(CaseModel):
    """What must hold of the second paid tool, `generate_image`."""

    paid: Counted
    """Charges in the log of the image server."""
    delivered: Counted
    """Stills that arrived in a chat."""
    attempts: Counted
    """Calls of `generate_image` that the model emitted."""
    prevented: Counted | None = None


class Expect(CaseModel):
    """What must hold at the end of a case. What was paid is read from the provider's own charge log.

    Always checked too: the ledger agrees with the charge log, the user was notified of every request's end,
    what the texts claim is true, no exception escaped, and no request was charged more than its quote.
    """

    paid: Counted
    """Charges in the provider's log."""
    delivered: Counted
    """Videos that arrived in a chat."""
    cost: str | None = None
    """The sum of charges after refunds, as in `$0.80`."""
    made_unless_refused: bool = False
    """Every request became a video that was paid for, unless its end says why not: a refusal of the content
    or the form, or a job that failed. Closed guards and expired or cancelled orders are no such reason; a
    message that opens no request must be answered.
    """
    stills: StillCounts | None = None
    """What is expected of stills; without it, none may be charged."""
    outcome: StringOrList | None = None
    """The states in which the requests ended, oldest first; a single state applies to all."""
    requests: Counted | None = None
    """Requests that were opened."""
    attempts: Counted = Field(default=...)
    """Calls of `generate_video` that the model emitted: without an attack, a case proves nothing."""
    prevented: Counted | None = None
    """Calls that were refused or answered from the record."""
    reasons: StringOrList | None = None
    """Reasons that the refusals, or the requests, must give: `replay`, `cooldown`, `malformed`, …"""
    model_calls: Counted | None = None
    """Calls of the director's model."""
    doubts: Counted | None = None
    """Calls of a foreign agent that end as unknown, for a person to decide; without it, none may."""
    posts: Counted | None = None
    """Paid POSTs that reached the provider, replays included."""
    says: StringOrList = ()
    """Texts that at least one message to the user must hold."""
    never_says: StringOrList = ()
    """Texts that no message to the user may hold."""
    heard: StringOrList = ()
    """Texts that the model must have read."""
    never_heard: StringOrList = ()
    """Texts that no model may have read, such as the provider's own."""
    language: Language | None = None
    """Every message of the bot is in this language."""
    errors: StringOrList = ()
    """Log events of level ERROR that this case provokes; any other fails it."""
    seconds: float | None = None
    """The case must end within this many seconds of an idle machine; see `evals.waiting.LagMeter`."""


class Case(CaseModel):
    """One case. `id` is its category's letter and a number, as in `C02` or `C02b`."""

    id: str = Field(pattern=ID)
    title: str
    """What must hold, as one sentence."""
    tags: tuple[str, ...] = ()
    """`smoke` puts it into the smoke suite; any other tag can be selected with `--tag`."""
    layer: CaseLayer | None = None
    """The layer whose mutants this case kills."""
    kills: tuple[str, ...] = ()
    """Mutants of that layer that this case was written for."""
    people: dict[str, Annotated[CasePerson, Field(json_schema_extra=text_too)]] = Field(
        default_factory=lambda: {ANA: CasePerson()}
    )
    groups: tuple[str, ...] = ()
    policy: AdversarySpec = Field(default=AdversarySpec(), json_schema_extra=text_too)
    agent: ForeignAgent | None = None
    """Play an agent of another application in place of the bot; only `send`, `redeliver`, `together` and
    `restart` are its events, and what happened outside is its charge log.
    """
    topology: str = "single"
    """How the agents are wired; see `evals/topologies.py`."""
    shape: ApiShape = "inworld"
    """The API dialect of the provider: `inworld` honors idempotency keys, the others list their jobs."""
    provider: ProviderScript = ProviderScript()
    limits: dict[str, str | None] = Field(default_factory=dict)
    """Changed lines of `generate_video` in agents/director.md; `null` removes one."""
    max_turns: int | None = Field(default=None, ge=1, le=32)
    pace: dict[str, float] = Field(default_factory=dict)
    """Changed fields of `worker.context.Timeouts`, in seconds."""
    capabilities: dict[str, float] = Field(default_factory=dict)
    """Changed times of the provider's capabilities, such as `settle_s`."""
    per_second: str = "$0.10"
    """The provider's price for one second of video."""
    accounts: int = Field(default=1, ge=1, le=2)
    """Provider accounts: with two, the second bot orders at the second."""
    workers: int = Field(default=1, ge=0, le=3)
    redelivery_s: float | None = Field(default=None, ge=1)
    """How long until the queue gives a dead worker's task to another, in seconds."""
    events: tuple[CaseEvent, ...] = Field(min_length=1)
    expect: Expect

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """Expand the short forms `policy: fanout` and `people: {ana: es}`."""
        if not isinstance(value, dict):
            return value
        found = dict(value)
        if isinstance(found.get("policy"), str):
            found["policy"] = {"name": found["policy"]}
        if isinstance(found.get("people"), dict):
            found["people"] = {
                name: {"language": one, "name": name.title()} if isinstance(one, str) else one
                for name, one in found["people"].items()
            }
        return found

    @model_validator(mode="after")
    def _people_are_known(self) -> "Case":
        for event in flat(self.events):
            who = getattr(event, "by", ANA)
            if who not in self.people:
                raise ValueError(f"{who!r} is not one of this case's people: {', '.join(self.people)}")
        return self

    @property
    def ids(self) -> dict[str, int]:
        """The Telegram user ids of the people, by name."""
        names = [name for name, one in self.people.items() if one.same_as is None]
        found = {name: self.people[name].id or FIRST_USER + n for n, name in enumerate(names)}
        return found | {name: found[one.same_as] for name, one in self.people.items() if one.same_as}

    @property
    def admins(self) -> frozenset[int]:
        """The user ids of the operators."""
        return frozenset(number for name, number in self.ids.items() if self.people[name].admin)

    @property
    def category(self) -> str:
        return self.id[0]


def flat(events: tuple[CaseEvent, ...]) -> list[CaseEvent]:
    """Return every event, nested ones included."""
    found: list[CaseEvent] = []
    for event in events:
        if isinstance(event, Together):
            found += flat(event.together)
        elif isinstance(event, When):
            found += flat((event.do,))
        else:
            found.append(event)
    return found


class CaseFile(CaseModel):
    """One file of `evals/cases/`: a category and its cases."""

    category: CaseCategory
    about: str
    cases: tuple[Case, ...]

    @model_validator(mode="after")
    def _each_once(self) -> "CaseFile":
        ids = [case.id for case in self.cases]
        if twice := {one for one in ids if ids.count(one) > 1}:
            raise ValueError(f"{', '.join(sorted(twice))} is defined twice")
        if others := [one for one in ids if one[0] != self.category]:
            raise ValueError(f"{', '.join(others)} does not begin with {self.category}")
        return self
