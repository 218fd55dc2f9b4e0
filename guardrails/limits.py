"""Limits, what was used of them, and the arithmetic that admission and a ledger share.

Windows are seconds and roll: a day is 24 hours, without a calendar or a time zone. Orders are counted in
buckets of a second, a minute or a quarter of an hour (`RollingWindow`), so that the cost of a decision does
not grow with the number of orders. scripts/shared/counters.lua does the same arithmetic on Redis; a property
test compares the two.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from .money import Money

AdmissionVerdict = Literal[
    "admitted", "replay", "quota", "cooldown", "budget", "breaker", "content", "closed"
]
"""The verdict about one paid call.

`admitted`: the call may be made. `replay`: it was made before, the recorded result is the answer. `quota`,
`cooldown`, `budget`, `breaker`: this limit refuses. `content`: the content policy refused the
request, for good. `closed`: a store or a check could not be asked, so nothing is paid.
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
class SharedBudget:
    """A budget that several tools use up together; None means that there is no such budget.

    A store counts it under its own lock. Admission does not: the counters of a tool are in keys of its own.
    """

    tools: tuple[str, ...]
    user_budget: Money | None = None
    user_window_s: int = 86_400
    everyone_budget: Money | None = None
    everyone_window_s: int = 86_400

    def exceeded(self, micros: int, all_micros: int, price: Money) -> "Iterator[Excess]":
        """Yield what refuses one more order at `price` after so many micro-dollars of user and everyone."""
        for budget, used, window_s, everyone in (
            (self.user_budget, micros, self.user_window_s, False),
            (self.everyone_budget, all_micros, self.everyone_window_s, True),
        ):
            if budget is not None and used + price.micros > budget.micros:
                refusal = LimitExceeded("budget", None, used, budget.micros)
                surplus = used + price.micros - budget.micros
                yield Excess(refusal, RollingWindow(window_s), "micros", everyone, surplus, self.tools)


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
    shared: SharedBudget | None = None

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
class RollingWindow:
    """A window of `seconds` that is counted in buckets.

    An order counts while its bucket is not older than the first one: never shorter than the window, and at
    most one bucket longer. At most 3,600 buckets are inside a window of up to 31 days.
    """

    seconds: int

    @property
    def width_s(self) -> int:
        """Seconds of one bucket."""
        return next(width for longest, width in _WIDTHS if self.seconds <= longest)

    def bucket(self, at: int) -> int:
        """Return the number of the bucket of a time in milliseconds."""
        return at // (self.width_s * 1000)

    def first(self, now: int) -> int:
        """Return the oldest bucket that counts at `now` (milliseconds)."""
        return (now - self.seconds * 1000) // (self.width_s * 1000)

    def ends_at(self, bucket: int) -> int:
        """Return when a bucket stops counting, in milliseconds."""
        return ((bucket + 1) * self.width_s + self.seconds) * 1000


BUCKET_WIDTHS_S: Final = (1, 60, 900)
"""Every width that `RollingWindow` uses, in seconds."""

_WIDTHS: Final = ((3599, 1), (2 * 86_400, 60), (float("inf"), 900))
"""The longest window, in seconds, that each width serves."""


@dataclass(frozen=True, slots=True)
class CountedOrder:
    """One order as the limits count it.

    Attributes:
        at: When it was ordered, milliseconds since the epoch.
        micros: Its price in micro-dollars, or what it was billed, if that is more.
        counts: Whether it counts toward the quota.
        cools: Whether it counts toward cooldown and budgets.
        version: Grows with each change of the others; an older version never replaces a newer one.
        changed_at: When it was last changed, milliseconds since the epoch.
    """

    request_id: str
    user_id: int
    at: int
    micros: int
    counts: bool
    cools: bool
    version: int = 0
    changed_at: int = 0


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


@dataclass(frozen=True, slots=True)
class WindowSums:
    """What is counted inside the windows of one user's limits.

    Attributes:
        takes: The user's orders that count toward the quota.
        micros: The user's micro-dollars.
        all_micros: The micro-dollars of all users together.
        last_start: The latest bucket of the cooldown's window in which the user ordered; None: none.
        stopped: Whether the user's breaker, or everyone's, is open.
    """

    takes: int = 0
    micros: int = 0
    all_micros: int = 0
    last_start: int | None = None
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Excess:
    """A limit that refuses, and what has to leave its window before one more order fits.

    Attributes:
        refusal: The refusal; its `until` is known for a cooldown only.
        window: The limit's window; None where time alone does not help.
        amount: What the limit counts.
        everyone: Whether it counts the orders of all users.
        surplus: How much of `amount` must leave.
        tools: Whose orders it counts, where these are not those of one tool.
    """

    refusal: LimitExceeded
    window: RollingWindow | None = None
    amount: Literal["takes", "micros"] = "takes"
    everyone: bool = False
    surplus: int = 0
    tools: tuple[str, ...] = ()

    def with_until(self, buckets: Iterable[tuple[int, int]]) -> LimitExceeded:
        """Return the refusal with its `until`: when enough of the oldest (bucket, amount) have left."""
        left = self.surplus
        for bucket, amount in buckets:
            left -= amount
            if left <= 0 and self.window is not None:
                return replace(self.refusal, until=self.window.ends_at(bucket))
        return self.refusal


def exceeded_limits(sums: WindowSums, price: Money, limits: Limits, extra: int = 0) -> Iterator[Excess]:
    """Yield the limits that refuse one more order, in the order in which they are reported.

    With `extra`, the quota refuses nothing: so many orders above it are allowed, and do not count toward it.
    """
    if sums.stopped:
        yield Excess(LimitExceeded("breaker"))
    if limits.cooldown_s and sums.last_start is not None:
        until = RollingWindow(limits.cooldown_s).ends_at(sums.last_start)
        yield Excess(LimitExceeded("cooldown", until))
    if limits.quota is not None and sums.takes >= limits.quota and extra <= 0:
        refusal = LimitExceeded("quota", None, sums.takes, limits.quota)
        window = RollingWindow(limits.quota_window_s)
        yield Excess(refusal, window, surplus=sums.takes - limits.quota + 1)
    for budget, used, window_s, everyone in (
        (limits.user_budget, sums.micros, limits.user_window_s, False),
        (limits.everyone_budget, sums.all_micros, limits.everyone_window_s, True),
    ):
        if budget is not None and used + price.micros > budget.micros:
            refusal = LimitExceeded("budget", None, used, budget.micros)
            surplus = used + price.micros - budget.micros
            yield Excess(refusal, RollingWindow(window_s), "micros", everyone, surplus)
