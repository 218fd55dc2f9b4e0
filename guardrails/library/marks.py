"""The fast layer in Redis: which generation of a claim was started, and recorded results.

A mark is written after the claim and before the body, once for each generation. If it is there already, the
SQL store has forgotten something (it was restored from an old copy), and the call's outcome is unknown. Marks
decide nothing else: a lost one allows nothing, because the SQL store has the claim.
"""

import asyncio
import json
import time
from dataclasses import replace
from typing import Any, Final, cast

from redis.exceptions import RedisError

from ..redis_client import RedisClient, connect
from .claims import Claim

KEEP_S: Final = 31 * 24 * 3600
"""How long marks and results are kept: longer than the longest window."""

START_S: Final = 2.0
"""For how long a mark that was not answered is asked for again."""

_PAUSE_S: Final = 0.1


class Marks:
    """Marks and results of one namespace."""

    def __init__(self, redis: RedisClient, namespace: str, *, is_ours: bool) -> None:
        self._redis, self._is_ours = redis, is_ours
        self._prefix = f"{{onetake-guard:{namespace}}}"

    async def recorded(self, ask: Claim) -> Claim | None:
        """Return a call's claim with its recorded result; None without one."""
        found = await cast("Any", self._redis.get(self._result(ask.key)))
        if found is None:
            return None
        digest, result = json.loads(found)
        return replace(ask, state="done", digest=digest, result=result)

    async def start(self, claim: Claim) -> bool:
        """Mark that this generation starts; False: another call has started it before.

        It may be repeated, because the mark has its owner's name: an answer that was lost, or came late on a
        busy machine, refuses nothing.

        Raises:
            RedisError: Redis cannot be asked for `START_S`; then nothing may start.
        """
        name, until = f"{self._prefix}:start:{claim.key}:{claim.generation}", time.monotonic() + START_S
        while True:
            try:
                before = await self._redis.set(name, claim.owner, nx=True, get=True, ex=KEEP_S)
            except (RedisError, OSError, TimeoutError):
                if time.monotonic() >= until:
                    raise
                await asyncio.sleep(_PAUSE_S)
            else:
                return before is None or _text(before) == claim.owner

    async def record(self, claim: Claim, result: str) -> None:
        """Keep the result of a claim, JSON."""
        await self._redis.set(self._result(claim.key), json.dumps([claim.digest, result]), ex=KEEP_S)

    async def close(self) -> None:
        """Close the connections, unless the host opened them."""
        if self._is_ours:
            await self._redis.aclose()

    def _result(self, key: str) -> str:
        return f"{self._prefix}:result:{key}"


def _text(found: Any) -> Any:
    """Return what a host's client found, which may not decode."""
    return found.decode() if isinstance(found, bytes) else found


def open_marks(redis: "RedisClient | str", namespace: str) -> Marks:
    """Return marks over a client, or over one that is opened for a URL."""
    if isinstance(redis, str):
        return Marks(connect(redis), namespace, is_ours=True)
    return Marks(redis, namespace, is_ours=False)
