"""Guards for paid tools: one effect for one act, within limits, whatever the model does.

`Guard` and the names next to it are the library's face for any agent (docs/guardrails.md). The modules of
this package serve hosts that keep orders of their own: argument validation, content policy, atomic admission.
A guard refuses in words and never raises, because an exception would cancel the good calls of the same turn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .library.claims import Claim
    from .library.events import Event
    from .library.facade import Guard, StaleVersion, UnknownClaim
    from .library.lookups import http_lookup
    from .library.outcomes import CannotSay, DidNotHappen, Happened, NotSent, Verdict, current_key
    from .library.requests import mine
    from .library.sql_store import SqlStore
    from .money import Money

_PLACES: Final = {
    "CannotSay": "library.outcomes",
    "Claim": "library.claims",
    "DidNotHappen": "library.outcomes",
    "Event": "library.events",
    "Guard": "library.facade",
    "Happened": "library.outcomes",
    "Money": "money",
    "NotSent": "library.outcomes",
    "SqlStore": "library.sql_store",
    "StaleVersion": "library.facade",
    "UnknownClaim": "library.facade",
    "Verdict": "library.outcomes",
    "current_key": "library.outcomes",
    "http_lookup": "library.lookups",
    "mine": "library.requests",
}
__all__ = [
    "CannotSay",
    "Claim",
    "DidNotHappen",
    "Event",
    "Guard",
    "Happened",
    "Money",
    "NotSent",
    "SqlStore",
    "StaleVersion",
    "UnknownClaim",
    "Verdict",
    "current_key",
    "http_lookup",
    "mine",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: the agents SDK and SQLAlchemy are not loaded before."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PLACES[name]}", __name__), name)
