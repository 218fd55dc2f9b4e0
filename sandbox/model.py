"""A model that works without a key: deterministic, offline, and honest about being a rehearsal.

It speaks the SDK's own interface, so the run loop, the guards and the tools around it are the real ones. It
can be told to misbehave in the ways that real models were seen to (`Behaviour`).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from agents.agent_output import AgentOutputSchemaBase
from agents.handoffs import Handoff
from agents.items import ModelResponse, TResponseInputItem, TResponseOutputItem, TResponseStreamEvent
from agents.model_settings import ModelSettings
from agents.models.interface import Model, ModelTracing
from agents.tool import Tool
from agents.tracing import generation_span
from agents.usage import Usage
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseUsage,
)
from openai.types.responses.response_prompt_param import ResponsePromptParam
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from sandbox.behaviors import (
    BEHAVIORS,
    PLANS,
    Behavior,
    BehaviorOptions,
    Language,
    Scene,
    ToolCall,
    caption_of,
    digest,
    read_scene,
    trimmed,
)
from tools.sdk_tracing import chat_span

NAME: Final = "rehearsal"
_CHARACTERS_PER_TOKEN: Final = 4
_ANSWER_ROOM: Final = 300

_ANSWERED: Final[Mapping[Language, str]] = {
    "en": "Rehearsal director, no real model: the studio says “{}”",
    "es": "Director de ensayo, sin modelo real: el estudio dice «{}»",
    "pt": "Diretor de ensaio, sem modelo real: o estúdio diz “{}”",
}
_NOTHING: Final[Mapping[Language, str]] = {
    "en": "Rehearsal director, no real model: I ordered nothing this time.",
    "es": "Director de ensayo, sin modelo real: esta vez no encargué nada.",
    "pt": "Diretor de ensaio, sem modelo real: desta vez não encomendei nada.",
}
_BOAST: Final[Mapping[Language, str]] = {
    "en": "All done! I made all {} videos for you.",
    "es": "¡Listo! Hice los {} videos para ti.",
    "pt": "Pronto! Fiz todos os {} vídeos para você.",
}
_HONEST: Final = frozenset[Behavior]({
    "benign", "malformed_then_valid", "hallucinate_tool", "constant_call_id", "never_calls",
})  # fmt: skip


class SandboxModel(Model):
    """Answers as a film director would, or as `behaviour` says. With no tools it writes a caption.

    What it says next depends on the conversation, the behaviour and the seed alone. Tokens in its usage are
    estimates (four characters each), so that traces and cost pages have something to show.

    Attributes:
        name: What traces and the status page call it.
        behaviour: May be set between two runs; the next answer follows it.
        asked: Calls asked for since it was built, by tool; `asked_in` counts those of one run.
    """

    name = NAME

    def __init__(
        self, behavior: Behavior = "benign", *, seed: int = 0, times: int = 13, latency_s: float = 0.0
    ) -> None:
        """Build one.

        Args:
            behaviour: See `sandbox.behaviors.Behaviour`.
            seed: Decides among choices that a behaviour leaves open.
            times: How often insist, fanout, reroll and mutate_args ask.
            latency_s: How long each answer takes.

        Raises:
            ValueError: The behaviour is not known.
        """
        if behavior not in BEHAVIORS:
            raise ValueError(f"{behavior!r} is not a behaviour; known: {', '.join(BEHAVIORS)}")
        self.behavior: Behavior = behavior
        self.asked: Counter[str] = Counter()
        self._options = BehaviorOptions(seed=seed, times=times)
        self._latency_s = latency_s

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK's name
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> ModelResponse:
        del model_settings, output_schema, handoffs, previous_response_id, conversation_id, prompt
        with chat_span(NAME):
            return await self._answer(system_instructions, input, tools, tracing)

    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK's name
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> AsyncIterator[TResponseStreamEvent]:
        """Yield the completed response as the one event that the run loop needs."""
        del model_settings, output_schema, handoffs, previous_response_id, conversation_id, prompt
        answer = await self._answer(system_instructions, input, tools, tracing)
        yield ResponseCompletedEvent(
            type="response.completed", response=_completed(answer), sequence_number=0
        )

    async def _answer(
        self,
        instructions: str | None,
        items: str | Sequence[Any],
        tools: Sequence[Tool],
        tracing: ModelTracing,
    ) -> ModelResponse:
        scene = read_scene(instructions, items, [tool.name for tool in tools])
        with generation_span(model=NAME, disabled=tracing.is_disabled()) as span:
            await asyncio.sleep(self._latency_s)
            output = self._output(scene)
            usage = _usage((instructions or "") + str(items), output)
            span.span_data.usage = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
        return ModelResponse(output=output, usage=usage, response_id=f"resp_{NAME}_{self._mark(scene)}")

    def _output(self, scene: Scene) -> list[TResponseOutputItem]:
        if not scene.tools:
            return [message(caption_of(scene), self._mark(scene))]
        asks = PLANS[self.behavior](scene, self._options)
        self.asked.update(ask.tool for ask in asks)
        if not asks:
            return [message(self._closing(scene), self._mark(scene))]
        return [call(ask, f"{self._mark(scene)}_{number}") for number, ask in enumerate(asks)]

    def _closing(self, scene: Scene) -> str:
        if self.behavior not in _HONEST:
            return _BOAST[scene.language].format(max(1, len(scene.answers)))
        if not scene.answers:
            return _NOTHING[scene.language]
        return _ANSWERED[scene.language].format(trimmed(scene.answers[-1], _ANSWER_ROOM))

    def _mark(self, scene: Scene) -> str:
        # The position keeps ids apart when one session holds two runs of the same idea.
        return f"{digest(scene.idea, self.behavior, self._options.seed)}_{scene.position}"


def asked_in(items: Sequence[Any]) -> Counter[str]:
    """Count the calls that were asked for in one run, by tool, from `RunResult.to_input_list()`."""
    return Counter(item["name"] for item in items if item.get("type") == "function_call")


def call(ask: ToolCall, mark: str) -> ResponseFunctionToolCall:
    """One tool call as an item of the wire."""
    return ResponseFunctionToolCall(
        type="function_call",
        id=f"fc_{mark}",
        call_id=ask.call_id or f"call_{mark}",
        name=ask.tool,
        arguments=ask.arguments,
        status="completed",
    )


def message(text: str, mark: str) -> ResponseOutputMessage:
    """The model's words as an item of the wire."""
    words = ResponseOutputText(type="output_text", text=text, annotations=[], logprobs=[])
    return ResponseOutputMessage(
        type="message", id=f"msg_{mark}", role="assistant", status="completed", content=[words]
    )


def _usage(said: str, output: Sequence[TResponseOutputItem]) -> Usage:
    heard, spoken = len(said) // _CHARACTERS_PER_TOKEN, len(str(output)) // _CHARACTERS_PER_TOKEN
    return Usage(requests=1, input_tokens=heard, output_tokens=spoken, total_tokens=heard + spoken)


def _completed(answer: ModelResponse) -> Response:
    usage = answer.usage
    return Response(
        id=answer.response_id or NAME,
        created_at=0,
        model=NAME,
        object="response",
        output=answer.output,
        tool_choice="auto",
        tools=[],
        parallel_tool_calls=True,
        status="completed",
        usage=ResponseUsage(
            input_tokens=usage.input_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
            output_tokens=usage.output_tokens,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
            total_tokens=usage.total_tokens,
        ),
    )
