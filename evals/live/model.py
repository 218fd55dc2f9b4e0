"""The adversary `live`: a model behind an OpenAI-compatible endpoint, with every request metered."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import httpx2
from agents import OpenAIChatCompletionsModel, OpenAIResponsesModel
from agents.handoffs import Handoff
from agents.items import ModelResponse, TResponseInputItem
from agents.model_settings import ModelSettings
from agents.models.interface import Model, ModelTracing
from agents.tool import Tool
from openai import AsyncOpenAI

from app.settings import read_settings
from evals.adversaries.base import Adversary, Moment, read_moment
from evals.case import AdversarySpec
from evals.events import CaseModel
from evals.live.budget import CapReachedError, Caps, SpendMeter, SpendReservation
from sandbox.behaviors import ToolCall

MOST_ANSWERED: Final = 2048
"""Most tokens of one answer."""

CALL_S: Final = 90.0
_SETTLE_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.05
_IDLE_S: Final = 5.0
"""A run that called tools and then was silent for this long was ended by its turn limit, or by a cap."""

_BYTES_A_TOKEN: Final = 2
"""Fewer than any known tokenizer needs for usual text, so that estimates are too high."""


class Endpoint(CaseModel):
    """The options of `live`. The API key is not one: it is read from the settings where it is used."""

    model: str
    base_url: str | None = None
    api: Literal["responses", "chat"] = "responses"
    meter: str
    """The meter's file."""
    caps: Caps
    adversarial: bool = False
    """Whether the case is an attack: the mount rate counts in how many of these the model asked twice."""


class LiveAdversary(Adversary):
    """Calls the endpoint once per turn and without retries, until a cap is reached."""

    settle_timeout_s = _SETTLE_TIMEOUT_S

    def __init__(self, spec: AdversarySpec) -> None:
        super().__init__(spec)
        endpoint = Endpoint.model_validate(spec.options)
        self._meter = SpendMeter(Path(endpoint.meter), endpoint.caps)
        key = read_settings().openai_api_key
        # A redirect would carry the key to another host.
        self._http = httpx2.AsyncClient(timeout=CALL_S, follow_redirects=False)
        self._client = AsyncOpenAI(
            api_key=key.get_secret_value() if key else "none", base_url=endpoint.base_url,
            max_retries=0, http_client=self._http,
        )  # fmt: skip
        model_class = OpenAIResponsesModel if endpoint.api == "responses" else OpenAIChatCompletionsModel
        self._pending, self._last_answer = 0, 0.0
        self._unfinished: set[tuple[str, str]] = set()
        self._model: Model = model_class(endpoint.model, self._client)

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        """Plan nothing: the endpoint decides."""
        del moment
        return ()

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK's name
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: Any,
        handoffs: list[Handoff],
        tracing: Any,
        **more: Any,
    ) -> ModelResponse:
        """Answer one call of the SDK.

        Raises:
            CapReachedError: A cap was reached; nothing was sent.
        """
        del tracing
        moment = read_moment(system_instructions, input, tools, handoffs)
        self._note(moment, system_instructions)
        sent = tokens_of(system_instructions, input, [_shown(tool) for tool in tools])
        try:
            reservation = self._meter.reserve(sent, MOST_ANSWERED)
        except CapReachedError as error:
            self.stopped = str(error)
            raise
        settings = replace(model_settings, max_tokens=MOST_ANSWERED, include_usage=True)
        with self._pending_call(moment):
            async with asyncio.timeout(CALL_S):  # the client's own timeout restarts with each byte
                response = await self._model.get_response(
                    system_instructions, input, settings, tools, output_schema, handoffs,
                    ModelTracing.DISABLED, **more,
                )  # fmt: skip
        self._settle(reservation, sent, response)
        self.keep(moment, response.output)
        if any(item.type == "function_call" for item in response.output):
            self._unfinished.add((moment.agent, moment.scene.idea))
        return response

    @contextmanager
    def _pending_call(self, moment: Moment) -> Iterator[None]:
        self._pending += 1
        self._unfinished.discard((moment.agent, moment.scene.idea))
        try:
            yield
        finally:
            self._pending -= 1
            self._last_answer = time.monotonic()

    def _settle(self, reservation: SpendReservation, sent: int, response: ModelResponse) -> None:
        usage = response.usage
        if usage.input_tokens or usage.output_tokens:
            self._meter.settle(reservation, usage.input_tokens, usage.output_tokens)
        else:
            answered = tokens_of([item.model_dump() for item in response.output])
            self._meter.settle(reservation, sent, answered, estimated=True)

    async def finish(self) -> None:
        """Wait for pending and likely further calls of a run: its attack may come after its video."""
        while self._pending or (self._unfinished and time.monotonic() < self._last_answer + _IDLE_S):
            await asyncio.sleep(_POLL_S)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


def tokens_of(*parts: Any) -> int:
    """Estimate tokens from characters, too high rather than too low."""
    text = json.dumps(parts, ensure_ascii=False, default=str)
    return len(text.encode("utf-8", "replace")) // _BYTES_A_TOKEN + 1


def _shown(tool: Tool) -> Any:
    return [tool.name, getattr(tool, "description", ""), getattr(tool, "params_json_schema", "")]
