"""Faults of a soak: of stores, workers, Telegram, clocks. What providers do is in `tests.chaos.soak`."""

import asyncio
import faulthandler
import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from unittest.mock import patch
from uuid import uuid4

import asyncpg
from agents.items import TResponseOutputItem
from redis.exceptions import RedisError
from sqlalchemy import URL

from app import processes
from app.application import App
from sandbox.behaviors import BEHAVIORS, Scene
from sandbox.model import SandboxModel
from sandbox.telegram.faults import Fault
from telemetry import failpoints
from tests.support.worker_process import SteppedLedger, WorkerConfig, WorkerProcess
from worker import submit

if TYPE_CHECKING:
    from tests.chaos.soak import Run

DOWN, FAILS_ONCE = "endpoint_down", "endpoint_fails_once"
MODEL_BEHAVIORS: tuple[str, ...] = (*BEHAVIORS, DOWN, FAILS_ONCE)
"""How the model may behave for one request: as the sandbox's, or as an endpoint that fails always or once."""

_CLOCK_S = 0.05
STEP_S = 300


@dataclass
class Control:
    """What all children read from the soak's file: they see one clock, as machines do that share a database.

    Attributes:
        shift: Seconds that the one clock is ahead; settings refuse one, so it is set past them.
        step: Seconds by which the clock of the ledger and of Redis is wrong beside it.
        account: Which account takes new orders.
        armed: Children may die at failpoints.
    """

    path: Path
    shift: int = 0
    step: int = 0
    account: int = 0
    armed: bool = True

    @property
    def ledger_shift(self) -> int:
        """Seconds that the ledger's clock is ahead of this machine's."""
        return self.shift + self.step

    def write(self) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({name: value for name, value in asdict(self).items() if name != "path"}))
        fresh.replace(self.path)

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(path, **json.loads(path.read_text()))


@dataclass(frozen=True)
class SoakConfig(WorkerConfig):
    """Config of one child.

    Attributes:
        control: The file that `Control` writes.
        dies_at: The failpoint at which it kills itself, and how often it passes there before.
        sabotage: The name of a fault from `SABOTAGES`.
    """

    control: Path = Path("control.json")
    dies_at: tuple[str, int] | None = None
    sabotage: str | None = None
    patient: bool = False

    def prepare(self) -> None:
        # docket waits 5 s after each lost connection: with a cut every few seconds no child would work.
        processes.Worker = partial(processes.Worker, reconnection_delay=timedelta(seconds=0.3))
        super().prepare()
        stacks = Path(self.settings["var_dir"]) / f"child-{os.getpid()}.stacks"
        faulthandler.register(signal.SIGUSR1, stacks.open("w"))
        if self.sabotage is not None:
            SABOTAGES[self.sabotage]()
        if self.dies_at is not None:
            failpoints.on_failpoint(self._killer(*self.dies_at))

    def _killer(self, where: str, passes: int) -> failpoints.FailpointListener:
        left = passes

        async def die(point: failpoints.Failpoint) -> None:
            nonlocal left
            if point == where and Control.read(self.control).armed:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return die

    def model(self) -> SandboxModel:
        return SoakModel()

    def background(self, app: App) -> list[Any]:
        return [*super().background(app), self._follow_clock(app)]

    async def _follow_clock(self, app: App) -> None:
        control = Control.read(self.control)
        seen: Any = SteppedLedger(app.ledger, lambda: control.step)
        app.worker.clocks._ledger = seen
        while True:
            control = Control.read(self.control)
            app.ledger.shift = control.ledger_shift
            await asyncio.sleep(_CLOCK_S)


