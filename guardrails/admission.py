"""Atomic admission in Redis (seen-set, quota, cooldown, budget, breaker); availability preview."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast
from uuid import uuid4

from redis.exceptions import RedisError

from guardrails.money import ZERO, Money
from guardrails.redis_client import RedisClient
from ledger import breaker, pending_work
from ledger import limits as counting
from ledger.database import Ledger
from ledger.limits import Limits, Usage
from ledger.models import EVERYONE, AdmissionVerdict, user_scope
from ledger.pending_work import CounterMember
from telemetry.logs import get_logger

EPOCH_TTL_S: Final = 3600
"""The epoch is renewed every minute; if nobody renews it, the next admission rebuilds the counters."""

KEY_MARGIN_S: Final = 3600
"""How much longer a member's key lives than the longest window that looks at it."""


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """The keys of one installation. `prefix` keeps installations (and tests) on one server apart."""

    prefix: str = "onetake"

    def _key(self, *parts: object) -> str:
        return ":".join((f"{{{self.prefix}}}", *map(str, parts)))

    @property
    def epoch(self) -> str:
        """String; there means: the counters are complete. Lives `EPOCH_TTL_S`."""
        return self._key("epoch")

    def seen(self, tool: str, request_id: str) -> str:
        """Hash attempt, call: who holds the one call of a request. Lives one window and `SPARE_S`.

        The request id comes last, because it holds colons of its own; tool names hold none.
        """
        return self._key("seen", tool, request_id)

    def takes(self, tool: str, user_id: int) -> str:
        """Sorted set request → ms: orders that count toward the quota. Lives one window and `SPARE_S`.

        Counters are a tool's own: a free caption takes no place in the video's quota.
        """
        return self._key("user", user_id, tool, "takes")

    def starts(self, tool: str, user_id: int) -> str:
        """Sorted set request → ms: orders that count toward cooldown and budget. Lives as `takes`."""
        return self._key("user", user_id, tool, "starts")

    def money(self, tool: str, user_id: int) -> str:
        """Hash request → micro-dollars for `starts`. Lives as `takes`."""
        return self._key("user", user_id, tool, "money")

    def all_starts(self, tool: str) -> str:
        """As `starts`, for everyone together."""
        return self._key("all", tool, "starts")

    def all_money(self, tool: str) -> str:
        """As `money`, for everyone together."""
        return self._key("all", tool, "money")

    def breaker(self, scope: str) -> str:
        """String; there means: this scope's breaker is open. From the ledger; lives `EPOCH_TTL_S`."""
        return self._key("breaker", scope)


log = get_logger(__name__)

DECISION_TIMEOUT_S: Final = 1.0
"""A guard that has not decided by then refuses (`closed`)."""

RESERVATION_GRACE_S: Final = 600
"""A reservation that never became an order is dropped when it is older than this: longer than any run."""

