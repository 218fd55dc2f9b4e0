"""What the ledger and a collector that never answers add: reported, without a goal."""

from contextlib import AsyncExitStack
from pathlib import Path

from bench.instant_provider import PRICE
from bench.measure import ratio
from bench.results import Figure, Results, Size
from bench.stores import database, private_redis
from guardrails.limits import Limits
from guardrails.money import Money
from ledger import database as ledger_database
from ledger import orders
from ledger.database import Ledger
from ledger.models import VideoState
from ledger.orders import Order
from ledger.requests import NewRequest, open_request
from telemetry import tracing
from telemetry.exporter import OtlpSpanProcessor
from tests.support.app_harness import open_app_env
from tests.support.otlp import receiver

_LIMITS = Limits(
    quota=5, cooldown_s=600, user_budget=Money.parse("$15"), everyone_budget=Money.parse("$90000000")
)


async def run(folder: Path, results: Results, size: Size) -> None:
    """Measure every row that begins with `orders`."""
    turns, calls = (8, 20) if size == "short" else (20, 40)
    async with AsyncExitStack() as stack:
        ledger = Ledger(await stack.enter_async_context(database(folder)))
        stack.push_async_callback(ledger.close)
        await ledger_database.migrate(ledger)

        async def opened(kind: str, number: int) -> str:
            request = f"{kind}:{number}"
            user = 1000 + number
            await open_request(ledger, NewRequest(request, 1, user, 1, user, "en", "a market"))
            return request

        async def order(number: int) -> object:
            request = await opened("order", number)
            return await orders.place(ledger, _order(request), _LIMITS)

        async def again(_: int) -> object:
            return await orders.place(ledger, _order("order:0"), _LIMITS)

        await order(0)
        placed = await ratio(
            lambda number: order(number + 1000), lambda n: opened("bare", n + 1000), turns=turns, calls=calls
        )
        repeated = await ratio(again, lambda n: opened("again", n + 1000), turns=turns, calls=calls)
    results.figures["orders.place"] = Figure(placed.wall, f"{placed.wall:.2f}", placed.spread)
    results.figures["orders.repeat"] = Figure(repeated.wall, f"{repeated.wall:.2f}", repeated.spread)
    await _silent_collector(folder, results, turns=4 if size == "short" else 15)


def _order(request: str) -> Order:
    return Order(request, "local", "m", "a market", 8, "720x1280", PRICE)


async def _silent_collector(folder: Path, results: Results, turns: int) -> None:
    """Compare whole /create commands with a collector that never answers to the same without one."""
    changes = {"cooldown": None, "breaker": "{everyone: 1000/5m}", "budget": None}
    with private_redis(folder / "valkey") as redis_url:
        async with receiver() as collector, open_app_env(folder / "app", redis_url, changes=changes) as env:
            collector.hole = True
            hole = OtlpSpanProcessor(f"{collector.url}/v1/traces", {})

            async def create(user_id: int, *collectors: OtlpSpanProcessor) -> None:
                tracing.PIPELINE.collectors = collectors
                _, video = await env.create(user_id=user_id)
                assert video is not None
                assert video.state is VideoState.DELIVERED

            try:
                found = await ratio(
                    lambda n: create(5000 + n, hole), lambda n: create(9000 + n), turns=turns, calls=2
                )
            finally:
                tracing.PIPELINE.collectors = ()
                await hole.close(0.2)
    results.figures["orders.collector"] = Figure(found.wall, f"{found.wall:.2f}", found.spread)