class SoakModel(SandboxModel):
    """Behaves as the idea says, which holds the name of a behavior; otherwise benign."""

    def __init__(self) -> None:
        super().__init__(times=6)
        self._failed: set[str] = set()

    def _output(self, scene: Scene) -> list[TResponseOutputItem]:
        # One step without an await: another run of this process cannot change the behavior in between.
        name = next((word for word in MODEL_BEHAVIORS if f" {word}" in scene.idea), "benign")
        if name == DOWN or (name == FAILS_ONCE and scene.idea not in self._failed):
            self._failed.add(scene.idea)
            raise ConnectionError("the endpoint is down")
        self.behavior = next((one for one in BEHAVIORS if one == name), "benign")
        return super()._output(scene)


def _random_keys() -> None:
    """Give every submit a key of its own, as if it were not derived from the request."""
    patch("ledger.models.provider_key", lambda _: str(uuid4())).start()


def _resends() -> None:
    """Take an answer that never came for proof that nothing was charged."""

    async def requeue(ctx: Any, video: Any, fence: str, why: str) -> None:
        await submit._requeue(ctx, video, fence, why, 0.1)

    patch("worker.submit._mark_in_doubt", requeue).start()


def _silence() -> None:
    """Record that the user was notified without sending anything."""

    async def show(*_: object) -> None:
        """Return no message."""

    patch("chat.notifier.show_status", show).start()


SABOTAGES: Mapping[str, Callable[[], None]] = {
    "random keys": _random_keys,
    "resends": _resends,
    "silence": _silence,
}
"""Faults by which a test sees that the soak can fail: `patch` replaces one name, in the children alone."""


