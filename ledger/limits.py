"""What a user, and all users together, may still order, recounted in SQL from the videos table.

The arithmetic is that of `guardrails.limits`. SQL wins: where admission in Redis admitted more, the order is
refused here, because this count runs under the user's row lock and Redis may have lost writes.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.limits import (
    CounterMember,
    LimitExceeded,
    Limits,
    Usage,
    budget_exceeded,
    usage_of,
    user_limits_exceeded,
)
from guardrails.money import Money
from ledger import breaker
from ledger.database import Ledger, transaction
from ledger.models import QUOTA_FREE_STATES, UNPAID_END_STATES
from ledger.schema import requests, videos

_MEMBER_COLUMNS = (
    videos.c.request_id, videos.c.user_id, videos.c.ordered_at, videos.c.quote_micros, videos.c.state,
)  # fmt: skip


def _member_from_row(row: Any) -> CounterMember:
    """Return an order as the limits count it, from a row of `_MEMBER_COLUMNS`."""
    return CounterMember(
        row.request_id,
        row.user_id,
        row.ordered_at,
        row.quote_micros,
        counts=row.state not in QUOTA_FREE_STATES,
        cools=row.state not in UNPAID_END_STATES,
    )


async def _counted_orders(conn: AsyncConnection, since: int, user_id: int | None) -> list[CounterMember]:
    query = select(*_MEMBER_COLUMNS).where(
        videos.c.ordered_at > since, videos.c.state.not_in(UNPAID_END_STATES)
    )
    if user_id is not None:
        query = query.where(videos.c.user_id == user_id)
    return [_member_from_row(row) for row in await conn.execute(query.order_by(videos.c.ordered_at))]


async def recount(
    conn: AsyncConnection, user_id: int, price: Money, limits: Limits, now: int
) -> LimitExceeded | None:
    """Return the first limit of `user_id` that refuses one more video at `price`, or None.

    The caller holds the locks of `orders.place`, so that no other order can slip in between.
    """
    mine = await _counted_orders(conn, now - limits.window_s * 1000, user_id)
    async with aclosing(_exceeded_limits(conn, user_id, mine, price, limits, now)) as found:
        return await anext(found, None)


async def _exceeded_limits(
    conn: AsyncConnection, user_id: int, mine: Sequence[CounterMember], price: Money, limits: Limits, now: int
) -> AsyncGenerator[LimitExceeded, None]:
    """Yield every limit that refuses one more video, in the order in which they are reported."""
    if await breaker.is_open(conn, user_id):
        yield LimitExceeded("breaker")
    for exceeded in user_limits_exceeded(mine, price, limits, now):
        yield exceeded
    if limits.everyone_budget is not None:
        orders = await _counted_orders(conn, now - limits.everyone_window_s * 1000, None)
        shared = budget_exceeded(orders, limits.everyone_window_s, limits.everyone_budget, price, now)
        if shared is not None:
            yield shared


async def current_usage(conn: AsyncConnection, user_id: int, price: Money, limits: Limits, now: int) -> Usage:
    """Return what `user_id` has used within the windows of `limits`, and what refuses one more at `price`."""
    mine = await _counted_orders(conn, now - limits.window_s * 1000, user_id)
    exceeded = [one async for one in _exceeded_limits(conn, user_id, mine, price, limits, now)]
    return usage_of(mine, exceeded, limits, now)


@transaction
async def counter_members(ledger: Ledger, limits: Limits) -> list[CounterMember]:
    """Return every order within the longest window: admission's counters in Redis are rebuilt from these."""
    async with ledger.read() as conn:
        since = await ledger.now(conn) - limits.window_s * 1000
        query = select(*_MEMBER_COLUMNS).where(videos.c.ordered_at > since).order_by(videos.c.ordered_at)
        return [_member_from_row(row) for row in await conn.execute(query)]


@transaction
async def recent_users(ledger: Ledger, window_s: int) -> set[int]:
    """Return users with a request in the last `window_s` seconds: each may hold a reservation alone."""
    async with ledger.read() as conn:
        since = await ledger.now(conn) - window_s * 1000
        query = select(requests.c.user_id).where(requests.c.created_at > since).distinct()
        return set((await conn.scalars(query)).all())
