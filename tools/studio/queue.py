"""Wake-ups: docket carries them, the ledger remembers what they are for."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from docket import Docket
from redis.exceptions import RedisClusterException, RedisError

from telemetry.logs import get_logger

log = get_logger(__name__)

Task = Literal["direct", "shoot", "watch", "tell"]
TASKS: Final[tuple[Task, ...]] = ("direct", "shoot", "watch", "tell")
_ANSWER_S: Final = 2.0


class Queue:
    """Adds tasks keyed `{task}:{request_id}`, so that one that waits or runs is not added again.

    A wake-up that is lost is no harm: `sweep` finds the work in SQL and wakes again.
    """

    def __init__(self, docket: Docket) -> None:
        self._docket = docket

    async def wake(self, task: Task, request_id: str, after_s: float = 0) -> bool:
        """Ask for `task` to run for this request; False if the queue cannot be reached now."""
        when = datetime.now(UTC) + timedelta(seconds=after_s)
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._docket.add(task, when=when, key=f"{task}:{request_id}")(request_id)
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            log.warning(
                "wake-up is left to the next sweep", task=task, request=request_id, error=type(error).__name__
            )
            return False
        return True