TELEGRAM_FAULTS = (
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


class FaultSchedule:
    """Injects faults one after another: in each round as many of each as `deck` says, in random order."""

    def __init__(self, run: "Run", chance: random.Random) -> None:
        self.run, self.env, self.chance = run, run.env, chance
        self.active = asyncio.Event()
        self.active.set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        redis = partial(partial, self._redis)
        self.deck: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (2, self._cut), (2, redis("refuse", 0.8)), (2, redis("hang", 1.2)),
            (1, redis("swallow once", 0.3)), (1, redis("swallow", 0.5)), (3, self._flush), (2, self._sql),
            (5, partial(self._signal, signal.SIGKILL, "killed")), (2, self._pause_worker),
            (1, partial(self._signal, signal.SIGTERM, "stopped")), (3, self._clock), (14, self._telegram),
            (3, self._download), (1, self._lose_file),
        ]  # fmt: skip
        self.first: list[Callable[[], Awaitable[None]]] = []
        """Each once at the beginning: how many faults there are depends on the machine."""
        if run.soak.rough:
            self.first += [self._step]
            if run.env.ledger.dialect == "postgresql":
                self.first += [self._read_only]
            self.deck += [(2, act) for act in self.first]

    def later(self, seconds: float, act: Awaitable[object]) -> None:
        async def do() -> None:
            await asyncio.sleep(seconds)
            await act

        task = asyncio.create_task(do())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def inject(self) -> None:
        for act in self.first:
            self.later(0, act())
        while True:
            round_ = [act for count, act in self.deck for _ in range(count)]
            self.chance.shuffle(round_)
            for act in round_:
                await asyncio.sleep(self.chance.expovariate(2))
                await self.active.wait()
                self.later(0, act())

    @asynccontextmanager
    async def _fault(
        self, name: str, place: str, most_s: float, undo: Callable[[], object]
    ) -> AsyncIterator[None]:
        """Let the fault of the block last a while, alone in its place; then undo it."""
        lasts = self.chance.uniform(0.1, most_s)
        async with self._locks.setdefault(place, asyncio.Lock()):
            self.run.faults[name] += 1
            try:
                yield
                await asyncio.sleep(lasts)
            finally:
                undo()

    async def _cut(self) -> None:
        self.run.faults["redis cut"] += 1
        self.run.proxy.cut()

    async def _redis(self, mode: Any, most_s: float) -> None:
        async with self._fault(f"redis {mode}", "redis", most_s, self._heal_redis):
            self.run.proxy.mode = mode
            if mode == "refuse":
                self.run.proxy.cut()

    def _heal_redis(self) -> None:
        """End the connections too, as a network does that loses bytes: docket reads without a timeout."""
        self.run.proxy.mode = "pass"
        self.run.proxy.cut()

    async def _flush(self) -> None:
        with suppress(RedisError, OSError):
            await self.run.redis.flushall()
            self.run.faults["redis flushed"] += 1

    async def _sql(self) -> None:
        url, sqlite = self.env.ledger.url, self.env.ledger.dialect == "sqlite"
        async with self._fault("sql locked" if sqlite else "sql connections ended", "sql", 0.2, lambda: None):
            if sqlite:
                await asyncio.to_thread(_hold_lock, url.database or "", self.chance.uniform(0.2, 2))
            else:
                await _end_connections(plain_url(url))

    def _any_worker(self) -> WorkerProcess:
        return self.run.pool.workers[self.chance.randrange(len(self.run.pool.workers))]

    async def _signal(self, number: signal.Signals, end: str) -> None:
        self.run.pool.send(self._any_worker(), number, end)

    async def _pause_worker(self) -> None:
        worker, send = self._any_worker(), self.run.pool.send
        async with self._fault(
            "worker paused", f"worker {worker.pid}", 3, partial(send, worker, signal.SIGCONT)
        ):
            send(worker, signal.SIGSTOP)

    async def _clock(self) -> None:
        jump = self.chance.choice((-2, -1, 2, 5, 15, 40))
        self.run.faults[f"clock {'forward' if jump > 0 else 'back'}"] += 1
        self.run.set_clock(max(0, self.run.control.shift + jump))

    async def _step(self) -> None:
        """Step the ledger's clock by five minutes and back, as a badly synchronized server does."""
        step = self.chance.choice((-STEP_S, STEP_S))
        async with self._fault(f"ledger's clock {step:+d} s", "step", 6, partial(self.run.step_clock, 0)):
            self.run.step_clock(step)

    async def _read_only(self) -> None:
        """Make the ledger answer reads and refuse writes, as a server that was demoted."""
        url = plain_url(self.env.ledger.url)
        try:
            async with self._fault("sql read-only", "sql", 3, lambda: None):
                await set_read_only(url, "on")
        finally:
            await set_read_only(url, "off")

    async def _telegram(self) -> None:
        method, word, fault = self.chance.choice(TELEGRAM_FAULTS)
        self.run.faults[f"telegram: {word} of {method}"] += 1
        self.env.api.fail(method, fault)
        if fault.how == "hang":
            await asyncio.sleep(self.chance.uniform(0.5, 2))
            self.env.api.world.faults.release()

    async def _download(self) -> None:
        content = self.chance.choice(("503", "cut", "html", "empty"))
        async with self._fault(f"output: {content}", "output", 0.6, partial(self._serve, "video")):
            self._serve(content)

    def _serve(self, content: Any) -> None:
        for one in self.run.providers:
            one.content = content

    async def _lose_file(self) -> None:
        if made := sorted((self.env.folder / "var" / "media").glob("*.mp4")):
            self.run.faults["file lost"] += 1
            self.chance.choice(made).unlink(missing_ok=True)


def _hold_lock(path: str, seconds: float) -> None:
    """Hold SQLite's write lock from outside, as a backup or a person with a shell does."""
    with sqlite3.connect(path, isolation_level=None, timeout=5) as db, suppress(sqlite3.OperationalError):
        db.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        db.execute("ROLLBACK")
    db.close()


def plain_url(url: URL) -> str:
    """Return the URL as asyncpg takes it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


async def set_read_only(url: str, word: str) -> None:
    """Set what new connections may do, and end the others, as a failover does."""
    conn = await asyncpg.connect(url, server_settings={"default_transaction_read_only": "off"})
    try:
        name = await conn.fetchval("SELECT quote_ident(current_database())")
        await conn.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {word}")
    finally:
        await conn.close()
    await _end_connections(url)


async def _end_connections(url: str) -> None:
    conn = await asyncpg.connect(url)
    try:
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await conn.close()
