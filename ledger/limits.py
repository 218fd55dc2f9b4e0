"""What a user, and all users together, may still order, recounted in SQL from the table `usage_buckets`.

The arithmetic is that of `guardrails.limits`. SQL wins: where admission in Redis admitted more, the order is
refused here, because this count runs under the user's row lock and Redis may have lost writes. Triggers on
`videos` keep the sums (docs/decisions/0017), so a recount reads at most the buckets of four windows.
"""

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import ColumnElement, CompoundSelect, Select, delete, select, text, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.limits import (
    BUCKET_WIDTHS_S,
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
from guardrails.money import Money
from guardrails.protocols import PagePosition
from ledger.database import Ledger, transaction
from ledger.models import QUOTA_FREE_STATES, UNCOUNTED_STATES, Credit
from ledger.schema import usage_buckets, videos

COUNTED_TOOL: Final = "generate_video"
"""The tool whose orders the videos are."""

_MINE: Final = "FROM usage_buckets WHERE tool = :tool AND scope = :mine"
_ALL: Final = "FROM usage_buckets WHERE tool = :tool AND scope = :all"
_WINDOW: Final = "AND width_s = :{0}_width AND bucket >= :{0}_first"
_SUMS: Final = text(
    f"""
SELECT
  (SELECT CAST(coalesce(sum(takes), 0) AS BIGINT) {_MINE} {_WINDOW.format("quota")}) AS takes,
  (SELECT CAST(coalesce(sum(micros), 0) AS BIGINT) {_MINE} {_WINDOW.format("money")}) AS micros,
  (SELECT CAST(coalesce(sum(micros), 0) AS BIGINT) {_ALL} {_WINDOW.format("shared")}) AS all_micros,
  (SELECT max(bucket) {_MINE} {_WINDOW.format("cooldown")} AND starts > 0) AS last_start,
  EXISTS (SELECT 1 FROM breaker WHERE scope IN (:mine, :all) AND state = 'open') AS stopped
"""  # noqa: S608 - names and parameters only
)
_NO_WINDOW: Final = 2**62
"""A first bucket that no order reaches."""

_KEEP_S: Final = {1: 2 * 3600, 60: 3 * 86_400, 900: 32 * 86_400}
"""How long buckets of a width are kept: longer than the longest window that reads them."""

_DELETED_AT_ONCE: Final = 5000
_MEMBER_COLUMNS: Final = (
    videos.c.request_id, videos.c.user_id, videos.c.ordered_at, videos.c.state, videos.c.version,
    videos.c.credit, (videos.c.quote_micros + videos.c.over_micros).label("micros"),
)  # fmt: skip


async def recount(
    conn: AsyncConnection, user_id: int, price: Money, limits: Limits, now: int, extra: int = 0
) -> LimitExceeded | None:
    """Return the first limit of `user_id` that refuses one more video at `price`, or None.

    With `extra`, the user may order that many above the quota. The caller holds the locks of `orders.place`,
    so that no other order can slip in between.
    """
    sums = await _window_sums(conn, user_id, limits, now)
    excess = next(exceeded_limits(sums, price, limits, extra), None)
    return None if excess is None else await _with_until(conn, excess, user_id, now)


async def current_usage(conn: AsyncConnection, user_id: int, price: Money, limits: Limits, now: int) -> Usage:
    """Return what `user_id` has used within the windows of `limits`, and what refuses one more at `price`."""
    sums = await _window_sums(conn, user_id, limits, now)
    exceeded = [await _with_until(conn, one, user_id, now) for one in exceeded_limits(sums, price, limits)]
    return Usage(sums.takes, Money(sums.micros), tuple(exceeded))


async def _window_sums(conn: AsyncConnection, user_id: int, limits: Limits, now: int) -> WindowSums:
    found = (await conn.execute(_SUMS, _sums_parameters(user_id, limits, now))).one()
    return WindowSums(found.takes, found.micros, found.all_micros, found.last_start, bool(found.stopped))


def _sums_parameters(user_id: int, limits: Limits, now: int) -> dict[str, Any]:
    values: dict[str, Any] = {"tool": COUNTED_TOOL, "mine": user_scope(user_id), "all": EVERYONE}
    for name, seconds in (
        ("quota", limits.quota_window_s),
        ("money", limits.user_window_s),
        ("shared", 0 if limits.everyone_budget is None else limits.everyone_window_s),
        ("cooldown", limits.cooldown_s or 0),
    ):
        window = RollingWindow(seconds)
        values[f"{name}_width"] = window.width_s
        values[f"{name}_first"] = window.first(now) if seconds else _NO_WINDOW
    return values


async def _with_until(conn: AsyncConnection, excess: Excess, user_id: int, now: int) -> LimitExceeded:
    """Return the refusal with its `until`: only a refusal reads the buckets of its window one by one."""
    window = excess.window
    if window is None:
        return excess.refusal
    rows = await conn.execute(
        select(usage_buckets.c.bucket, usage_buckets.c[excess.amount])
        .where(
            usage_buckets.c.tool == COUNTED_TOOL,
            usage_buckets.c.scope == (EVERYONE if excess.everyone else user_scope(user_id)),
            usage_buckets.c.width_s == window.width_s,
            usage_buckets.c.bucket >= window.first(now),
        )
        .order_by(usage_buckets.c.bucket)
    )
    return excess.with_until((row[0], row[1]) for row in rows)


def _order_from_row(row: Any) -> CountedOrder:
    """Return an order as the limits count it, from a row of `_MEMBER_COLUMNS`."""
    return CountedOrder(
        row.request_id,
        row.user_id,
        row.ordered_at,
        row.micros,
        counts=row.state not in QUOTA_FREE_STATES and row.credit != Credit.HELD,
        cools=row.state not in UNCOUNTED_STATES,
        version=row.version,
        changed_at=row.changed_at,
    )


@transaction
async def orders_since(ledger: Ledger, after: PagePosition, most: int) -> list[CountedOrder]:
    """Return at most `most` orders that were ordered after a position, oldest first."""
    return await _read(ledger, _page(videos.c.ordered_at, after, most))


@transaction
async def orders_changed_since(ledger: Ledger, after: PagePosition, most: int) -> list[CountedOrder]:
    """Return at most `most` orders that changed after a position, in the order of their changes.

    An order whose state changed, and at another time its cost above the quote, may come at both times.
    """
    pages = (
        _page(column, after, most).subquery().select() for column in (videos.c.updated_at, videos.c.over_at)
    )
    return await _read(ledger, union_all(*pages).order_by("changed_at", "request_id").limit(most))


def _page(column: ColumnElement[Any], after: PagePosition, most: int) -> Select[Any]:
    place = (column, videos.c.request_id)
    # The first condition says what the index serves: not every planner takes it from the pair.
    query = select(*_MEMBER_COLUMNS, column.label("changed_at"))
    query = query.where(column >= after.at, tuple_(*place) > tuple_(*after))
    return query.order_by(*place).limit(most)


async def _read(ledger: Ledger, query: Select[Any] | CompoundSelect[Any]) -> list[CountedOrder]:
    async with ledger.read() as conn:
        return [_order_from_row(row) for row in await conn.execute(query)]


@transaction
async def orders_of(ledger: Ledger, request_ids: Collection[str]) -> list[CountedOrder]:
    """Return the orders of these requests; a request without an order is left out."""
    query = select(*_MEMBER_COLUMNS, videos.c.updated_at.label("changed_at"))
    return await _read(ledger, query.where(videos.c.request_id.in_(request_ids)))


@transaction
async def drop_old_buckets(ledger: Ledger) -> int:
    """Delete a batch of buckets that no window reaches any more; return how many."""
    count = 0
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        for width_s in BUCKET_WIDTHS_S:
            last = (now // 1000 - _KEEP_S[width_s]) // width_s
            old = (usage_buckets.c.width_s == width_s) & (usage_buckets.c.bucket < last)
            columns = tuple(usage_buckets.primary_key.columns)
            batch = select(*columns).where(old).limit(_DELETED_AT_ONCE)
            done = await conn.execute(delete(usage_buckets).where(tuple_(*columns).in_(batch)))
            count += done.rowcount
    return count
