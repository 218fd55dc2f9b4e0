"""Admission against a script that returns at once, and against its own history."""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from redis.asyncio import Redis

from bench.history import Shape, fill
from bench.measure import Ratio, Work, percentile, ratio
from bench.results import Figure, Results, Size
from bench.stores import longest_script_ms, plain_client, private_redis
from guardrails.admission import Admission, AdmissionRequest, RedisKeys
from guardrails.limits import Limits
from guardrails.money import Money
from guardrails.redis_client import connect
from ledger import database
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from telemetry.tracing import TRACER_PROVIDER

TOOL: Final = "generate_video"
PRICE: Final = Money.parse("$0.80")
LIMITS: Final = Limits(
    quota=10**8, cooldown_s=0, user_budget=Money.parse("$90000000"), everyone_budget=Money.parse("$900000000")
)
"""Every check is made and none refuses."""

SIZES: Final[dict[Size, tuple[int, ...]]] = {
    "short": (1_000, 5_000),
    "usual": (1_000, 10_000, 100_000),
    "whole": (1_000, 10_000, 100_000, 1_000_000),
}
"""Orders in the window."""
GOAL_ORDERS: Final = 100_000
"""Orders for which the goal of a rebuild is stated."""

_NO_OP: Final = "return {'admitted', 0, 0, 0, '', 0}"
_NUMBERS: Final = itertools.count(1)


@dataclass
class Guarded:
    """An admission on its own key prefix and ledger, opened as the app does: the client is traced."""

    admission: Admission
    redis: Any
    ledger: Ledger
    prefix: str
    rebuilt_s: float

    def ask(self, user_id: int | None = None, request_id: str | None = None) -> AdmissionRequest:
        """Return a request of its own, by a new user unless one is given."""
        number = next(_NUMBERS)
        user = 10_000_000 + number if user_id is None else user_id
        # Of another bot than the histories' requests: none of them is asked for again.
        request = request_id or f"tg:2:-:{user}:{number}"
        return AdmissionRequest(TOOL, request, user, 1, "call_1", PRICE, LIMITS)

    async def take(self, user_id: int | None = None) -> str:
        """Reserve once; return the verdict."""
        return (await self.admission.reserve(self.ask(user_id))).word


