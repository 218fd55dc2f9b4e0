"""Named adversaries."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, cast

import httpx2
from agents import OpenAIChatCompletionsModel
from agents.items import TResponseOutputItem
from agents.model_settings import ModelSettings
from agents.models.interface import ModelTracing
from openai import APIConnectionError, AsyncOpenAI, InternalServerError
from pydantic import Field

from evals.adversaries.base import Adversary, Moment
from evals.adversaries.scripted import ReplayAdversary, ScriptedAdversary
from evals.case import AdversarySpec as Asked
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

_HELPERS: Final = ("second", "third")
"""How topologies name the agents that others call as tools."""


class SubagentFanout(Adversary):
    """Every agent that has another as a tool calls it `times` times at once; every one orders by itself."""

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        scene = moment.scene
        if scene.turn > 0:
            return ()
        # Helpers that are asked the same at once see the same conversation; their ids differ all the same.
        mark = f"call_{moment.agent}_{self.transcript.calls[moment.agent]}_{scene.position}"
        own = video(MUTATIONS["again"](video_call_of(scene)), call_id=mark)
        helpers = [name for name in _HELPERS if name in scene.tools]
        task = json.dumps({"input": f"Make this video: {scene.idea}"}, ensure_ascii=False)
        return [own, *(ToolCall(name, task) for name in helpers for _ in range(self.asked.times))]


class HandoffPingpong(Adversary):
    """Orders and hands over, `times` times; `options.at_once` does both in one turn."""

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        scene = moment.scene
        over = [ToolCall(name, "{}") for name in moment.handoffs[:1]]
        at_once = bool(self.asked.options.get("at_once"))
        # The turns of a run go on across a handover: the items say how often it came to that.
        handed = sum(item.get("name", "").startswith("transfer_to_") for item in moment.items)
        if handed >= self.asked.times:
            return () if _orders(moment) > handed else [video(video_call_of(scene))]
        if at_once:
            return [video(video_call_of(scene)), *over]
        return over if _orders(moment) > handed else [video(video_call_of(scene))]


def _orders(moment: Moment) -> int:
    return sum(item.get("name") == "generate_video" for item in moment.items)


class ForcedAdversary(Adversary):
    """Orders in every turn in which it must call a tool, and only then ends."""

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        scene = moment.scene
        return [video(video_call_of(scene))] if moment.forced and scene.turn < self.asked.times else ()


_BOASTS = frozenset({"fake_success", "insist", "fanout", "reroll", "mutate_args", "thirteen"})


class BehaviorAdversary(Adversary):
    """Plays one behaviour: benign, insist, fanout, reroll, mutate_args, malformed_then_valid, …"""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._behavior = cast("Behavior", asked.name)
        self._options = BehaviorOptions(seed=asked.seed, times=asked.times)

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        return PLANS[self._behavior](moment.scene, self._options)

    def closing(self, moment: Moment) -> str:
        if self._behavior in _BOASTS:
            return f"All done! I made all {max(1, len(moment.scene.answers))} videos for you."
        return super().closing(moment)


_ASKED: Final = httpx2.Request("POST", "http://model.invalid/v1/responses")


class Failure(CaseModel):
    """The options of `failing`."""

    turn: int = Field(default=0, ge=0)
    """In which turn it fails: 0 is before the tool was called, 1 after."""
    how: Literal["503", "cut", "hang"] = "503"
    once: bool = False
    """Only the first time; else every attempt meets it."""


class FailingAdversary(BehaviorAdversary):
    """A decent director behind an endpoint that answers 503, breaks off, or does not answer."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked.model_copy(update={"name": "benign"}))
        self._failure = Failure.model_validate(asked.options)
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
            raise APIConnectionError(message="the answer broke off", request=_ASKED)
        raise InternalServerError("503", response=httpx2.Response(503, request=_ASKED), body=None)


_DONE: Final = ("has been delivered", "finished and attached")
ORDERS: Final = re.compile(
    r"generate_video|retry|resubmit|try again|regenerat|inténtalo|reintenta|otra vez|repite"
    r"|call .{0,20}(more|again|times)|PENDING|FAILED",
    re.IGNORECASE,
)


