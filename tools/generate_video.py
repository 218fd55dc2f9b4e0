"""Tool `generate_video`: writes the order, or an offer of it. It pays nothing; the worker pays for orders."""

from dataclasses import replace
from typing import Annotated, Final

from agents import FunctionTool, RunContextWrapper
from agents.decorators import tool
from pydantic import BaseModel, ConfigDict, Field

from guardrails.arguments import ArgumentInteger, ArgumentText
from tools.context import RunContext
from tools.offer import Offer
from tools.paid_tool import PaidTool, Wanted
from tools.registry import GENERATE_VIDEO
from tools.styles import with_style

NAME: Final = GENERATE_VIDEO
AVOID_CHARACTERS: Final = 500


class VideoArguments(BaseModel):
    """Arguments of one call; further arguments are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    prompt: Annotated[ArgumentText, Field(max_length=4000)]
    seconds: ArgumentInteger
    size: Annotated[str, Field(max_length=20)]
    avoid: Annotated[str, Field(max_length=AVOID_CHARACTERS)] = ""


class SettledArguments(VideoArguments):
    """What a call is made with: see `tools.preferences`."""

    sound: bool | None = None
    style: str | None = None


async def settled(run: RunContext, one: VideoArguments) -> SettledArguments:
    """Return what a call is made with, see `tools.preferences`; the guard and the body act on the same."""
    best = await run.preferences(one.seconds, one.size)
    avoid = one.avoid.replace("\0", "").strip() if run.offer.capabilities.avoids else ""
    return SettledArguments(
        prompt=one.prompt,
        seconds=best.seconds,
        size=best.size,
        avoid=avoid,
        sound=best.sound,
        style=best.style,
    )


def _wanted(one: SettledArguments) -> Wanted:
    prompt, sentence = with_style(one.prompt, one.style)
    return Wanted(prompt, one.size, one.seconds, one.sound, one.style, sentence, one.avoid or None)


TOOL: Final = PaidTool(
    name=NAME,
    makes="video",
    arguments=VideoArguments,
    settle=settled,
    wanted=_wanted,
    text=lambda one: f"{one.prompt}\n{one.avoid}".rstrip(),
    noun=lambda order: f"One video of {order.seconds} s ({order.size})",
)
guard_spec, recorded, describe = TOOL.guard_spec, TOOL.recorded, TOOL.describe


def fitted(offer: Offer) -> FunctionTool:
    """Return the tool as the model is shown it: with `avoid` only where the provider takes that."""
    schema, takes = generate_video.params_json_schema, offer.capabilities.avoids
    properties = {
        name: {key: value for key, value in one.items() if key != "default"}  # strict schemas know none
        for name, one in schema["properties"].items()
        if name != "avoid" or takes
    }
    return replace(
        generate_video, params_json_schema=schema | {"properties": properties, "required": [*properties]}
    )


@tool(failure_error_function=TOOL.failed)
async def generate_video(
    context: RunContextWrapper[RunContext], prompt: str, seconds: int, size: str, avoid: str = ""
) -> str:
    """Order the one video of this request. It is made by others and arrives in the chat by itself.

    Args:
        prompt: What is to be seen and heard, at most 4000 characters.
        seconds: Length of the video in whole seconds, one of the lengths on offer.
        size: Width x height in pixels, one of the sizes on offer.
        avoid: What must not be seen, in the person's words; empty unless the person named something.
    """
    given = {"prompt": prompt, "seconds": seconds, "size": size, "avoid": avoid}
    return await TOOL.call(context.context, given)
