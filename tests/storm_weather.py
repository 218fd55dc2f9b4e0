"""The storm's weather: what happens to stores, workers, Telegram and the provider's files meanwhile."""

import asyncio
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
from redis.exceptions import RedisError
from storm_stage import Stage

from sandbox.telegram.faults import Fault

TELEGRAM = (
    ("sendMessage", "lost answer", Fault.lost_answer()),
    ("sendMessage", "429", Fault.throttled(1)),
    ("sendMessage", "500", Fault.server_error()),
    ("sendMessage", "hang", Fault.hang()),
    ("editMessageText", "lost answer", Fault.lost_answer("502")),
    ("editMessageText", "429", Fault.throttled(1)),
    ("editMessageText", "drop", Fault.drop()),
    ("editMessageMedia", "lost answer", Fault.lost_answer()),
    ("editMessageMedia", "lost answer", Fault.lost_answer("hang")),
    ("editMessageMedia", "429", Fault.throttled(1)),
    ("editMessageMedia", "502", Fault.server_error(502)),
    ("editMessageMedia", "drop", Fault.drop()),
    ("editMessageMedia", "400", Fault.refused(400, "Bad Request: message can't be edited")),
    ("sendVideo", "lost answer", Fault.lost_answer()),
    ("getUpdates", "lost answer", Fault.lost_answer()),
    ("getUpdates", "502", Fault.server_error(502)),
)
WEATHER = {
    "redis cut": 2, "redis refuses": 2, "redis hangs": 2, "redis answer lost": 1, "redis answers lost": 1,
    "redis flushed": 3, "sql": 2, "worker killed": 5, "worker paused": 2, "worker asked to stop": 1,
    "clock": 3, "telegram": 14, "output": 3, "asset lost": 1,
}  # fmt: skip
"""Each round of the deck deals every card so often, in an order of its own."""


@dataclass
class Sky:
    """Deals faults to one stage, one after another, by one generator of chance.

    Attributes:
        tried: Faults by kind.
        tasks: What is under way; each ends by itself and leaves its part whole.
        gusty: Set while faults are dealt; cleared in a lull.
    """

    env: Stage
    chance: random.Random
    tried: Counter[str]
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    gusty: asyncio.Event = field(default_factory=asyncio.Event)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    def later(self, seconds: float, act: Awaitable[object]) -> None:
        async def do() -> None:
            await asyncio.sleep(seconds)
            await act

        task = asyncio.create_task(do())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def blow(self) -> None:
        acts: dict[str, Callable[[], Awaitable[None]]] = {
            "redis cut": self._cut, "redis refuses": lambda: self._redis("refuse", 0.8),
            "redis hangs": lambda: self._redis("hang", 1.2),
            "redis answer lost": lambda: self._redis("swallow once", 0.3),
            "redis answers lost": lambda: self._redis("swallow", 0.5), "redis flushed": self._flush,
            "sql": self._sql, "worker killed": self._kill, "worker paused": self._pause,
            "worker asked to stop": self._ask_to_stop, "clock": self._clock, "telegram": self._telegram,
            "output": self._output, "asset lost": self._lose_asset,
        }  # fmt: skip
        self.active.set()
        while True:
            deck = [name for name, count in WEATHER.items() for _ in range(count)]
            self.chance.shuffle(deck)
            for name in deck:
                await asyncio.sleep(self.chance.expovariate(2))
                await self.active.wait()
                self.later(0, acts[name]())

    @asynccontextmanager
    async def _alone(self, place: str) -> AsyncIterator[None]:
        """One thing at a time happens to one part; others go on beside it."""
        async with self._locks.setdefault(place, asyncio.Lock()):
            yield

    async def _cut(self) -> None:
        self.tried["redis cut"] += 1
        self.env.proxy.cut()

    async def _redis(self, mode: str, most_s: float) -> None:
        proxy, lasts = self.env.proxy, self.chance.uniform(0.1, most_s)
        async with self._alone("redis"):
            self.tried[f"redis {mode}"] += 1
            proxy.mode = mode
            if mode == "refuse":
                proxy.cut()
            try:
                await asyncio.sleep(lasts)
            finally:
                # What was swallowed never comes: a network that loses bytes ends the connection too. (One
                # that stays open after that would strand a docket worker, which reads without a timeout.)
                proxy.mode = "pass"
                proxy.cut()

    async def _flush(self) -> None:
        self.tried["redis flushed"] += 1
        try:
            await self.env.redis.flushall()
        except (RedisError, OSError):
            self.tried["redis flushed"] -= 1

    async def _sql(self) -> None:
        lasts = self.chance.uniform(0.2, 2)
        async with self._alone("sql"):
            if self.env.ledger.dialect == "sqlite":
                self.tried["sql locked"] += 1
                await asyncio.to_thread(_hold_lock, self.env.ledger.url.database or "", lasts)
            else:
                self.tried["sql connections ended"] += 1
                url = self.env.ledger.url.set(drivername="postgresql")
                await _end_connections(url.render_as_string(hide_password=False))

    async def _kill(self) -> None:
        hands = self.env.pool.workers
        hand = hands[self.chance.randrange(len(hands))]
        self.env.pool.send(hand, signal.SIGKILL, "killed")

    async def _ask_to_stop(self) -> None:
        hands = self.env.pool.workers
        hand = hands[self.chance.randrange(len(hands))]
        self.env.pool.send(hand, signal.SIGTERM, "stopped")

    async def _pause(self) -> None:
        hands, lasts = self.env.pool.workers, self.chance.uniform(0.3, 3)
        hand = hands[self.chance.randrange(len(hands))]
        self.tried["worker paused"] += 1
        self.env.pool.send(hand, signal.SIGSTOP)
        try:
            await asyncio.sleep(lasts)
        finally:
            self.env.pool.send(hand, signal.SIGCONT)

    async def _clock(self) -> None:
        jump = self.chance.choice((-2, -1, 2, 5, 15, 40))
        self.tried[f"clock {'forward' if jump > 0 else 'back'}"] += 1
        self.env.set_clock(max(0, self.env.clock_file.shift + jump))

    async def _telegram(self) -> None:
        method, word, fault = self.chance.choice(TELEGRAM)
        self.tried[f"telegram: {word} of {method}"] += 1
        self.env.api.fail(method, fault)
        if fault.how == "hang":
            await asyncio.sleep(self.chance.uniform(0.5, 2))
            self.env.api.world.faults.release()

    async def _output(self) -> None:
        content, lasts = self.chance.choice(("503", "cut", "html", "empty")), self.chance.uniform(0.1, 0.6)
        async with self._alone("output"):
            self.tried[f"output: {content}"] += 1
            self.env.fake_provider.content = content
            try:
                await asyncio.sleep(lasts)
            finally:
                self.env.fake_provider.content = "video"

    async def _lose_asset(self) -> None:
        made = sorted((self.env.folder / "var" / "media").glob("*.mp4"))
        if made:
            self.tried["asset lost"] += 1
            self.chance.choice(made).unlink(missing_ok=True)


def _hold_lock(path: str, seconds: float) -> None:
    """Hold SQLite's write lock from outside, as a backup or a person with a shell does."""
    with sqlite3.connect(path, isolation_level=None, timeout=5) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return
        time.sleep(seconds)
        db.execute("ROLLBACK")
    db.close()


async def _end_connections(url: str) -> None:
    conn = await asyncpg.connect(url)
    try:
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await conn.close()
