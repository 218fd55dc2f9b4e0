"""The storm: people who do what people do, and weather. All that is left to chance comes from one seed.

The plan (who sends what, which fault comes after which) repeats with the seed. Which request a fault meets
does not: that depends on the machine, as it does outside.
"""

import asyncio
import random
import signal
import sqlite3
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from evals.environment import is_settled
from ledger.models import Request, Video
from sandbox.telegram.faults import Fault
from sandbox.telegram.user import Person
from tests.chaos.soak_env import Stage
from tests.chaos.soak_worker import MOODS

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


MOST_OPEN = 60
"""Requests under way at once: the storm is bounded in load, it is no flood. So many end a gust."""

LULL_OPEN = 15
"""So few end a lull. Without lulls a long storm cuts Redis every two seconds for ever and ends little."""

LULL_S = 150.0
"""In so much fine weather everything ends. If not, the storm is over, and the judge names what stands."""

LOOKS_SHARE, LOOKS_S = 0.2, 1.0
"""Of the time, at most, goes into looking how everything stands (row by row, from SQL); but once a second."""

GUSTS_S = 15.0
"""So long, at most, it storms on after the last request."""

FIRST_USER = 1001
LANGUAGES = ("en", "es", "pt")
THINGS = ("a lighthouse", "a quiet market", "un faro", "uma praia", "a paper boat", "a red kite", "una plaza")
FAMOUS = "Mickey Mouse dances"

OUTCOMES = (
    "charge_drop", "charge_hang", "charge_500", "charge_cut", "charge_html", "charge_202_no_id", "drop",
    "500", "refuse_400", "refuse_policy", "refuse_401", "refuse_402", "throttle_429", "429",
)  # fmt: skip


@dataclass
class Storm:
    """One storm over one stage.

    Attributes:
        sent: The request ids that people's commands have, with what they asked for.
        tried: Faults by kind.
        standing: How everything stood when it was last looked at.
    """

    stage: Stage
    seed: int
    requests: int
    ends_at: float
    sent: dict[str, str] = field(default_factory=dict)
    tried: Counter[str] = field(default_factory=Counter)
    standing: list[tuple[Request, Video | None]] = field(default_factory=list)
    away: set[int] = field(default_factory=set)
    lulls: int = 0
    _refresh_at: float = 0

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        # Drawn apart, so that one thing more in one of them leaves the others as they were.
        self.people, sky, studio = (random.Random(chance.random()) for _ in range(3))
        self.faults = Sky(self.env, sky, self.tried)
        self.outcomes = [
            studio.choice(OUTCOMES) if studio.random() < 0.4 else "accept" for _ in range(self.requests * 3)
        ]
        self.fates = [
            studio.choice(("fail", "moderate")) if studio.random() < 0.12 else "video"
            for _ in range(self.requests * 2)
        ]

    @property
    def open(self) -> int:
        """Requests under way."""
        return len(self.sent) - sum(is_settled(*one) for one in self.all_requests)

    async def look(self) -> None:
        """See how everything stands; a ledger that is cut right now is looked at later."""
        began = time.monotonic()
        try:
            self.all_requests = await self.env.all_requests()
        except (SQLAlchemyError, OSError):
            return
        ended = time.monotonic()
        self._refresh_at = ended + min((ended - began) / LOOKS_SHARE, LOOKS_S)

    async def refresh_if_stale(self) -> None:
        """Look, unless the last look was just now."""
        if time.monotonic() >= self._refresh_at:
            await self.refresh()

    async def rage(self) -> None:
        """Send every request, in every weather, until all are sent or time is up."""
        self.env.fake_provider.outcomes = deque(self.outcomes)
        self.env.fake_provider.fates = deque(self.fates)
        weather = asyncio.create_task(self.faults.inject())
        try:
            await self._crowd()
            await self._last_gusts()
        finally:
            weather.cancel()
            await asyncio.gather(weather, *self.faults.tasks, return_exceptions=True)
            self._calm()

    async def _last_gusts(self) -> None:
        """Blow on until most of what was sent met the weather: a short storm is no mild one."""
        end = time.monotonic() + GUSTS_S
        while self.open > len(self.sent) // 4 and time.monotonic() < end:
            await self.refresh()
            await asyncio.sleep(0.1)

    def _calm(self) -> None:
        env = self.env
        env.proxy.mode = "pass"
        for name, planned, left in (
            ("provider", self.outcomes, env.fake_provider.outcomes),
            ("job", self.fates, env.fake_provider.fates),
        ):
            met = Counter(planned[: len(planned) - len(left)])
            self.tried.update({f"{name}: {word}": n for word, n in met.items()})
            left.clear()
        for harmless in ("provider: accept", "job: video"):
            self.tried.pop(harmless, None)
        env.fake_provider.content = "video"
        env.api.heal()
        env.pool.armed = env.clock_file.armed = False
        env.clock_file.write()
        for hand in env.pool.workers:
            env.pool.send(hand, signal.SIGCONT)

    async def back(self) -> None:
        """Whoever blocked the bot writes again."""
        for user_id in sorted(self.away):
            await self.person(user_id).send("/status")
        self.away.clear()

    def person(self, user_id: int) -> Person:
        return self.env.api.user(user_id, f"P{user_id}", language_code=LANGUAGES[user_id % 3])

    async def _crowd(self) -> None:
        crowd = max(6, self.requests // 3)
        greedy = 2 + crowd // 40
        while len(self.sent) < self.requests and time.monotonic() < self.ends_at:
            await asyncio.sleep(self.people.expovariate(10))
            await self.refresh_if_stale()
            if self.open >= MOST_OPEN:
                await self._lull()
            place = self.people.randrange(greedy if self.people.random() < 0.15 else crowd)
            await self._act(self.person(FIRST_USER + place))

    async def _lull(self) -> None:
        """The weather rests until most of what is under way has ended; nobody sends anything."""
        self.lulls += 1
        self.faults.active.clear()
        end = time.monotonic() + LULL_S
        while self.open > LULL_OPEN and time.monotonic() < self.ends_at:
            if time.monotonic() > end:
                self.ends_at = end
            await asyncio.sleep(0.1)
            await self.refresh_if_stale()
        self.faults.active.set()

    async def _act(self, person: Person) -> None:
        chance, number = self.people, len(self.sent)
        mood = "benign" if chance.random() < 0.4 else chance.choice(MOODS)
        what = FAMOUS if chance.random() < 0.04 else chance.choice(THINGS)
        idea = f"{what} number {number} {mood}"
        for _ in range(1 + (chance.random() < 0.08)):  # a double text is two requests
            bubble = await person.send(f"/create {idea}")
            self.sent[f"tg:{self.env.api.world.bot['id']}:-:{person.id}:{bubble.id}"] = idea
            update = person.last_update
            if update is not None and chance.random() < 0.25:
                self.faults.later(chance.random(), self._again(update.id, chance.randint(1, 3)))
        self.away.discard(person.id)
        for share, act in (
            (0.10, lambda: person.edit(bubble.id, f"/create {idea}, but better")),
            (0.05, lambda: person.forward(bubble)),
            (0.06, lambda: person.send("/cancel")),
            (0.03, lambda: person.send("and make it rain")),
            (0.03, lambda: self._leave(person)),
        ):
            if chance.random() < share:
                self.faults.later(chance.random(), act())

    async def _again(self, update_id: int, times: int) -> None:
        self.tried["update delivered again"] += times
        await self.env.api.redeliver(update_id, times)

    async def _leave(self, person: Person) -> None:
        self.tried["user blocked the bot"] += 1
        self.away.add(person.id)
        await person.block()
