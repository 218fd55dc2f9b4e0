"""Tool `generate_image`: orders one still of the idea. Like every paid tool it pays nothing by itself."""

from dataclasses import replace
from typing import Annotated, Final

from agents import FunctionTool, RunContextWrapper
from agents.decorators import tool
from pydantic import BaseModel, ConfigDict, Field

from guardrails.arguments import ArgumentText
from tools.context import RunContext
from tools.offer import STILL_SECONDS, Offer
from tools.paid_tool import PaidTool, Wanted
from tools.registry import GENERATE_IMAGE

NAME: Final = GENERATE_IMAGE


class ImageArguments(BaseModel):
    """Arguments of one call; further arguments are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    prompt: Annotated[ArgumentText, Field(max_length=4000)]
    size: Annotated[str, Field(max_length=20)]


TOOL: Final = PaidTool(
    name=NAME,
    makes="image",
    arguments=ImageArguments,
    wanted=lambda one: Wanted(one.prompt, one.size),
    text=lambda one: str(one.prompt),
    noun=lambda order: f"One still ({order.size})",
)
guard_spec, recorded = TOOL.guard_spec, TOOL.recorded


def fitted(offer: Offer) -> FunctionTool:
    """Return the tool as the model is shown it: with the sizes and prices on offer."""
    offered = ", ".join(
        f"{size} ({price})" for price, sizes in offer.prices()[STILL_SECONDS].items() for size in sizes
    )
    return replace(generate_image, description=f"{generate_image.description} Sizes on offer: {offered}.")


@tool(failure_error_function=TOOL.failed)
async def generate_image(context: RunContextWrapper[RunContext], prompt: str, size: str) -> str:
    """Order one still picture, if the person asked for one. It arrives in the chat by itself.

    Args:
        prompt: What is to be seen, at most 4000 characters.
        size: Width x height in pixels, one of the sizes on offer for stills.
    """
    return await TOOL.call(context.context, {"prompt": prompt, "size": size})
