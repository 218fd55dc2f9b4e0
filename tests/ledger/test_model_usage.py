"""What models used and cost: written once for each attempt, summed by day, user and model."""

import pytest

from guardrails.money import ZERO, Money
from ledger import model_usage
from ledger.database import Ledger
from ledger.model_usage import ModelUse, total_cost

pytestmark = pytest.mark.any_ledger

CENT = Money.parse("$0.01")


async def test_an_attempt_is_counted_once(ledger: Ledger):
    """A repeated write changes nothing; the next attempt, or another model, is one more row."""
    director, writer = ModelUse("director", 2, 900, 100, 50, CENT), ModelUse("writer", 1, 90, 0, 20, CENT)
    for _ in range(2):
        await model_usage.record(ledger, "a", 7, 1, [director, writer])
    await model_usage.record(ledger, "a", 7, 2, [director])
    await model_usage.record(ledger, "b", 8, 1, [ModelUse("writer", 1, 10, 0, 1)])
    await model_usage.record(ledger, "c", 8, 1, [])
    first, second = await model_usage.model_costs(ledger)
    assert (first.model, first.calls, first.input_tokens, first.cached_tokens) == ("director", 4, 1800, 200)
    assert (first.output_tokens, first.cost, first.unpriced_calls) == (100, CENT * 2, 0)
    assert (second.model, second.calls, second.cost, second.unpriced_calls) == ("writer", 2, CENT, 1)
    assert total_cost(await model_usage.model_costs(ledger, request_id="a")) == CENT * 3
    assert total_cost(await model_usage.model_costs(ledger, user_id=8)) == ZERO


async def test_a_day_ends_at_midnight(ledger: Ledger):
    """Of today: in all, and of one user. What was used yesterday counts no more, and stays in the report."""
    await model_usage.record(ledger, "a", 7, 1, [ModelUse("director", 1, 1, 0, 1, CENT)])
    await model_usage.record(ledger, "b", 8, 1, [ModelUse("director", 1, 1, 0, 1, CENT * 3)])
    day = await model_usage.spent_today(ledger, 7)
    assert (day.everyone, day.user) == (CENT * 4, CENT)
    async with ledger.read() as conn:
        now = await ledger.now(conn)
    assert 0 < day.ends_at - now <= 86_400_000
    ledger.shift = (day.ends_at - now) // 1000 + 1
    day = await model_usage.spent_today(ledger, 7)
    assert (day.everyone, day.user) == (ZERO, ZERO)
    assert await model_usage.model_costs(ledger, since=day.ends_at - 86_400_000) == []
    assert total_cost(await model_usage.model_costs(ledger)) == CENT * 4
