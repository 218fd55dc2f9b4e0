"""What a user, and all users together, may still order, recounted in SQL from the table `usage_buckets`.

The arithmetic is that of `guardrails.limits`. SQL wins: where admission in Redis admitted more, the order is
refused here, because this count runs under the user's row lock and Redis may have lost writes. Triggers on
`videos` keep the sums (docs/decisions/0017), so a recount reads at most the buckets of four windows.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, CompoundSelect, Select, delete, func, select, text, tuple_, union_all
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
from ledger.models import QUOTA_FREE_STATES, UNCOUNTED_STATES, VIDEO_TOOL, Credit, act_of, order_id
from ledger.schema import OTHER_TOOLS, usage_buckets, videos

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
    videos.c.request_id, videos.c.tool, videos.c.user_id, videos.c.ordered_at, videos.c.state,
    videos.c.version, videos.c.credit, (videos.c.quote_micros + videos.c.over_micros).label("micros"),
)  # fmt: skip


async def recount(
    conn: AsyncConnection,
    user_id: int,
    price: Money,
    limits: Limits,
    now: int,
    extra: int = 0,
    tool: str = VIDEO_TOOL,
) -> LimitExceeded | None:
    """Return the first limit of `user_id` that refuses one more order of `tool` at `price`, or None.

    With `extra`, the user may order that many above the quota. The caller holds the locks of `orders.place`,
    so that no other order, of any tool, can slip in between.
    """
    sums = await _window_sums(conn, tool, user_id, limits, now)
    excess = next(exceeded_limits(sums, price, limits, extra), None)
    if excess is None:
        excess = await _shared_excess(conn, user_id, price, limits, now)
    return None if excess is None else await _with_until(conn, tool, excess, user_id, now)


async def current_usage(
    conn: AsyncConnection, user_id: int, price: Money, limits: Limits, now: int, tool: str = VIDEO_TOOL
) -> Usage:
    """Return what `user_id` has used within the windows of `limits`, and what refuses one more at `price`."""
    sums = await _window_sums(conn, tool, user_id, limits, now)
    exceeded = list(exceeded_limits(sums, price, limits))
    if (shared := await _shared_excess(conn, user_id, price, limits, now)) is not None:
        exceeded.append(shared)
    ends = [await _with_until(conn, tool, one, user_id, now) for one in exceeded]
    return Usage(sums.takes, Money(sums.micros), tuple(ends))


async def _shared_excess(
    conn: AsyncConnection, user_id: int, price: Money, limits: Limits, now: int
) -> Excess | None:
    """Return the budget over several tools that refuses one more order at `price`, or None."""
    if limits.shared is None:
        return None
    micros = {}
    for everyone, window_s in ((False, limits.shared.user_window_s), (True, limits.shared.everyone_window_s)):
        window = RollingWindow(window_s)
        query = select(func.coalesce(func.sum(usage_buckets.c.micros), 0)).where(
            *_is_in(limits.shared.tools, EVERYONE if everyone else user_scope(user_id), window, now)
        )
        micros[everyone] = int(await conn.scalar(query) or 0)
    return next(limits.shared.exceeded(micros[False], micros[True], price), None)


def _is_in(tools: Collection[str], scope: str, window: RollingWindow, now: int) -> Sequence[Any]:
    return (
        usage_buckets.c.tool.in_(tools),
        usage_buckets.c.scope == scope,
        usage_buckets.c.width_s == window.width_s,
        usage_buckets.c.bucket >= window.first(now),
    )


async def _window_sums(
    conn: AsyncConnection, tool: str, user_id: int, limits: Limits, now: int
) -> WindowSums:
    found = (await conn.execute(_SUMS, _sums_parameters(user_id, limits, now, tool))).one()
    return WindowSums(found.takes, found.micros, found.all_micros, found.last_start, bool(found.stopped))


def _sums_parameters(user_id: int, limits: Limits, now: int, tool: str = VIDEO_TOOL) -> dict[str, Any]:
    values: dict[str, Any] = {"tool": tool, "mine": user_scope(user_id), "all": EVERYONE}
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


async def _with_until(
    conn: AsyncConnection, tool: str, excess: Excess, user_id: int, now: int
) -> LimitExceeded:
    """Return the refusal with its `until`: only a refusal reads the buckets of its window one by one."""
    window = excess.window
    if window is None:
        return excess.refusal
    scope = EVERYONE if excess.everyone else user_scope(user_id)
    rows = await conn.execute(
        select(usage_buckets.c.bucket, usage_buckets.c[excess.amount])
        .where(*_is_in(excess.tools or (tool,), scope, window, now))
        .order_by(usage_buckets.c.bucket)
    )
    return excess.with_until((row[0], row[1]) for row in rows)


def _order_from_row(row: Any) -> CountedOrder:
    """Return an order as the limits count it, from a row of `_MEMBER_COLUMNS`; guards know its act alone."""
    return CountedOrder(
        act_of(row.request_id),
        row.user_id,
        row.ordered_at,
        row.micros,
        counts=row.state not in QUOTA_FREE_STATES and row.credit != Credit.HELD,
        cools=row.state not in UNCOUNTED_STATES,
        version=row.version,
        changed_at=row.changed_at,
    )


@transaction
async def orders_since(
    ledger: Ledger, after: PagePosition, most: int, tool: str = VIDEO_TOOL
) -> list[CountedOrder]:
    """Return at most `most` orders of a tool that were ordered after a position, oldest first."""
    return await _read(ledger, _page(videos.c.ordered_at, after, most, tool))


@transaction
async def orders_changed_since(
    ledger: Ledger, after: PagePosition, most: int, tool: str = VIDEO_TOOL
) -> list[CountedOrder]:
    """Return at most `most` orders of a tool that changed after a position, in the order of their changes.

    An order whose state changed, and at another time its cost above the quote, may come at both times.
    """
    pages = (
        _page(column, after, most, tool).subquery().select()
        for column in (videos.c.updated_at, videos.c.over_at)
    )
    return await _read(ledger, union_all(*pages).order_by("changed_at", "request_id").limit(most))


def _page(column: ColumnElement[Any], after: PagePosition, most: int, tool: str) -> Select[Any]:
    place = (column, videos.c.request_id)
    begin = (after.at, order_id(after.request_id, tool) if after.request_id else "")
    # The first condition says what the index serves: not every planner takes it from the pair.
    query = select(*_MEMBER_COLUMNS, column.label("changed_at"))
    query = query.where(videos.c.tool == tool, column >= after.at, tuple_(*place) > tuple_(*begin))
    if tool != VIDEO_TOOL:  # few among many: an index has these alone
        query = query.where(text(f"videos.{OTHER_TOOLS}"))
    return query.order_by(*place).limit(most)


async def _read(ledger: Ledger, query: Select[Any] | CompoundSelect[Any]) -> list[CountedOrder]:
    async with ledger.read() as conn:
        return [_order_from_row(row) for row in await conn.execute(query)]


@transaction
async def orders_of(
    ledger: Ledger, request_ids: Collection[str], tool: str = VIDEO_TOOL
) -> list[CountedOrder]:
    """Return the orders of a tool for these requests; a request without such an order is left out."""
    query = select(*_MEMBER_COLUMNS, videos.c.updated_at.label("changed_at"))
    ids = [order_id(one, tool) for one in request_ids]
    return await _read(ledger, query.where(videos.c.request_id.in_(ids)))


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
