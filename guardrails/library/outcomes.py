"""How a call ended: the words of a tool's body, and the verdicts about a doubt."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

_KEY: Final[ContextVar[str]] = ContextVar("onetake_guardrails_key")


class NotSent(Exception):
    """Raised by a tool's body when it knows that nothing was sent: slot, quota and money are given back.

    Never raise it after a request may have left: a timeout or a cut answer is no proof. The reason is shown
    to the model and may be read by people.
    """


@dataclass(frozen=True, slots=True)
class Happened:
    """The effect exists. `result` is what the model and every duplicate get; None: the bare fact in words."""

    result: Any = None


@dataclass(frozen=True, slots=True)
class DidNotHappen:
    """There is no effect, and the earlier call can have none any more: slot, quota and money come back."""


@dataclass(frozen=True, slots=True)
class CannotSay:
    """It cannot be known now; the question is asked again later."""

    why: str = ""


Verdict = Happened | DidNotHappen | CannotSay


def current_key() -> str:
    """Return the idempotency key of the call that runs now, for the provider's own header.

    44 letters and digits at most; the same for every call of the same act (and item), after a crash as well.

    Raises:
        LookupError: No guarded call runs here.
    """
    return _KEY.get()


def set_current_key(key: str) -> None:
    """Offer `key` to the body that runs in this context."""
    _KEY.set(key)
