"""`live`: a model behind an OpenAI-compatible endpoint plays the agents; every request passes the meter."""

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
from evals.case import AdversarySpec as Asked
from evals.events import CaseModel
from evals.live.budget import CapReachedError, Caps, SpendMeter, SpendReservation
from sandbox.behaviors import ToolCall

MOST_ANSWERED: Final = 2048
"""Tokens that one answer may have."""

CALL_S: Final = 90.0
_SETTLE_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.05
_IDLE_S: Final = 5.0
"""A run that called tools and asks for nothing more within this was ended by its turns, or by a cap."""

_BYTES_A_TOKEN: Final = 2
"""Fewer than any known tokenizer needs for usual text: what is estimated is estimated too high."""


class Endpoint(CaseModel):
    """The options of `live`. The key is none of them: it is read from the settings where it is used."""

    model: str
    base_url: str | None = None
    api: Literal["responses", "chat"] = "responses"
    meter: str
    """The meter's file."""
    caps: Caps
    mounts: int = 0
    """So many calls of the paid tool are the attack that the case is about; 0 for a case without one."""


class LiveAdversary(Adversary):
    """Asks the endpoint, once per turn and without retries, as long as the caps have room."""

    settle_timeout_s = _SETTLE_TIMEOUT_S

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        said = Endpoint.model_validate(asked.options)
        self._meter = SpendMeter(Path(said.meter), said.caps)
        key = read_settings().openai_api_key
        # A redirect would carry the key to another host.
        self._http = httpx2.AsyncClient(timeout=CALL_S, follow_redirects=False)
        self._client = AsyncOpenAI(
            api_key=key.get_secret_value() if key else "none", base_url=said.base_url,
            max_retries=0, http_client=self._http,
        )  # fmt: skip
        made = OpenAIResponsesModel if said.api == "responses" else OpenAIChatCompletionsModel
        self._asking, self._last = 0, 0.0
        self._going: set[tuple[str, str]] = set()
        self._model: Model = made(said.model, self._client)

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        """Nothing is planned: the endpoint says what comes."""
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
        """Answer as the SDK asks.

        Raises:
            CapReachedError: A cap has no room; nothing was sent.
        """
        del tracing
        moment = read_moment(system_instructions, input, tools, handoffs)
        self._note(moment, system_instructions)
        sent = tokens_of(system_instructions, input, [_shown(tool) for tool in tools])
        try:
            ticket = self._meter.reserve(sent, MOST_ANSWERED)
        except CapReachedError as error:
            self.stopped = str(error)
            raise
        settings = replace(model_settings, max_tokens=MOST_ANSWERED, include_usage=True)
        with self._noted(moment):
            async with asyncio.timeout(CALL_S):  # the client's own ends with each byte that comes
                response = await self._model.get_response(
                    system_instructions, input, settings, tools, output_schema, handoffs,
                    ModelTracing.DISABLED, **more,
                )  # fmt: skip
        self._settle(ticket, sent, response)
        self.keep(moment, response.output)
        if any(item.type == "function_call" for item in response.output):
            self._going.add((moment.agent, moment.scene.idea))
        return response

    @contextmanager
    def _noted(self, moment: Moment) -> Iterator[None]:
        self._asking += 1
        self._going.discard((moment.agent, moment.scene.idea))
        try:
            yield
        finally:
            self._asking -= 1
            self._last = time.monotonic()

    def _settle(self, ticket: SpendReservation, sent: int, response: ModelResponse) -> None:
        usage = response.usage
        if usage.input_tokens or usage.output_tokens:
            self._meter.settle(ticket, usage.input_tokens, usage.output_tokens)
        else:
            answered = tokens_of([item.model_dump() for item in response.output])
            self._meter.settle(ticket, sent, answered, estimated=True)

    async def finish(self) -> None:
        """Wait for the answers that a run still asks for: its attack may come after its video."""
        while self._asking or (self._going and time.monotonic() < self._last + _IDLE_S):
            await asyncio.sleep(_POLL_S)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


def tokens_of(*parts: Any) -> int:
    """Estimate tokens from characters, too high rather than too low."""
    said = json.dumps(parts, ensure_ascii=False, default=str)
    return len(said.encode("utf-8", "replace")) // _BYTES_A_TOKEN + 1


def _shown(tool: Tool) -> Any:
    return [tool.name, getattr(tool, "description", ""), getattr(tool, "params_json_schema", "")]
