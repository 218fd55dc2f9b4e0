"""What the guards need from their host: a counter source, a journal and a result store.

`memory.py` implements all three in one process; an application implements them over its database.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .limits import CounterMember, Limits, Usage
from .money import Money


@dataclass(frozen=True, slots=True)
class CounterSnapshot:
    """Everything that the counters in Redis are rebuilt or refreshed from.

    Attributes:
        members: The orders inside the longest window.
        users: All users whose counters may have to change: with a member, with a recent request (it may have
            a reservation without an order), or with a breaker that is open or was closed lately.
        open_scopes: The scopes whose breaker is open.
    """

    members: Sequence[CounterMember]
    users: frozenset[int]
    open_scopes: frozenset[str]


class CounterSource(Protocol):
    """The durable orders from which admission's counters are rebuilt; its word is final."""

    @property
    def clock_shift_s(self) -> int:
        """Seconds added to Redis' clock; 0 except in tests that move time."""
        ...

    async def snapshot(self, bounds: Limits, closed_within_s: int) -> CounterSnapshot:
        """Return the orders inside the longest window of `bounds`, and the breakers.

        `users` includes those whose breaker was closed in the last `closed_within_s` seconds.
        """
        ...

    async def usage(self, user_id: int, price: Money, bounds: Limits) -> tuple[int, Usage]:
        """Return the store's time (milliseconds) and what the user has used of `bounds` by then."""
        ...


class Journal(Protocol):
    """The record of refused calls."""

    async def record_refused_call(
        self, request_id: str, tool: str, verdict: str, layer: str, arguments: Sequence[str]
    ) -> None:
        """Record one refused call. `arguments` are names only. May raise: the call stays refused."""
        ...


class ResultStore(Protocol):
    """The recorded results of calls that were made."""

    async def recorded_result(self, request_id: str, tool: str) -> str | None:
        """Return the result of this request's one call of `tool`, or None while there is none."""
        ...
