"""Limits, what was used of them, and the arithmetic that admission and a ledger share.

Windows are seconds and roll: a day is 24 hours, without a calendar or a time zone. scripts/admit.lua does the
same arithmetic on Redis; a property test compares the two.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from .money import Money

AdmissionVerdict = Literal["admitted", "replay", "quota", "cooldown", "budget", "breaker", "closed"]
"""The verdict about one paid call.

`admitted`: the call may be made. `replay`: it was made before, the recorded result is the answer. `quota`,
`cooldown`, `budget`, `breaker`: this limit refuses. `closed`: a store could not be asked, so nothing is paid.
"""

EVERYONE: Final = "everyone"
"""The scope of limits and breakers that all users share."""


def user_scope(user_id: int) -> str:
    """Return the scope of one user's breaker."""
    return f"user:{user_id}"


def user_of(scope: str) -> int:
    """Return the user of a scope that `user_scope` made."""
    return int(scope.removeprefix("user:"))


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one tool; None means that there is no such limit. Windows are in seconds."""

    quota: int | None = None
    quota_window_s: int = 86_400
    cooldown_s: int | None = None
    user_budget: Money | None = None
    user_window_s: int = 86_400
    everyone_budget: Money | None = None
    everyone_window_s: int = 86_400

    @property
    def window_s(self) -> int:
        """The longest window of these limits, in seconds."""
        return max(self.quota_window_s, self.cooldown_s or 0, self.user_window_s, self.everyone_window_s)


@dataclass(frozen=True, slots=True)
class StartRate:
    """At most `count` paid starts in any `window_s` seconds."""

    count: int
    window_s: int


@dataclass(frozen=True, slots=True)
class BreakerRates:
    """The rates above which a breaker opens; None switches that scope off."""

    user: StartRate | None = None
    everyone: StartRate | None = None


@dataclass(frozen=True, slots=True)
class CounterMember:
    """One order as the limits count it.

    Attributes:
        at: When it was ordered, milliseconds since the epoch.
        micros: Its price in micro-dollars.
        counts: Whether it counts toward the quota.
        cools: Whether it counts toward cooldown and budgets.
    """

    request_id: str
    user_id: int
    at: int
    micros: int
    counts: bool
    cools: bool


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """Which limit refuses, and until when (milliseconds since the epoch; None: unknown).

    `at` is when an order was refused, on the store's clock; 0 if none was.
    """

    verdict: AdmissionVerdict
    until: int | None = None
    used: int = 0
    limit: int = 0
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one user has used within the windows, and every limit that refuses one more order now."""

    used: int
    spent: Money
    exceeded: tuple[LimitExceeded, ...]


def user_limits_exceeded(
    members: Sequence[CounterMember], price: Money, limits: Limits, now: int
) -> Iterator[LimitExceeded]:
    """Yield the limits of one user that refuse one more order, in the order in which they are reported.

    `members` are the user's orders, oldest first.
    """
    for exceeded in (
        _cooldown_exceeded(members, limits, now),
        _quota_exceeded(members, limits, now),
        budget_exceeded(members, limits.user_window_s, limits.user_budget, price, now),
    ):
        if exceeded is not None:
            yield exceeded


def _cooldown_exceeded(members: Sequence[CounterMember], limits: Limits, now: int) -> LimitExceeded | None:
    last = max((one.at for one in members if one.cools), default=None)
    if limits.cooldown_s is None or last is None or last + limits.cooldown_s * 1000 <= now:
        return None
    return LimitExceeded("cooldown", last + limits.cooldown_s * 1000)


def _quota_exceeded(members: Sequence[CounterMember], limits: Limits, now: int) -> LimitExceeded | None:
    if limits.quota is None:
        return None
    window = limits.quota_window_s * 1000
    counted = [one.at for one in members if one.counts and one.at > now - window]
    if len(counted) < limits.quota:
        return None
    until = counted[-limits.quota] + window if limits.quota else None  # a quota of 0 is never free
    return LimitExceeded("quota", until, len(counted), limits.quota)


def budget_exceeded(
    members: Sequence[CounterMember], window_s: int, budget: Money | None, price: Money, now: int
) -> LimitExceeded | None:
    """Return why `price` does not fit into a budget next to `members` (oldest first), or None if it does."""
    if budget is None:
        return None
    inside = [one for one in members if one.cools and one.at > now - window_s * 1000]
    used = sum(one.micros for one in inside)
    if used + price.micros <= budget.micros:
        return None
    left, until = used, None
    for one in inside:  # when enough of the oldest have left the window, the price fits
        left -= one.micros
        if left + price.micros <= budget.micros:
            until = one.at + window_s * 1000
            break
    return LimitExceeded("budget", until, used, budget.micros)


def usage_of(
    members: Sequence[CounterMember], exceeded: Sequence[LimitExceeded], limits: Limits, now: int
) -> Usage:
    """Return what one user's orders use of `limits`, together with the limits that refuse."""
    spent = sum(one.micros for one in members if one.cools and one.at > now - limits.user_window_s * 1000)
    return Usage(
        used=sum(one.counts and one.at > now - limits.quota_window_s * 1000 for one in members),
        spent=Money(spent),
        exceeded=tuple(exceeded),
    )