@asynccontextmanager
async def guarded(url: str, folder: Path, orders: int = 0) -> AsyncIterator[Guarded]:
    """Open an admission whose counters hold so many orders of the last day, half of them user 1's.

    The counters are filled by the product's own rebuild, through a client that waits as long as it takes.
    """
    prefix = f"bench-{uuid4().hex[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(f"sqlite:///{folder / f'{prefix}.db'}")
    redis = connect(url, TRACER_PROVIDER)
    try:
        if orders:
            shape = Shape(
                orders / 0.95, users=max(10, orders // 10), first_user_percent=50, all_delivered=True
            )
            await fill(ledger, orders, shape)
        else:
            await database.migrate(ledger)
        async with plain_client(url) as slow:
            filling = Admission(slow, LedgerCounters(ledger), RedisKeys(prefix), LIMITS, TOOL)
            await filling.load()
            began = time.perf_counter()
            await filling.refresh()
            rebuilt_s = time.perf_counter() - began
        admission = Admission(redis, LedgerCounters(ledger), RedisKeys(prefix), LIMITS, TOOL)
        await admission.load()
        yield Guarded(admission, redis, ledger, prefix, rebuilt_s)
    finally:
        await redis.aclose()
        await ledger.close()


async def no_op(one: Guarded, plain: Redis) -> Work:
    """Return a call that sends what one reservation sends, to a script that returns at once.

    Keys and arguments are recorded from a real call, so they are right whatever the script takes.
    """
    sent: list[tuple[Any, ...]] = []
    execute = one.redis.execute_command

    async def record(*args: Any, **options: Any) -> Any:
        sent.append(args)
        return await execute(*args, **options)

    one.redis.execute_command = record
    try:
        assert await one.take() == "admitted"
    finally:
        one.redis.execute_command = execute
    _, _, count, *given = next(args for args in sent if str(args[0]).upper() == "EVALSHA")
    script = plain.register_script(_NO_OP)
    keys, arguments = given[: int(count)], given[int(count) :]
    await script(keys=keys, args=arguments)

    async def call(_: int) -> object:
        return await script(keys=keys, args=arguments)

    return call


async def run(folder: Path, results: Results, size: Size) -> None:
    """Measure every row that begins with `admission`."""
    short = size == "short"
    with private_redis(folder / "valkey") as url:
        async with AsyncExitStack() as stack:
            plain = await stack.enter_async_context(plain_client(url))
            one = await stack.enter_async_context(guarded(url, folder))
            await _one_at_a_time(one, plain, results, turns=15 if short else 40)
            await _many_at_once(one, plain, results, turns=6 if short else 20)
            await _latency_against_load(one, results, short=short)
        await _growth(url, folder, results, SIZES[size])


async def _one_at_a_time(one: Guarded, plain: Redis, results: Results, turns: int) -> None:
    bare = await no_op(one, plain)
    repeated = one.ask()
    await one.admission.reserve(repeated)
    again = AdmissionRequest(
        TOOL, repeated.request_id, repeated.user_id, 1, "call_2", PRICE, LIMITS
    )  # another call of the same attempt: a replay
    works: dict[str, tuple[str, Callable[[], Any]]] = {
        "take": ("admitted", lambda: one.admission.reserve(one.ask())),
        "check": ("admitted", lambda: one.admission.check(one.ask())),
        "replay": ("replay", lambda: one.admission.reserve(again)),
    }
    for name, (expected, work) in works.items():
        decision = await work()
        assert decision.word == expected, decision
        found = await ratio(lambda _, work=work: work(), bare, turns=turns, calls=40)
        results.figures[f"admission.{name}"] = figure(found)


def figure(found: Ratio, note: str = "") -> Figure:
    """Return the row of a ratio of wall times, with its CPU next to it."""
    more = f"CPU {found.cpu:.2f}; {found.ours_us:.0f} µs against {found.theirs_us:.0f} µs here"
    return Figure(found.wall, f"{found.wall:.2f}", found.spread, f"{more}; {note}" if note else more)


async def _many_at_once(one: Guarded, plain: Redis, results: Results, turns: int) -> None:
    bare = await no_op(one, plain)
    found = await ratio(lambda _: one.take(), bare, turns=turns, calls=4, at_once=50)
    results.figures["admission.fifty"] = figure(found)
    closed: list[int] = []
    for _ in range(3):
        words = await asyncio.gather(*(one.take() for _ in range(500)))
        closed.append(sum(word != "admitted" for word in words))
    results.figures["admission.closed"] = Figure(
        max(closed),
        str(max(closed)),
        f"{min(closed)} to {max(closed)}",
        "the worst of three times 500 at once",
    )


async def _latency_against_load(one: Guarded, results: Results, *, short: bool) -> None:
    """Record p50 and p99 of one call by how many are made at the same time."""
    points: list[dict[str, float]] = []
    for at_once in (1, 10, 50) if short else (1, 5, 10, 25, 50, 100, 200, 500):
        taken: list[float] = []

        async def call(taken: list[float] = taken) -> None:
            began = time.perf_counter()
            await one.take()
            taken.append(time.perf_counter() - began)

        for _ in range(max(3, 500 // at_once)):
            await asyncio.gather(*(call() for _ in range(at_once)))
        points.append(
            {
                "at_once": at_once,
                "p50_ms": statistics.median(taken) * 1e3,
                "p99_ms": percentile(taken, 0.99) * 1e3,
            }
        )
    results.series["latency_against_load"] = points


async def _growth(url: str, folder: Path, results: Results, sizes: tuple[int, ...]) -> None:
    """Compare a take with a history in the window with one without, at growing sizes."""
    points: list[dict[str, Any]] = []
    series = results.series["admission_against_history"] = points
    for size in sizes:
        points.append({"orders": size} | await _at_size(url, folder, size))
        if "failed" in points[-1]:
            break
    done = [point for point in series if "failed" not in point]
    note = "half of the orders in the window are the caller's own"
    if len(done) < len(series):
        note += f"; at {series[-1]['orders']:,} orders: {series[-1]['failed']}"
    if not done:
        results.figures["admission.growth"] = Figure(note=note, failed=True)
        return
    last = done[-1]
    worst = max(last["others"], last["own"])
    growth = f"others' orders ×{last['others']:.2f}, one's own too ×{last['own']:.2f}"
    note = f"at {last['orders']:,}: {growth}; {note}"
    failed = len(done) < len(series)
    results.figures["admission.growth"] = Figure(
        worst, f"×{worst:.2f} at {last['orders']:,}", last["spread"], note, failed
    )
    goal = next((point for point in done if point["orders"] == GOAL_ORDERS), last)
    results.figures["admission.rebuild"] = Figure(
        goal["rebuilt_s"], f"{goal['rebuilt_s']:.1f} at {goal['orders']:,}", "",
        ", ".join(f"{point['rebuilt_s']:.1f} s at {point['orders']:,}" for point in done),
    )  # fmt: skip
    results.figures["admission.stop"] = Figure(
        last["stop_ms"], f"{last['stop_ms']:.1f} at {last['orders']:,}", "",
        "takes, checks, a release, and a rebuild and a refresh of the counters",
    )  # fmt: skip


async def _at_size(url: str, folder: Path, size: int) -> dict[str, Any]:
    try:
        async with AsyncExitStack() as stack:
            empty = await stack.enter_async_context(guarded(url, folder / "empty"))
            plain = await stack.enter_async_context(plain_client(url))
            await plain.slowlog_reset()
            bytes_before = int((await plain.info("memory"))["used_memory"])
            full = await stack.enter_async_context(guarded(url, folder / "full", size))
            redis_bytes = (int((await plain.info("memory"))["used_memory"]) - bytes_before) / size
            others = await ratio(lambda _: full.take(), lambda _: empty.take(), turns=10, calls=20)
            own = await ratio(lambda _: full.take(1), lambda _: empty.take(1), turns=10, calls=20)
            words = {await full.take(), await full.take(1)}
            if words != {"admitted"}:
                return {"failed": f"verdicts {', '.join(sorted(words))}"}
            asked = full.ask(1)
            await full.admission.reserve(asked)
            await full.admission.release(TOOL, asked.request_id, 1, "unpaid")
            async with plain_client(url) as slow:
                again = Admission(slow, LedgerCounters(full.ledger), RedisKeys(full.prefix), LIMITS, TOOL)
                await again.refresh()
            stop_ms = await longest_script_ms(plain)
            await _remove(plain, full.prefix)
    except Exception as error:  # noqa: BLE001 - a size that cannot be reached is a figure too
        return {"failed": f"{type(error).__name__}: {str(error)[:120]}"}
    return {
        "others": others.wall, "own": own.wall, "spread": others.spread, "others_us": others.ours_us,
        "own_us": own.ours_us, "empty_us": others.theirs_us, "stop_ms": stop_ms, "rebuilt_s": full.rebuilt_s,
        "redis_bytes": redis_bytes,
    }  # fmt: skip


async def _remove(redis: Redis, prefix: str) -> None:
    async for key in redis.scan_iter(match=f"*{prefix}*", count=1000):
        await redis.unlink(key)
