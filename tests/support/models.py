"""The scripted model of tests: `Player` plays given turns. Here too: a director with tools that record.

The other scripted models have other jobs: `sandbox.model` improvises from the conversation without turns,
`evals.adversaries` plays turns written in YAML and keeps a transcript. The SDK's `ScriptedModel` fails when
it runs out of steps and knows no second agent, so it would need a class like this around it.
"""

import json
from typing import Any
from uuid import uuid4

from agents import Agent, Model, RunConfig, Runner
from agents.decorators import tool
from agents.items import ModelResponse
from agents.testing import assistant_message, function_call
from agents.usage import Usage

from sandbox.model import SandboxModel
from tools.agent_spec import PLACEHOLDERS, declarations_folder, load_folder
from tools.generate_video import NAME
from tools.registry import TOOLS

GOOD = {"prompt": "A market at dawn, one slow dolly in.", "seconds": 8, "size": "720x1280"}
Turn = Any
"""One turn: calls, a text, an exception to raise, or an async function that returns one of these."""


def order(call_id: str | None = None, name: str = NAME, **changes: Any) -> Any:
    """One call of `generate_video`, good but for `changes`."""
    return raw(json.dumps(GOOD | changes), call_id, name)


def raw(arguments: str, call_id: str | None = None, name: str = NAME) -> Any:
    """One call with exactly these arguments."""
    return function_call(name, arguments, call_id=call_id or f"call_{uuid4().hex[:8]}")


CAPTION_CALL = '{"about": "a market"}'


class Player(Model):
    """Plays the turns it is given, then says "done"; as caption writer it always answers the same.

    Attributes:
        heard: The input of each of the director's turns, as text.
        captions: How many captions it was asked to write.
    """

    def __init__(self, *turns: Turn) -> None:
        self.turns = list(turns)
        self.heard: list[str] = []
        self.captions = 0

    async def get_response(self, system_instructions, input, model_settings, tools, **more):  # noqa: A002 - the SDK's
        if "caption under one short video" in (system_instructions or ""):
            self.captions += 1
            return _answer(assistant_message("A market wakes up."))
        self.heard.append(json.dumps(input, ensure_ascii=False, default=str))
        turn = self.turns.pop(0) if self.turns else "done"
        if callable(turn):
            turn = await turn()
        if isinstance(turn, BaseException):
            raise turn
        return _answer(*([assistant_message(turn)] if isinstance(turn, str) else turn))

    def stream_response(self, *_: object, **__: object) -> Any:
        raise NotImplementedError

    @property
    def words(self) -> str:
        """The inputs of all the director's turns."""
        return "\n".join(self.heard)


def _answer(*output: Any) -> ModelResponse:
    return ModelResponse(output=list(output), usage=Usage(), response_id=uuid4().hex)


IDEA = "Un mercado tradicional mexicano al amanecer"
ORDERED = "Ordered: it will arrive in this chat."
REFUSED = "The user's 5 videos are used up. Nothing was made and nothing was paid by this call."
KINDS = TOOLS
QUIET = RunConfig(tracing_disabled=True)
FORGIVING = RunConfig(tracing_disabled=True, tool_not_found_behavior="return_error_to_model")


class RecordingTools:
    """Function tools that record what they were called with."""

    def __init__(self, answer=ORDERED):
        self.videos, self.captions, self.quota_reads = [], [], 0

        @tool(
            failure_error_function=lambda _context, _error: "The arguments do not fit; nothing was ordered."
        )
        def generate_video(prompt: str, seconds: int, size: str) -> str:
            self.videos.append({"prompt": prompt, "seconds": seconds, "size": size})
            return answer

        @tool(failure_error_function=None)
        def generate_caption(about: str) -> str:
            self.captions.append(about)
            return "Written."

        @tool(failure_error_function=None)
        def quota_left() -> str:
            self.quota_reads += 1
            return "4 left."

        self.tools = [generate_video, generate_caption, quota_left]


def director(model, recorder):
    declared = load_folder(declarations_folder(), tools=KINDS)["director"]
    instructions = declared.render(**dict.fromkeys(PLACEHOLDERS, "-") | {"language": "Spanish"})
    return Agent(name="director", instructions=instructions, model=model, tools=recorder.tools)


async def run(behavior="benign", idea=IDEA, answer=ORDERED, max_turns=8, **options):
    model, recorder = SandboxModel(behavior, **options), RecordingTools(answer)
    result = await Runner.run(director(model, recorder), idea, max_turns=max_turns, run_config=FORGIVING)
    return model, recorder, result
