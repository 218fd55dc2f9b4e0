"""Claims, and the rules by which they change: pure functions that every store runs in one atomic step.

A claim is the record of one act (and item) of one tool. It is written before the tool's body runs:

    free ─► in_flight ─► done                  the body returned, or a check says that it happened
              │   ▲ └───► unknown ─► done      it raised, was cancelled, or its process died
              │   └───────┘ └──────► free      a check says that it did not happen
              └─────────────────────► free     the body said that nothing was sent

A freed claim counts toward no limit and may be taken again, with the next generation.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol, TypeVar

from ..limits import Limits
from .outcomes import DidNotHappen, Happened, Verdict
from .results import encode_result

ClaimState = Literal["in_flight", "done", "unknown", "free"]
LimitWord = Literal["quota", "cooldown", "budget"]

LAPSED: Final = "the process of the call stopped, or was held up for longer than its lease"
"""Why a claim is in doubt whose owner did not say so itself."""

_FREQUENT_MS: Final = 15 * 60_000
_CHECK_STEPS_MS: Final = (500, 500, 1000, 1000, 2000, 4000)
"""A doubt that is younger than a quarter of an hour is asked about at least every four seconds."""
_RARE_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One act (and item) of one tool.

    Attributes:
        key: Identity, and the idempotency key of its calls.
        act: Id of the request that took it; empty for a claim that holds across requests.
        item: What `key=` returned for the arguments; empty without one.
        version: Grows with each change of the state; `Guard.resolve` names the one that was seen.
        generation: How often it was taken.
        owner: The call that took it last.
        arguments: JSON, for `verify`.
        digest: Of the arguments, so that a duplicate with others is noticed.
        micros: What it costs, in micro-dollars.
        due_at: In flight: when the owner's lease ends. Unknown: when it is asked about next. Milliseconds
            since the epoch on the store's clock, as all times here.
        checks: How often it was asked about since it is unknown.
        result: JSON; see `results.encode_result`.
        by: Who ended a doubt.
    """

    key: str
    namespace: str
    tool: str
    act: str
    item: str
    user: str
    state: ClaimState = "in_flight"
    version: int = 1
    generation: int = 1
    owner: str = ""
    arguments: str = "{}"
    digest: str = ""
    micros: int = 0
    claimed_at: int = 0
    changed_at: int = 0
    due_at: int = 0
    checks: int = 0
    result: str | None = None
    why: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A limit that refuses a call.

    Attributes:
        at: When it refused, milliseconds.
        used: Calls or micro-dollars.
        window_s: The limit's window, seconds.
        everyone: Whether the limit counts the calls of all users.
        surplus: How many calls, or micro-dollars, have to leave the window before this call fits.
        until: When they have, milliseconds; 0: not known yet, or time alone does not help.
    """

    word: LimitWord
    at: int
    used: int = 0
    limit: int = 0
    window_s: int = 0
    everyone: bool = False
    surplus: int = 1
    until: int = 0

    @property
    def since(self) -> int:
        """Since when the limit counted."""
        return self.at - self.window_s * 1000

    def with_until(self, starts: Sequence[tuple[int, int]]) -> "Exceeded":
        """Return it with its `until`, from what was counted, oldest first: (claimed at, micro-dollars)."""
        left = self.surplus
        for at, micros in starts:
            left -= micros if self.word == "budget" else 1
            if left <= 0:
                return replace(self, until=at + self.window_s * 1000)
        return self


@dataclass(frozen=True, slots=True)
class Taken:
    """The claim is this call's: the body may run."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Found:
    """Another call has or had the claim."""

    claim: Claim


TakeAnswer = Taken | Found | Exceeded


@dataclass(frozen=True, slots=True)
class Usage:
    """What was claimed within the windows of a call's limits, and is not free; read in the store's step.

    Attributes:
        count: The user's calls in the quota's window.
        last_at: When the user's latest call in the cooldown's window was claimed; 0: there is none.
        micros: The user's micro-dollars in the budget's window.
        everyone_micros: Those of all users.
    """

    count: int = 0
    last_at: int = 0
    micros: int = 0
    everyone_micros: int = 0


@dataclass(frozen=True, slots=True)
class Windows:
    """Since when each limit counts, milliseconds; where a limit is not declared, since now."""

    quota: int
    cooldown: int
    user_budget: int
    everyone_budget: int


Answer = TypeVar("Answer")
Rule = Callable[[Claim | None, int, Usage], tuple[Claim | None, Answer]]
"""From the stored claim, the store's time and the usage: what to store (None: nothing) and the answer."""


