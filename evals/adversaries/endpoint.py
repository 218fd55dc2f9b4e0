"""An adversary behind a compatible server: its answers reach the SDK through the bot's own client."""

import json
from collections.abc import Sequence
from typing import Any, Final, Literal

from agents.items import ModelResponse, TResponseInputItem, TResponseOutputItem
from agents.model_settings import ModelSettings
from agents.models.interface import ModelTracing
from agents.tool import Tool
from pydantic import Field, JsonValue

from evals.adversaries.base import Adversary, Moment
from evals.adversaries.scripted import VIDEO
from evals.case import AdversarySpec
from evals.events import CaseModel
from sandbox.behaviors import ToolCall, video_call_of
from sandbox.openai_api import Body, FakeOpenAI, RawAnswer
from tools import model_endpoint

_UNSET: Final = "(unset)"


class WireCall(CaseModel):
    """One call, in the shape in which a server sends it."""

    name: JsonValue = VIDEO
    args: dict[str, JsonValue] = Field(default_factory=dict)
    """Changes to the valid arguments for the idea."""
    raw: JsonValue = None
    """The exact arguments, in place of the above."""
    form: Literal["text", "object", "twice", "fence"] = "text"
    """How the arguments are written."""
    id: JsonValue = _UNSET
    """The call's id; without it each call gets its own."""
    leave_out: tuple[str, ...] = ()
    """Fields of the call that are left out, such as `type`."""


class WireTurn(CaseModel):
    """The answer to one request; `body` or `status` in place of a message."""

    calls: tuple[WireCall, ...] = ()
    say: str | None = None
    """The text, in which `{call}` is replaced by a valid call as a JSON object."""
    refusal: str | None = None
    finish: str | None = None
    body: JsonValue = _UNSET
    """The whole answer."""
    status: int = 200


class _Options(CaseModel):
    api: Literal["chat", "responses"] = "chat"
    turns: tuple[WireTurn, ...]
    caption: str | None = None


class EndpointAdversary(Adversary):
    """Answers each request with the next of `options.turns`; after the last one, with the closing text."""

    def __init__(self, spec: AdversarySpec) -> None:
        super().__init__(spec)
        self._options = _Options.model_validate(spec.options)
        self._asked = 0
        self._tools: list[Tool] = []
        self._moment: Moment | None = None
        server = FakeOpenAI(self._answer_request, usage=False)
        models = model_endpoint.endpoint_models(
            "none", "http://fake/v1", self._options.api, server.transport()
        )
        self._model = models.get_model("fake")

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK's name
        model_settings: ModelSettings,
        tools: list[Tool],
        *args: Any,
        **more: Any,
    ) -> ModelResponse:
        """Answer one call of the SDK; see the base class."""
        self._tools = tools
        return await super().get_response(system_instructions, input, model_settings, tools, *args, **more)

    def plan(self, moment: Moment) -> Sequence[ToolCall]:
        """Plan nothing: the server decides."""
        del moment
        return ()

    async def answer(self, moment: Moment) -> list[TResponseOutputItem]:
        if moment.agent == "caption_writer":
            return await super().answer(moment)
        self._moment = moment
        response = await self._model.get_response(
            None, list(moment.items), ModelSettings(), self._tools, None, [], ModelTracing.DISABLED,
            previous_response_id=None, conversation_id=None, prompt=None,
        )  # fmt: skip
        return response.output

    def _answer_request(self, body: Body) -> RawAnswer | str:
        del body
        number, self._asked = self._asked, self._asked + 1
        moment = self._moment
        if moment is None or number >= len(self._options.turns):
            return "It is under way." if moment is None else self.closing(moment)
        turn = self._options.turns[number]
        if turn.status != 200:
            return RawAnswer({"error": {"message": "no", "code": None}} if turn.body == _UNSET else turn.body,
                             turn.status)  # fmt: skip
        if turn.body != _UNSET:
            return RawAnswer(turn.body)
        return RawAnswer((_completion if self._options.api == "chat" else _response)(turn, moment, number))


def _completion(turn: WireTurn, moment: Moment, number: int) -> Body:
    calls: list[Body] = []
    for place, one in enumerate(turn.calls):
        whole = {"id": _id_of(one, number, place), "type": "function"}
        whole |= {"function": {"name": one.name, "arguments": _arguments(one, moment)}}
        calls.append({key: value for key, value in whole.items() if key not in one.leave_out})
    message: Body = {"role": "assistant", "content": _text(turn, moment), "refusal": turn.refusal}
    if calls:
        message["tool_calls"] = calls
    finish = turn.finish or ("tool_calls" if calls else "stop")
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": "fake",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }  # fmt: skip


def _response(turn: WireTurn, moment: Moment, number: int) -> Body:
    output: list[Body] = []
    text = _text(turn, moment)
    if text is not None:
        output.append(
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
        )
    if turn.refusal is not None:
        output.append({"type": "message", "content": [{"type": "refusal", "refusal": turn.refusal}]})
    for place, one in enumerate(turn.calls):
        whole = {"type": "function_call", "id": f"fc_{number}_{place}", "call_id": _id_of(one, number, place)}
        whole |= {"name": one.name, "arguments": _arguments(one, moment)}
        output.append({key: value for key, value in whole.items() if key not in one.leave_out})
    filtered = turn.finish == "content_filter"
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "fake", "output": output, "tools": [],
        "parallel_tool_calls": True, "tool_choice": "auto",
        "status": "incomplete" if filtered else "completed",
        "incomplete_details": {"reason": "content_filter"} if filtered else None,
    }  # fmt: skip


def _id_of(one: WireCall, number: int, place: int) -> JsonValue:
    return f"call_{number}_{place}" if one.id == _UNSET else one.id


def _text(turn: WireTurn, moment: Moment) -> str | None:
    if turn.say is None:
        return None
    whole = json.dumps({"name": VIDEO, "arguments": _valid(moment)}, ensure_ascii=False)
    return turn.say.replace("{call}", whole)


def _valid(moment: Moment) -> dict[str, JsonValue]:
    shot = video_call_of(moment.scene)
    return {"prompt": shot.prompt, "seconds": shot.seconds, "size": shot.size}


def _arguments(one: WireCall, moment: Moment) -> JsonValue:
    if one.raw is not None:
        return one.raw
    found = _valid(moment) | one.args if one.name != "generate_caption" else dict(one.args)
    text = json.dumps(found, ensure_ascii=False)
    match one.form:
        case "object":
            return found
        case "twice":
            return json.dumps(text)
        case "fence":
            return f"```json\n{text}\n```"
        case _:
            return text
