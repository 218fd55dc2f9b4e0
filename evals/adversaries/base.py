"""What every adversary is: a model that keeps what it heard and what it emitted."""

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

from evals.case import AdversarySpec as Asked
from evals.evidence import Turn
from sandbox.behaviors import Scene, ToolCall, caption_of, digest, read_scene
from sandbox.model import call, message

MOST_CALLS: Final = 400
"""A model that is called more often than this in one case is called for ever."""

Emitted = dict[str, Any]
"""One item that a model emitted, normalised: type, and name, arguments and call_id, or text."""


class RunawayError(Exception):
    """The run loop called the model without an end."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a policy decides from.

    Attributes:
        scene: The conversation, as the rehearsal model reads it: idea, language, turn, tools, answers.
        agent: Who is asked: `director`, `caption_writer`, or an agent of a topology.
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
    """What went through the model's boundary in one case.

    Attributes:
        emitted: Every item, in order.
        turns: The same, answer by answer.
        heard: The input of every call, as text.
        calls: Answers of each agent's model.
    """

    emitted: list[Emitted] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)

    def attempts(self, tool: str) -> int:
        """How often a tool was asked for."""
        return sum(item.get("name") == tool for item in self.emitted)


class Adversary(Model):
    """Base of the adversaries. A new one writes `plan`, and `closing` if it lies.

    Attributes:
        asked: Name, seed, times and options, from the case.
        diary: What went through.
        stopped: Why this model may not go on; a case that met it proves nothing.
        patience_s: How long a case may take with it, if longer than usual.
        unmet: What this model was to do and did not come to, in words.
    """

    stopped: str = ""
    unmet: str = ""
    settle_timeout_s: float = 0

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.transcript = Transcript()

    @abstractmethod
    def plan(self, moment: Moment) -> Sequence[ToolCall] | str:
        """Return the calls of this turn; a text, or no call, ends the run."""

    def closing(self, moment: Moment) -> str:
        """Return the last words of a run, when `plan` asks for nothing."""
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
        """Answer as the SDK asks; the answer is `plan`'s."""
        del output_schema, tracing, more
        moment = read_moment(system_instructions, input, tools, handoffs)
        moment = replace(moment, forced=model_settings.tool_choice == "required")
        self._note(moment, system_instructions)
        if moment.scene.turn:  # so that what others do meanwhile could be read
            await asyncio.sleep(float(self.asked.options.get("thinks_s", 0)))
        output = await self.answer(moment)
        self.keep(moment, output)
        return ModelResponse(output=output, usage=Usage(requests=1), response_id=None)

    async def finish(self) -> None:
        """Wait until nothing more comes of a run whose video is there already."""

    def keep(self, moment: Moment, output: Sequence[TResponseOutputItem]) -> None:
        """Write one answer into the diary."""
        items = [normal(item, moment.agent) for item in output]
        self.transcript.emitted += items
        place = {"agent": moment.agent, "idea": moment.scene.idea, "position": moment.scene.position}
        self.transcript.turns.append(Turn(**place, items=items))

    async def stream_response(self, *args: Any, **more: Any) -> AsyncIterator[TResponseStreamEvent]:
        """The house streams nothing.

        Raises:
            NotImplementedError: Always.
        """
        del args, more
        raise NotImplementedError("the house streams nothing; this is the SDK's other way to ask")
        yield  # type: ignore[unreachable]  # makes it the generator that the interface asks for

    async def answer(self, moment: Moment) -> list[TResponseOutputItem]:
        """Return the items of one turn. Policies that fail, hang or play items back write this one."""
        if moment.agent == "caption_writer":
            words = str(self.asked.options.get("caption") or caption_of(moment.scene))
            return [message(words, "caption")]
        mark = digest(moment.scene.idea, self.asked.name, self.asked.seed, moment.agent)
        planned = self.plan(moment)
        if isinstance(planned, str) or not planned:
            words = planned if isinstance(planned, str) and planned else self.closing(moment)
            return [message(words, f"{mark}_{moment.scene.position}")]
        # The position keeps ids apart: new ids are new calls, which is what most adversaries want.
        return [call(ask, f"{mark}_{moment.scene.position}_{n}") for n, ask in enumerate(planned)]

    def _note(self, moment: Moment, instructions: str | None) -> None:
        del instructions
        self.transcript.calls[moment.agent] = self.transcript.calls.get(moment.agent, 0) + 1
        self.transcript.heard.append(_kept(json.dumps(list(moment.items), ensure_ascii=False, default=str)))
        if sum(self.transcript.calls.values()) > MOST_CALLS:
            raise RunawayError(f"the model was called more than {MOST_CALLS} times in one case")


def read_moment(
    instructions: str | None, said: str | Sequence[Any], tools: Sequence[Tool], handoffs: Sequence[Handoff]
) -> Moment:
    """Read the moment from what the SDK hands to a model."""
    scene = read_scene(instructions, said, [tool.name for tool in tools])
    items = [{"role": "user", "content": said}] if isinstance(said, str) else said
    names = tuple(one.tool_name for one in handoffs)
    return Moment(scene, _agent(instructions or "", scene, names), items, names)


def _agent(instructions: str, scene: Scene, handoffs: Sequence[str]) -> str:
    first = instructions.partition("\n")[0]
    if first.startswith("AGENT "):  # how topologies name the agents that they add
        return first.removeprefix("AGENT ").strip()
    return "director" if scene.tools or handoffs else "caption_writer"


def normal(item: TResponseOutputItem, agent: str) -> Emitted:
    """One item without ids of the moment: what recordings keep and reports show."""
    found = item.model_dump(mode="python") if hasattr(item, "model_dump") else {}
    if found.get("type") == "function_call":
        kept = {name: _kept(found[name]) for name in ("type", "name", "arguments", "call_id")}
        return {"agent": agent, **kept}
    text = "".join(part.get("text", "") for part in found.get("content") or ())
    return {"agent": agent, "type": found.get("type", "message"), "text": text}


def _kept(text: str) -> str:
    """A lone surrogate can be sent and not be kept: it is written as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()