class ClaimStore(Protocol):
    """Keeps claims. `change` is atomic over all processes that share the store."""

    @property
    def durable(self) -> bool:
        """Whether claims outlive the process."""
        ...

    async def setup(self) -> None:
        """Create or migrate what the store needs; safe to run twice, and from several processes at once."""
        ...

    async def change(self, key: str, rule: Rule[Answer], counts: "CountScope | None" = None) -> Answer:
        """Run a rule on the claim of this key. With `counts`, no other of that scope is taken meanwhile.

        It may be run again if the store asks for it, so a rule changes nothing itself.
        """
        ...

    async def read(self, key: str) -> Claim | None:
        """Return the claim of this key."""
        ...

    async def starts(self, counts: "CountScope", since: int, *, everyone: bool) -> Sequence[tuple[int, int]]:
        """Return (claimed at, micro-dollars) of each counted claim after `since`, the oldest first."""
        ...

    async def due(self, namespace: str, tools: Collection[str], most: int) -> Sequence[Claim]:
        """Return claims whose `due_at` has passed: in flight, or unknown of these tools; the oldest first."""
        ...

    async def pending(self, namespace: str, most: int) -> Sequence[Claim]:
        """Return unknown claims, and those in flight whose lease has ended, the oldest first."""
        ...

    async def forget(self, namespace: str, age_ms: int) -> int:
        """Delete claims that are done or free and did not change for so long; returns their number."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...


@dataclass(frozen=True, slots=True)
class CountScope:
    """Whose claims the limits of a call count."""

    namespace: str
    tool: str
    user: str
    limits: Limits

    @property
    def everyone(self) -> bool:
        """Whether a limit counts the claims of all users."""
        return self.limits.everyone_budget is not None

    @property
    def one_user(self) -> bool:
        """Whether a limit counts the claims of the user."""
        limits = self.limits
        return any((limits.quota is not None, limits.cooldown_s, limits.user_budget is not None))

    def windows(self, now: int) -> Windows:
        """Return since when the limits count."""
        limits = self.limits
        return Windows(
            now if limits.quota is None else now - limits.quota_window_s * 1000,
            now - (limits.cooldown_s or 0) * 1000,
            now if limits.user_budget is None else now - limits.user_window_s * 1000,
            now if limits.everyone_budget is None else now - limits.everyone_window_s * 1000,
        )


def claim_key(namespace: str, tool: str, act: str | None, item: str | None) -> str:
    """Return the identity of an act (None: across acts) and an item (None: without) of a tool."""
    text = json.dumps([namespace, tool, act, item], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def take(ask: Claim, limits: Limits, lease_ms: int) -> Rule[TakeAnswer]:
    """Take a claim that is free or new, within the limits; or say who has it."""

    def rule(found: Claim | None, now: int, usage: Usage) -> tuple[Claim | None, TakeAnswer]:
        if found is not None and found.state != "free":
            late = _lapsed(found, now)
            return late, Found(late or found)
        exceeded = _first_exceeded(ask.micros, limits, now, usage)
        if exceeded is not None:
            return None, exceeded
        before = (found.version, found.generation) if found else (0, 0)
        claim = replace(
            ask, state="in_flight", version=before[0] + 1, generation=before[1] + 1,
            claimed_at=now, changed_at=now, due_at=now + lease_ms,
        )  # fmt: skip
        return claim, Taken(claim)

    return rule


def _lapsed(found: Claim, now: int) -> Claim | None:
    """Return a claim whose owner has not renewed its lease as unknown; None if it is not such a one."""
    if found.state != "in_flight" or found.due_at > now:
        return None
    return _doubted(found, now, LAPSED)


def _doubted(found: Claim, now: int, why: str) -> Claim:
    return replace(
        found, state="unknown", version=found.version + 1, changed_at=now, due_at=now, checks=0, why=why
    )


def _first_exceeded(micros: int, limits: Limits, now: int, usage: Usage) -> Exceeded | None:
    if limits.cooldown_s and usage.last_at:
        until = usage.last_at + limits.cooldown_s * 1000
        return Exceeded("cooldown", now, window_s=limits.cooldown_s, until=until)
    if limits.quota is not None and usage.count >= limits.quota:
        surplus = usage.count - limits.quota + 1
        return Exceeded("quota", now, usage.count, limits.quota, limits.quota_window_s, surplus=surplus)
    for budget, used, window_s, everyone in (
        (limits.user_budget, usage.micros, limits.user_window_s, False),
        (limits.everyone_budget, usage.everyone_micros, limits.everyone_window_s, True),
    ):
        if budget is not None and used + micros > budget.micros:
            return Exceeded(
                "budget", now, used, budget.micros, window_s, everyone, used + micros - budget.micros
            )
    return None


def renew(mine: Claim, lease_ms: int) -> Rule[bool]:
    """Lengthen the owner's lease; a doubt that arose from its end alone is over. False: it is lost."""

    def rule(found: Claim | None, now: int, usage: Usage) -> tuple[Claim | None, bool]:
        del usage
        if found is None or not _is_open(found, mine):
            return None, False
        version = found.version + (found.state != "in_flight")
        return replace(found, state="in_flight", version=version, due_at=now + lease_ms, why=""), True

    return rule


