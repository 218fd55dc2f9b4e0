"""The storm: people who do what people do, and weather. All that is left to chance comes from one seed.

The plan (who sends what, which fault comes after which) repeats with the seed. Which request a fault meets
does not: that depends on the machine, as it does outside.
"""

import asyncio
import random
import signal
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError
from storm_child import MOODS
from storm_stage import Stage
from storm_weather import Sky

from evals.environment import is_settled
from ledger.models import Request, Video
from sandbox.telegram.user import Person

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
