"""Claims in the memory of one process: for tests, and for agents that run in one process only."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from .claims import Claim, CountScope, Rule, Usage

Answer = TypeVar("Answer")


class MemoryStore:
    """A claim store that is lost with its process.

    Args:
        clock: Returns the time in seconds since the epoch.
    """

    durable = False

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._claims: dict[str, Claim] = {}
        self._open: dict[str, Claim] = {}
        self._counted: dict[tuple[str, str], dict[str, dict[str, Claim]]] = {}

    async def setup(self) -> None:
        """See `claims.ClaimStore`: there is nothing to do."""

    async def change(self, key: str, rule: Rule[Answer], counts: CountScope | None = None) -> Answer:
        """See `claims.ClaimStore`. Without an `await` inside, it is atomic in its event loop."""
        now = self._now()
        usage = Usage() if counts is None else self._usage(counts, now)
        claim, answer = rule(self._claims.get(key), now, usage)
        if claim is not None:
            self._keep(claim)
        return answer

    def _usage(self, counts: CountScope, now: int) -> Usage:
        windows, mine = counts.windows(now), self._after(counts, 0, everyone=False) if counts.one_user else []
        everyone = self._after(counts, windows.everyone_budget, everyone=True) if counts.everyone else ()
        return Usage(
            sum(one.claimed_at > windows.quota for one in mine),
            max((one.claimed_at for one in mine if one.claimed_at > windows.cooldown), default=0),
            sum(one.micros for one in mine if one.claimed_at > windows.user_budget),
            sum(one.micros for one in everyone),
        )

    def _after(self, counts: CountScope, since: int, *, everyone: bool) -> list[Claim]:
        by_user = self._counted_of(counts.namespace, counts.tool)
        users = by_user.values() if everyone else [by_user.get(counts.user, {})]
        return [one for claims in users for one in claims.values() if one.claimed_at > since]

    async def starts(self, counts: CountScope, since: int, *, everyone: bool) -> Sequence[tuple[int, int]]:
        """See `claims.ClaimStore`."""
        found = self._after(counts, since, everyone=everyone)
        return sorted((one.claimed_at, one.micros) for one in found)

    def _counted_of(self, namespace: str, tool: str) -> dict[str, dict[str, Claim]]:
        return self._counted.setdefault((namespace, tool), {})

    def _keep(self, claim: Claim) -> None:
        before = self._claims.get(claim.key, claim)
        self._claims[claim.key] = claim
        by_user = self._counted_of(claim.namespace, claim.tool)
        by_user.get(before.user, {}).pop(claim.key, None)  # a freed claim may be taken by another user
        if claim.state != "free":
            by_user.setdefault(claim.user, {})[claim.key] = claim
        if claim.state in ("in_flight", "unknown"):
            self._open[claim.key] = claim
        else:
            self._open.pop(claim.key, None)

    async def read(self, key: str) -> Claim | None:
        """See `claims.ClaimStore`."""
        return self._claims.get(key)

    async def due(self, namespace: str, tools: Collection[str], most: int) -> Sequence[Claim]:
        """See `claims.ClaimStore`."""
        now = self._now()
        found = [
            one for one in self._open.values()
            if one.namespace == namespace and one.due_at <= now
            and (one.state == "in_flight" or one.tool in tools)
        ]  # fmt: skip
        return sorted(found, key=lambda one: (one.due_at, one.key))[:most]

    async def pending(self, namespace: str, most: int) -> Sequence[Claim]:
        """See `claims.ClaimStore`."""
        now = self._now()
        found = [
            one for one in self._open.values()
            if one.namespace == namespace and (one.state == "unknown" or one.due_at <= now)
        ]  # fmt: skip
        return sorted(found, key=lambda one: (one.changed_at, one.key))[:most]

    async def forget(self, namespace: str, age_ms: int) -> int:
        """See `claims.ClaimStore`."""
        before = self._now() - age_ms
        found = [
            one for one in self._claims.values()
            if one.namespace == namespace and one.state in ("done", "free") and one.changed_at < before
        ]  # fmt: skip
        for one in found:
            del self._claims[one.key]
            self._counted_of(one.namespace, one.tool).get(one.user, {}).pop(one.key, None)
        return len(found)

    async def close(self) -> None:
        """See `claims.ClaimStore`: there is nothing to let go of."""

    def _now(self) -> int:
        return int(self._clock() * 1000)
