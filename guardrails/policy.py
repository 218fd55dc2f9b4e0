"""The guards of one tool, as declared in agents/*.md, and how their limits are written.

Limits are written as people write them (`5/day`, `10m`, `$15/day`) and parsed exactly into counts, seconds
and micro-dollars. An error names the value found and what is allowed.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from .limits import BreakerRates, Limits, SharedBudget, StartRate
from .money import Money

ContentPolicyName = Literal["video", "image"]
MAX_WINDOW_S: Final = 31 * 24 * 3600
MAX_COUNT: Final = 100_000

_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "day": 24 * 3600}
_UNITS: Final = ", ".join(_UNIT_SECONDS)
_DURATION: Final = re.compile(r"([1-9][0-9]{0,6})?(s|m|h|day)")
_COUNT: Final = re.compile(r"[1-9][0-9]{0,5}")
_QUOTED_MAX: Final = 60


def quoted(value: object) -> str:
    """Return `value` as an error message quotes it, cut to one line."""
    text = repr(value)
    return text if len(text) <= _QUOTED_MAX else f"{text[:_QUOTED_MAX]}…"


class DeclaredModel(BaseModel):
    """Base of every declared object: frozen, strict, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _closed(cls, value: Any) -> Any:
        known = ", ".join(cls.model_fields)
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"{quoted(value)} is not a set of fields; known: {known}")  # noqa: TRY004 - pydantic reports ValueError alone
        for name in value:
            if name not in cls.model_fields:
                raise ValueError(f"{quoted(name)} is not known here; known: {known}")
        return value

    def declared_fields(self) -> tuple[str, ...]:
        """Return the fields that the declaration gives, in the order of this class."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)


def parse_duration(value: object) -> int:
    """Read a length of time such as `10m` or `1day` and return whole seconds.

    Raises:
        ValueError: `value` is not a whole number above zero with a unit, or is longer than 31 days.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[1] is None:
        raise ValueError(f"{quoted(value)} is not a length of time such as '10m' (units: {_UNITS})")
    return _window_seconds(match, value)


def _window_seconds(match: re.Match[str], value: object) -> int:
    seconds = int(match[1] or 1) * _UNIT_SECONDS[match[2]]
    if seconds > MAX_WINDOW_S:
        raise ValueError(f"{quoted(value)} is longer than 31 days, the longest window that is counted")
    return seconds


def _split_rate(value: object, example: str) -> tuple[str, int]:
    """Split `{amount}/{window}`; a window may leave out its number, so that `5/day` is `5/1day`."""
    amount, slash, window = value.partition("/") if isinstance(value, str) else ("", "", "")
    match = _DURATION.fullmatch(window)
    if not slash or match is None:
        raise ValueError(f"{quoted(value)} is not written like {example!r} (units: {_UNITS})")
    return amount, _window_seconds(match, value)


class Rate(DeclaredModel):
    """At most `count` in any `window_s` seconds."""

    count: int = Field(ge=1, le=MAX_COUNT)
    window_s: int = Field(ge=1, le=MAX_WINDOW_S)

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read `5/day` or `3/5m`.

        Raises:
            ValueError: `value` is not a whole number from 1 to 100000 per window of at most 31 days.
        """
        if isinstance(value, cls):
            return value
        count, window_s = _split_rate(value, "5/day")
        if _COUNT.fullmatch(count) is None or int(count) > MAX_COUNT:
            raise ValueError(f"{quoted(value)} does not count with a whole number from 1 to {MAX_COUNT}")
        return cls(count=int(count), window_s=window_s)


class Allowance(DeclaredModel):
    """At most `money` in any `window_s` seconds."""

    money: Money
    window_s: int = Field(ge=1, le=MAX_WINDOW_S)

    @model_validator(mode="after")
    def _above_zero(self) -> Self:
        if self.money.micros <= 0:
            raise ValueError(f"{self.money} allows nothing; an allowance is above $0")
        return self

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read `$15/day`.

        Raises:
            ValueError: `value` is not an exact amount of dollars above zero per window of at most 31 days.
        """
        if isinstance(value, cls):
            return value
        amount, window_s = _split_rate(value, "$15/day")
        if not amount.startswith("$"):
            raise ValueError(f"{quoted(value)} is not an amount of dollars such as '$15/day'")
        return cls(money=Money.parse(amount), window_s=window_s)


class _ScopedLimits(DeclaredModel):
    @model_validator(mode="after")
    def _limits_someone(self) -> Self:
        if not self.declared_fields():
            raise ValueError("it limits no one; declare 'user', 'everyone' or both")
        return self


