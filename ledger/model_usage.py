"""What the language models used and cost: one row for each attempt at a run and each model.

It is no part of the entries: models are billed by their endpoint, by tokens, and never for a video. The cost
is that of a dated price list (`tools.model_prices`); without a price it is unknown, not 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, select

from guardrails.money import ZERO, Money
from ledger.database import Ledger, insert_new, transaction
from ledger.schema import model_usage
from ledger.totals import DAY_MS

MODEL_CHARACTERS: Final = 100


@dataclass(frozen=True, slots=True)
class ModelUse:
    """What one model used in one attempt at a run. `input_tokens` include those that were read from a cache.

    Attributes:
        cost: None without a price for this model.
    """

    model: str
    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost: Money | None = None


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """What one model used in a time, for the cost page.

    Attributes:
        cost: Of the calls that had a price.
        unpriced_calls: Calls of runs without a price: their cost is unknown.
    """

    model: str
    calls: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost: Money
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class ModelDay:
    """What models cost since midnight UTC, in all and for one user; `ends_at` is the next midnight (ms)."""

    everyone: Money
    user: Money
    ends_at: int


@transaction
async def record(
    ledger: Ledger, request_id: str, user_id: int, attempt: int, uses: Sequence[ModelUse]
) -> None:
    """Write what one attempt used; safe to repeat."""
    if not uses:
        return
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        rows = [
            {
                "request_id": request_id, "attempt": attempt, "model": one.model[:MODEL_CHARACTERS],
                "user_id": user_id, "at": now, "calls": one.calls, "input_tokens": one.input_tokens,
                "cached_tokens": one.cached_tokens, "output_tokens": one.output_tokens,
                "micros": None if one.cost is None else one.cost.micros,
            }
            for one in uses
        ]  # fmt: skip
        await conn.execute(insert_new(ledger.dialect, model_usage), rows)


@transaction
async def spent_today(ledger: Ledger, user_id: int = 0) -> ModelDay:
    """Return what models have cost since midnight UTC; user 0 is no one."""
    async with ledger.read() as conn:
        since = await ledger.now(conn) // DAY_MS * DAY_MS
        total = func.coalesce(func.sum(model_usage.c.micros), 0)
        query = select(
            select(total).where(model_usage.c.at >= since).scalar_subquery(),
            select(total)
            .where(model_usage.c.user_id == user_id, model_usage.c.at >= since)
            .scalar_subquery(),
        )
        everyone, user = (await conn.execute(query)).one()
    return ModelDay(Money(int(everyone)), Money(int(user)), since + DAY_MS)


@transaction
async def model_costs(
    ledger: Ledger, since: int = 0, user_id: int | None = None, request_id: str | None = None
) -> list[ModelCosts]:
    """Return what each model used since a time (milliseconds), the dearest first.

    Args:
        ledger: Where it is stored.
        since: The beginning; 0 for all that is kept.
        user_id: Of this user alone.
        request_id: Of this request alone.
    """
    which: list[ColumnElement[bool]] = [model_usage.c.at >= since]
    if request_id is not None:
        which.append(model_usage.c.request_id == request_id)
    if user_id is not None:
        which.append(model_usage.c.user_id == user_id)
    async with ledger.read() as conn:
        rows = await conn.execute(_costs_query().where(*which))
        return [
            ModelCosts(
                row.model, int(row.calls), int(row.input_tokens), int(row.cached_tokens),
                int(row.output_tokens), Money(int(row.micros or 0)), int(row.unpriced or 0),
            )
            for row in rows
        ]  # fmt: skip


def _costs_query() -> Select[Any]:
    table = model_usage.c
    unpriced = func.sum(table.calls).filter(table.micros.is_(None))
    micros = func.coalesce(func.sum(table.micros), 0).label("micros")
    sums = [
        func.sum(column).label(column.name)
        for column in (table.calls, table.input_tokens, table.cached_tokens, table.output_tokens)
    ]
    return (
        select(table.model, *sums, micros, unpriced.label("unpriced"))
        .group_by(table.model)
        .order_by(micros.desc(), table.model)
    )


def total_cost(costs: Sequence[ModelCosts]) -> Money:
    """Return what all of them cost, as far as prices are known."""
    return sum((one.cost for one in costs), ZERO)
