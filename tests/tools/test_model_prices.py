"""What tokens cost by a dated price list, and what a day's cap refuses."""

import pytest

from guardrails.money import ZERO, Money
from ledger.model_usage import ModelDay, ModelUse
from tools.model_prices import ModelBudget, read_model_prices

PRICES = read_model_prices("""
priced_on: 2026-11-28
source: a test
models:
  director-9: {input: $1.25, cached_input: $0.125, output: $10}
  director-9-mini: {input: $0.10, output: $0.40}
""")


@pytest.mark.parametrize(
    ("use", "cost"),
    [
        (ModelUse("director-9", 1, 1_000_000, 0, 0), "$1.25"),
        (ModelUse("director-9", 1, 1_000_000, 1_000_000, 100_000), "$1.125"),
        (ModelUse("director-9-mini-2026-11-01", 1, 1_000_000, 500_000, 0), "$0.10"),
        (ModelUse("director-9", 1, 1, 0, 0), "$0.000002"),
    ],
)
def test_tokens_cost_what_the_list_says(use, cost):
    """By input, cached input and output; a dated name has its family's price; a part is rounded up."""
    assert PRICES.cost(use) == Money.parse(cost)


def test_a_model_without_a_price_costs_what_no_one_knows():
    """Not 0: no name that merely begins alike has its price."""
    assert PRICES.cost(ModelUse("director-99", 1, 1000, 0, 0)) is None


@pytest.mark.parametrize("text", ["a: [", "models: {}", "{priced_on: x, source: y, models: {m: {input: 1}}}"])
def test_what_is_no_price_list_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        read_model_prices(text)


def test_a_cap_refuses_what_begins_after_it():
    """In all, and for each user; up to the cap a run may begin."""
    budget = ModelBudget(PRICES, Money.parse("$5"), Money.parse("$1"))

    def refuses(everyone: str, user: str) -> str | None:
        return budget.refuses(ModelDay(Money.parse(everyone), Money.parse(user), 0))

    assert refuses("$4.99", "$0.99") is None
    assert refuses("$5", "$0") == "model_budget"
    assert refuses("$2", "$1") == "model_budget_user"
    assert ModelBudget(PRICES).refuses(ModelDay(Money.parse("$9"), ZERO, 0)) is None
