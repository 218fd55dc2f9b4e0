"""What admission's counters hold, read from Redis; each sum must equal its buckets."""

import re
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from guardrails.admission import Admission, RedisKeys
from guardrails.limits import Limits
from tests.support.factories import LIMITS, PAID_TOOL


@dataclass(frozen=True)
class Held:
    """Orders that count toward the quota, and toward the cooldown; micro-dollars."""

    takes: int = 0
    starts: int = 0
    micros: int = 0


async def held(
    redis: Redis,
    user_id: int | None,
    limits: Limits = LIMITS,
    keys: RedisKeys | None = None,
    tool: str = PAID_TOOL,
) -> Held:
    """Return what the counters of a user hold, or those of everyone (None)."""
    names = (keys or RedisKeys()).counters(tool, limits)
    return await _read(redis, names.everyone if user_id is None else names.user(user_id))


async def held_by(admission: Admission, user_id: int | None) -> Held:
    """As `held`, for the limits with which an admission was opened, in its own Redis."""
    names = admission._known_groups(admission.paid_tool)[0].keys
    return await _read(admission._redis, names.everyone if user_id is None else names.user(user_id))


async def _read(redis: Any, key: str) -> Held:
    fields: dict[str, Any] = await redis.hgetall(key)
    found = {}
    for name in "tcm":
        buckets = {
            int(field[1:]): int(value)
            for field, value in fields.items()
            if re.fullmatch(rf"{name}\d+", field)
        }
        found[name] = sum(buckets.values())
        assert int(fields.get(f"{name}s", 0)) == found[name], f"the sum {name} is not that of its buckets"
        if buckets:
            assert int(fields[f"{name}o"]) <= min(buckets)
            assert int(fields[f"{name}l"]) == max(buckets)
    return Held(found["t"], found["c"], found["m"])


async def is_complete(redis: Redis, limits: Limits = LIMITS, tool: str = PAID_TOOL) -> bool:
    """Return whether the counters have an epoch."""
    return bool(await redis.hexists(RedisKeys().counters(tool, limits).everyone, "epoch"))
