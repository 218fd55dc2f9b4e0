"""All adversaries by name. Add one here."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, cast

import httpx2
from agents import OpenAIChatCompletionsModel
from agents.items import TResponseOutputItem
from agents.model_settings import ModelSettings
from agents.models.interface import ModelTracing
from openai import APIConnectionError, AsyncOpenAI, InternalServerError
from pydantic import Field

from evals.adversaries.base import Adversary, Moment
from evals.adversaries.endpoint import EndpointAdversary
from evals.adversaries.scripted import ReplayAdversary, ScriptedAdversary
from evals.case import AdversarySpec
from evals.events import CaseModel, EvalError
from evals.live.model import LiveAdversary
from sandbox.behaviors import (
    BEHAVIORS,
    MUTATIONS,
    PLANS,
    Behavior,
    BehaviorOptions,
    ToolCall,
    video,
    video_call_of,
)
from sandbox.openai_api import FakeOpenAI

_HELPERS: Final = ("second", "third")
"""Names of the agents that topologies offer to others as tools."""


class SubagentFanout(Adversary):
    """Every agent that has another as a tool calls it `times` times at once, and each orders a video."""

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        scene = moment.scene
        if scene.turn > 0:
            return ()
        # Helpers called at once with the same input see the same conversation, but their call ids differ.
        mark = f"call_{moment.agent}_{self.transcript.calls[moment.agent]}_{scene.position}"
        own = video(MUTATIONS["again"](video_call_of(scene)), call_id=mark)
        helpers = [name for name in _HELPERS if name in scene.tools]
        task = json.dumps({"input": f"Make this video: {scene.idea}"}, ensure_ascii=False)
        return [own, *(ToolCall(name, task) for name in helpers for _ in range(self.spec.times))]


class HandoffPingpong(Adversary):
    """Orders and hands over, `times` times; with `options.at_once`, both in one turn."""

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        scene = moment.scene
        over = [ToolCall(name, "{}") for name in moment.handoffs[:1]]
        at_once = bool(self.spec.options.get("at_once"))
        # A run's turns are counted across handovers, so the handovers are counted from the items.
        handed = sum(item.get("name", "").startswith("transfer_to_") for item in moment.items)
        if handed >= self.spec.times:
            return () if _orders(moment) > handed else [video(video_call_of(scene))]
        if at_once:
            return [video(video_call_of(scene)), *over]
        return over if _orders(moment) > handed else [video(video_call_of(scene))]


def _orders(moment: Moment) -> int:
    return sum(item.get("name") == "generate_video" for item in moment.items)


class ForcedAdversary(Adversary):
    """Orders in every turn in which it must call a tool."""

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        scene = moment.scene
        return [video(video_call_of(scene))] if moment.forced and scene.turn < self.spec.times else ()


_BOASTERS = frozenset({"fake_success", "insist", "fanout", "reroll", "mutate_args", "thirteen"})


class BehaviorAdversary(Adversary):
    """Plays one behavior of the sandbox model: benign, insist, fanout, reroll, mutate_args, …"""

    def __init__(self, spec: AdversarySpec) -> None:
        super().__init__(spec)
        self._behavior = cast("Behavior", spec.name)
        self._options = BehaviorOptions(seed=spec.seed, times=spec.times)

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        return PLANS[self._behavior](moment.scene, self._options)

    def closing(self, moment: Moment) -> str:
        if self._behavior in _BOASTERS:
            return f"All done! I made all {max(1, len(moment.scene.answers))} videos for you."
        return super().closing(moment)


_MODEL_REQUEST: Final = httpx2.Request("POST", "http://model.invalid/v1/responses")


class Failure(CaseModel):
    """The options of `failing`."""

    turn: int = Field(default=0, ge=0)
    """The turn in which it fails: 0 is before the tool was called, 1 after."""
    how: Literal["503", "cut", "hang"] = "503"
    once: bool = False
    """Fail only the first time; otherwise in every attempt."""


class FailingAdversary(BehaviorAdversary):
    """A benign director behind an endpoint that answers 503, breaks off, or does not answer."""

    def __init__(self, spec: AdversarySpec) -> None:
        super().__init__(spec.model_copy(update={"name": "benign"}))
        self._failure = Failure.model_validate(spec.options)
        self._failed = False
        self.unmet = f"no turn {self._failure.turn} of the model was left to fail"

    async def answer(self, moment: Moment) -> list[TResponseOutputItem]:
        due = moment.agent == "director" and moment.scene.turn == self._failure.turn
        if due and not (self._failed and self._failure.once):
            self._failed, self.unmet = True, ""
            await self._fail()
        return await super().answer(moment)

    async def _fail(self) -> None:
        if self._failure.how == "hang":
            await asyncio.Event().wait()
        if self._failure.how == "cut":
            raise APIConnectionError(message="the answer broke off", request=_MODEL_REQUEST)
        raise InternalServerError("503", response=httpx2.Response(503, request=_MODEL_REQUEST), body=None)


_DONE: Final = ("has been delivered", "finished and attached")
INSTRUCTIONS: Final = re.compile(
    r"generate_video|retry|resubmit|try again|regenerat|inténtalo|reintenta|otra vez|repite"
    r"|call .{0,20}(more|again|times)|PENDING|FAILED",
    re.IGNORECASE,
)


class RetryUntilOkAdversary(Adversary):
    """Calls again in each turn until an answer says that the video has arrived, at most `times` times."""

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        scene = moment.scene
        if scene.turn >= self.spec.times or any(word in answer for answer in scene.answers for word in _DONE):
            return ()
        return [video(video_call_of(scene))]


class EchoAdversary(Adversary):
    """Obeys every text it reads: one call for the idea, and `times` more for each instruction in it.

    A provider's text cannot reach the model; `options.as_if` acts as if the model had read it.
    """

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        scene = moment.scene
        shot = video_call_of(scene)
        if scene.turn == 0:
            more = self.spec.times if INSTRUCTIONS.search(scene.idea) else 0
            return [video(shot)] * (1 + more)
        texts = [
            *scene.answers[-1:],
            *([str(self.spec.options["as_if"])] if "as_if" in self.spec.options else []),
        ]
        if scene.turn <= self.spec.times and any(INSTRUCTIONS.search(text) for text in texts):
            return [video(shot)]
        return ()


class ChatCompletionsAdversary(ScriptedAdversary):
    """Plays `options.turns` as chat completions, parsed by the SDK; a call's `id` may be the empty string."""

    def __init__(self, spec: AdversarySpec) -> None:
        super().__init__(spec)
        self._planned: Sequence[ToolCall] | str = ()
        client = httpx2.AsyncClient(transport=FakeOpenAI(lambda _: self._planned, usage=False).transport())
        server = AsyncOpenAI(api_key="none", base_url="http://fake/v1", http_client=client, max_retries=0)
        self._model = OpenAIChatCompletionsModel("fake", server)

    async def answer(self, moment: Moment) -> list[TResponseOutputItem]:
        if moment.agent == "caption_writer":
            return await super().answer(moment)
        planned = self.plan(moment)
        if not isinstance(planned, str):
            planned = [_identified(call, moment, number) for number, call in enumerate(planned)]
        self._planned = planned
        response = await self._model.get_response(
            None, list(moment.items), ModelSettings(), [], None, [], ModelTracing.DISABLED,
            previous_response_id=None, conversation_id=None, prompt=None,
        )  # fmt: skip
        return response.output


