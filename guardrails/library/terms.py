"""The terms of one guarded tool, read once where it is defined."""

import hashlib
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, get_args

from ..limits import Limits
from ..money import ZERO, Money
from ..policy import Budget, GuardPolicy, limits_of
from .outcomes import Verdict

Once = Literal["per_request", "per_key", "per_request_and_key"]
Verify = Callable[[str, Any], Verdict | Awaitable[Verdict]]
Duration = str | float | timedelta

WAIT: Final = "10s"
LEASE: Final = "10s"
SETTLE: Final = "2s"

_MIN_LEASE_S: Final = 0.2
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class ToolTerms:
    """What holds for the calls of one tool.

    Attributes:
        key: Names the item of a call, from its arguments.
        cost: What a call costs, from its arguments.
        verify: Says, by key and arguments, whether the effect of an earlier call exists.
        wait_s: How long a duplicate waits for the first call, and a call for the end of its doubt.
        lease_s: How long a call is taken to run without a sign of life from its process.
        settle_s: How long after the start of a doubt `DidNotHappen` is not believed yet.
    """

    tool: str
    once: Once
    limits: Limits
    key: Callable[[Any], object] | None = None
    cost: Callable[[Any], Money] = lambda _: ZERO
    verify: Verify | None = None
    wait_s: float = 10.0
    lease_s: float = 10.0
    settle_s: float = 2.0

    def item(self, arguments: Any) -> str | None:
        """Return the item of a call; None for a tool without `key=`.

        Raises:
            ValueError: The arguments name no item.
        """
        if self.key is None:
            return None
        try:
            found = self.key(arguments)
        except Exception as error:
            raise ValueError(f"they name no item ({type(error).__name__})") from error
        if found is None or found == "":
            raise ValueError("they name no item")
        return found if isinstance(found, str) else json.dumps(found, sort_keys=True, default=str)

    def price(self, arguments: Any) -> Money:
        """Return what a call costs.

        Raises:
            ValueError: It has no price.
        """
        try:
            return self.cost(arguments)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"they have no price ({type(error).__name__})") from error


def terms_of(
    tool: str, *, once: str, key: Callable[[Any], object] | None, quota: str | None,
    cooldown: str | None, budget: "str | Mapping[str, str] | None",
    cost: "str | Money | Callable[[Any], Any] | None", verify: Verify | None,
    wait: Duration, lease: Duration, settle: Duration,
) -> ToolTerms:  # fmt: skip
    """Read the terms of a tool.

    Raises:
        ValueError: One of them is not known or cannot be read; the message names it and what is known.
    """
    if once not in get_args(Once):
        raise ValueError(f"once={once!r} of {tool} is not known; known: {', '.join(get_args(Once))}")
    if key is None and once != "per_request":
        raise ValueError(f"once={once!r} of {tool} needs key=, which names the item of a call")
    if budget is not None and cost is None:
        raise ValueError(f"the budget of {tool} needs cost=, what a call costs")
    policy = GuardPolicy.model_validate(
        {"once": "per_request", "quota": quota, "cooldown": cooldown, "budget": _budget(budget)}
    )
    lease_s = seconds(lease)
    if lease_s < _MIN_LEASE_S:
        raise ValueError(f"a lease of {lease!r} is too short; the shortest is {_MIN_LEASE_S} s")
    return ToolTerms(
        tool, _once(once, key), limits_of(policy), key, _cost(cost), verify, seconds(wait), lease_s,
        seconds(settle),
    )  # fmt: skip


def _once(once: str, key: Callable[[Any], object] | None) -> Once:
    if once == "per_key":
        return "per_key"
    return "per_request" if key is None else "per_request_and_key"


def _budget(budget: "str | Mapping[str, str] | None") -> Budget | None:
    if budget is None:
        return None
    return Budget.model_validate({"user": budget} if isinstance(budget, str) else dict(budget))


def _cost(cost: "str | Money | Callable[[Any], Any] | None") -> Callable[[Any], Money]:
    if callable(cost):
        return lambda arguments: _money(cost(arguments))
    fixed = ZERO if cost is None else _money(cost)
    return lambda _: fixed


def _money(value: Any) -> Money:
    return value if isinstance(value, Money) else Money.parse(str(value))


def seconds(value: Duration) -> float:
    """Read a length of time: `"10s"`, `"250ms"`, `"2m"`, a number of seconds, a timedelta.

    Raises:
        ValueError: It is none of them, or below zero.
    """
    if isinstance(value, timedelta):
        found = value.total_seconds()
    elif isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r} is not a length of time such as '10s' (units: {', '.join(_UNITS)})")
        found = float(match[1]) * _UNITS[match[2]]
    else:
        found = float(value)
    if not 0 <= found < float("inf"):
        raise ValueError(f"{value!r} is not a length of time")
    return found


def digest(arguments: str) -> str:
    """Return what equal arguments share; `arguments` is JSON with sorted keys."""
    return hashlib.sha256(arguments.encode()).hexdigest()[:16]


async def maybe_await(value: Any) -> Any:
    """Return a value, or what an awaitable returns."""
    return await value if inspect.isawaitable(value) else value
