"""The second witness of every send: a key in Redis for each order and number of its submit.

The first witness is the committed SUBMITTING in SQL. A ledger that was restored from a backup, or failed over
to a replica that lacks the last commits, has forgotten what it sent: it would send again. The keys here
outlive that, so such an order is asked about before it is sent.

The other way round, an emptied Redis has no witness: then SQL stands alone, as durable as it is.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from guardrails.redis_client import RedisClient

KEPT_S: Final = 30 * 86_400
"""How long a send is remembered. An order expires after half an hour, so an older ledger sends none of it;
where a lost send of it is remembered, it is asked about (`worker.submit`).
"""

_TIMEOUT_S: Final = 1.0
_NUMBERS: Final = 200
"""Numbers of later submits that are searched for: an order that lives half an hour begins fewer."""


class WitnessUnavailable(Exception):
    """Redis did not answer, so nothing may be sent."""


@dataclass(frozen=True, slots=True)
class Send:
    """A send that a witness remembers and the ledger does not.

    Attributes:
        number: The number of the submit: the latest that is remembered.
        first_at: When the order's first send began, on the store's clock in milliseconds.
        at: When this one began.
    """

    number: int
    first_at: int
    at: int


class Witness:
    """Remembers sends in Redis.

    Args:
        redis: A client with short timeouts that sends no command twice.
        prefix: Of the keys; separates installations that share a server.
    """

    def __init__(self, redis: RedisClient, prefix: str) -> None:
        self._redis: Any = redis
        self._prefix = prefix

    def key(self, request_id: str, number: int) -> str:
        """Return the key of one submit. It holds both times of `Send` and expires after `KEPT_S`."""
        return f"{{{self._prefix}}}:sent:v1:{request_id}:{number}"

    async def ready(self) -> bool:
        """Return whether Redis answers, before an order is begun for nothing."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._redis.ping()
        except (RedisError, OSError, TimeoutError):
            return False
        return True

    async def testify(self, request_id: str, send: Send) -> Send | None:
        """Remember that a submit begins; None if it is new.

        Returns:
            The latest submit from this number on that is remembered already: the ledger has lost it.

        Raises:
            WitnessUnavailable: Redis did not answer. It may remember the submit: the next has another number.
        """
        value = f"{send.first_at}:{send.at}"
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if await self._redis.set(self.key(request_id, send.number), value, nx=True, ex=KEPT_S):
                    return None
                numbers = range(send.number, send.number + _NUMBERS)
                found = await self._redis.mget([self.key(request_id, number) for number in numbers])
        except (RedisError, OSError, TimeoutError) as error:
            raise WitnessUnavailable(type(error).__name__) from error
        return _latest(send, numbers, found)

    async def recall(self, request_id: str, number: int) -> Send | None:
        """Return the latest submit from `number` on that is remembered.

        Raises:
            WitnessUnavailable: Redis did not answer.
        """
        numbers = range(number, number + _NUMBERS)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                found = await self._redis.mget([self.key(request_id, one) for one in numbers])
        except (RedisError, OSError, TimeoutError) as error:
            raise WitnessUnavailable(type(error).__name__) from error
        none = Send(0, sys.maxsize, 0)
        latest = _latest(none, numbers, found)
        return None if latest is none else latest


def _latest(send: Send, numbers: range, found: Sequence[str | bytes | None]) -> Send:
    latest = send
    for number, value in zip(numbers, found, strict=True):
        text = value.decode() if isinstance(value, bytes) else value or ""
        first, _, at = text.partition(":")
        if first.isdigit() and at.isdigit():
            latest = Send(number, min(int(first), latest.first_at), int(at))
    return latest
