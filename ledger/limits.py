"""What one payer, and everyone together, may still order: counted anew from the videos table.

The same arithmetic as `guardrails/admit.lua`. SQL wins: where the two disagree the order is refused here,
because this count runs under the payer's row lock and that one may have lost writes.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.money import Money
from ledger import breaker
from ledger.models import QUOTA_FREE_STATES, UNPAID_END_STATES, AdmissionVerdict
from ledger.schema import videos


@dataclass(frozen=True, slots=True)
class Limits:
    """Figures of one tool's declaration; None means no such limit. Windows are seconds and roll."""

    quota: int | None = None
    quota_window_s: int = 86_400
    cooldown_s: int | None = None
    user_budget: Money | None = None
    user_window_s: int = 86_400
    everyone_budget: Money | None = None
    everyone_window_s: int = 86_400

    @property
    def window_s(self) -> int:
        """The longest look back that any of these limits needs."""
        return max(self.quota_window_s, self.cooldown_s or 0, self.user_window_s, self.everyone_window_s)


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """Why not, and when it will work again (milliseconds since the epoch; None: nobody knows).

    `at` is when an order was refused, on the store's clock; 0 where none was.
    """

    verdict: AdmissionVerdict
    until: int | None = None
    used: int = 0
    limit: int = 0
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one user has used within the windows, and every limit that refuses one more video now."""

    used: int
    spent: Money
    exceeded: tuple[LimitExceeded, ...]


@dataclass(frozen=True, slots=True)
class _CountedOrder:
    at: int
    micros: int
    counts: bool  # toward the quota
    cools: bool  # toward cooldown and budgets


def _counted_order(row: Any) -> _CountedOrder:
    return _CountedOrder(
        row.ordered_at,
        row.quote_micros,
        row.state not in QUOTA_FREE_STATES,
        row.state not in UNPAID_END_STATES,
    )


async def _counted_orders(conn: AsyncConnection, since: int, user_id: int | None) -> list[_CountedOrder]:
    query = select(videos.c.ordered_at, videos.c.quote_micros, videos.c.state).where(
        videos.c.ordered_at > since, videos.c.state.not_in(UNPAID_END_STATES)
    )
    if user_id is not None:
        query = query.where(videos.c.user_id == user_id)
    return [_counted_order(row) for row in await conn.execute(query.order_by(videos.c.ordered_at))]


async def recount(
    conn: AsyncConnection, user_id: int, price: Money, limits: Limits, now: int
) -> LimitExceeded | None:
    """Say whether one more video at `price` fits all limits of `user_id`; None means that it does.

    The caller holds the locks of `orders.place`, so that no other order can slip in between.
    """
    mine = await _counted_orders(conn, now - limits.window_s * 1000, user_id)
    async with aclosing(_exceeded_limits(conn, user_id, mine, price, limits, now)) as found:
        return await anext(found, None)


async def _exceeded_limits(
    conn: AsyncConnection, user_id: int, mine: Sequence[_CountedOrder], price: Money, limits: Limits, now: int
) -> AsyncGenerator[LimitExceeded, None]:
    """Yield every limit that refuses one more video, in the order in which they are named to people."""
    if await breaker.is_open(conn, user_id):
        yield LimitExceeded("breaker")
    if (cooldown := _cooldown(mine, limits, now)) is not None:
        yield cooldown
    if (quota := _quota(mine, limits, now)) is not None:
        yield quota
    if (own := _budget(mine, limits.user_window_s, limits.user_budget, price, now)) is not None:
        yield own
    if limits.everyone_budget is not None:
        takes = await _counted_orders(conn, now - limits.everyone_window_s * 1000, None)
        shared = _budget(takes, limits.everyone_window_s, limits.everyone_budget, price, now)
        if shared is not None:
            yield shared


def _cooldown(takes: Sequence[_CountedOrder], limits: Limits, now: int) -> LimitExceeded | None:
    last = max((take.at for take in takes if take.cools), default=None)
    if limits.cooldown_s is None or last is None or last + limits.cooldown_s * 1000 <= now:
        return None
    return LimitExceeded("cooldown", last + limits.cooldown_s * 1000)


def _quota(takes: Sequence[_CountedOrder], limits: Limits, now: int) -> LimitExceeded | None:
    if limits.quota is None:
        return None
    window = limits.quota_window_s * 1000
    counted = [take.at for take in takes if take.counts and take.at > now - window]
    if len(counted) < limits.quota:
        return None
    until = counted[-limits.quota] + window if limits.quota else None  # a quota of 0 is never free
    return LimitExceeded("quota", until, len(counted), limits.quota)


def _budget(
    takes: Sequence[_CountedOrder], window_s: int, limit: Money | None, price: Money, now: int
) -> LimitExceeded | None:
    if limit is None:
        return None
    inside = [take for take in takes if take.cools and take.at > now - window_s * 1000]
    used = sum(take.micros for take in inside)
    if used + price.micros <= limit.micros:
        return None
    left, until = used, None
    for take in inside:  # oldest first: when enough of it has left the window, the price fits
        left -= take.micros
        if left + price.micros <= limit.micros:
            until = take.at + window_s * 1000
            break
    return LimitExceeded("budget", until, used, limit.micros)


async def current_usage(conn: AsyncConnection, user_id: int, price: Money, limits: Limits, now: int) -> Usage:
    """Return what `user_id` has used within the windows of `limits`, and what refuses one more at `price`."""
    mine = await _counted_orders(conn, now - limits.window_s * 1000, user_id)
    since = now - limits.quota_window_s * 1000
    spent = sum(take.micros for take in mine if take.at > now - limits.user_window_s * 1000)
    return Usage(
        used=sum(1 for take in mine if take.counts and take.at > since),
        spent=Money(spent),
        exceeded=tuple([one async for one in _exceeded_limits(conn, user_id, mine, price, limits, now)]),
    )
