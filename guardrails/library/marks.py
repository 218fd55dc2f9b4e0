"""The fast layer in Redis: which generation of a claim was started, and recorded results.

A mark is written after the claim and before the body, once for each generation. If it is there already, the
SQL store has forgotten something (it was restored from an old copy), and the call's outcome is unknown. Marks
decide nothing else: a lost one allows nothing, because the SQL store has the claim.
"""

import json
from dataclasses import replace
from typing import Any, Final, cast

from ..redis_client import RedisClient, connect
from .claims import Claim

KEEP_S: Final = 31 * 24 * 3600
"""How long marks and results are kept: longer than the longest window."""


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
        """Mark that this generation starts; False: it was started before.

        Raises:
            RedisError: Redis cannot be asked; then nothing may start.
        """
        name = f"{self._prefix}:start:{claim.key}:{claim.generation}"
        return bool(await self._redis.set(name, claim.owner, nx=True, ex=KEEP_S))

    async def record(self, claim: Claim, result: str) -> None:
        """Keep the result of a claim, JSON."""
        await self._redis.set(self._result(claim.key), json.dumps([claim.digest, result]), ex=KEEP_S)

    async def close(self) -> None:
        """Close the connections, unless the host opened them."""
        if self._is_ours:
            await self._redis.aclose()

    def _result(self, key: str) -> str:
        return f"{self._prefix}:result:{key}"


def open_marks(redis: "RedisClient | str", namespace: str) -> Marks:
    """Return marks over a client, or over one that is opened for a URL."""
    if isinstance(redis, str):
        return Marks(connect(redis), namespace, is_ours=True)
    return Marks(redis, namespace, is_ours=False)
