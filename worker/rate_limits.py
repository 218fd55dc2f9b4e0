"""Rate limits shared by all processes: Telegram's, and polls per provider account.

`RateLimiter.take` runs scripts/take.lua, which takes one unit of several limits in one step, or none of any.
No library that we found does that: they ask one limit after the other, and what the first has taken is lost
when the second refuses.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from redis.exceptions import RedisError

from guardrails.redis_client import RedisClient
from telemetry.logs import get_logger
from telemetry.metrics import LOCAL_GRANTS

log = get_logger(__name__)

_MICROS: Final = 1_000_000
_DECISION_TIMEOUT_S: Final = 1.0
_CONCURRENT: Final = 16

LOCAL_S: Final = 2.0
"""After Redis failed, this process limits itself for so long before it asks Redis again."""

SHORTLY_S: Final = 5.0
"""If two limits are held (granted nothing of) within this time, the wider limit above them is exceeded."""

_MAX_LOCAL: Final = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `burst` units at once, then one every `every_s` seconds.

    Attributes:
        name: Names the limit in every process. Rates of one name must agree in `burst` and `every_s`.
        burst: Units that may be taken at once after a pause.
        every_s: Seconds in which one unit becomes free.
        keep: Units that must stay free after a take, for takes that are more urgent.
    """

    name: str
    burst: int
    every_s: float
    keep: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.keep < self.burst or self.every_us < 1:
            raise ValueError(f"{self} grants nothing: `keep` is below `burst`, `every_s` at least 0.000001")

    @property
    def every_us(self) -> int:
        return round(self.every_s * _MICROS)

    def most_in(self, seconds: float) -> int:
        """Return the most units that are granted in any span of so many seconds, its end excluded."""
        return self.burst + max(0, math.ceil(seconds * _MICROS / self.every_us) - 1)

    def arrival_after(self, seconds: float) -> int:
        """Return how many microseconds ahead the arrival time lies if the next unit is free in `seconds`."""
        return round(seconds * _MICROS) + (self.burst - 1) * self.every_us


class Grant(NamedTuple):
    """What a limiter decided.

    Attributes:
        units: Units taken; 0 if nothing was taken of any limit.
        wait_s: If nothing was taken: seconds until one unit may be free.
        limit: If nothing was taken: the name of the limit that has to be waited for longest.
    """

    units: int
    wait_s: float = 0
    limit: str = ""


