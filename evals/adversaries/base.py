"""Base class of all adversaries: a model that keeps a transcript of its input and output."""

import asyncio
import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agents.handoffs import Handoff
from agents.items import ModelResponse, TResponseInputItem, TResponseOutputItem, TResponseStreamEvent
from agents.model_settings import ModelSettings
from agents.models.interface import Model
from agents.tool import Tool
from agents.usage import Usage

from evals.case import AdversarySpec
from evals.evidence import Turn
from sandbox.behaviors import Scene, ToolCall, caption_of, digest, read_scene
from sandbox.model import call, message

MOST_CALLS: Final = 400
"""A model that is called more often than this in one case is in an endless loop."""

Emitted = dict[str, Any]
"""One item that a model emitted, normalised: type, and name, arguments and call_id, or text."""


class RunawayError(Exception):
    """The run loop did not stop calling the model."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What an adversary decides from: one call of the model.

    Attributes:
        scene: The conversation, as the sandbox model reads it: idea, language, turn, tools, answers.
        agent: The agent that is called: `director`, `caption_writer`, or an agent of a topology.
        items: The model's whole input.
        handoffs: Names of the tools that hand over to another agent.
        forced: Whether the model must call a tool.
    """

    scene: Scene
    agent: str
    items: Sequence[Any]
    handoffs: tuple[str, ...] = ()
    forced: bool = False


@dataclass
class Transcript:
    """Input and output of the model in one case.

    Attributes:
        emitted: Every item, in order.
        turns: The same items, answer by answer.
        heard: The input of every call, as text.
        calls: Number of model calls, by agent.
    """

    emitted: list[Emitted] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)

    def attempts(self, tool: str) -> int:
        """Return how often the model called a tool."""
        return sum(item.get("name") == tool for item in self.emitted)


class Adversary(Model):
    """Base of the adversaries. A new one implements `plan`, and `closing` if it lies.

    Attributes:
        spec: Name, seed, times and options, from the case.
        transcript: What the model read and emitted.
        stopped: Why this model had to stop; a case in which that happened proves nothing.
        settle_timeout_s: Time limit of a case with this model, in seconds, if longer than usual.
        unmet: What this model should have done and had no chance to do, as a sentence.
    """

    stopped: str = ""
    unmet: str = ""
    settle_timeout_s: float = 0

    def __init__(self, spec: AdversarySpec) -> None:
        self.spec = spec
        self.transcript = Transcript()

    @abstractmethod
    def plan(self, moment: Moment) -> Sequence[ToolCall] | str:
        """Return the tool calls of this turn; a text, or no call, ends the run."""

    def closing(self, moment: Moment) -> str:
        """Return the final text of a run, when `plan` returns no call."""
        return moment.scene.answers[-1] if moment.scene.answers else "I ordered nothing."

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
        """Answer one call of the SDK with what `plan` returns."""
        del output_schema, tracing, more
        moment = read_moment(system_instructions, input, tools, handoffs)
        moment = replace(moment, forced=model_settings.tool_choice == "required")
        self._note(moment, system_instructions)
        if moment.scene.turn:  # gives other tasks time to change what could be read next
            await asyncio.sleep(float(self.spec.options.get("thinks_s", 0)))
        output = await self.answer(moment)
        self.keep(moment, output)
        return ModelResponse(output=output, usage=Usage(requests=1), response_id=None)

    async def finish(self) -> None:
        """Wait until a run whose video has arrived makes no further call."""

    def keep(self, moment: Moment, output: Sequence[TResponseOutputItem]) -> None:
        """Add one answer to the transcript."""
        items = [normal(item, moment.agent) for item in output]
        self.transcript.emitted += items
        place = {"agent": moment.agent, "idea": moment.scene.idea, "position": moment.scene.position}
        self.transcript.turns.append(Turn(**place, items=items))

    async def stream_response(self, *args: Any, **more: Any) -> AsyncIterator[TResponseStreamEvent]:
        """Refuse: the app does not stream.

        Raises:
            NotImplementedError: Always.
        """
        del args, more
        raise NotImplementedError("the app does not stream; this is the SDK's other entry point")
        yield  # type: ignore[unreachable]  # makes it the generator that the interface asks for

    async def answer(self, moment: Moment) -> list[TResponseOutputItem]:
        """Return the items of one turn. Adversaries that fail, hang or replay items override this."""
        if moment.agent == "caption_writer":
            text = str(self.spec.options.get("caption") or caption_of(moment.scene))
            return [message(text, "caption")]
        mark = digest(moment.scene.idea, self.spec.name, self.spec.seed, moment.agent)
        planned = self.plan(moment)
        if isinstance(planned, str) or not planned:
            text = planned if isinstance(planned, str) and planned else self.closing(moment)
            return [message(text, f"{mark}_{moment.scene.position}")]
        # The position makes ids unique: most adversaries want every call to be a new one.
        return [call(one, f"{mark}_{moment.scene.position}_{n}") for n, one in enumerate(planned)]

    def _note(self, moment: Moment, instructions: str | None) -> None:
        del instructions
        self.transcript.calls[moment.agent] = self.transcript.calls.get(moment.agent, 0) + 1
        self.transcript.heard.append(_kept(json.dumps(list(moment.items), ensure_ascii=False, default=str)))
        if sum(self.transcript.calls.values()) > MOST_CALLS:
            raise RunawayError(f"the model was called more than {MOST_CALLS} times in one case")


def read_moment(
    instructions: str | None, given: str | Sequence[Any], tools: Sequence[Tool], handoffs: Sequence[Handoff]
) -> Moment:
    """Read the moment from what the SDK passes to a model."""
    scene = read_scene(instructions, given, [tool.name for tool in tools])
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    names = tuple(one.tool_name for one in handoffs)
    return Moment(scene, _agent(instructions or "", scene, names), items, names)


def _agent(instructions: str, scene: Scene, handoffs: Sequence[str]) -> str:
    first = instructions.partition("\n")[0]
    if first.startswith("AGENT "):  # how topologies name the agents that they add
        return first.removeprefix("AGENT ").strip()
    return "director" if scene.tools or handoffs else "caption_writer"


def normal(item: TResponseOutputItem, agent: str) -> Emitted:
    """Return one item without volatile ids, as recordings keep it and reports show it."""
    found = item.model_dump(mode="python") if hasattr(item, "model_dump") else {}
    if found.get("type") == "function_call":
        kept = {name: _kept(found[name]) for name in ("type", "name", "arguments", "call_id")}
        return {"agent": agent, **kept}
    text = "".join(part.get("text", "") for part in found.get("content") or ())
    return {"agent": agent, "type": found.get("type", "message"), "text": text}


def _kept(text: str) -> str:
    """Escape lone surrogates: they can be sent, but not stored."""
    return text.encode("utf-8", "backslashreplace").decode()
