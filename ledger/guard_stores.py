"""The ledger as the counter source and the journal of the guards (`guardrails.protocols`)."""

from collections.abc import Sequence

from guardrails.limits import EVERYONE, Limits, Usage, user_of
from guardrails.money import Money
from guardrails.protocols import CounterSnapshot
from ledger import breaker, history, limits
from ledger.database import Ledger


class LedgerCounters:
    """Rebuilds admission's counters from the videos and breakers of a ledger (a `CounterSource`)."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def clock_shift_s(self) -> int:
        """The ledger's shift, so that both stores have the same time in tests."""
        return self._ledger.shift

    async def snapshot(self, bounds: Limits, closed_within_s: int) -> CounterSnapshot:
        """Return the orders inside the longest window of `bounds`, and the breakers."""
        members = await limits.counter_members(self._ledger, bounds)
        open_scopes = {one.scope for one in await breaker.open_breakers(self._ledger)}
        # Includes breakers that were closed since: their users may have no recent request.
        scopes = open_scopes | await breaker.recently_closed(self._ledger, closed_within_s)
        users = (
            {one.user_id for one in members}
            | await limits.recent_users(self._ledger, bounds.window_s)
            | {user_of(scope) for scope in scopes if scope != EVERYONE}
        )
        return CounterSnapshot(members, frozenset(users), frozenset(open_scopes))

    async def usage(self, user_id: int, price: Money, bounds: Limits) -> tuple[int, Usage]:
        """Return the ledger's time (milliseconds) and what the user has used of `bounds`."""
        async with self._ledger.read() as conn:
            now = await self._ledger.now(conn)
            return now, await limits.current_usage(conn, user_id, price, bounds, now)


class LedgerJournal:
    """Records refused calls in the ledger (a `Journal`)."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def record_refused_call(
        self, request_id: str, tool: str, verdict: str, layer: str, arguments: Sequence[str]
    ) -> None:
        """Record one refused call. `arguments` are names only."""
        await history.record_refused_call(self._ledger, request_id, tool, verdict, layer, arguments)
