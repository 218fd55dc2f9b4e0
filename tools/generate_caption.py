"""Tool `generate_caption`: writes the request's caption once; a repeated call gets the same caption."""

import asyncio
from typing import Annotated, Any, Final

from agents import RunContextWrapper, Runner
from agents.decorators import tool
from pydantic import BaseModel, ConfigDict, Field

from guardrails.arguments import ArgumentText, check_arguments
from guardrails.guard import GuardSpec
from guardrails.money import ZERO
from guardrails.policy import GuardPolicy, limits_of
from ledger import requests
from ledger.database import Ledger
from telemetry.logs import get_logger
from tools.context import RunContext
from tools.model_text import clean_model_text
from tools.offer import Offer

log = get_logger(__name__)

NAME: Final = "generate_caption"
CAPTION_CHARACTERS: Final = 200
_TIMEOUT_S: Final = 30.0


class CaptionArguments(BaseModel):
    """Arguments of one call."""

    model_config = ConfigDict(extra="ignore", strict=True)

    about: Annotated[ArgumentText, Field(max_length=4000)]


def guard_spec(policy: GuardPolicy, _: Offer) -> GuardSpec:
    """Return the guard's spec of this tool: it costs nothing and runs once."""
    return GuardSpec(
        tool=NAME,
        arguments=CaptionArguments,
        limits=limits_of(policy),
        price=lambda _: ZERO,
        text=None if policy.content is None else lambda one: str(one.about),
        decides=False,
    )


async def recorded(ledger: Ledger, request_id: str) -> str | None:
    """Return the recorded caption, worded for the model; None if there is none yet."""
    found = await requests.find(ledger, request_id)
    return None if found is None or found.caption is None else _written(found.caption)


def _written(caption: str) -> str:
    return f"The caption is written and will appear under the video: {caption!r}. There is nothing to repeat."


def _failed(context: RunContextWrapper[Any], error: Exception) -> str:
    """Answer a failed call. Delivery never waits for a caption: the user's idea replaces it."""
    run: RunContext = context.context
    log.warning("caption failed", tool=NAME, request=run.request_id, error=type(error).__name__)
    return (
        "No caption could be written; the user's own idea will be shown under the video. "
        "Do not call this again."
    )


@tool(failure_error_function=_failed)
async def generate_caption(context: RunContextWrapper[RunContext], about: str) -> str:
    """Write the one caption of this request's video, in the user's language.

    Args:
        about: What the video is about, in one line.
    """
    run = context.context
    wanted = check_arguments({"about": about}, CaptionArguments)
    async with run.caption_lock:
        return await _write_once(run, wanted)


async def _known(run: RunContext) -> str | None:
    """Return the caption if this run or an earlier attempt wrote it; the first attempt has none before it."""
    if run.caption is not None:
        return _written(run.caption)
    return await recorded(run.ledger, run.request_id) if run.attempt > 1 else None


async def _write_once(run: RunContext, wanted: CaptionArguments) -> str:
    existing = await _known(run)
    if existing is not None:
        log.info("replayed", tool=NAME, request=run.request_id, recorded=True)
        return existing
    log.info("executing", tool=NAME, request=run.request_id, layer="body", arguments=["about"])
    async with asyncio.timeout(_TIMEOUT_S):
        result = await Runner.run(
            run.caption_writer,
            wanted.about,
            context=run,
            max_turns=run.caption_turns,
            run_config=run.run_config,
        )
    answers = (str(result.final_output), wanted.about)
    caption = next(filter(None, (clean_model_text(one, CAPTION_CHARACTERS) for one in answers)), None)
    if caption is None:
        raise ValueError("the model wrote nothing for people")
    run.caption = await requests.set_once(run.ledger, run.request_id, "caption", caption)
    return _written(run.caption)
