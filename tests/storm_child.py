"""What a child of the storm does: the whole house, a clock that may jump, a death at a named point.

`Weather` is a file that the storm writes and every child reads: all processes see one clock, as machines do
that share a database, whatever that clock does. Settings refuse a shift; so it is set past them, here alone.
"""

import asyncio
import faulthandler
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import crew_child
from agents.items import TResponseOutputItem
from crew import Orders

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
from telemetry.logs import setup_logs
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
        crew_child._settings(orders),
        models=SandboxModelProvider(StormModel()),
        provider=provider,
        timeouts=replace(QUICK_TIMEOUTS, **orders.timeouts),
        edit_limits=QUICK_EDIT_LIMITS,
    ) as app:
        await until_signal(*crew_child._parts(app, orders), _follow(app, weather))


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
