"""Admission next to three libraries that do part of it, on the same Redis: new calls, CPU of this process.

Each comparison says what either side does. The libraries are in requirements-bench.txt; one that is not
installed is named in its row.
"""

import asyncio
import logging
import os
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

from redis import Redis as SyncRedis

from bench.admission import guarded
from bench.measure import Ratio, Work, ratio
from bench.results import Figure, Results, Size
from bench.stores import private_redis

Build = Callable[[str], Awaitable[Work]]


async def run(folder: Path, results: Results, size: Size) -> None:
    """Measure every row that begins with `libraries`."""
    short = size == "short"
    # Powertools logs a warning outside of AWS Lambda, idemkit one without a scope.
    logging.getLogger("idemkit").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    for name, (build, note) in _PEERS.items():
        with private_redis(folder / name) as url:
            try:
                theirs = await build(url)
            except ImportError as error:
                missing = f"{error.name or error} is not installed (requirements-bench.txt)"
                results.figures[f"libraries.{name}"] = Figure(note=missing)
                continue
            async with guarded(url, folder / f"ledger-{name}") as ours:
                found = await ratio(
                    lambda _, ours=ours: ours.take(), theirs, turns=10 if short else 40, calls=40
                )
        results.figures[f"libraries.{name}"] = _figure(found, note)


def _figure(found: Ratio, note: str) -> Figure:
    more = f"{found.ours_cpu_us:.0f} µs against {found.theirs_cpu_us:.0f} µs of CPU, wall {found.wall:.2f}"
    return Figure(found.cpu, f"{found.cpu:.2f}", f"wall {found.spread}", f"{more}; {note}")


async def _limits(url: str) -> Work:
    from limits import RateLimitItemPerDay, RateLimitItemPerMinute
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import MovingWindowRateLimiter

    limiter = MovingWindowRateLimiter(RedisStorage(f"async+{url}", implementation="redispy"))
    quota, cooldown = RateLimitItemPerDay(10**6), RateLimitItemPerMinute(10**6, 10)
    user_budget, everyone = RateLimitItemPerDay(10**7), RateLimitItemPerDay(10**8)

    async def call(number: int) -> object:
        user = f"user-{number}"
        return [
            await limiter.hit(quota, "quota", user),
            await limiter.hit(cooldown, "cooldown", user),
            await limiter.hit(user_budget, "budget", user),
            await limiter.hit(everyone, "everyone"),
        ]

    assert await call(-1_000_000) == [True] * 4
    return call


async def _idemkit(url: str) -> Work:
    from idemkit import MethodConfig, RedisBackend, idempotent

    backend = RedisBackend.from_url(url)

    @idempotent(
        backend=backend, config=MethodConfig(key_fields=["request_id"], scope=lambda *_, **__: "bench")
    )
    async def call_tool(*, request_id: str) -> str:
        return request_id

    async def call(number: int) -> object:
        return await call_tool(request_id=f"tg:1:-:1:{number}")

    assert await call(-1_000_000) == await call(-1_000_000)
    return call


async def _powertools(url: str) -> Work:
    os.environ.setdefault("POWERTOOLS_SERVICE_NAME", "bench")
    os.environ.setdefault("AWS_LAMBDA_FUNCTION_NAME", "bench")
    from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
    from aws_lambda_powertools.utilities.idempotency.persistence.cache import CachePersistenceLayer

    store = CachePersistenceLayer(client=SyncRedis.from_url(url, decode_responses=True))

    @idempotent_function(
        data_keyword_argument="order",
        persistence_store=store,
        config=IdempotencyConfig(expires_after_seconds=90_000),
    )
    def call_tool(*, order: dict[str, str]) -> dict[str, str]:
        return order

    async def call(number: int) -> object:
        order = {"request_id": f"tg:1:-:1:{number}"}
        return await asyncio.to_thread(call_tool, order=order)

    assert await call(-1_000_000) == await call(-1_000_000)
    return call


_LIMITS = (
    "ours: one call of a new user, all checks and the reservation in one script; theirs: four `hit`s of "
    "asyncio moving windows (quota, cooldown and budget of the user, budget of everyone), not atomic together"
)
_IDEMKIT = (
    "ours: seen-set, limits and reservation, the result is the ledger's; theirs: claim, an empty body, "
    "completion with its result, without limits"
)
_POWERTOOLS = (
    "ours: as before; theirs: `idempotent_function` with its cache persistence, in a thread because it is "
    "synchronous and an agent runs in an event loop: record in progress, an empty body, record of the "
    "result, without limits"
)
_PEERS: dict[str, tuple[Build, str]] = {
    "limits": (_limits, _LIMITS),
    "idemkit": (_idemkit, _IDEMKIT),
    "powertools": (_powertools, _POWERTOOLS),
}
