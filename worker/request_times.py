"""Where the time of a request went: its seconds in each phase, from the ledger's transitions."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ledger.history import RequestOutcome

PHASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "AWAITING_APPROVAL": "approval",
        "QUEUED": "queue",
        "SUBMITTING": "submit",
        "IN_DOUBT": "doubt",
        "HOLD": "held",
        "ACCEPTED": "provider",
        "SUCCEEDED": "delivery",
    }
)
"""Phase of each state of an order that has not ended. `agent` is the time until there is an order."""


def phase_seconds(outcome: RequestOutcome) -> dict[str, float]:
    """Return the seconds of each phase that the request went through, `agent` first."""
    began, moves = outcome.request.created_at, outcome.moves
    ended_agent = moves[0].at if moves else outcome.now
    found = {"agent": _seconds(began, ended_agent)}
    ends = [*(move.at for move in moves[1:]), outcome.now]
    for move, end in zip(moves, ends, strict=bool(moves)):
        if (phase := PHASES.get(move.to)) is not None:
            found[phase] = found.get(phase, 0.0) + _seconds(move.at, end)
    return found


def _seconds(since_ms: int, until_ms: int) -> float:
    return max(0, until_ms - since_ms) / 1000
