"""Atomic admission: all checks of one tool call in one Redis script.

`Admission.reserve` runs scripts/admit.lua, which checks the seen-set, breakers, cooldown, quota and budgets
and reserves in the same step: of any number of parallel calls, one passes. Redis is only a fast copy. When it
was emptied, scripts/rebuild.lua fills the counters from the `CounterSource` before anything is decided. A
store that cannot answer means `closed`.
"""

import asyncio
import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast
from uuid import uuid4

from redis.exceptions import RedisError

from .limits import EVERYONE, AdmissionVerdict, CounterMember, Limits, Usage, user_scope
from .money import ZERO, Money
from .protocols import CounterSource
from .redis_client import RedisClient

log = logging.getLogger(__name__)

DECISION_TIMEOUT_S: Final = 1.0
"""Admission that has not decided by then answers `closed`."""

EPOCH_TTL_S: Final = 3600
"""Lifetime of the epoch key. Workers renew it every minute; once it expires, the next admission rebuilds
the counters.
"""

KEY_MARGIN_S: Final = 3600
"""How much longer a counter's key lives than the longest window that reads it."""

RESERVATION_GRACE_S: Final = 600
"""A reservation without an order is dropped when it is older than this; no agent run takes that long."""

GuardLayer = Literal["arguments", "content", "redis", "ledger"]
AdmissionMode = Literal["check", "reserve"]
ReleaseScope = Literal["quota", "unpaid", "all"]


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """Names of the Redis keys of one installation.

    All share one hash tag, so that one script may use them on a cluster. `prefix` separates installations
    (and tests) that use one server. Counters are per tool: a free caption uses nothing of the video quota.
    """

    prefix: str = "onetake"

    def _key(self, *parts: object) -> str:
        return ":".join((f"{{{self.prefix}}}", *map(str, parts)))

    @property
    def epoch(self) -> str:
        """String; while it exists, the counters are complete. Lives `EPOCH_TTL_S`."""
        return self._key("epoch")

    def seen(self, tool: str, request_id: str) -> str:
        """Hash attempt, call: which call holds a request. Lives one window and `KEY_MARGIN_S`.

        The request id comes last because it contains colons; tool names contain none.
        """
        return self._key("seen", tool, request_id)

    def takes(self, tool: str, user_id: int) -> str:
        """Sorted set request → ms: orders that count toward the quota. Lives as `seen`."""
        return self._key("user", user_id, tool, "takes")

    def starts(self, tool: str, user_id: int) -> str:
        """Sorted set request → ms: orders that count toward cooldown and budget. Lives as `seen`."""
        return self._key("user", user_id, tool, "starts")

    def money(self, tool: str, user_id: int) -> str:
        """Hash request → micro-dollars of the orders in `starts`. Lives as `seen`."""
        return self._key("user", user_id, tool, "money")

    def all_starts(self, tool: str) -> str:
        """As `starts`, for all users together."""
        return self._key("all", tool, "starts")

    def all_money(self, tool: str) -> str:
        """As `money`, for all users together."""
        return self._key("all", tool, "money")

    def breaker(self, scope: str) -> str:
        """String; while it exists, this scope's breaker is open. Lives `EPOCH_TTL_S`."""
        return self._key("breaker", scope)


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
    """

    tool: str
    request_id: str
    user_id: int
    attempt: int = 1
    call_id: str = ""
    price: Money = ZERO
    limits: Limits = field(default_factory=Limits)


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
        source: The durable orders from which they are rebuilt.
        keys: Their names.
        limits: The longest window says how long members are kept.
        paid_tool: The one tool whose orders the source keeps, and whose counters are rebuilt.
    """

    def __init__(
        self, redis: RedisClient, source: CounterSource, keys: RedisKeys, limits: Limits, paid_tool: str
    ) -> None:
        self.paid_tool = paid_tool
        self._redis, self._source, self._keys, self._limits = redis, source, keys, limits
        self._keep_s = limits.window_s + KEY_MARGIN_S
        self._rebuilding: asyncio.Task[bool] | None = None
        scripts = Path(__file__).parent / "scripts"
        self._admit, self._release, self._rebuild = (
            redis.register_script((scripts / f"{name}.lua").read_text())
            for name in ("admit", "release", "rebuild")
        )

    async def load(self) -> None:
        """Load the scripts at start, so that the first call does not get NOSCRIPT."""
        for script in (self._admit, self._release, self._rebuild):
            await self._redis.script_load(cast("str", script.script))

    async def ping(self) -> None:
        """Raise unless Redis answers."""
        async with asyncio.timeout(DECISION_TIMEOUT_S):
            await self._redis.ping()

    async def check(self, ask: AdmissionRequest) -> Decision:
        """Decide without reserving; used before a model or a moderation service is asked."""
        return await self._decide(ask, "check")

    async def reserve(self, ask: AdmissionRequest) -> Decision:
        """Decide and reserve in one atomic step; `closed` if a store cannot answer. Never raises."""
        return await self._decide(ask, "reserve")

    async def _decide(self, ask: AdmissionRequest, mode: AdmissionMode) -> Decision:
        layer: GuardLayer = "redis"
        try:
            async with asyncio.timeout(DECISION_TIMEOUT_S):
                decision = await self._run_admit(ask, mode)
                if decision.why == "epoch":
                    # Redis was emptied: rebuild the counters from the source, then decide.
                    layer = "ledger"
                    await self._rebuild_once()
                    layer = "redis"
                    decision = await self._run_admit(ask, mode)
                return decision
        except Exception as error:  # noqa: BLE001 - a guard refuses; it never raises
            why = type(error).__name__
            if isinstance(error, RedisError):
                layer = "redis"
            log.error(
                "admission cannot decide",
                extra={"tool": ask.tool, "request": ask.request_id, "layer": layer, "error": why},
            )
            return Decision("closed", layer=layer, why=why)

    async def _rebuild_once(self) -> None:
        """Wait for the one rebuild of this process, and start it if none runs.

        It continues when a caller times out: the next call finds it done, and a slow store does not make
        every call start another one.
        """
        if self._rebuilding is None or self._rebuilding.done():
            self._rebuilding = asyncio.create_task(self._sync_counters("rebuild"))
            self._rebuilding.add_done_callback(_log_rebuild_failure)
        await asyncio.shield(self._rebuilding)

    async def _run_admit(self, ask: AdmissionRequest, mode: AdmissionMode) -> Decision:
        keys = [self._keys.epoch, *self._counter_keys(ask.tool, ask.request_id, ask.user_id)]
        keys += [self._keys.breaker(user_scope(ask.user_id)), self._keys.breaker(EVERYONE)]
        limits = ask.limits
        answer: Sequence[Any] = await self._admit(
            keys=keys,
            args=[
                mode, ask.request_id, ask.attempt, ask.call_id, ask.price.micros, self._source.clock_shift_s,
                _script_value(limits.quota), limits.quota_window_s, _script_value(limits.cooldown_s),
                _script_value(limits.user_budget), limits.user_window_s,
                _script_value(limits.everyone_budget), limits.everyone_window_s, self._keep_s,
            ],
        )  # fmt: skip
        word, until, used, limit, why, at = answer
        return Decision(cast("AdmissionVerdict", word), "redis", until or None, used, limit, why, at)

    def _counter_keys(self, tool: str, request_id: str, user_id: int) -> list[str]:
        keys = self._keys
        mine = [keys.takes(tool, user_id), keys.starts(tool, user_id), keys.money(tool, user_id)]
        return [keys.seen(tool, request_id), *mine, keys.all_starts(tool), keys.all_money(tool)]

    async def availability(self, user_id: int, price: Money, limits: Limits) -> Availability:
        """Check, without reserving, whether one more call at `price` would be admitted for a user."""
        # An id that no request has: this asks about the next request, not about one in progress.
        ask = AdmissionRequest(self.paid_tool, f"availability:{user_id}", user_id, price=price, limits=limits)
        decision = await self.check(ask)
        now, usage = await self._source.usage(user_id, price, limits)
        refusals: list[tuple[AdmissionVerdict, int | None]] = [
            (one.verdict, one.until) for one in usage.exceeded
        ]
        if decision.word not in ("admitted", "replay", "closed"):
            refusals.append((decision.word, decision.until))
        if not refusals:
            return Availability(now, usage, "closed" if decision.word == "closed" else "admitted")
        # The script returns the first limit only, and all of them must have ended: take the longest wait.
        word, until = max(refusals, key=_refusal_rank)
        return Availability(now, usage, word, until)

    async def release(self, tool: str, request_id: str, user_id: int, what: ReleaseScope) -> None:
        """Give back what a request holds. Idempotent; if Redis is unavailable, the next `refresh` does it."""
        try:
            async with asyncio.timeout(DECISION_TIMEOUT_S):
                await self._release(
                    keys=self._counter_keys(tool, request_id, user_id), args=[request_id, what]
                )
        except (RedisError, OSError, TimeoutError) as error:
            log.warning(
                "release is left to the next refresh",
                extra={"request": request_id, "error": type(error).__name__},
            )

    async def refresh(self) -> None:
        """Make the counters agree with the source, or rebuild them if Redis was emptied."""
        if not await self._sync_counters("refresh"):
            await self._sync_counters("rebuild")

    async def _sync_counters(self, mode: Literal["rebuild", "refresh"]) -> bool:
        # Breakers closed within twice the epoch's life: a lost refresh must not leave one open in Redis.
        snapshot = await self._source.snapshot(self._limits, 2 * EPOCH_TTL_S)
        members, users = snapshot.members, sorted(snapshot.users | {one.user_id for one in snapshot.members})
        done = await self._rebuild(
            keys=self._rebuild_keys(users, members),
            args=[
                mode, uuid4().hex, EPOCH_TTL_S, self._keep_s, self._source.clock_shift_s, RESERVATION_GRACE_S,
                _rebuild_facts(users, members, snapshot.open_scopes),
            ],
        )  # fmt: skip
        if done and mode == "rebuild":
            # With an empty ledger there was nothing to lose: a first start is no cause for concern.
            log.log(
                logging.WARNING if members or users else logging.INFO,
                "counters rebuilt from the ledger",
                extra={"members": len(members), "users": len(users)},
            )
        return bool(done)

    def _rebuild_keys(self, users: Sequence[int], members: Sequence[CounterMember]) -> list[str]:
        keys, tool = self._keys, self.paid_tool
        named = [keys.epoch, keys.all_starts(tool), keys.all_money(tool), keys.breaker(EVERYONE)]
        for user in users:
            named += [keys.takes(tool, user), keys.starts(tool, user), keys.money(tool, user)]
            named.append(keys.breaker(user_scope(user)))
        return named + [keys.seen(tool, one.request_id) for one in members]


def _log_rebuild_failure(task: asyncio.Task[bool]) -> None:
    """Log a failed rebuild; its callers may have timed out already."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("counters cannot be rebuilt", extra={"error": type(error).__name__})


def _script_value(figure: int | Money | None) -> int:
    """Return a limit as the script reads it; -1 means that there is none."""
    if figure is None:
        return -1
    return figure.micros if isinstance(figure, Money) else figure


def _rebuild_facts(
    users: Sequence[int], members: Sequence[CounterMember], open_scopes: Collection[str]
) -> str:
    index = {user: place for place, user in enumerate(users, start=1)}
    return json.dumps(
        {
            "all_open": EVERYONE in open_scopes,
            "users": [{"open": user_scope(user) in open_scopes} for user in users],
            "members": [
                {
                    "id": one.request_id, "user": index[one.user_id], "at": one.at, "micros": one.micros,
                    "counts": one.counts, "cools": one.cools,
                }
                for one in members
            ],
        }
    )  # fmt: skip


def _refusal_rank(refusal: tuple[AdmissionVerdict, int | None]) -> tuple[bool, bool, int]:
    word, until = refusal
    return word == "breaker", until is None, until or 0
