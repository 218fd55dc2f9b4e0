"""How many messages of one person that cost nothing are answered in words within a minute.

Counted in Redis, whose clock ends the minute, so that all replicas count together. What orders a video or
stops one is never counted. Without Redis nothing is limited.
"""

import asyncio
import math
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from guardrails.redis_client import RedisClient
from telemetry.logs import get_logger

log = get_logger(__name__)

MOST_FREE: Final = 20
_WITHIN_MS: Final = 60_000
_KEPT: Final = 200
"""Messages that are told apart within a minute; beyond them one more changes nothing."""

_TIMEOUT_S: Final = 1.0

# A message keeps its number when it is delivered again. The minute begins with the first message.
# KEYS: 1 the person's messages. ARGV: 1 the message, 2 milliseconds, 3 how many are told apart.
# Returns: its number, and in how many milliseconds the minute ends.
_COUNT: Final = """
local nth = redis.call('HGET', KEYS[1], ARGV[1])
if not nth then
  nth = redis.call('HLEN', KEYS[1]) + 1
  if nth <= tonumber(ARGV[3]) then redis.call('HSET', KEYS[1], ARGV[1], nth) end
  if nth == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
end
return {tonumber(nth), redis.call('PTTL', KEYS[1])}
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """The nth message of a person's minute, which ends in `wait_s` seconds."""

    nth: int
    wait_s: int

    @property
    def is_answered(self) -> bool:
        """Whether it is answered as usual."""
        return self.nth <= MOST_FREE

    @property
    def is_first_over(self) -> bool:
        """Whether it is the one that is told to slow down."""
        return self.nth == MOST_FREE + 1


class FreeLimit:
    """Counts free messages of each person.

    Args:
        redis: A client with short timeouts.
        prefix: Of the keys; separates installations that share a server.
        bot_id: Each bot counts for itself.
    """

    def __init__(self, redis: RedisClient, prefix: str, bot_id: int) -> None:
        self._redis: Any = redis
        self._prefix = f"{{{prefix}}}:chat:v1:{bot_id}:free"

    async def count(self, user_id: int, message: str) -> Counted:
        """Count a message by its id; the same id is counted once."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                nth, left_ms = await self._redis.eval(
                    _COUNT, 1, f"{self._prefix}:{user_id}", message, _WITHIN_MS, _KEPT
                )
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("free messages not counted", error=type(error).__name__)
            return Counted(1, 0)
        return Counted(int(nth), max(1, math.ceil(int(left_ms) / 1000)))
