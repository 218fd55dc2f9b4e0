"""All three protocols in the memory of one process: for tests, and for agents that run in one process only.

Orders, breakers, refused calls and results are lost with the process. An agent whose calls cost money over
several processes needs the protocols over a database.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from .limits import (
    EVERYONE,
    CountedOrder,
    Excess,
    LimitExceeded,
    Limits,
    RollingWindow,
    Usage,
    WindowSums,
    exceeded_limits,
    user_scope,
)
from .money import Money
from .protocols import BreakerState, PagePosition


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
        self._orders: dict[str, CountedOrder] = {}
        self._prices: dict[str, int] = {}
        self._results: dict[tuple[str, str], str] = {}
        self._breakers: dict[str, BreakerState] = {}

    @property
    def clock_shift_s(self) -> int:
        """Always 0: Redis' clock is used as it is."""
        return 0

    def add_order(
        self, request_id: str, user_id: int, price: Money, *, offered: bool = False, extra: bool = False
    ) -> None:
        """Store the one order of a request; a second call changes nothing.

        One that is only `offered` counts toward nothing until `approve_order`. One that is `extra`, above
        the quota, counts toward cooldown and budgets alone.
        """
        now, cools = self._now(), not offered
        counts = cools and not extra
        order = CountedOrder(
            request_id, user_id, now, price.micros, counts=counts, cools=cools, changed_at=now
        )
        self._orders.setdefault(request_id, order)
        self._prices.setdefault(request_id, price.micros)

    def approve_order(self, request_id: str, *, extra: bool = False) -> int:
        """Count an offered order from now on, `extra` as in `add_order`; return its version."""
        order, now = self._orders[request_id], self._now()
        version = order.version + 1
        self._orders[request_id] = replace(
            order, at=now, counts=not extra, cools=True, version=version, changed_at=now
        )
        return version

    def end_order(self, request_id: str, *, counts: bool, cools: bool) -> int:
        """Change what an ended order counts toward (quota; cooldown and budgets); return its version."""
        order = self._orders[request_id]
        version = order.version + 1
        self._orders[request_id] = replace(
            order, counts=counts, cools=cools, version=version, changed_at=self._now()
        )
        return version

    def bill_order(self, request_id: str, net: Money) -> int:
        """Set what an order was billed in all, which budgets count where it is more than its price.

        Returns:
            The order's version.
        """
        order = self._orders[request_id]
        version = order.version + 1
        micros = max(self._prices[request_id], net.micros)
        self._orders[request_id] = replace(order, micros=micros, version=version, changed_at=self._now())
        return version

    def record_result(self, request_id: str, tool: str, result: str) -> None:
        """Store the result of a call; the first one is kept."""
        self._results.setdefault((request_id, tool), result)

    def open_breaker(self, scope: str) -> None:
        """Stop paid calls of a scope: `EVERYONE` or `user_scope(…)`."""
        self._set_breaker(scope, is_open=True)

    def close_breaker(self, scope: str) -> None:
        """Allow paid calls of a scope again."""
        self._set_breaker(scope, is_open=False)

    def _set_breaker(self, scope: str, *, is_open: bool) -> None:
        before = self._breakers.get(scope)
        at = max(self._now(), before.changed_at + 1 if before else 0)
        self._breakers[scope] = BreakerState(scope, is_open, at)

    async def now(self) -> int:
        """See `CounterSource`."""
        return self._now()

    async def orders_since(self, tool: str, after: PagePosition, most: int) -> list[CountedOrder]:
        """See `CounterSource`. The orders are those of one tool."""
        del tool
        return _page(self._orders.values(), lambda one: PagePosition(one.at, one.request_id), after, most)

    async def orders_changed_since(self, tool: str, after: PagePosition, most: int) -> list[CountedOrder]:
        """See `CounterSource`. The orders are those of one tool."""
        del tool

        def place(one: CountedOrder) -> PagePosition:
            return PagePosition(one.changed_at, one.request_id)

        return _page(self._orders.values(), place, after, most)

    async def orders_of(self, tool: str, request_ids: Collection[str]) -> list[CountedOrder]:
        """See `CounterSource`. The orders are those of one tool."""
        del tool
        return [one for one in self._orders.values() if one.request_id in request_ids]

    async def breakers(self, closed_within_s: int) -> list[BreakerState]:
        """See `CounterSource`."""
        since = self._now() - closed_within_s * 1000
        return [one for one in self._breakers.values() if one.is_open or one.changed_at > since]

    async def usage(self, user_id: int, price: Money, bounds: Limits) -> tuple[int, Usage]:
        """See `CounterSource`."""
        now = self._now()
        sums = self._sums(user_id, bounds, now)
        exceeded = [self._with_until(one, user_id, now) for one in exceeded_limits(sums, price, bounds)]
        return now, Usage(sums.takes, Money(sums.micros), tuple(exceeded))

    async def drop_old_sums(self) -> None:
        """See `CounterSource`: there are none."""

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

    def _sums(self, user_id: int, limits: Limits, now: int) -> WindowSums:
        starts = self._buckets("starts", user_id, RollingWindow(limits.cooldown_s or 0), now)
        everyone = self._buckets("micros", None, RollingWindow(limits.everyone_window_s), now)
        return WindowSums(
            takes=self._buckets("takes", user_id, RollingWindow(limits.quota_window_s), now).total(),
            micros=self._buckets("micros", user_id, RollingWindow(limits.user_window_s), now).total(),
            all_micros=everyone.total(),
            last_start=max(starts, default=None),
            stopped=any(
                self._breakers[scope].is_open
                for scope in (EVERYONE, user_scope(user_id))
                if scope in self._breakers
            ),
        )

    def _with_until(self, excess: Excess, user_id: int, now: int) -> LimitExceeded:
        if excess.window is None:
            return excess.refusal
        counted = self._buckets(excess.amount, None if excess.everyone else user_id, excess.window, now)
        return excess.with_until(sorted(counted.items()))

    def _buckets(self, amount: str, user_id: int | None, window: RollingWindow, now: int) -> Counter[int]:
        found: Counter[int] = Counter()
        for one in self._orders.values():
            if user_id in (None, one.user_id) and window.bucket(one.at) >= window.first(now):
                counted = one.counts if amount == "takes" else one.cools
                if counted:
                    found[window.bucket(one.at)] += one.micros if amount == "micros" else 1
        return found


def _page(
    orders: Collection[CountedOrder],
    place: Callable[[CountedOrder], PagePosition],
    after: PagePosition,
    most: int,
) -> list[CountedOrder]:
    return sorted((one for one in orders if place(one) > after), key=place)[:most]