class LocalLimiter:
    """The arithmetic of the scripts within one process, for times without Redis."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._arrivals: dict[str, int] = {}
        self._last_held: dict[str, tuple[str, int]] = {}

    def ask(self, rates: Sequence[Rate], most: int) -> Grant:
        now, units, slowest = self._now(), most, Grant(0)
        for rate in rates:
            every, arrival = rate.every_us, max(now, self._arrivals.get(rate.name, 0))
            free = now + (rate.burst - rate.keep) * every - arrival
            units = min(units, free // every)
            if every - free > slowest.wait_s * _MICROS:
                slowest = Grant(0, (every - free) / _MICROS, rate.name)
        if units < 1:
            return slowest
        for rate in rates:
            self._write(rate.name, max(now, self._arrivals.get(rate.name, 0)) + units * rate.every_us)
        return Grant(units)

    def hold(self, rate: Rate, seconds: float, wider: Rate) -> bool:
        now = self._now()
        last, until = self._last_held.get(wider.name, (rate.name, 0))
        several = last != rate.name and now < until
        self._last_held[wider.name] = (rate.name, now + round(SHORTLY_S * _MICROS))
        for held in (rate, wider) if several else (rate,):
            arrival = now + held.arrival_after(seconds)
            self._write(held.name, max(arrival, self._arrivals.get(held.name, 0)))
        return several

    def _now(self) -> int:
        return round(self._clock() * _MICROS)

    def _write(self, name: str, arrival: int) -> None:
        if len(self._arrivals) >= _MAX_LOCAL:
            now = self._now()
            self._arrivals = {known: at for known, at in self._arrivals.items() if at > now}
        self._arrivals[name] = arrival


class RateLimiter:
    """Rate limits of all processes of one installation, in Redis.

    It fails open: while Redis is unavailable each process keeps the same rates by itself, so that n processes
    may together reach n times a rate. That suits limits whose other side refuses what is too much (Telegram's
    429, a provider's), and no limit on money: those belong to admission.

    Args:
        redis: A client with short timeouts that sends no command twice (`guardrails.redis_client.connect`).
        prefix: Of the keys; separates installations that share a server.
    """

    def __init__(self, redis: RedisClient, prefix: str) -> None:
        scripts = Path(__file__).parent / "scripts"
        self._take: Any = redis.register_script((scripts / "take.lua").read_text("utf-8"))
        self._hold: Any = redis.register_script((scripts / "hold.lua").read_text("utf-8"))
        self._prefix = prefix
        self._slots = asyncio.Semaphore(_CONCURRENT)
        self._local = LocalLimiter()
        self._local_until = 0.0

    def key(self, name: str) -> str:
        """Return the key of a limit: a string, its arrival time. It expires when the whole burst is free.

        All keys share the installation's hash tag, so that one script may use them on a cluster.
        """
        return f"{{{self._prefix}}}:rate:v1:{name}"

    async def take(self, limits: Sequence[Rate]) -> float:
        """Take one unit of every limit; return 0, or the seconds to wait if nothing was taken of any."""
        return (await self.ask(limits)).wait_s

    async def take_up_to(self, rate: Rate, most: int) -> int:
        """Take as many units of `rate` as are free, at most `most`; return how many."""
        return (await self.ask([rate], most)).units if most > 0 else 0

    async def ask(self, limits: Sequence[Rate], most: int = 1) -> Grant:
        """Take up to `most` units, the same number of every limit, in one step.

        A lost answer may waste what was taken; it is not asked for again.
        """
        if time.monotonic() >= self._local_until:
            figures = [value for rate in limits for value in (rate.every_us, rate.burst, rate.keep)]
            try:
                # To wait for a slot of this process is not to wait for Redis.
                async with self._slots:
                    if time.monotonic() < self._local_until:  # Redis failed while this call waited
                        return self._ask_locally(limits, most)
                    async with asyncio.timeout(_DECISION_TIMEOUT_S):
                        units, wait_us, index = await self._take(
                            keys=[self.key(rate.name) for rate in limits], args=[most, *figures]
                        )
            except (RedisError, OSError, TimeoutError) as error:
                self._fail_open(error)
            else:
                _stay_cancelled()
                return Grant(units, wait_us / _MICROS, limits[index - 1].name if index else "")
        return self._ask_locally(limits, most)

    def _ask_locally(self, limits: Sequence[Rate], most: int) -> Grant:
        LOCAL_GRANTS.add()
        return self._local.ask(limits, most)

    async def hold(self, rate: Rate, seconds: float, *, wider: Rate) -> bool:
        """Grant nothing of `rate` for so many seconds, in any process.

        If another rate was held within `SHORTLY_S`, `wider` is held as well.

        Returns:
            Whether `wider` was held.
        """
        here = self._local.hold(rate, seconds, wider)
        keys = [self.key(rate.name), self.key(wider.name), self.key(f"{wider.name}:last_held")]
        ahead = [rate.arrival_after(seconds), wider.arrival_after(seconds), round(SHORTLY_S * 1000)]
        try:
            async with asyncio.timeout(_DECISION_TIMEOUT_S):
                return bool(await self._hold(keys=keys, args=ahead))
        except (RedisError, OSError, TimeoutError) as error:
            self._fail_open(error)
            return here

    def _fail_open(self, error: Exception) -> None:
        _stay_cancelled()
        log.warning("rate limits not shared", error=type(error).__name__)
        self._local_until = time.monotonic() + LOCAL_S


def _stay_cancelled() -> None:
    """Raise CancelledError if this task was cancelled: redis-py 8.1 may raise another error in its place."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
