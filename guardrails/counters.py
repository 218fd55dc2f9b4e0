"""Admission's counters in Redis: their keys and scripts, and how they follow the durable orders.

The counters of one tool and one set of windows are a `CounterGroup`. `CounterSync.refresh` applies what
changed in the source since a position that is stored next to the counters; `CounterSync.rebuild` does the
same from the beginning of the longest window, after Redis was emptied. Both take pages, under a lock that
one process holds at a time. Every order has a version (scripts/sync.lua), so a page that is late or comes
twice changes nothing that is newer.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

from redis.exceptions import NoScriptError, RedisError

from .limits import EVERYONE, CountedOrder, Limits, user_of
from .protocols import CounterSource, PagePosition
from .redis_client import RedisClient

log = logging.getLogger(__name__)

KEY_VERSION: Final = 6
"""Goes up when the meaning of a key changes, so that two versions of this code do not share counters."""

EPOCH_TTL_S: Final = 3600
"""How long counters are complete without a refresh. The sweeper refreshes every minute."""

KEY_MARGIN_S: Final = 3600
"""How much longer a counter's key lives than the longest window that reads it."""

RESERVATION_GRACE_S: Final = 600
"""A reservation without an order is dropped when it is older than this; no agent run takes that long."""

LOCK_MS: Final = 2_000
"""A leader that has not renewed the lock for so long has lost it."""

PAGE: Final = 1000
"""Orders that are read from the source at a time."""

CHUNK: Final = 50
"""Orders that one script applies, so that it does not stop Redis for long."""

OVERLAP_S: Final = 180
"""How far a refresh reads behind its position: transactions do not commit in the order of their times.
Longer than a statement and a wait for a lock may take.
"""

_RENEW: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_POLL_S: Final = 0.05
_WAIT_S: Final = 30.0
_SCRIPTS: Final = Path(__file__).parent / "scripts"


class LeadLost(Exception):
    """Another process leads, or Redis was emptied or went back in time: nothing of this page was applied."""


@dataclass(frozen=True, slots=True)
class CounterKeys:
    """Names of the keys of one group. The request id comes last because it contains colons.

    Attributes:
        everyone: Hash: sums of all users, breaker, epoch, position of the leader. Lives as long as the
            longest window and `KEY_MARGIN_S` from its last write, as all of these keys do.
        pending: Sorted set user:request → ms: reservations without a known order.
        lock: String: the leader's token. Lives `LOCK_MS`.
    """

    base: str
    everyone: str
    pending: str
    lock: str

    def user(self, user_id: int) -> str:
        """Hash: sums of one user, breaker."""
        return f"{self.base}:user:{user_id}"

    def seen(self, request_id: str) -> str:
        """Hash: which call holds a request, what it added to the sums, the version of its order."""
        return f"{self.base}:seen:{request_id}"

    def of_scope(self, scope: str) -> str:
        """Return the hash of a breaker's scope."""
        return self.everyone if scope == EVERYONE else self.user(user_of(scope))


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """Names of the Redis keys of one installation.

    All share one hash tag, so that one script may use them on a cluster. `prefix` separates installations
    (and tests) that use one server. Counters are per tool: a free caption uses nothing of the video quota.
    The windows are part of the names: a changed declaration counts in keys of its own, from the ledger.
    """

    prefix: str = "onetake"

    def counters(self, tool: str, limits: Limits) -> CounterKeys:
        """Return the keys of the counters of a tool with these limits."""
        digest = sha256(repr(windows_of(limits)).encode()).hexdigest()[:8]
        base = f"{{{self.prefix}}}:{KEY_VERSION}:{tool}:{digest}"
        return CounterKeys(base, f"{base}:everyone", f"{base}:pending", f"{base}:lock")

    @property
    def health(self) -> str:
        """The key that health checks write."""
        return f"{{{self.prefix}}}:health"


def windows_of(limits: Limits) -> tuple[int, int, int, int]:
    """Return the windows of quota, cooldown, user's and everyone's budget in seconds; 0: no such limit."""
    return (
        0 if limits.quota is None else limits.quota_window_s,
        limits.cooldown_s or 0,
        0 if limits.user_budget is None else limits.user_window_s,
        0 if limits.everyone_budget is None else limits.everyone_window_s,
    )


