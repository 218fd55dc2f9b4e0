"""Tool `quota_left`: reads what the user has left. It changes nothing, so it has no guard."""

from typing import Any, Final

from agents import RunContextWrapper
from agents.decorators import tool

from guardrails.admission import Availability
from guardrails.refusals import format_wait
from tools.context import RunContext

NAME: Final = "quota_left"


def _failed(_: RunContextWrapper[Any], __: Exception) -> str:
    return "What is left cannot be read at the moment; say so, and name no figures."


@tool(failure_error_function=_failed)
async def quota_left(context: RunContextWrapper[RunContext]) -> str:
    """Read how many videos this user may still order, and when the next one is possible."""
    run = context.context
    credits_left = await run.extra()
    found = await run.admission.availability(run.user_id, run.offer.cheapest(), run.limits, credits_left)
    usage, quota = found.usage, run.limits.quota
    used = f"{usage.used}" if quota is None else f"{usage.used} of {quota}"
    return f"{used} videos used in this period; {usage.spent} ordered.{_more(credits_left)} {_next(found)}"


def _more(credits_left: int) -> str:
    return f" Credits for {credits_left} more beyond that." if credits_left > 0 else ""


def _next(found: Availability) -> str:
    match found.word:
        case "admitted" | "replay":
            return "The next one is possible now."
        case "breaker":
            return "Paid work is stopped until an operator has looked."
        case "closed":
            return "Whether one may be ordered now cannot be checked at the moment."
        case word:
            when = format_wait(found.until, found.now) if found.until else "at a time that is not known yet"
            return f"The next one is possible {when} ({word})."
