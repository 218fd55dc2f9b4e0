"""Who is calling: the part of a run's context that guards read."""

from dataclasses import dataclass, field

from guardrails.admission import Decision
from ledger.database import Ledger


@dataclass(kw_only=True)
class Visit:
    """One attempt at one request's run. Identity comes from here, never from a tool's arguments.

    Attributes:
        request_id: The user's act.
        user_id: The payer.
        attempt: Which attempt at the run this is, from 1.
        ledger: Where every refused call is recorded.
        refusals: What guards and bodies refused in this attempt, in order; replays are not refusals.
        unrecorded: Tool, word and layer of refused calls that could not be written down in time.
    """

    request_id: str
    user_id: int
    attempt: int
    ledger: Ledger
    refusals: list[Decision] = field(default_factory=list)
    unrecorded: list[tuple[str, str, str]] = field(default_factory=list)
