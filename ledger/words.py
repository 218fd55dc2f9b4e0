"""The words of the ledger: states, the edges between them, entry kinds. Used as they are in SQL and texts."""

from enum import StrEnum
from typing import Final, Literal


class RequestState(StrEnum):
    """Where a user's request stands."""

    OPEN = "OPEN"
    ORDERED = "ORDERED"
    REFUSED = "REFUSED"
    NO_ORDER = "NO_ORDER"
    CANCELLED = "CANCELLED"


class VideoState(StrEnum):
    """Where the one video of a request stands; DESIGN §6 says who writes each."""

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
EDGES: Final[dict[VideoState, frozenset[VideoState]]] = {
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
"""Every move that exists; `moves.move` refuses any other."""

HOLDERS: Final = frozenset({(_V.SUBMITTING, _V.QUEUED), (_V.SUBMITTING, _V.FAILED_UNPAID)})
"""Moves that give money back or send again: only the holder of SUBMITTING may make them, by its fence."""

UNPAID_ENDS: Final = frozenset({_V.FAILED_UNPAID, _V.CANCELLED, _V.EXPIRED})
"""Ends in which nothing was paid: quota, cooldown and money are given back."""

QUOTA_BACK: Final = UNPAID_ENDS | {_V.FAILED_PAID}
"""Ends that give the user's quota back; a failure that was paid keeps cooldown and money."""

DOUBTFUL: Final = frozenset({_V.SUBMITTING, _V.IN_DOUBT, _V.HOLD, _V.FAILED_UNPAID})
"""States from which a job id that turns up late is adopted."""

LATE: Final = "late"
"""The `failure` of a video whose job turned up after its user had been told that nothing was paid."""

WAITING: Final = frozenset({_V.AWAITING_APPROVAL, _V.QUEUED})
"""States before the point of no return: the user may still cancel."""

SETTLED: Final = frozenset({_V.DELIVERED, _V.FAILED_PAID, *UNPAID_ENDS})
"""States in which the studio has nothing left to do."""

EntryKind = Literal["hold", "release", "charge", "credit"]
EVERYONE: Final = "everyone"

Verdict = Literal["admitted", "replay", "quota", "cooldown", "budget", "breaker", "closed"]
"""What admission, or the recount in SQL, says about one order: go on; already decided, here is the recorded
result; or which limit refused. `closed`: a store could not be asked, so nothing is paid."""


def payer(user_id: int) -> str:
    """Return the scope under which one user's limits and breaker are kept."""
    return f"user:{user_id}"
