"""Atomic admission: all checks of one tool call in one Redis script.

`Admission.reserve` runs scripts/admit.lua, which checks the seen-set, breakers, cooldown, quota and budgets
and reserves in the same step: of any number of parallel calls, one passes. It reads running sums, so a
decision costs the same for any number of orders. Redis is only a fast copy. When it was emptied, nothing is
decided before `counters.CounterSync` has made the counters complete. A store that cannot answer means
`closed`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from redis.exceptions import RedisError

from .counters import RESERVATION_GRACE_S, CounterGroup, CounterSync, RedisKeys, Script, windows_of
from .limits import AdmissionVerdict, Limits, Usage
from .money import ZERO, Money
from .protocols import CounterSource
from .redis_client import RedisClient

__all__ = [
    "RESERVATION_GRACE_S",
    "Admission",
    "AdmissionMode",
    "AdmissionRequest",
    "Availability",
    "Decision",
    "GuardLayer",
    "RedisKeys",
    "ReleaseScope",
    "with_extra",
    "write_health",
]

log = logging.getLogger(__name__)

DECISION_TIMEOUT_S: Final = 1.0
"""Admission whose stores have not answered by then is `closed`. Waiting for a free slot is not counted."""

_HEALTH_KEY_MS: Final = 60_000

CONCURRENT: Final = 32
"""Decisions that ask Redis at the same time; further ones wait for a slot, not for a connection."""

GuardLayer = Literal["arguments", "content", "redis", "ledger"]
AdmissionMode = Literal["check", "reserve", "offer", "confirm"]
ReleaseScope = Literal["quota", "unpaid", "all", "offer"]


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """One tool call that asks for admission.

    Attributes:
        tool: The tool's name.
        request_id: The user's request; with `tool` the only key of `once`.
        user_id: The user whose limits count.
        attempt: Number of the agent run for this request, from 1; a later attempt takes a reservation over.
        call_id: The model's id for the call; the same call of the same attempt is admitted again.
        price: What the call would cost, from the provider's quote.
        limits: The limits from the tool's declaration.
        extra: Orders above the quota that the user may make now. Such an order counts toward cooldown and
            budgets and not toward the quota. Admission does not count them: the one who keeps them decides.
    """

    tool: str
    request_id: str
    user_id: int
    attempt: int = 1
    call_id: str = ""
    price: Money = ZERO
    limits: Limits = field(default_factory=Limits)
    extra: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, the layer that gave it, and the figures for the user's message.

    Attributes:
        until: When the call would be admitted, milliseconds since the epoch; None if unknown.
        used: Orders or micro-dollars already used, where the verdict counts them.
        limit: The declared limit that `used` is compared with.
        why: For logs and spans: a rule's id, `epoch`, an error's class. Never user text.
        at: When it was decided, on the clock of the store that decided; compare `until` with it.
    """

    word: AdmissionVerdict
    layer: GuardLayer = "redis"
    until: int | None = None
    used: int = 0
    limit: int = 0
    why: str = ""
    at: int = 0


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether one more paid call would be admitted for a user at `now` (milliseconds).

    Attributes:
        word: `admitted`, or the verdict that refuses: an open breaker, else the limit that lasts longest.
            `closed`: only the counter source answered, and it refuses nothing.
        until: When nothing refuses any more; None if unknown, or if nothing refuses.
    """

    now: int
    usage: Usage
    word: AdmissionVerdict
    until: int | None = None


class Admission:
    """Admission of tool calls over one Redis.

    Args:
        redis: Where the counters are; see `redis_client.connect`.
        source: The durable orders that they are made from.
        keys: Their names.
        limits: The limits of `paid_tool`, whose counters `refresh` keeps. Counters of a tool that costs
            nothing, or of other windows, are kept from their first call on.
        paid_tool: The tool about which `availability` is asked.
        others: The limits of every other tool whose orders the source keeps, by its name.
    """

    def __init__(
        self,
        redis: RedisClient,
        source: CounterSource,
        keys: RedisKeys,
        limits: Limits,
        paid_tool: str,
        others: Mapping[str, Limits] | None = None,
    ) -> None:
        self.paid_tool = paid_tool
        self._durable = {paid_tool, *(others or ())}
        self._redis, self._source, self._keys = redis, source, keys
        self._counters = CounterSync(redis, source)
        self._admit = Script(redis, "admit")
        self._refuse = Script(redis, "refuse")
        self._groups: dict[tuple[str, Limits], CounterGroup] = {}
        self._rebuilding: dict[CounterGroup, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._failures = 0
        for tool, declared in {paid_tool: limits, **(others or {})}.items():
            self._group(tool, declared)

    def _group(self, tool: str, limits: Limits) -> CounterGroup:
        found = self._groups.get((tool, limits))
        if found is None:
            found = CounterGroup(
                tool, self._keys.counters(tool, limits), windows_of(limits), limits.window_s,
                durable=tool in self._durable,
            )  # fmt: skip
            self._groups[tool, limits] = found
        return found

    def _known_groups(self, tool: str | None = None) -> list[CounterGroup]:
        """Return each group once: several limits may have the same windows."""
        found = {one.keys.base: one for one in self._groups.values() if tool in (None, one.tool)}
        return list(found.values())

    async def load(self) -> None:
        """Load the scripts at start, so that the first call does not get NOSCRIPT."""
        counters = self._counters
        for script in (
            self._admit, self._refuse, counters.release_script, counters.sync_script, counters.breakers_script
        ):  # fmt: skip
            await self._redis.script_load(script.text)

    async def ping(self) -> None:
        """Raise unless Redis takes a write: a demoted or full server answers, and decides nothing."""
        async with asyncio.timeout(DECISION_TIMEOUT_S):
            await write_health(self._redis, self._keys)

    async def check(self, ask: AdmissionRequest) -> Decision:
        """Decide without reserving; used before a model or a moderation service is asked."""
        return await self._decide(ask, "check")

    async def reserve(self, ask: AdmissionRequest) -> Decision:
        """Decide and reserve in one atomic step; `closed` if a store cannot answer. Never raises."""
        return await self._decide(ask, "reserve")

    async def offer(self, ask: AdmissionRequest) -> Decision:
        """Decide as `reserve` does, and hold the request for an offer, which counts toward nothing.

        Every later call of the request is a replay. Never raises.
        """
        return await self._decide(ask, "offer")

    async def confirm(self, ask: AdmissionRequest, version: int) -> Decision:
        """Decide about an offer that its user takes, and reserve; once, however often it is asked.

        The call's attempt and id do not matter. `replay`: the order is past this version of its offer. Where
        the order is not written then, `release` with "offer" gives back what this reserved. Never raises.

        Args:
            ask: The request, with the price that was shown.
            version: Of the offer, as the counter source counts the versions of an order.
        """
        return await self._decide(ask, "confirm", version)

    async def refuse(self, ask: AdmissionRequest, why: str) -> Decision:
        """Latch that the content policy refused this request, so that no later call of it is admitted.

        Returns `content` with the reason of the first refusal; or `replay` if a call was admitted before,
        whose result stands. Never raises: without Redis the call is refused, and only not remembered here.
        """
        group = self._group(ask.tool, ask.limits)
        try:
            async with self._slots, asyncio.timeout(DECISION_TIMEOUT_S):
                word, why = await self._refuse(
                    [group.keys.seen(ask.request_id)], [ask.attempt, why, group.keep_s]
                )
        except Exception as error:  # noqa: BLE001 - a guard refuses; it never raises
            log.error(
                "content refusal not latched",
                extra={"tool": ask.tool, "request": ask.request_id, "error": type(error).__name__},
            )
            word = "content"
        return Decision(word, "content" if word == "content" else "redis", why=why)

    async def _decide(self, ask: AdmissionRequest, mode: AdmissionMode, version: int = -1) -> Decision:
        layer: GuardLayer = "redis"
        try:
            group, left_s = self._group(ask.tool, ask.limits), DECISION_TIMEOUT_S
            decision, asked_s = await self._run_admit(group, ask, mode, left_s, version)
            if decision.why == "epoch":
                # Redis was emptied: make the counters complete, then decide.
                layer, began = "ledger", time.monotonic()
                async with asyncio.timeout(left_s - asked_s):
                    await self._rebuild_once(group)
                layer, left_s = "redis", left_s - asked_s - (time.monotonic() - began)
                decision, _ = await self._run_admit(group, ask, mode, left_s, version)
        except Exception as error:  # noqa: BLE001 - a guard refuses; it never raises
            why = type(error).__name__
            if isinstance(error, RedisError):
                layer = "redis"
            log.error(
                "admission cannot decide",
                extra={"tool": ask.tool, "request": ask.request_id, "layer": layer, "error": why},
            )
            return Decision("closed", layer=layer, why=why)
        return decision

    async def _rebuild_once(self, group: CounterGroup) -> None:
        """Wait for the one rebuild of this process, and start it if none runs.

        It continues when a caller times out: the next call finds it done, and a slow store does not make
        every call start another one.
        """
        task = self._rebuilding.get(group)
        if task is None or task.done():
            # In a context of its own: it is no part of the call, nor of its trace.
            task = asyncio.create_task(self._counters.rebuild(group), context=Context())
            self._rebuilding[group] = task
            task.add_done_callback(_log_rebuild_failure)
        await asyncio.shield(task)

    async def _run_admit(
        self,
        group: CounterGroup,
        ask: AdmissionRequest,
        mode: AdmissionMode,
        within_s: float,
        version: int = -1,
    ) -> tuple[Decision, float]:
        """Return the script's decision and the seconds that it took, without the wait for a slot.

        Raises:
            TimeoutError: Redis did not answer; or none of those that asked before this call, while it waited
                for a slot, got an answer.
        """
        waits = self._slots.locked()
        async with self._slots:
            if waits and self._failures >= CONCURRENT:
                raise TimeoutError
            began = time.monotonic()
            try:
                async with asyncio.timeout(within_s):
                    answer = await self._admit(*self._admit_arguments(group, ask, mode, version))
            except Exception:
                self._failures += 1
                raise
            self._failures = 0
        word, until, used, limit, why, at = answer
        layer: GuardLayer = "content" if word == "content" else "redis"
        return Decision(word, layer, until or None, used, limit, why, at), time.monotonic() - began

    def _admit_arguments(
        self, group: CounterGroup, ask: AdmissionRequest, mode: AdmissionMode, version: int
    ) -> tuple[list[str], list[Any]]:
        keys, limits, user, request = group.keys, ask.limits, ask.user_id, ask.request_id
        return [keys.everyone, keys.seen(request), keys.user(user), keys.pending], [
            mode, f"{user}:{request}", ask.attempt, ask.call_id, ask.price.micros, self._source.clock_shift_s,
            -1 if limits.quota is None else limits.quota,
            -1 if limits.user_budget is None else limits.user_budget.micros,
            -1 if limits.everyone_budget is None else limits.everyone_budget.micros,
            *group.windows, group.keep_s, version, ask.extra,
        ]  # fmt: skip

    async def availability(self, user_id: int, price: Money, limits: Limits, extra: int = 0) -> Availability:
        """Check, without reserving, whether one more call at `price` would be admitted for a user.

        `extra` is that of `AdmissionRequest`.
        """
        # An id that no request has: this asks about the next request, not about one in progress.
        ask = AdmissionRequest(
            self.paid_tool, f"availability:{user_id}", user_id, price=price, limits=limits, extra=extra
        )
        decision = await self.check(ask)
        now, usage = await self._source.usage(user_id, price, limits)
        refusals: list[tuple[AdmissionVerdict, int | None]] = [
            (one.verdict, one.until) for one in usage.exceeded if one.verdict != "quota" or extra <= 0
        ]
        if decision.word not in ("admitted", "replay", "closed"):
            refusals.append((decision.word, decision.until))
        if not refusals:
            return Availability(now, usage, "closed" if decision.word == "closed" else "admitted")
        # The script returns the first limit only, and all of them must have ended: take the longest wait.
        word, until = max(refusals, key=_refusal_rank)
        return Availability(now, usage, word, until)

    async def release(
        self, tool: str, request_id: str, user_id: int, what: ReleaseScope, version: int | None = None
    ) -> None:
        """Give back what a request holds. Idempotent; if Redis is unavailable, the next `refresh` does it.

        `version` is the order's after the change that releases: no older state of it is counted later.
        """
        try:
            async with asyncio.timeout(DECISION_TIMEOUT_S):
                for group in self._known_groups(tool):
                    await self._counters.release(
                        group, request_id, user_id, what, -1 if version is None else version
                    )
        except (RedisError, OSError, TimeoutError) as error:
            log.warning(
                "release is left to the next refresh",
                extra={"request": request_id, "error": type(error).__name__},
            )

    async def refresh(self, every_s: float = 0) -> None:
        """Make the counters agree with the source, or rebuild them if Redis was emptied.

        With `every_s`, processes that refresh in turn do it about once in that time, not once each.
        """
        for group in self._known_groups():
            await self._counters.refresh(group, every_s)

    async def copy_breakers(self) -> None:
        """Copy which breakers are open, at once and without the rest of `refresh`."""
        for group in self._known_groups():
            await self._counters.copy_breakers(group)


async def with_extra(
    decide: Callable[[AdmissionRequest], Awaitable[Decision]],
    ask: AdmissionRequest,
    extra: Callable[[], Awaitable[int]],
) -> Decision:
    """Decide, and where the quota refuses, decide again with what the user may order above it.

    So `extra` is read for those alone who need it. An exception of it is raised.
    """
    decision = await decide(ask)
    if decision.word != "quota" or (more := await extra()) <= 0:
        return decision
    return await decide(replace(ask, extra=more))


async def write_health(redis: RedisClient, keys: RedisKeys) -> None:
    """Write a key that expires and that nothing reads.

    Raises:
        RedisError, OSError: Redis does not take it.
    """
    await redis.set(keys.health, 1, px=_HEALTH_KEY_MS)


def _log_rebuild_failure(task: asyncio.Task[None]) -> None:
    """Log a failed rebuild; its callers may have timed out already."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("counters cannot be rebuilt", extra={"error": type(error).__name__})


def _refusal_rank(refusal: tuple[AdmissionVerdict, int | None]) -> tuple[bool, bool, int]:
    word, until = refusal
    return word == "breaker", until is None, until or 0