def _is_open(found: Claim, mine: Claim) -> bool:
    same = (found.owner, found.generation) == (mine.owner, mine.generation)
    return same and found.state in ("in_flight", "unknown")


def finish(mine: Claim, result: str) -> Rule[bool]:
    """Record the result of the owner's call, whatever was thought meanwhile.

    False: the claim was freed or taken by another call in between, against the facts. The result is recorded
    in the first case, and the caller reports both.
    """

    def rule(found: Claim | None, now: int, usage: Usage) -> tuple[Claim | None, bool]:
        del usage
        if found is not None and found.generation != mine.generation:
            return None, False
        base = found or mine
        done = replace(
            base, state="done", version=base.version + 1, changed_at=now, due_at=0, result=result, why=""
        )
        return done, base.state in ("in_flight", "unknown")

    return rule


def doubt(mine: Claim, why: str) -> Rule[Claim]:
    """Say that the outcome of the owner's call is unknown; returns the claim as it is then."""

    def rule(found: Claim | None, now: int, usage: Usage) -> tuple[Claim | None, Claim]:
        del usage
        if found is not None and (not _is_open(found, mine) or found.state == "unknown"):
            return None, found
        changed = _doubted(found or mine, now, why)
        return changed, changed

    return rule


def give_back(mine: Claim, why: str) -> Rule[None]:
    """Free the owner's claim, because it sent nothing."""

    def rule(found: Claim | None, now: int, usage: Usage) -> tuple[Claim | None, None]:
        del usage
        if found is None or not _is_open(found, mine):
            return None, None
        return _freed(found, now, why, ""), None

    return rule


def _freed(found: Claim, now: int, why: str, by: str) -> Claim:
    return replace(
        found, state="free", version=found.version + 1, changed_at=now, due_at=0, why=why, by=by, result=None
    )


def lapse() -> Rule[Claim | None]:
    """Say that the outcome of a call whose lease has ended is unknown; returns the claim as it is then."""

    def rule(found: Claim | None, now: int, usage: Usage) -> tuple[Claim | None, Claim | None]:
        del usage
        late = _lapsed(found, now) if found is not None else None
        return late, late or found

    return rule


def begin_check(seen: Claim) -> Rule[Claim | None]:
    """Reserve the next question about a doubt for this caller; None: another has it, or it is over."""

    def rule(found: Claim | None, now: int, usage: Usage) -> tuple[Claim | None, Claim | None]:
        del usage
        if found is None:
            return None, None
        late = _lapsed(found, now)
        found = late or found
        if found.state != "unknown" or found.due_at > now or found.generation != seen.generation:
            return late, None
        asked = replace(found, due_at=now + _pause_ms(found, now), checks=found.checks + 1)
        return asked, asked

    return rule


def _pause_ms(doubt: Claim, now: int) -> int:
    if now - doubt.changed_at > _FREQUENT_MS:
        return _RARE_MS
    return _CHECK_STEPS_MS[min(doubt.checks, len(_CHECK_STEPS_MS) - 1)]


def settle(
    version: int, verdict: Verdict, by: str, why: str, settle_ms: int = 0, lease_ms: int = 0
) -> Rule[tuple[Claim | None, bool]]:
    """End a doubt that has this version; returns the claim as it is then, and whether this ended it.

    That it did not happen is not believed in the first `settle_ms` of the doubt: what was sent may arrive.
    Where the owner was not heard of, nor for one more lease: it may be held up, and still send.
    """

    def rule(found: Claim | None, now: int, usage: Usage) -> tuple[Claim | None, tuple[Claim | None, bool]]:
        del usage
        if found is None or found.version != version or _is_settled(found, now):
            return None, (found, False)
        if isinstance(verdict, Happened):
            changed = replace(
                found, state="done", version=version + 1, changed_at=now, due_at=0,
                result=encode_result(verdict.result), why=why, by=by,
            )  # fmt: skip
            return changed, (changed, True)
        silent_ms = max(settle_ms, lease_ms) if found.why == LAPSED else settle_ms
        if isinstance(verdict, DidNotHappen) and now - found.changed_at >= silent_ms:
            changed = _freed(found, now, why, by)
            return changed, (changed, True)
        return None, (found, False)

    return rule


def _is_settled(found: Claim, now: int) -> bool:
    return found.state in ("done", "free") or (found.state == "in_flight" and found.due_at > now)