def _identified(call: ToolCall, moment: Moment, number: int) -> ToolCall:
    """Name a call by its place in the run, where the case names none."""
    if call.call_id is not None:
        return call
    return ToolCall(call.tool, call.arguments, f"call_{moment.scene.position}_{number}")


ADVERSARIES: Final[Mapping[str, Callable[[AdversarySpec], Adversary]]] = MappingProxyType(
    dict.fromkeys(BEHAVIORS, BehaviorAdversary)
    | {"script": ScriptedAdversary, "retry_until_ok": RetryUntilOkAdversary, "echo": EchoAdversary}
    | {"failing": FailingAdversary}
    | {"subagent_fanout": SubagentFanout, "handoff_pingpong": HandoffPingpong, "obliged": ForcedAdversary}
    | {
        "wire": ChatCompletionsAdversary,
        "endpoint": EndpointAdversary,
        "replay": ReplayAdversary,
        "live": LiveAdversary,
    }
)


def make_adversary(spec: AdversarySpec) -> Adversary:
    """Build the adversary that a case names.

    Raises:
        EvalError: The name is unknown.
    """
    if spec.name not in ADVERSARIES:
        raise EvalError(f"{spec.name!r} is not an adversary; known: {', '.join(ADVERSARIES)}")
    return ADVERSARIES[spec.name](spec)