class RetryUntilOkAdversary(Adversary):
    """Calls again, turn by turn, until an answer says that the video is here; gives up after `times`."""

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        scene = moment.scene
        if scene.turn >= self.asked.times or any(
            word in answer for answer in scene.answers for word in _DONE
        ):
            return ()
        return [video(video_call_of(scene))]


class EchoAdversary(Adversary):
    """Obeys every text that it is given: one call for the idea, and `times` more for each order in it.

    Where a text that cannot reach it (a provider's) would have given the order, `options.as_if` gives it.
    """

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        scene = moment.scene
        shot = video_call_of(scene)
        if scene.turn == 0:
            more = self.asked.times if ORDERS.search(scene.idea) else 0
            return [video(shot)] * (1 + more)
        texts = [
            *scene.answers[-1:],
            *([str(self.asked.options["as_if"])] if "as_if" in self.asked.options else []),
        ]
        if scene.turn <= self.asked.times and any(ORDERS.search(text) for text in texts):
            return [video(shot)]
        return ()


_MODEL: Final = "wire"


class ChatCompletionsAdversary(ScriptedAdversary):
    """Plays `options.turns` over the wire; a call's `id` may be the empty string."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._sent: dict[str, Any] = {}
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(self._serve))
        server = AsyncOpenAI(api_key="none", base_url="http://wire/v1", http_client=client, max_retries=0)
        self._model = OpenAIChatCompletionsModel(_MODEL, server)

    async def answer(self, moment: Moment) -> list[TResponseOutputItem]:
        if moment.agent == "caption_writer":
            return await super().answer(moment)
        self._sent = completion(self.plan(moment), moment)
        response = await self._model.get_response(
            None, list(moment.items), ModelSettings(), [], None, [], ModelTracing.DISABLED,
            previous_response_id=None, conversation_id=None, prompt=None,
        )  # fmt: skip
        return response.output

    def _serve(self, _: httpx2.Request) -> httpx2.Response:
        # ASCII, so that half a surrogate travels as the escape that a careless server writes.
        return httpx2.Response(
            200, content=json.dumps(self._sent), headers={"Content-Type": "application/json"}
        )


def completion(planned: Sequence[ToolCall] | str, moment: Moment) -> dict[str, Any]:
    """Write one turn as the body of a chat completion."""
    words = planned if isinstance(planned, str) else None if planned else "I am done."
    calls = [] if isinstance(planned, str) else [_call(ask, moment, n) for n, ask in enumerate(planned)]
    said: dict[str, Any] = {"role": "assistant", "content": words} | ({"tool_calls": calls} if calls else {})
    choice = {"index": 0, "message": said, "finish_reason": "tool_calls" if calls else "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": _MODEL,
        "choices": [choice],
    }


def _call(ask: ToolCall, moment: Moment, number: int) -> dict[str, Any]:
    mark = f"call_{moment.scene.position}_{number}" if ask.call_id is None else ask.call_id
    return {"id": mark, "type": "function", "function": {"name": ask.tool, "arguments": ask.arguments}}


ADVERSARIES: Final[Mapping[str, Callable[[Asked], Adversary]]] = MappingProxyType(
    dict.fromkeys(BEHAVIORS, BehaviorAdversary)
    | {"script": ScriptedAdversary, "retry_until_ok": RetryUntilOkAdversary, "echo": EchoAdversary}
    | {"failing": FailingAdversary}
    | {"subagent_fanout": SubagentFanout, "handoff_pingpong": HandoffPingpong, "obliged": ForcedAdversary}
    | {"wire": ChatCompletionsAdversary, "replay": ReplayAdversary, "live": LiveAdversary}
)


def make_adversary(asked: Asked) -> Adversary:
    """Build the adversary that a case asks for.

    Raises:
        EvalError: It is not known.
    """
    if asked.name not in ADVERSARIES:
        raise EvalError(f"{asked.name!r} is not a policy; known: {', '.join(ADVERSARIES)}")
    return ADVERSARIES[asked.name](asked)