GuardLayer = Literal["arguments", "content", "redis", "ledger"]
AdmissionMode = Literal["look", "take"]
ReleaseScope = Literal["quota", "unpaid", "all"]


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """One call that wants to pass.

    Attributes:
        tool: The tool's name.
        request_id: The user's act; the only key of `once`.
        user_id: The payer.
        attempt: Which attempt at the run this is, from 1; a later attempt takes a reservation over.
        call_id: The model's id for the call: the same call of the same attempt passes again.
        price: What the call would cost, from the provider's quote.
        limits: The figures of the declaration.
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
    """The verdict's word, who said it, and the figures that a person wants.

    Attributes:
        until: When it will work again, milliseconds since the epoch; None if nobody knows.
        used: Orders or micro-dollars already taken, where the verdict counts them.
        limit: The declared figure beside `used`.
        why: For operators' logs: a rule's id, `epoch`, the class of an error. Never user text.
        at: When it was decided, on the clock of the store that did; `until` counts from there.
    """

    word: AdmissionVerdict
    layer: GuardLayer = "redis"
    until: int | None = None
    used: int = 0
    limit: int = 0
    why: str = ""
    at: int = 0


class Admission:
    """The typed face of the scripts, over one Redis and one ledger."""

    def __init__(self, redis: RedisClient, ledger: Ledger, keys: RedisKeys, limits: Limits) -> None:
        """Make the face of the counters that are kept under `keys`; `limits` bound how far back they look."""
        self._redis, self._ledger, self._keys, self._limits = redis, ledger, keys, limits
        self._keep_s = limits.window_s + KEY_MARGIN_S
        self._rebuilding: asyncio.Task[bool] | None = None
        scripts = Path(__file__).parent / "scripts"
        self._admit, self._release, self._rebuild = (
            redis.register_script((scripts / f"{name}.lua").read_text())
            for name in ("admit", "release", "rebuild")
        )

    async def load(self) -> None:
        """Load the scripts once at start, so that no first call meets NOSCRIPT."""
        for script in (self._admit, self._release, self._rebuild):
            await self._redis.script_load(cast("str", script.script))

    async def ping(self) -> None:
        """Raise unless Redis answers."""
        async with asyncio.timeout(DECISION_TIMEOUT_S):
            await self._redis.ping()

    async def check(self, ask: AdmissionRequest) -> Decision:
        """Decide without taking anything; for an answer before any model is called."""
        return await self._decide(ask, "look")

    async def reserve(self, ask: AdmissionRequest) -> Decision:
        """Decide and reserve in one step. A store that cannot decide means `closed`."""
        return await self._decide(ask, "take")

    async def _decide(self, ask: AdmissionRequest, mode: AdmissionMode) -> Decision:
        layer: GuardLayer = "redis"
        try:
            async with asyncio.timeout(DECISION_TIMEOUT_S):
                decision = await self._run_admit(ask, mode)
                if decision.why == "epoch":
                    # Redis was emptied. The ledger fills it again; then this call is judged like any other.
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
                "admission cannot decide", tool=ask.tool, request=ask.request_id, layer=layer, error=why
            )
            return Decision("closed", layer=layer, why=why)

    async def _rebuild_once(self) -> None:
        """Wait for this process's one rebuild. It goes on when a waiter's time is over: the next call finds
        it done, and a slow store cannot make each call begin it anew.
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
                mode, ask.request_id, ask.attempt, ask.call_id, ask.price.micros, self._ledger.shift,
                _script_figure(limits.quota), limits.quota_window_s, _script_figure(limits.cooldown_s),
                _script_figure(limits.user_budget), limits.user_window_s,
                _script_figure(limits.everyone_budget), limits.everyone_window_s, self._keep_s,
            ],
        )  # fmt: skip
        word, until, used, limit, why, at = answer
        return Decision(cast("AdmissionVerdict", word), "redis", until or None, used, limit, why, at)

    def _counter_keys(self, tool: str, request_id: str, user_id: int) -> list[str]:
        keys = self._keys
        mine = [keys.takes(tool, user_id), keys.starts(tool, user_id), keys.money(tool, user_id)]
        return [keys.seen(tool, request_id), *mine, keys.all_starts(tool), keys.all_money(tool)]

    async def release(self, tool: str, request_id: str, user_id: int, what: ReleaseScope) -> None:
        """Give back what a request holds. Safe to repeat; if Redis is away, `refresh` does it later."""
        try:
            async with asyncio.timeout(DECISION_TIMEOUT_S):
                await self._release(
                    keys=self._counter_keys(tool, request_id, user_id), args=[request_id, what]
                )
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("release is left to the next refresh", request=request_id, error=type(error).__name__)

    async def refresh(self) -> None:
        """Make the counters agree with the ledger, or fill them if Redis was emptied."""
        if not await self._sync_counters("refresh"):
            await self._sync_counters("rebuild")

    async def _sync_counters(self, mode: Literal["rebuild", "refresh"]) -> bool:
        members = await pending_work.counter_members(self._ledger, self._limits)
        scopes = {one.scope for one in await breaker.open_breakers(self._ledger)}
        # A breaker closed since is taken down too, though its user may have asked for nothing lately.
        shown = scopes | await breaker.recently_closed(self._ledger, 2 * EPOCH_TTL_S)
        users = sorted(
            {one.user_id for one in members}
            | await pending_work.recent_users(self._ledger, self._limits.window_s)
            | {int(scope.removeprefix("user:")) for scope in shown if scope != EVERYONE}
        )
        named = self._rebuild_keys(users, members)
        done = await self._rebuild(
            keys=named,
            args=[
                mode, uuid4().hex, EPOCH_TTL_S, self._keep_s, self._ledger.shift, RESERVATION_GRACE_S,
                _ledger_facts(users, members, scopes),
            ],
        )  # fmt: skip
        if done and mode == "rebuild":
            log.warning("counters rebuilt from the ledger", members=len(members), users=len(users))
        return bool(done)

    def _rebuild_keys(self, users: Sequence[int], members: Sequence[CounterMember]) -> list[str]:
        keys, tool = self._keys, PAID_TOOL
        named = [keys.epoch, keys.all_starts(tool), keys.all_money(tool), keys.breaker(EVERYONE)]
        for user in users:
            named += [keys.takes(tool, user), keys.starts(tool, user), keys.money(tool, user)]
            named.append(keys.breaker(user_scope(user)))
        return named + [keys.seen(tool, one.request_id) for one in members]


