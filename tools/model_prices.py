"""What language models cost: a dated price list, and the caps on what they may cost in a day."""

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Final, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from guardrails.money import Money
from ledger.model_usage import ModelDay, ModelUse

_PER: Final = 1_000_000
"""Prices are those of so many tokens, as endpoints publish them."""

CapReason = Literal["model_budget", "model_budget_user"]
"""Why a run is refused: models have cost as much today as they may, in all or for its user."""


Price = Annotated[Money, BeforeValidator(Money.exact)]


class ModelPrice(BaseModel):
    """Dollars per million tokens. Without `cached_input`, what is read from a cache costs the full price."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Price
    output: Price
    cached_input: Price | None = None

    def cost(self, use: ModelUse) -> Money:
        """Return the cost of these tokens, rounded up to a micro-dollar."""
        cached = min(use.cached_tokens, use.input_tokens)
        known = self.input if self.cached_input is None else self.cached_input
        total = (
            (use.input_tokens - cached) * self.input.micros
            + cached * known.micros
            + use.output_tokens * self.output.micros
        )
        return Money(-(-total // _PER))


class ModelPrices(BaseModel):
    """The prices of an endpoint's models as its page showed them on `priced_on`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    priced_on: date
    source: str
    models: Annotated[dict[str, ModelPrice], Field(min_length=1)]

    def cost(self, use: ModelUse) -> Money | None:
        """Return what these tokens cost; None for a model that is not on the list.

        A dated name (`gpt-9-2026-11-01`) has the price of the name that it begins with, the longest one.
        """
        named = [name for name in self.models if use.model == name or use.model.startswith(f"{name}-")]
        return self.models[max(named, key=len)].cost(use) if named else None


def read_model_prices(text: str) -> ModelPrices:
    """Return a price list from YAML.

    Raises:
        ValueError: It is none; the message says what is wrong.
    """
    try:
        return ModelPrices.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML: {error}") from error


@dataclass(frozen=True, slots=True)
class ModelBudget:
    """Prices of the models, and what they may cost in one UTC day; None: no cap."""

    prices: ModelPrices | None = None
    day_cap: Money | None = None
    user_day_cap: Money | None = None

    @property
    def is_capped(self) -> bool:
        """Whether there is any cap."""
        return self.day_cap is not None or self.user_day_cap is not None

    def refuses(self, day: ModelDay) -> CapReason | None:
        """Return why no further run may begin today; None if one may. The run that goes above ends."""
        if self.day_cap is not None and day.everyone >= self.day_cap:
            return "model_budget"
        if self.user_day_cap is not None and day.user >= self.user_day_cap:
            return "model_budget_user"
        return None
