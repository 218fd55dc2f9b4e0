"""What a case left behind: the provider's charge log, the ledger, the chats, the model's own items."""

from typing import Any

from pydantic import BaseModel, Field


class Charge(BaseModel):
    """One line of the provider's charge log: a charge, or a refund with negative micro-dollars."""

    job: str
    key: str = ""
    micros: int
    request: str | None = None
    """The request whose key it carries; None if no request of ours has this key."""


class Line(BaseModel):
    """One message in a chat, as it stands at the end."""

    chat: str
    bot: bool
    text: str
    video: bool = False
    at: str = ""
    """The number of the bot in whose chat it stands."""


class Fate(BaseModel):
    """How one request ended."""

    request: str
    who: str
    state: str
    video: str | None = None
    told: str = ""
    reason: str | None = None
    quote_micros: int = 0
    booked_micros: int = 0

    @property
    def word(self) -> str:
        return self.video or self.state


class Refusal(BaseModel):
    """One call that a guard, or the ledger, did not let through."""

    request: str
    tool: str
    word: str
    layer: str
    arguments: str = ""


class Turn(BaseModel):
    """One answer of a model, and where in which run it was said."""

    agent: str
    idea: str
    position: int
    """How many items the conversation had."""
    items: list[dict[str, Any]]


class Evidence(BaseModel):
    """Everything that a verdict may look at; it travels between processes as JSON.

    `texts` holds every text that the bot ever sent, edits included; `lines` is what stands in the chats.
    """

    case: str
    seconds: float = 0
    cpu_s: float = 0
    charges: list[Charge] = Field(default_factory=list)
    posts: list[str | None] = Field(default_factory=list)
    """The request of every paid POST by the key that it carried; None for a key of no request, or none."""
    books: str = ""
    """What is wrong between the ledger and the charge log; empty if they agree."""
    delivered: int = 0
    fates: list[Fate] = Field(default_factory=list)
    missed: str = ""
    """What an event waited for and did not come; empty if the case was played to its end."""
    unmet: list[str] = Field(default_factory=list)
    """Faults that the case set up and that never happened; empty as well if an event was missed."""
    restless: list[str] = Field(default_factory=list)
    """Requests that did not come to rest in time."""
    refusals: list[Refusal] = Field(default_factory=list)
    unrecorded: int = 0
    """Refusals that stood and that a slow ledger did not write down in time: evidence lost, never money."""
    emitted: list[dict[str, Any]] = Field(default_factory=list)
    turns: list[Turn] = Field(default_factory=list)
    """The same items, answer by answer: what `--record` keeps."""
    heard: list[str] = Field(default_factory=list)
    model_calls: dict[str, int] = Field(default_factory=dict)
    texts: list[Line] = Field(default_factory=list)
    lines: list[Line] = Field(default_factory=list)
    errors: list[str] = Field(default_factory=list)
    """Events of level ERROR, and exceptions that nobody caught."""
    log: list[str] = Field(default_factory=list)
    """Guard decisions and what was paid, as they were logged."""
    guard_ms: list[float] = Field(default_factory=list)
    guard_trips: list[int] = Field(default_factory=list)
    """Redis round trips of each admission."""

    @property
    def paid(self) -> int:
        return sum(charge.micros > 0 for charge in self.charges)

    @property
    def cost(self) -> int:
        """Micro-dollars after refunds."""
        return sum(charge.micros for charge in self.charges)

    @property
    def attempts(self) -> int:
        return sum(item.get("name") == "generate_video" for item in self.emitted)

    @property
    def prevented(self) -> int:
        return sum(one.tool == "generate_video" for one in self.refusals)

    @property
    def excess(self) -> int:
        """Charges beyond one for each request, and those that belong to no request."""
        owners = [charge.request for charge in self.charges if charge.micros > 0]
        return len(owners) - len({owner for owner in owners if owner is not None})

    @property
    def overspend(self) -> int:
        """Micro-dollars charged beyond the first charge of each request."""
        seen: set[str | None] = {None}
        spent = 0
        for charge in self.charges:
            if charge.micros > 0:
                spent += charge.micros if charge.request in seen else 0
                seen.add(charge.request)
        return spent
