"""What a call gets as its answer where it is not a result: what is true, and never "try again".

The words fit any tool. With some agent settings they become the final output of a run, so people read them.
"""

import json
from typing import Any, Final

from ..money import Money
from ..refusals import format_wait
from .claims import Claim, Exceeded
from .results import decode_result

NOTHING: Final = "Nothing was done and nothing was used or charged by this call."
SAY: Final = "Say so plainly; do not call this tool for it again."

_MOST: Final = 300
"""Letters of a reason that come from a tool's body or from a validation."""


def one_line(text: str) -> str:
    """Return a reason as one line of bounded length, without its closing point."""
    short = " ".join(text.split())
    return (short if len(short) <= _MOST else f"{short[: _MOST - 1]}…").rstrip(".")


def of_what(claim: Claim) -> str:
    """Return what a claim is about: `for this request`, `for this item`."""
    return "for this item" if claim.item else "for this request"


def replayed(claim: Claim, digest: str) -> Any:
    """Return the recorded result; where the arguments were others, with a sentence that says so."""
    result = decode_result(claim.result)
    if digest == claim.digest:
        return result
    text = result if isinstance(result, str) else json.dumps(result)
    return (
        f"This call did nothing: an earlier call {of_what(claim)} was made already, with other arguments. "
        f"The recorded result of the earlier call: {text}"
    )


def in_flight(claim: Claim) -> str:
    """Return the answer to a call whose earlier one has not ended within the wait."""
    return (
        f"An earlier call {of_what(claim)} is still running and its outcome is not known yet. "
        f"This call did nothing, and the earlier one was not started a second time. {SAY}"
    )


def unknown(claim: Claim, *, is_checked: bool) -> str:
    """Return the answer where nobody can say whether the effect exists."""
    how = "it is being checked" if is_checked else "a person has to check it"
    return (
        f"The call {of_what(claim)} was started, and its outcome is unknown: it may have taken effect. "
        f"It is not sent again; {how}. {SAY}"
    )


def not_sent(why: str) -> str:
    """Return the answer where the body knows that nothing was sent."""
    reason = f": {one_line(why)}" if why.strip() else ""
    return f"Nothing was sent by this call{reason}. {NOTHING} Say so plainly."


def did_not_happen() -> str:
    """Return the answer where a check has shown that a call took no effect."""
    return (
        "This call did not take effect; that was checked. Nothing was used or charged by it. Say so plainly."
    )


def malformed(problem: str) -> str:
    """Return the answer to arguments that cannot be used."""
    return f"The arguments cannot be used: {one_line(problem)}. {NOTHING}"


def no_request() -> str:
    """Return the answer to a call of a run that names no request; a defect of the host."""
    return f"This tool is not set up for this run, so the call was refused. {NOTHING} {SAY}"


def closed() -> str:
    """Return the answer where a store cannot be asked."""
    return (
        "It cannot be decided at the moment whether this call may be made, so it was refused. "
        f"{NOTHING} {SAY}"
    )


def exceeded(found: Exceeded) -> str:
    """Return the answer to a call above a limit, with when it works again."""
    again = f" It will work again {format_wait(found.until, found.at)}." if found.until else ""
    period = _period(found.window_s)
    whose = "for all users together" if found.everyone else "for this user"
    reason = {
        "quota": f"all {found.limit} calls of this tool in {period} are used {whose}",
        "cooldown": f"the last call of this tool {whose} was less than {period} ago",
        "budget": (
            f"the budget of {Money(found.limit)} in {period} {whose} is too small for it: "
            f"{Money(found.used)} is used"
        ),
    }[found.word]
    return f"Refused: {reason}.{again} {NOTHING} {SAY}"


def _period(seconds: int) -> str:
    for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= unit and seconds % unit == 0:
            count = seconds // unit
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{seconds} seconds"


def unknown_end(*, is_checked: bool) -> str:
    """Return the answer to a call that the SDK ended, at a time limit or with its run."""
    how = "it is being checked" if is_checked else "a person has to check it"
    return (
        f"The call was ended before it answered, and its outcome is unknown: it may have taken effect. "
        f"It is not sent again; {how}. {SAY}"
    )
