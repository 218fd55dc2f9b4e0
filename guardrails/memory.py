"""All three protocols in the memory of one process: for tests, and for agents that run in one process only.

Orders, breakers, refused calls and results are lost with the process. An agent whose calls cost money over
several processes needs the protocols over a database.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .limits import (
    EVERYONE,
    CounterMember,
    LimitExceeded,
    Limits,
    Usage,
    budget_exceeded,
    usage_of,
    user_limits_exceeded,
    user_of,
    user_scope,
)
from .money import Money
from .protocols import CounterSnapshot


@dataclass(frozen=True, slots=True)
class JournalLine:
    """One refused call, as `InMemoryStore.refused` keeps it."""

    request_id: str
    tool: str
    verdict: str
    layer: str
    arguments: tuple[str, ...]


class InMemoryStore:
    """A counter source, a journal and a result store.

    Args:
        clock: Returns the time in seconds since the epoch.

    Attributes:
        refused: The refused calls, in order.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.refused: list[JournalLine] = []
        self._clock = clock
        self._orders: dict[str, CounterMember] = {}
        self._results: dict[tuple[str, str], str] = {}
        self._open_scopes: set[str] = set()
        self._closed_at: dict[str, int] = {}

    @property
    def clock_shift_s(self) -> int:
        """Always 0: Redis' clock is used as it is."""
        return 0

    def add_order(self, request_id: str, user_id: int, price: Money) -> None:
        """Store the one order of a request; a second call changes nothing."""
        order = CounterMember(request_id, user_id, self._now(), price.micros, counts=True, cools=True)
        self._orders.setdefault(request_id, order)

    def end_order(self, request_id: str, *, counts: bool, cools: bool) -> None:
        """Change what an ended order counts toward: the quota, and cooldown and budgets."""
        self._orders[request_id] = replace(self._orders[request_id], counts=counts, cools=cools)

    def record_result(self, request_id: str, tool: str, result: str) -> None:
        """Store the result of a call; the first one is kept."""
        self._results.setdefault((request_id, tool), result)

    def open_breaker(self, scope: str) -> None:
        """Stop paid calls of a scope: `EVERYONE` or `user_scope(…)`."""
        self._open_scopes.add(scope)

    def close_breaker(self, scope: str) -> None:
        """Allow paid calls of a scope again."""
        self._open_scopes.discard(scope)
        self._closed_at[scope] = self._now()

    async def snapshot(self, bounds: Limits, closed_within_s: int) -> CounterSnapshot:
        """See `CounterSource`."""
        now = self._now()
        members = self._members(now - bounds.window_s * 1000)
        closed = {scope for scope, at in self._closed_at.items() if at > now - closed_within_s * 1000}
        scopes = (self._open_scopes | closed) - {EVERYONE}
        users = {one.user_id for one in self._orders.values()}
        users |= {user_of(scope) for scope in scopes}
        return CounterSnapshot(members, frozenset(users), frozenset(self._open_scopes))

    async def usage(self, user_id: int, price: Money, bounds: Limits) -> tuple[int, Usage]:
        """See `CounterSource`."""
        now = self._now()
        members = self._members(now - bounds.window_s * 1000)
        mine = [one for one in members if one.user_id == user_id]
        exceeded = self._exceeded(members, user_id, price, bounds, now)
        return now, usage_of(mine, exceeded, bounds, now)

    async def record_refused_call(
        self, request_id: str, tool: str, verdict: str, layer: str, arguments: Sequence[str]
    ) -> None:
        """See `Journal`."""
        self.refused.append(JournalLine(request_id, tool, verdict, layer, tuple(arguments)))

    async def recorded_result(self, request_id: str, tool: str) -> str | None:
        """See `ResultStore`."""
        return self._results.get((request_id, tool))

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _members(self, since: int) -> list[CounterMember]:
        return sorted((one for one in self._orders.values() if one.at > since), key=lambda one: one.at)

    def _exceeded(
        self, members: Sequence[CounterMember], user_id: int, price: Money, limits: Limits, now: int
    ) -> list[LimitExceeded]:
        found = []
        if self._open_scopes & {EVERYONE, user_scope(user_id)}:
            found.append(LimitExceeded("breaker"))
        mine = [one for one in members if one.user_id == user_id]
        found += user_limits_exceeded(mine, price, limits, now)
        shared = budget_exceeded(members, limits.everyone_window_s, limits.everyone_budget, price, now)
        return found if shared is None else [*found, shared]