@dataclass(frozen=True, slots=True)
class CounterGroup:
    """The counters of one tool and one set of windows; `durable` if the source keeps the tool's orders."""

    tool: str
    keys: CounterKeys
    windows: tuple[int, int, int, int]
    window_s: int
    durable: bool

    @property
    def keep_s(self) -> int:
        """Lifetime of the keys, from their last write."""
        return self.window_s + KEY_MARGIN_S


class Script:
    """One Lua script, run by its digest; sent whole where the server does not know it yet."""

    def __init__(self, redis: RedisClient, name: str, *, counts: bool = True) -> None:
        shared = (_SCRIPTS / "shared" / "counters.lua").read_text("utf-8") if counts else ""
        self.name = name
        self.text = shared + (_SCRIPTS / f"{name}.lua").read_text("utf-8")
        self._sha = sha1(self.text.encode()).hexdigest()  # noqa: S324 - Redis' own name of a script
        self._redis = redis

    async def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run the script. Where Redis answers NOSCRIPT, it has run nothing: then it is sent whole."""
        execute: Callable[..., Awaitable[Any]] = self._redis.execute_command
        try:
            return await execute("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return await execute("EVAL", self.text, len(keys), *keys, *args)


class CounterSync:
    """Makes the counters in Redis follow a source."""

    def __init__(self, redis: RedisClient, source: CounterSource) -> None:
        self._redis, self._source = redis, source
        self._left_behind: dict[str, _Leader] = {}
        self.sync_script = Script(redis, "sync")
        self.breakers_script = Script(redis, "breakers", counts=False)
        self.release_script = Script(redis, "release")

    async def refresh(self, group: CounterGroup, every_s: float = 0) -> None:
        """Apply what changed, or rebuild if Redis was emptied. One process at a time does it, others wait.

        With `every_s` nothing is done if it was done, by any process, in the last half of that time.
        """
        await self.copy_breakers(group)
        if await self._lead_unless(partial(self._is_recent, group, every_s), group) and group.durable:
            await self._source.drop_old_sums()  # not as the leader: no one waits for it

    async def rebuild(self, group: CounterGroup) -> None:
        """Make incomplete counters complete, or wait until the process that does so has finished."""
        await self.copy_breakers(group)
        await self._lead_unless(partial(self._is_complete, group), group)

    async def copy_breakers(self, group: CounterGroup) -> None:
        """Copy the breakers. Needs no leader: an older state never replaces a newer one."""
        # Those closed within twice the epoch's life: a lost refresh must not leave one open in Redis.
        found = await self._source.breakers(2 * EPOCH_TTL_S)
        for start in range(0, len(found), CHUNK):
            part = found[start : start + CHUNK]
            states = json.dumps([[int(one.is_open), one.changed_at] for one in part])
            await self.breakers_script(
                keys=[group.keys.of_scope(one.scope) for one in part],
                args=[self._source.clock_shift_s, EPOCH_TTL_S, group.keep_s, states],
            )

    async def release(
        self, group: CounterGroup, request_id: str, user_id: int, what: str, version: int, stale_ms: int = -1
    ) -> bool:
        """Run release.lua, which says what the arguments mean; return whether something was given back."""
        keys, shift_s = group.keys, self._source.clock_shift_s
        done = await self.release_script(
            keys=[keys.everyone, keys.seen(request_id), keys.user(user_id), keys.pending],
            args=[
                what, f"{user_id}:{request_id}", version, stale_ms, shift_s, *group.windows, group.keep_s
            ],
        )  # fmt: skip
        return bool(done)

    async def _is_recent(self, group: CounterGroup, every_s: float) -> bool:
        if not every_s:
            return False
        synced = await _maybe(self._redis.hget(group.keys.everyone, "synced"))
        return synced is not None and await self._source.now() < int(synced) + every_s * 500

    async def _is_complete(self, group: CounterGroup) -> bool:
        epoch = await _maybe(self._redis.hget(group.keys.everyone, "epoch"))
        return epoch is not None and await self._source.now() < int(epoch)

    async def _lead_unless(self, is_done: Callable[[], Awaitable[bool]], group: CounterGroup) -> bool:
        """Lead, or wait until it is done by another process; give up after `_WAIT_S` of waiting.

        Returns:
            Whether this call led.
        """
        until = time.monotonic() + _WAIT_S
        while not await is_done():
            with suppress(LeadLost):
                return await self._lead(group, is_done)
            if time.monotonic() > until:
                raise TimeoutError(f"another process leads the counters of {group.tool} and does not finish")
            await asyncio.sleep(_POLL_S)
        return False

    async def _lead(self, group: CounterGroup, is_done: Callable[[], Awaitable[bool]]) -> bool:
        """Take the lock and bring the counters to the source's state; False if they were there already.

        Raises:
            LeadLost: Another process has the lock, or took it meanwhile.
        """
        async with self._leader(group) as leader:
            if await is_done():  # by another process, between the question and the lock
                await leader.give_up()
                return False
            await leader.bring_up_to_date()
            return True

    @asynccontextmanager
    async def _leader(self, group: CounterGroup) -> AsyncIterator["_Leader"]:
        token, lock = uuid4().hex, group.keys.lock
        if (failed := self._left_behind.pop(lock, None)) is not None:
            with suppress(LeadLost):
                await failed.step((), mode="unlock")
        if not await self._redis.set(lock, token, nx=True, px=LOCK_MS):
            raise LeadLost
        leader = _Leader(
            self._redis, self._source, group, token, self.sync_script, partial(self.release, group)
        )
        renewal = asyncio.create_task(self._renew(lock, token))
        try:
            yield leader
        except BaseException:
            # A failed leader does not keep the others waiting. Where Redis does not answer, this process
            # unlocks before it leads again; for the others the lock expires.
            self._left_behind[lock] = leader
            with suppress(RedisError, OSError, TimeoutError, LeadLost):
                await leader.step((), mode="unlock")
                del self._left_behind[lock]
            raise
        finally:
            renewal.cancel()

    async def _renew(self, lock: str, token: str) -> None:
        """Keep the lock while a page is read: only a leader that is dead loses it."""
        while True:
            await asyncio.sleep(LOCK_MS / 4000)
            with suppress(RedisError, OSError, TimeoutError):
                await _maybe(self._redis.eval(_RENEW, 1, lock, token, LOCK_MS))


class _Leader:
    """Holds the lock, and moves the position that is stored next to the counters.

    A position is `window|BEGAN|AT|REQUEST` during a rebuild, and `changed|AT` after it.
    """

    def __init__(
        self,
        redis: RedisClient,
        source: CounterSource,
        group: CounterGroup,
        token: str,
        script: Script,
        release: Callable[..., Awaitable[bool]],
    ) -> None:
        self._redis, self._source, self._group = redis, source, group
        self._token, self._script, self._release = token, script, release
        self._position = ""

    async def bring_up_to_date(self) -> None:
        """Apply the window if it was not yet, then what changed, then drop stale reservations."""
        self._position = await _maybe(self._redis.hget(self._group.keys.everyone, "position")) or ""
        now = await self._source.now()
        if not self._group.durable:
            # The source keeps no orders of this tool, so nothing else ends its reservations.
            old = now - self._group.keep_s * 1000
            await _maybe(self._redis.zremrangebyscore(self._group.keys.pending, "-inf", old))
            await self.step((), f"changed|{now}", mode="finish")
            return
        if not self._position.startswith("changed|"):
            await self._apply_window(now)
        await self._apply_changes(now)
        await self._drop_stale_reservations(now)
        await self.step((), mode="finish")

    async def give_up(self) -> None:
        """Unlock without a change."""
        self._position = await _maybe(self._redis.hget(self._group.keys.everyone, "position")) or ""
        await self.step((), mode="unlock")

    async def _apply_window(self, now: int) -> None:
        """Apply every order of the longest window; a rebuild that another leader left is continued."""
        _, began, at, request_id = (
            self._position.split("|", 3)
            if self._position
            else ("window", str(now), str(now - self._group.keep_s * 1000), "")
        )
        after, count = PagePosition(int(at), request_id), 0
        read = partial(self._source.orders_since, self._group.tool)
        async with aclosing(_chunks(read, lambda one: one.at, after)) as chunks:
            async for chunk in chunks:
                last = chunk[-1]
                await self.step(chunk, f"window|{began}|{last.at}|{last.request_id}")
                count += len(chunk)
        await self.step((), f"changed|{began}")
        # With an empty ledger there was nothing to lose: a first start is no cause for concern.
        level = logging.WARNING if count else logging.INFO
        log.log(level, "counters rebuilt from the ledger", extra={"orders": count, "tool": self._group.tool})

    async def _apply_changes(self, now: int) -> None:
        done = int(self._position.partition("|")[2])
        after = PagePosition(max(done - OVERLAP_S * 1000, now - self._group.keep_s * 1000))
        read = partial(self._source.orders_changed_since, self._group.tool)
        async with aclosing(_chunks(read, lambda one: one.changed_at, after)) as chunks:
            async for chunk in chunks:
                done = max(done, chunk[-1].changed_at)
                await self.step(chunk, f"changed|{done}")
        await self.step((), f"changed|{max(done, now)}")

    async def _drop_stale_reservations(self, now: int) -> None:
        """Give back what is older than `RESERVATION_GRACE_S` and has no order, or only an offer."""
        stale, pending = now - RESERVATION_GRACE_S * 1000, self._group.keys.pending
        while members := await _maybe(self._redis.zrangebyscore(pending, "-inf", stale, start=0, num=CHUNK)):
            users = {request: int(user) for user, _, request in (one.partition(":") for one in members)}
            orders = await self._source.orders_of(self._group.tool, users.keys())
            for one in orders:
                if not (one.counts or one.cools):  # a tap that was confirmed here and never written
                    await self._release(one.request_id, one.user_id, "offer", one.version, stale)
            await self.step(orders)
            for request in users.keys() - {one.request_id for one in orders}:
                await self._release(request, users[request], "all", -1, stale)

    async def step(
        self,
        orders: Sequence[CountedOrder],
        after: str | None = None,
        mode: Literal["page", "finish", "unlock"] = "page",
    ) -> None:
        """Apply one chunk and move to a position.

        Raises:
            LeadLost: The lock or the position is not this leader's any more; nothing was applied.
        """
        keys, after = self._group.keys, self._position if after is None else after
        users = {user: n for n, user in enumerate(dict.fromkeys(one.user_id for one in orders), start=1)}
        rows = [
            [f"{one.user_id}:{one.request_id}", users[one.user_id], one.at, one.micros, int(one.counts),
             int(one.cools), one.version]
            for one in orders
        ]  # fmt: skip
        done = await self._script(
            keys=[
                keys.everyone, keys.pending, keys.lock, *(keys.seen(one.request_id) for one in orders),
                *map(keys.user, users),
            ],
            args=[
                mode, self._token, LOCK_MS, self._position, after, self._source.clock_shift_s,
                *self._group.windows, self._group.keep_s, EPOCH_TTL_S, json.dumps(rows),
            ],
        )  # fmt: skip
        if not done:
            raise LeadLost
        self._position = after


async def _chunks(
    read: Callable[[PagePosition, int], Awaitable[Sequence[CountedOrder]]],
    time_of: Callable[[CountedOrder], int],
    after: PagePosition,
) -> AsyncGenerator[Sequence[CountedOrder], None]:
    """Yield all orders after a position in chunks; the next page is read while one is applied."""
    reading = asyncio.ensure_future(read(after, PAGE))
    try:
        while page := await reading:
            after = PagePosition(time_of(page[-1]), page[-1].request_id)
            reading = asyncio.ensure_future(read(after, PAGE))
            for start in range(0, len(page), CHUNK):
                yield page[start : start + CHUNK]
    finally:
        if not reading.cancel() and not reading.cancelled():
            reading.exception()  # the page is not needed any more


async def _maybe(answer: Any) -> Any:
    """Await an answer that redis-py's types call a value or an awaitable."""
    return await answer