def _log_rebuild_failure(task: asyncio.Task[bool]) -> None:
    """Say how a rebuild failed, in case that nobody waits for it any more."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("counters cannot be rebuilt", error=type(error).__name__)


PAID_TOOL: Final = "generate_video"
"""The one tool whose orders the ledger keeps, and from which counters are rebuilt."""


def _script_figure(figure: int | Money | None) -> int:
    """Return the script's form of a figure: -1 stands for "no such limit"."""
    if figure is None:
        return -1
    return figure.micros if isinstance(figure, Money) else figure


def _ledger_facts(users: Sequence[int], members: Sequence[CounterMember], open_scopes: set[str]) -> str:
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


@dataclass(frozen=True, slots=True)
class Availability:
    """How a user stands at `now` (milliseconds).

    Attributes:
        word: `admitted`, or what refuses: an open breaker, else the limit that lasts longest. `closed`: only
            the ledger could be asked, and it refuses nothing.
        until: When nothing refuses any more; None if nobody knows, or nothing refuses.
    """

    now: int
    usage: Usage
    word: AdmissionVerdict
    until: int | None = None


async def availability(
    admission: Admission, ledger: Ledger, user_id: int, price: Money, limits: Limits
) -> Availability:
    """Look, without taking anything, whether one more video at `price` would be admitted."""
    # An id that no request has: the question is about the next one, whatever this user has under way.
    ask = AdmissionRequest(PAID_TOOL, f"outlook:{user_id}", user_id, price=price, limits=limits)
    decision = await admission.check(ask)
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        standing = await counting.current_usage(conn, user_id, price, limits, now)
    refusals: list[tuple[AdmissionVerdict, int | None]] = [
        (one.verdict, one.until) for one in standing.exceeded
    ]
    if decision.word not in ("admitted", "replay", "closed"):
        refusals.append((decision.word, decision.until))
    if not refusals:
        return Availability(now, standing, "closed" if decision.word == "closed" else "admitted")
    # The script names the first limit alone, and each must have ended: the longest wait is the true one.
    word, until = max(refusals, key=_refusal_rank)
    return Availability(now, standing, word, until)


def _refusal_rank(refusal: tuple[AdmissionVerdict, int | None]) -> tuple[bool, bool, int]:
    word, until = refusal
    return word == "breaker", until is None, until or 0
