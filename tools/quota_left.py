"""`quota_left`: reads what the user has left. It changes nothing, so it has no guard."""

from typing import Any, Final

from agents import RunContextWrapper
from agents.decorators import tool

from guardrails.refusals import in_words
from ledger import limits
from tools.context import Run

NAME: Final = "quota_left"


def _failed(_: RunContextWrapper[Any], __: Exception) -> str:
    return "What is left cannot be read at the moment; say so, and name no figures."


@tool(failure_error_function=_failed)
async def quota_left(context: RunContextWrapper[Run]) -> str:
    """Read how many videos this user may still order, and when the next one is possible."""
    run = context.context
    async with run.ledger.read() as conn:
        now = await run.ledger.now(conn)
        standing = await limits.standing(conn, run.user_id, run.limits, now)
    quota = "" if standing.quota is None else f" of {standing.quota}"
    words = [f"{standing.used}{quota} videos used in this period; {standing.spent} ordered."]
    if standing.cooldown_until:
        words.append(f"The next one is possible {in_words(standing.cooldown_until, now)}.")
    if standing.next_free_at:
        words.append(f"The quota has room again {in_words(standing.next_free_at, now)}.")
    return " ".join(words)
