"""A scripted model that needs no key: deterministic, offline, and its texts say that it is no real model.

It implements the SDK's interface, so run loop, guards and tools are the real ones. It can misbehave in the
ways that real models were seen to (`sandbox.behaviors.Behavior`).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from agents.agent_output import AgentOutputSchemaBase
from agents.handoffs import Handoff
from agents.items import ModelResponse, TResponseInputItem, TResponseOutputItem, TResponseStreamEvent
from agents.model_settings import ModelSettings
from agents.models.interface import Model, ModelProvider, ModelTracing
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

from ledger.models import Language
from sandbox.behaviors import (
    BEHAVIORS,
    PLANS,
    Behavior,
    BehaviorOptions,
    Scene,
    ToolCall,
    caption_of,
    digest,
    read_scene,
)
from tools.sdk_tracing import chat_span
from tools.text import trimmed

NAME: Final = "rehearsal"
_CHARACTERS_PER_TOKEN: Final = 4
_MAX_ANSWER: Final = 300

_ANSWERED: Final[Mapping[Language, str]] = {
    "en": "Sandbox director, no real model: the tool says “{}”",
    "es": "Director de prueba, sin modelo real: la herramienta dice «{}»",
    "pt": "Diretor de teste, sem modelo real: a ferramenta diz “{}”",
}
_NOTHING: Final[Mapping[Language, str]] = {
    "en": "Sandbox director, no real model: I ordered nothing this time.",
    "es": "Director de prueba, sin modelo real: esta vez no encargué nada.",
    "pt": "Diretor de teste, sem modelo real: desta vez não encomendei nada.",
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
    """Answers as a film director would, or as `behavior` says. Without tools it writes a caption.

    Each answer depends only on the conversation, the behavior and the seed. Its token usage is an estimate
    (four characters a token), so that traces and cost pages have something to show.

    Attributes:
        name: Its name in traces and on the status page.
        behavior: May be changed between two runs.
        asked: Tool calls since it was built, by tool; `asked_in` counts those of one run.
    """

    name = NAME

    def __init__(
        self, behavior: Behavior = "benign", *, seed: int = 0, times: int = 13, latency_s: float = 0.0
    ) -> None:
        """Build one.

        Args:
            behavior: See `sandbox.behaviors.Behavior`.
            seed: For choices that a behavior leaves open.
            times: How often insist, fanout, reroll and mutate_args call.
            latency_s: How long each answer takes.

        Raises:
            ValueError: The behavior is unknown.
        """
        if behavior not in BEHAVIORS:
            raise ValueError(f"{behavior!r} is not a behavior; known: {', '.join(BEHAVIORS)}")
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
        """Yield the completed response, the one event that the run loop needs."""
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
        calls = PLANS[self.behavior](scene, self._options)
        self.asked.update(one.tool for one in calls)
        if not calls:
            return [message(self._closing(scene), self._mark(scene))]
        return [call(one, f"{self._mark(scene)}_{number}") for number, one in enumerate(calls)]

    def _closing(self, scene: Scene) -> str:
        if self.behavior not in _HONEST:
            return _BOAST[scene.language].format(max(1, len(scene.answers)))
        if not scene.answers:
            return _NOTHING[scene.language]
        return _ANSWERED[scene.language].format(trimmed(scene.answers[-1], _MAX_ANSWER))

    def _mark(self, scene: Scene) -> str:
        # The position keeps ids apart when one session holds two runs of the same idea.
        return f"{digest(scene.idea, self.behavior, self._options.seed)}_{scene.position}"


def asked_in(items: Sequence[Any]) -> Counter[str]:
    """Count the tool calls of one run, by tool, from `RunResult.to_input_list()`."""
    return Counter(item["name"] for item in items if item.get("type") == "function_call")


def call(wanted: ToolCall, mark: str) -> ResponseFunctionToolCall:
    """Return one tool call as a response item."""
    return ResponseFunctionToolCall(
        type="function_call",
        id=f"fc_{mark}",
        call_id=wanted.call_id or f"call_{mark}",
        name=wanted.tool,
        arguments=wanted.arguments,
        status="completed",
    )


def message(text: str, mark: str) -> ResponseOutputMessage:
    """Return text of the model as a response item."""
    content = ResponseOutputText(type="output_text", text=text, annotations=[], logprobs=[])
    return ResponseOutputMessage(
        type="message", id=f"msg_{mark}", role="assistant", status="completed", content=[content]
    )


def _usage(given: str, output: Sequence[TResponseOutputItem]) -> Usage:
    sent, answered = len(given) // _CHARACTERS_PER_TOKEN, len(str(output)) // _CHARACTERS_PER_TOKEN
    return Usage(requests=1, input_tokens=sent, output_tokens=answered, total_tokens=sent + answered)


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


class SandboxModelProvider(ModelProvider):
    """Gives every agent the same scripted model, whatever name its declaration asks for."""

    def __init__(self, model: SandboxModel | None = None) -> None:
        self.model = model or SandboxModel()

    def get_model(self, model_name: str | None) -> Model:  # noqa: ARG002 - the interface names it
        return self.model