class Breaker(_ScopedLimits):
    """Paid starts per window above which the breaker opens, until an operator closes it."""

    user: Annotated[Rate, BeforeValidator(Rate.parse)] | None = None
    everyone: Annotated[Rate, BeforeValidator(Rate.parse)] | None = None


class Budget(_ScopedLimits):
    """How much one user, and all users together, may order."""

    user: Annotated[Allowance, BeforeValidator(Allowance.parse)] | None = None
    everyone: Annotated[Allowance, BeforeValidator(Allowance.parse)] | None = None


class Approval(DeclaredModel):
    """When a person must tap before an order is paid. Only the mode `over` has an amount."""

    mode: Literal["never", "always", "over"]
    over: Money | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.mode == "over") != (self.over is not None):
            raise ValueError("only 'over $N' has an amount, and it needs one")
        return self

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read `never`, `always` or `over $N`.

        Raises:
            ValueError: `value` is none of them, or the amount is zero (write `always`).
        """
        if isinstance(value, cls):
            return value
        if value == "never" or value == "always":  # noqa: PLR1714 - mypy narrows only this form
            return cls(mode=value)
        if not isinstance(value, str) or not value.startswith("over $"):
            raise ValueError(f"{quoted(value)} is not known; known: never, always, over $N")
        over = Money.parse(value.removeprefix("over "))
        if not over:
            raise ValueError(f"{quoted(value)} asks for every price; write 'always'")
        return cls(mode="over", over=over)


class GuardPolicy(DeclaredModel):
    """The guards of one tool: either `once` with any limits, or `changes: nothing` alone.

    Attributes:
        once: One effect per request; a repeat gets the recorded result back.
        quota: Orders per user in a rolling window.
        cooldown: Seconds between two orders of one user.
        breaker: Paid starts per window, by user and for everyone.
        budget: Dollars ordered per window, by user and for everyone.
        content: Which content policy reads the final arguments.
        approval: When a person must tap first.
        changes: `nothing` declares a tool that only reads and needs no guard.
    """

    once: Literal["per_request"] | None = None
    quota: Annotated[Rate, BeforeValidator(Rate.parse)] | None = None
    cooldown: Annotated[int, BeforeValidator(parse_duration)] | None = None
    breaker: Breaker | None = None
    budget: Budget | None = None
    content: ContentPolicyName | None = None
    approval: Annotated[Approval, BeforeValidator(Approval.parse)] | None = None
    changes: Literal["nothing"] | None = None

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        said = self.declared_fields()
        if "changes" in said and len(said) > 1:
            raise ValueError(f"'changes: nothing' excludes other guards; remove {', '.join(said[:-1])}")
        if not {"changes", "once"} & set(said):
            raise ValueError("no tool without guards: declare 'once: per_request' or 'changes: nothing'")
        return self

    def needs_approval(self, price: Money) -> bool:
        """Return whether a person must tap before `price` is ordered; `over $N` means above N, not at N."""
        if self.approval is None or self.approval.mode == "never":
            return False
        return self.approval.over is None or price > self.approval.over


def limits_of(declared: GuardPolicy) -> Limits:
    """Return the limits that both admission and the recount in the ledger enforce."""
    usual, quota, budget = Limits(), declared.quota, declared.budget or Budget.model_construct()
    user, everyone = budget.user, budget.everyone
    return Limits(
        quota=quota.count if quota else None,
        quota_window_s=quota.window_s if quota else usual.quota_window_s,
        cooldown_s=declared.cooldown,
        user_budget=user.money if user else None,
        user_window_s=user.window_s if user else usual.user_window_s,
        everyone_budget=everyone.money if everyone else None,
        everyone_window_s=everyone.window_s if everyone else usual.everyone_window_s,
    )


def shared_budget(declared: Budget, tools: tuple[str, ...]) -> SharedBudget:
    """Return a budget that these tools use up together."""
    usual, user, everyone = SharedBudget(tools), declared.user, declared.everyone
    return SharedBudget(
        tools,
        user_budget=user.money if user else None,
        user_window_s=user.window_s if user else usual.user_window_s,
        everyone_budget=everyone.money if everyone else None,
        everyone_window_s=everyone.window_s if everyone else usual.everyone_window_s,
    )


def rates_of(declared: GuardPolicy) -> BreakerRates:
    """Return the paid starts per window above which a breaker opens."""
    if declared.breaker is None:
        return BreakerRates()
    user, everyone = declared.breaker.user, declared.breaker.everyone
    return BreakerRates(
        user=StartRate(user.count, user.window_s) if user else None,
        everyone=StartRate(everyone.count, everyone.window_s) if everyone else None,
    )
