"""Sessions that were logged out: shared by all replicas through Redis, and kept in this process."""

import hashlib
import time
from collections.abc import Callable
from typing import Final

from redis.exceptions import RedisError

from guardrails.redis_client import RedisClient
from telemetry.logs import get_logger

log = get_logger(__name__)

_MAX_KEPT: Final = 10_000
_AWAY: Final = (RedisError, OSError, TimeoutError)


class Revocations:
    """Which sessions have ended before their time.

    While Redis is unavailable, a session counts as revoked only where it was logged out: operators need the
    page most when a store is unavailable. The next checks of any session write what Redis does not know yet.

    Args:
        redis: Shared by the replicas; None keeps revocations in this process alone.
        prefix: Of the keys; separates installations that share a server.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, redis: RedisClient | None = None, prefix: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._redis, self._prefix, self._clock = redis, prefix, clock
        self._kept: dict[str, int] = {}
        self._unshared: set[str] = set()

    async def add(self, cookie: str, until_s: int) -> None:
        """End the session of this cookie, which would last until `until_s` (seconds since the epoch)."""
        now, name = self._clock(), self._key(cookie)
        if len(self._kept) >= _MAX_KEPT:
            self._kept = {key: until for key, until in self._kept.items() if until > now}
            self._unshared &= self._kept.keys()
        self._kept[name] = until_s
        await self._share(name)

    async def contain(self, cookie: str) -> bool:
        """Return whether the session of this cookie was ended."""
        name = self._key(cookie)
        if self._unshared:  # one at a time: each may cost a timeout
            await self._share(next(iter(self._unshared)))
        if name in self._kept:
            return True
        if self._redis is None:
            return False
        try:
            return bool(await self._redis.exists(name))
        except _AWAY as error:
            log.warning("logouts of other replicas not read", error=type(error).__name__)
            return False

    async def _share(self, name: str) -> None:
        if self._redis is None:
            return
        try:
            await self._redis.set(name, 1, exat=self._kept[name])
        except _AWAY as error:
            log.warning("logout not shared with other replicas", error=type(error).__name__)
            self._unshared.add(name)
        else:
            self._unshared.discard(name)

    def _key(self, cookie: str) -> str:
        return f"{{{self._prefix}}}:logout:v1:{hashlib.sha256(cookie.encode()).hexdigest()}"
