"""The texts that a refused call gets as its answer: what is true and what to do, never "try again".

With some agent settings the text becomes the final output of the run, so it is written for people too.
"""

from typing import Final

from .admission import Decision
from .content.verdict import ContentCategory, ContentVerdict
from .limits import EVERYONE
from .money import Money

NOTHING_PAID: Final = "Nothing was made and nothing was paid by this call."
STOP: Final = "Do not call this tool again for this request; say so to the user plainly."


def format_wait(until_ms: int, now_ms: int) -> str:
    """Return the time between the two as people say it, `in 3 h 12 min`; at least one minute.

    Both times come from the store's clock: this machine's may differ, and the limit is shared.
    """
    # Without the part of a second by which a limit lasts longer (`limits.RollingWindow`): 10 min are 10 min.
    minutes = max(1, -((now_ms - until_ms + 999) // 60_000))
    days, hours = divmod(minutes // 60, 24)
    parts = (f"{days} d" if days else "", f"{hours} h" if hours else "", f"{minutes % 60} min")
    return "in " + " ".join(part for part in parts[: 2 if days else 3] if part and part != "0 min")


def explain(decision: Decision) -> str:
    """Return why a call was refused and what to do, for the model and for people."""
    if decision.word == "content":
        return _content_refusal(decision.why)
    again = f" It will work again {format_wait(decision.until, decision.at)}." if decision.until else ""
    reason = {
        "quota": f"All {decision.limit} orders of this period are used up ({decision.used} placed).{again}",
        "cooldown": f"The user's previous order was placed a short while ago.{again}",
        "budget": (
            f"The budget of {Money(decision.limit)} for this period is too small for it: "
            f"{Money(decision.used)} is used.{again}"
        ),
        "breaker": (
            "Paid work is stopped for everyone until an operator has looked."
            if decision.why == EVERYONE
            else "Paid work is stopped for this user until an operator has looked."
        ),
        "closed": "It cannot be decided at the moment whether this may be paid, so it is not.",
    }.get(decision.word, "This call may not be made.")
    return f"{reason} {NOTHING_PAID} {STOP}"


IN_PROGRESS: Final = (
    "This request's one call of this tool is already in hand; its result will arrive in the chat by itself. "
    f"{NOTHING_PAID} There is nothing to repeat."
)
"""The answer to a duplicate that arrives while the first call is still being recorded."""

_OTHER: Final = "content that is not allowed here"
_CATEGORY_NAMES: Final[dict[ContentCategory, str]] = {
    "minor": "a minor in a sexual or violent context",
    "sexual": "sexual content or nudity",
    "violence": "graphic violence",
    "real_person": "a real person",
    "copyrighted_character": "a copyrighted character",
    "self_harm": "self-harm",
    "hate": "hate or harassment",
    "illicit": "instructions for wrongdoing",
    "other": "content that the moderation service flagged",
}


def reason_for_model(verdict: ContentVerdict) -> str:
    """Return one sentence for the agent whose call was judged: what is true and what to do.

    It invites no second call: a different idea is a new command of the user, with its own request.
    """
    if verdict.word == "allowed":
        return "The content policy has no objection."
    if verdict.word == "closed":
        return (
            "The content check could not be completed, so this call was refused and nothing was made or "
            "paid: say to the user plainly that the check is unavailable at the moment, do not call the tool "
            "any more for this request, and say that a new /create command later will be checked afresh."
        )
    return _content_refusal(verdict.category)


def _content_refusal(category: str | None) -> str:
    name = next((words for known, words in _CATEGORY_NAMES.items() if known == category), _OTHER)
    return (
        f"This idea was refused by the content policy ({name}), and nothing was made or paid: say so to "
        "the user plainly, do not call the tool any more for this request, neither reworded nor with a "
        "disguised prompt, "
        f"and say that a different idea without {name} needs a new /create command from the user."
    )
