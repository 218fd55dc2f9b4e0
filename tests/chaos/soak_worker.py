"""What a child of the storm does: the whole house, a clock that may jump, a death at a named point.

`Weather` is a file that the storm writes and every child reads: all processes see one clock, as machines do
that share a database, whatever that clock does. Settings refuse a shift; so it is set past them, here alone.
"""

import asyncio
import faulthandler
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from agents.items import TResponseOutputItem

import app.processes
from app.application import App, SandboxModelProvider, open_app
from app.processes import until_signal
from evals.environment import PRICES, QUICK_EDIT_LIMITS, QUICK_TIMEOUTS
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import DIALECTS
from providers.pricing import capabilities_of
from sandbox.behaviors import BEHAVIORS, Behavior, Scene
from sandbox.model import SandboxModel
from sandbox.video_api.server import FAKE_KEY
from telemetry import failpoints
from telemetry.failpoints import FAILPOINTS
from telemetry.logs import setup_logs
from tests.support import worker_child
from tests.support.worker_process import CONTEXT, Member, Orders, start_forkserver
from worker import submit

_LOOK_S = 0.05

# docket waits five seconds after each lost connection: with a cut every few seconds nobody would ever work.
app.processes.Worker = partial(app.processes.Worker, reconnection_delay=timedelta(seconds=0.3))

DOWN, FLAKY = "endpoint_down", "endpoint_flaky"
MOODS: tuple[str, ...] = (*BEHAVIORS, DOWN, FLAKY)
"""How the model may be for one request: the rehearsal's behaviours, or an endpoint that breaks."""


@dataclass(frozen=True)
class StormOrders(Orders):
    """Orders of one child.

    Attributes:
        weather: The file to read.
        dies_at: The point at which it kills itself with SIGKILL, and how often it passes there before.
        sabotage: A law to break on purpose, so that the soak can be seen to go red.
    """

    weather: Path = Path("weather.json")
    dies_at: tuple[str, int] | None = None
    sabotage: str | None = None


@dataclass
class Weather:
    """What the storm says to all: seconds that the store's clock is ahead, and whether points still kill."""

    path: Path
    shift: int = 0
    armed: bool = True

    def write(self) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"shift": self.shift, "armed": self.armed}))
        fresh.replace(self.path)

    def read(self) -> None:
        said = json.loads(self.path.read_text())
        self.shift, self.armed = said["shift"], said["armed"]


class StormModel(SandboxModel):
    """Behaves as the idea says: it holds the name of a mood, else the model is benign."""

    def __init__(self) -> None:
        super().__init__(times=6)
        self._met: set[str] = set()

    def _output(self, scene: Scene) -> list[TResponseOutputItem]:
        # One step without an await: another run of this process cannot come between.
        mood = next((word for word in MOODS if f" {word}" in scene.idea), "benign")
        if mood == DOWN or (mood == FLAKY and scene.idea not in self._met):
            self._met.add(scene.idea)
            raise ConnectionError("the endpoint is down")
        self.behavior = _behaviour(mood)
        return super()._output(scene)


def _behaviour(mood: str) -> Behavior:
    return next((one for one in BEHAVIORS if one == mood), "benign")


def play(orders: StormOrders) -> None:
    """Run the house as the orders say, until a signal or a death."""
    folder = Path(orders.settings["var_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    setup_logs("INFO", "json", folder / f"child-{os.getpid()}.jsonl")
    faulthandler.register(signal.SIGUSR1, (folder / f"child-{os.getpid()}.stacks").open("w"))
    if orders.sabotage is not None:
        SABOTAGES[orders.sabotage]()
    weather = Weather(orders.weather)
    weather.read()
    if orders.dies_at is not None:
        failpoints.on_failpoint(_killer(weather, *orders.dies_at))
    asyncio.run(_run(orders, weather))
    sys.stdout.flush()
    os._exit(0)


def _killer(weather: Weather, where: str, passes: int) -> failpoints.FailpointListener:
    left = [passes]

    async def die(point: failpoints.Failpoint) -> None:
        if point == where and weather.armed:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return die


async def _run(orders: StormOrders, weather: Weather) -> None:
    dialect = DIALECTS[orders.provider["shape"]]
    capabilities = replace(capabilities_of(dialect, PRICES), **orders.capabilities)
    provider = OpenAICompat(orders.provider["base_url"], FAKE_KEY, dialect, PRICES, capabilities=capabilities)
    async with open_app(
        worker_child._settings(orders),
        models=SandboxModelProvider(StormModel()),
        provider=provider,
        timeouts=replace(QUICK_TIMEOUTS, **orders.timeouts),
        edit_limits=QUICK_EDIT_LIMITS,
    ) as app:
        await until_signal(*worker_child._parts(app, orders), _follow(app, weather))


async def _follow(app: App, weather: Weather) -> None:
    while True:
        weather.read()
        app.ledger.shift = weather.shift
        await asyncio.sleep(_LOOK_S)


def _break(name: str, wrong: Any) -> None:
    """Replace what must be there: a name that the house has given up would break nothing, in silence."""
    patch(name, wrong).start()


def _random_keys() -> None:
    """Every submit has a key of its own, as if it were not derived from the request."""
    _break("ledger.models.provider_key", lambda _: str(uuid4()))


def _resends() -> None:
    """An answer that never came is taken for proof that nothing was charged."""
    shoot = submit

    async def again(ctx: Any, video: Any, fence: str, why: str) -> None:
        await shoot._again(ctx, video, fence, why, 0.1)

    _break("worker.submit._mark_in_doubt", again)


def _silence() -> None:
    """The ledger says that the user was told, and nobody told them."""

    async def show(*_: object) -> bool:
        return True

    _break("chat.notifier.show_status", show)


SABOTAGES: Mapping[str, Callable[[], None]] = {
    "random keys": _random_keys,
    "resends": _resends,
    "silence": _silence,
}
"""Laws that a test breaks on purpose. Each is one line of the house replaced, in the children alone."""


STOP_S = 15.0
"""A worker that was asked to stop and still runs after this did not stop."""


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
    workers: list[Hand] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    armed: bool = True
    closing: bool = False
    _asked: dict[int, str] = field(default_factory=dict)

    async def keep(self) -> None:
        """Start everybody, and replace whoever is gone, until it is closing time."""
        while not self.closing:
            for place in range(self.size):
                if place == len(self.workers):
                    self.workers.append(self._hire(place))
                elif not self.workers[place].alive:
                    self._note(self.workers[place])
                    self.workers[place] = self._hire(place)
            await asyncio.sleep(0.05)

    def _hire(self, place: int) -> Hand:
        dies = None
        if self.armed and self.chance.random() < 0.5:
            dies = (self.chance.choice(FAILPOINTS), self.chance.randrange(6))
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
        for hand in self.workers:
            self.send(hand, signal.SIGCONT)
            self.send(hand, signal.SIGTERM, "stopped")
        end = time.monotonic() + STOP_S
        while any(hand.alive for hand in self.workers) and time.monotonic() < end:
            await asyncio.sleep(0.05)
        late = [hand for hand in self.workers if hand.alive]
        self.ask_where()
        for hand in self.workers:
            if hand in late:
                hand.kill()  # and whatever lock it holds goes with it
            else:
                self._note(hand)
        return len(late)

    def ask_where(self) -> None:
        """Let every child write where it stands, beside its log: for whoever finds out why it does."""
        for hand in self.workers:
            self.send(hand, signal.SIGUSR1)

    def end(self) -> None:
        for hand in self.workers:
            hand.kill()
