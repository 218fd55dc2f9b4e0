"""The ledger as the counter source and the journal of the guards (`guardrails.protocols`)."""

from collections.abc import Collection, Sequence

from guardrails.limits import CountedOrder, Limits, Usage
from guardrails.money import Money
from guardrails.protocols import BreakerState, PagePosition
from ledger import breaker, history, limits
from ledger.database import Ledger


class LedgerCounters:
    """Makes admission's counters from the orders and breakers of a ledger (a `CounterSource`)."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def clock_shift_s(self) -> int:
        """The ledger's shift, so that both stores have the same time in tests."""
        return self._ledger.shift

    async def now(self) -> int:
        """Return the ledger's time, milliseconds since the epoch."""
        async with self._ledger.read() as conn:
            return await self._ledger.now(conn)

    async def orders_since(self, tool: str, after: PagePosition, most: int) -> Sequence[CountedOrder]:
        """Return at most `most` orders after a position, oldest first."""
        return await limits.orders_since(self._ledger, after, most, tool)

    async def orders_changed_since(self, tool: str, after: PagePosition, most: int) -> Sequence[CountedOrder]:
        """Return at most `most` orders that changed after a position."""
        return await limits.orders_changed_since(self._ledger, after, most, tool)

    async def orders_of(self, tool: str, request_ids: Collection[str]) -> Sequence[CountedOrder]:
        """Return the orders of these requests."""
        return await limits.orders_of(self._ledger, request_ids, tool)

    async def breakers(self, closed_within_s: int) -> Sequence[BreakerState]:
        """Return the breakers that are open or were closed lately."""
        return await breaker.current_states(self._ledger, closed_within_s)

    async def usage(self, user_id: int, price: Money, bounds: Limits) -> tuple[int, Usage]:
        """Return the ledger's time (milliseconds) and what the user has used of `bounds`."""
        async with self._ledger.read() as conn:
            now = await self._ledger.now(conn)
            return now, await limits.current_usage(conn, user_id, price, bounds, now)

    async def drop_old_sums(self) -> None:
        """Delete buckets that no window reaches any more, a batch at a time."""
        await limits.drop_old_buckets(self._ledger)


class LedgerJournal:
    """Records refused calls in the ledger (a `Journal`)."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def record_refused_call(
        self, request_id: str, tool: str, verdict: str, layer: str, arguments: Sequence[str]
    ) -> None:
        """Record one refused call. `arguments` are names only."""
        await history.record_refused_call(self._ledger, request_id, tool, verdict, layer, arguments)
