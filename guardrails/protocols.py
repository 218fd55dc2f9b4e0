"""What the guards need from their host: a counter source, a journal and a result store.

`memory.py` implements all three in one process; an application implements them over its database.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from .limits import CountedOrder, Limits, Usage
from .money import Money


class PagePosition(NamedTuple):
    """Where a page of orders begins: after the order with this time (milliseconds) and this request id."""

    at: int
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class BreakerState:
    """A breaker and when it was last opened or closed, milliseconds since the epoch; the time only grows."""

    scope: str
    is_open: bool
    changed_at: int


class CounterSource(Protocol):
    """The durable orders that admission's counters are made from; its word is final.

    No method reads more than one page, or what is named: the cost of none grows with the number of orders.
    """

    @property
    def clock_shift_s(self) -> int:
        """Seconds added to Redis' clock; 0 except in tests that move time."""
        ...

    async def now(self) -> int:
        """Return the store's time, milliseconds since the epoch."""
        ...

    async def orders_since(self, tool: str, after: PagePosition, most: int) -> Sequence[CountedOrder]:
        """Return at most `most` orders of a tool that were ordered after a position, oldest first."""
        ...

    async def orders_changed_since(self, tool: str, after: PagePosition, most: int) -> Sequence[CountedOrder]:
        """Return at most `most` orders of a tool, ordered by `changed_at`, that changed after a position."""
        ...

    async def orders_of(self, tool: str, request_ids: Collection[str]) -> Sequence[CountedOrder]:
        """Return the orders of these requests; a request without an order is left out."""
        ...

    async def breakers(self, closed_within_s: int) -> Sequence[BreakerState]:
        """Return the breakers that are open, and those that were closed in the last `closed_within_s`."""
        ...

    async def usage(self, user_id: int, price: Money, bounds: Limits) -> tuple[int, Usage]:
        """Return the store's time (milliseconds) and what the user has used of `bounds` by then."""
        ...

    async def drop_old_sums(self) -> None:
        """Delete sums that the store derived from orders and that no window reaches, if it has any."""
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
