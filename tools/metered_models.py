"""Counts what the models of one run use: every answer of every agent in it."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from agents import Model, ModelProvider, ModelResponse
from agents.items import TResponseStreamEvent

from ledger.model_usage import ModelUse
from tools.model_prices import ModelPrices


class Meter:
    """Tokens by model of one run."""

    def __init__(self) -> None:
        self._uses: dict[str, ModelUse] = {}

    def count(self, model: str, response: ModelResponse) -> None:
        """Add one answer."""
        used, known = response.usage, self._uses.get(model, ModelUse(model))
        details = getattr(used, "input_tokens_details", None)
        self._uses[model] = replace(
            known,
            calls=known.calls + 1,
            input_tokens=known.input_tokens + (used.input_tokens or 0),
            cached_tokens=known.cached_tokens + (getattr(details, "cached_tokens", 0) or 0),
            output_tokens=known.output_tokens + (used.output_tokens or 0),
        )

    def uses(self, prices: ModelPrices | None) -> list[ModelUse]:
        """Return what was used so far, with its cost where a price is known."""
        return [replace(one, cost=prices.cost(one) if prices else None) for one in self._uses.values()]


class MeteredModels(ModelProvider):
    """Models whose answers are counted."""

    def __init__(self, models: ModelProvider, meter: Meter) -> None:
        self._models, self._meter = models, meter

    def get_model(self, model_name: str | None) -> Model:
        model = self._models.get_model(model_name)
        name = getattr(model, "model", None) or getattr(model, "name", None) or model_name or "default"
        return _MeteredModel(model, str(name), self._meter)


class _MeteredModel(Model):
    def __init__(self, model: Model, name: str, meter: Meter) -> None:
        self._model, self._name, self._meter = model, name, meter

    async def get_response(self, *args: Any, **options: Any) -> ModelResponse:
        response = await self._model.get_response(*args, **options)
        self._meter.count(self._name, response)
        return response

    def stream_response(self, *args: Any, **options: Any) -> AsyncIterator[TResponseStreamEvent]:
        return self._model.stream_response(*args, **options)  # the bot does not stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def get_retry_advice(self, request: Any) -> Any:
        return self._model.get_retry_advice(request)

    async def _cleanup_on_run_end(self, owner: object) -> None:
        await self._model._cleanup_on_run_end(owner)  # noqa: SLF001 - the SDK calls it on its models

    async def close(self) -> None:
        await self._model.close()
