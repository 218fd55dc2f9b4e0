"""Where the storm happens: real stores, a real Bot API, a provider with its books, and workers that die.

Everything that must outlive a worker stands in this process; the house stands in children alone.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import select

from evals.environment import write_agent_specs
from guardrails.redis_client import connect
from ledger import database
from ledger.database import Ledger
from ledger.models import Request, Video
from ledger.schema import requests, videos
from sandbox.proxy import Proxy
from sandbox.telegram.server import BotApiServer
from sandbox.video_api.openai import FakeProvider
from tests.chaos.soak_worker import StormOrders, Troupe, Weather
from tests.support import services

PREFIX = "storm"
LIMITS: Mapping[str, str | None] = {
    "quota": "10/day",
    "cooldown": None,
    "breaker": "{everyone: 100000/5m}",
    "budget": "{user: $10/day, everyone: $1000000/day}",
}
"""Lifted until a usual person may order what they like, and a greedy one still meets quota and budget."""

QUOTA = 10
# Half the slack is what a worker may take from its look to its POST: under load it else sends nothing.
PACE = {"run_s": 6, "slack_s": 6, "refresh_s": 2}
QUICK = {"submit_timeout_s": 1.5, "poll_s": 0.05, "grace_s": 0.1, "settle_s": 6.0, "absent_gap_s": 0.5}


@dataclass(frozen=True)
class Kind:
    """What the provider documents: who may be asked again under the same key, and who can list."""

    shape: str
    fake_provider: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Mapping[str, Any] = field(default_factory=dict)


_BILLS = {"bills_failed": True, "bills_moderated": True}
KINDS: Mapping[str, Kind] = {
    "keyed": Kind("inworld"),
    "listable": Kind("openai", _BILLS),
    "blind": Kind("openai", {**_BILLS, "listing": False}, {"listing": False}),
}


@dataclass
class Stage:
    """Everything that outlives the workers. The clock of the stores is `weather`'s."""

    folder: Path
    kind: str
    api: BotApiServer
    fake_provider: FakeProvider
    proxy: Proxy
    redis: Redis
    ledger: Ledger
    weather: Weather
    troupe: Troupe
    keeper: "asyncio.Task[None]"

    def set_clock(self, shift: int) -> None:
        """Move the one clock: of SQL, of Redis (scripts are given the shift) and of the provider."""
        self.clock_file.shift, self.ledger.shift, self.fake_provider.clock_s = shift, shift, shift
        self.clock_file.write()

    async def standing(self) -> list[tuple[Request, Video | None]]:
        """Return how every request stands, all at one moment."""
        async with self.ledger.read() as conn:
            made = {row.request_id: Video.from_row(row) for row in await conn.execute(select(videos))}
            rows = await conn.execute(select(requests).order_by(requests.c.created_at))
            return [(Request.from_row(row), made.get(row.request_id)) for row in rows]


def open_database(folder: Path, which: str, stack: AsyncExitStack) -> str:
    if which == "sqlite":
        return f"sqlite:///{folder}/ledger.db"
    # Its context makes and drops the database with a loop of its own, which needs a thread of its own.
    context = services.database()
    made = _in_thread(context.__enter__)
    stack.callback(_in_thread, lambda: context.__exit__(None, None, None))
    return made


def _in_thread(function: Any) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@asynccontextmanager
async def open_stage(
    folder: Path, kind: str, *, dialect: str, workers: int, chance: random.Random, sabotage: str | None
) -> AsyncIterator[Stage]:
    """Open stores, Telegram and provider, start the workers, and end all of them afterwards."""
    what = KINDS[kind]
    (folder / "valkey").mkdir()
    async with AsyncExitStack() as stack:
        server = services.start(folder / "valkey")
        stack.callback(server.stop)
        url = open_database(folder, dialect, stack)
        proxy = await stack.enter_async_context(Proxy("127.0.0.1", server.port))
        fake_provider = await stack.enter_async_context(
            FakeProvider(folder / "peer", shape=what.shape, **what.fake_provider)
        )
        api = await stack.enter_async_context(BotApiServer(clock_scale=60, media_dir=folder / "telegram"))
        ledger = Ledger(url)
        stack.push_async_callback(ledger.close)
        await database.migrate(ledger)
        redis = connect(server.connection_url)
        stack.push_async_callback(redis.aclose)
        weather = Weather(folder / "weather.json")
        weather.write()
        orders = StormOrders(
            settings={
                "telegram_bot_token": api.token,
                "telegram_api_url": api.base_url,
                "redis_url": f"redis://127.0.0.1:{proxy.port}/0",
                "database_url": url,
                "key_prefix": PREFIX,
                "var_dir": folder / "var",
                "agents_dir": write_agent_specs(folder / "agents", **LIMITS),
            },
            provider={"base_url": fake_provider.base_url, "shape": what.shape},
            capabilities={**QUICK, **what.capabilities},
            timeouts=PACE,
            weather=weather.path,
            sabotage=sabotage,
        )
        pool = Troupe(orders, workers, chance)
        stack.callback(pool.end)
        keeper = asyncio.create_task(pool.keep())
        stack.push_async_callback(_cancel, keeper)
        yield Stage(folder, kind, api, fake_provider, proxy, redis, ledger, weather, pool, keeper)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
