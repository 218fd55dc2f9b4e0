"""Worker processes that a test may pause, stop and kill, and everything outside them that outlives them.

The whole app runs in the child (updates by polling or a webhook, a worker); Telegram, provider
and stores live in the test's process. Children are forked from one preloaded forkserver, and a kill is a real
SIGKILL by pid.
"""

import asyncio
import functools
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from agents import Model
from pydantic import SecretStr
from sqlalchemy import select

from app import accounts
from app.application import App, open_app
from app.pacing import LOCAL_SEND_LIMITS
from app.processes import _serve_webhook, run_polling, run_worker, until_signal
from app.settings import read_settings
from evals.environment import (
    QUICK_EDIT_LIMITS,
    QUICK_TIMEOUTS,
    RequestAndVideo,
    SingleModelProvider,
    quick_provider,
    write_agent_specs,
)
from evals.waiting import Deadline
from ledger import database
from ledger.database import Ledger, LedgerError
from ledger.models import Request, Video
from ledger.schema import requests, videos
from providers.base import Provider
from providers.registry import ProviderConfig
from sandbox.model import SandboxModel
from sandbox.telegram.server import BotApiServer
from sandbox.video_api.openai import FakeProvider
from telemetry import failpoints
from telemetry.logs import setup_logs
from tests.support import services
from tests.support.services import ROOT
from tests.support.time_limits import lengthen_time_limits

CONTEXT = multiprocessing.get_context("forkserver")
_SECRETS = {"telegram_bot_token", "redis_url", "database_url", "webhook_secret", "admin_token"}
NO_LEDGER = 3
"""Exit code of a child whose ledger could not be reached at the start."""


@functools.cache
def start_forkserver() -> None:
    """Start the forkserver with this module, and so everything heavy, imported.

    Python 3.11's forkserver is given our sys.path and does not use it, and it ignores imports that fail: so
    the path is passed in the environment. A wrong name here would only make every child slow.
    """
    CONTEXT.set_forkserver_preload([__name__])
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        forkserver.ensure_running()
    finally:
        if known is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = known


@dataclass(frozen=True)
class WorkerConfig:
    """All that a child needs to know; everything in it can be pickled.

    Attributes:
        settings: Names and plain values for `read_settings`.
        provider: `base_url` and `shape` of the fake provider.
        capabilities: Changed capabilities of the provider.
        timeouts: Fields of `Timeouts`.
        stop_at: The failpoint at which the child waits.
        marker: The file that it writes when it has arrived there.
        resumes: Continue when the marker is deleted, in place of waiting to be killed.
        parts: `all`, `worker` for a child that takes no updates, or `bot` for one behind a webhook.
        behavior: How the model behaves.
        redelivery_s: Seconds after which the queue gives a dead worker's task to another.
        clock_shift: Seconds that the ledger's clock is ahead.
        patient: Wait longer for Redis than the app does; not where Redis hangs on purpose.
    """

    settings: Mapping[str, Any]
    provider: Mapping[str, str]
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    timeouts: Mapping[str, Any] = field(default_factory=dict)
    stop_at: str | None = None
    marker: Path | None = None
    resumes: bool = False
    parts: str = "all"
    behavior: str = "benign"
    redelivery_s: float = 1.5
    clock_shift: int = 0
    patient: bool = True

    def prepare(self) -> None:
        """Prepare the child before its app is opened; a subclass may add faults."""
        if self.patient:
            lengthen_time_limits()
        # Accounts that drain have the quick times of the other.
        accounts.create_provider = self._draining
        if self.stop_at is not None:
            failpoints.on_failpoint(self._wait_at_point)

    def _draining(self, _: str, config: ProviderConfig) -> Provider:
        return quick_provider(config.base_url, self.provider["shape"], self.capabilities)

    async def _wait_at_point(self, point: failpoints.Failpoint) -> None:
        if point == self.stop_at and self.marker is not None:
            self.marker.write_text(str(os.getpid()))
            while self.marker.exists() or not self.resumes:
                await asyncio.sleep(0.05)

    def model(self) -> Model:
        return SandboxModel(self.behavior)

    def background(self, app: App) -> list[Any]:
        """Return what runs in the child."""
        worker = run_worker(app, redelivery_s=self.redelivery_s)
        return [worker] if self.parts == "worker" else [worker, run_polling(app)]


def run_child(config: WorkerConfig) -> None:
    """Run the app as configured until a signal; the child's whole life."""
    folder = Path(config.settings["var_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    setup_logs("INFO", "json", folder / f"child-{os.getpid()}.jsonl")
    config.prepare()
    asyncio.run(_run(config))
    sys.stdout.flush()
    os._exit(0)


async def _run(config: WorkerConfig) -> None:
    async with AsyncExitStack() as stack:
        try:
            app = await stack.enter_async_context(open_child_app(config))
        except LedgerError:  # by design an app does not start without its ledger: the supervisor tries again
            traceback.print_exc()
            os._exit(NO_LEDGER)
        if config.parts == "bot":
            await _serve_webhook(app, config.settings["webhook_url"])
        else:
            await until_signal(*config.background(app))


@asynccontextmanager
async def open_child_app(config: WorkerConfig) -> AsyncIterator[App]:
    """Open a child's app, in whichever process."""
    given = {name: SecretStr(str(v)) if name in _SECRETS else v for name, v in config.settings.items()}
    provider = quick_provider(config.provider["base_url"], config.provider["shape"], config.capabilities)
    async with open_app(
        read_settings(_env_file=None, **given),
        models=SingleModelProvider(config.model()),
        provider=provider,
        timeouts=replace(QUICK_TIMEOUTS, **config.timeouts),
        edit_limits=QUICK_EDIT_LIMITS,
        send_limits=LOCAL_SEND_LIMITS,
    ) as app:
        app.ledger.shift = config.clock_shift
        yield app


class SteppedLedger:
    """A ledger as `Clocks` sees it while its clock is wrong: what tests call `shift` is not part of the time.

    Args:
        ledger: Its `shift` holds both the time that passed and the step.
        step: Returns the seconds by which the clock is wrong now.
    """

    def __init__(self, ledger: Ledger, step: Callable[[], int]) -> None:
        self._ledger, self._step = ledger, step
        self.read, self.now = ledger.read, ledger.now

    @property
    def shift(self) -> int:
        return self._ledger.shift - self._step()


class WorkerProcess:
    """One child."""

    def __init__(self, config: WorkerConfig) -> None:
        start_forkserver()
        self.config = config
        self._process = CONTEXT.Process(target=run_child, args=(config,), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    async def wait_at_failpoint(self, seconds: float = 60) -> None:
        """Wait until the child is at its failpoint; seconds of an idle machine."""
        deadline = Deadline(seconds)
        assert self.config.marker is not None
        while not self.config.marker.exists():
            assert self.alive, f"the child died by itself with {self.exit_code}"
            assert not deadline.is_over, f"not at {self.config.stop_at} after {seconds} s"
            await deadline.pause()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it has ended."""
        self._process.kill()
        self._process.join(10)


@contextmanager
def worker_process(config: WorkerConfig) -> Iterator[WorkerProcess]:
    """Run one child during the block; it is killed at the end if it still runs."""
    one = WorkerProcess(config)
    try:
        yield one
    finally:
        one.kill()


STOP_S = 15.0
"""A child that still runs so many seconds after SIGTERM did not stop."""


@dataclass
class WorkerPool:
    """Children that are replaced when they end, as under any supervisor.

    Attributes:
        configure: Makes the config of the child at a place.
        ends: How children ended: `killed`, `at POINT`, `stopped`, `not started` because the ledger could not
            be reached, or `failed with CODE` by themselves.
    """

    configure: Callable[[int], WorkerConfig]
    size: int
    workers: list[WorkerProcess] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    closing: bool = False
    _expected: dict[int, str] = field(default_factory=dict)

    async def keep(self) -> None:
        """Start all children and replace those that ended, until the pool is closing."""
        while not self.closing:
            for place in range(self.size):
                # Not in a thread: two threads that wait for one child may never get its exit code.
                if place == len(self.workers):
                    self.workers.append(WorkerProcess(self.configure(place)))
                elif not self.workers[place].alive:
                    self._count(self.workers[place])
                    self.workers[place] = WorkerProcess(self.configure(place))
            await asyncio.sleep(0.05)

    def _count(self, worker: WorkerProcess) -> None:
        code, config = worker.exit_code, worker.config
        expected = self._expected.pop(worker.pid, None)
        if expected is None and code == -signal.SIGKILL:
            dies_at = getattr(config, "dies_at", None)
            expected = f"at {dies_at[0]}" if dies_at else None
        by_itself = "not started" if code == NO_LEDGER else f"failed with {code}"
        self.ends[expected or by_itself] += 1

    def send(self, worker: WorkerProcess, number: signal.Signals, end: str | None = None) -> None:
        """Send a signal to one child; `end` says how it will have ended."""
        if not worker.alive:
            return
        if end is not None:
            self._expected[worker.pid] = end
        with suppress(ProcessLookupError):
            worker.send(number)

    async def stop(self) -> int:
        """Ask all children to stop as an operator does; return how many did not."""
        self.closing = True
        for worker in self.workers:
            self.send(worker, signal.SIGCONT)
            self.send(worker, signal.SIGTERM, "stopped")
        end = time.monotonic() + STOP_S
        while any(worker.alive for worker in self.workers) and time.monotonic() < end:
            await asyncio.sleep(0.05)
        late = [worker for worker in self.workers if worker.alive]
        self.dump_stacks()
        for worker in self.workers:
            if worker in late:
                worker.kill()  # and any lock it holds is released
            else:
                self._count(worker)
        return len(late)

    def dump_stacks(self) -> None:
        """Let every child that handles SIGUSR1 write its stacks next to its log."""
        for worker in self.workers:
            self.send(worker, signal.SIGUSR1)

    def kill(self) -> None:
        for worker in self.workers:
            worker.kill()


@dataclass
class ProcessEnvironment:
    """Everything that outlives the worker processes; `config` starts one on it."""

    folder: Path
    api: BotApiServer
    fake_provider: FakeProvider
    ledger: Ledger
    config: WorkerConfig
    stack: AsyncExitStack

    async def all_requests(self) -> list[RequestAndVideo]:
        """Return every request with its video, all read in one transaction, oldest first."""
        return await all_requests(self.ledger)


async def all_requests(ledger: Ledger) -> list[RequestAndVideo]:
    """Return every request with its video, all read in one transaction, oldest first."""
    async with ledger.read() as conn:
        made = {row.request_id: Video.from_row(row) for row in await conn.execute(select(videos))}
        rows = await conn.execute(select(requests).order_by(requests.c.created_at))
        return [(Request.from_row(row), made.get(row.request_id)) for row in rows]


@asynccontextmanager
async def open_process_env(
    folder: Path,
    redis_url: str,
    *,
    shape: str,
    database_url: str = "sqlite",
    migrate: bool = True,
    settings: Mapping[str, Any] | None = None,
    provider_options: Mapping[str, Any] | None = None,
    config: type[WorkerConfig] = WorkerConfig,
    **changes: Any,
) -> AsyncIterator[ProcessEnvironment]:
    """Start provider, Bot API server and ledger.

    Args:
        database_url: `sqlite` and `postgresql` make an empty database; else the URL of one.
        migrate: Make the tables; else the first child does.
        settings: Further settings of the children.
        provider_options: Of the fake provider.
        config: Class of the children's config.
        changes: Further fields of it.
    """
    async with AsyncExitStack() as stack:
        provider = FakeProvider(folder / "provider", shape=shape, **dict(provider_options or {}))
        fake_provider = await stack.enter_async_context(provider)
        api = BotApiServer(clock_scale=60, media_dir=folder / "telegram")
        await stack.enter_async_context(api)
        url = _database_url(folder, database_url, stack)
        ledger = Ledger(url)
        stack.push_async_callback(ledger.close)
        if migrate:
            await database.migrate(ledger)
        common = {
            "telegram_bot_token": api.token, "telegram_api_url": api.base_url, "redis_url": redis_url,
            "database_url": url, "var_dir": folder / "var",
            "agents_dir": write_agent_specs(folder / "usual-agents"),
        }  # fmt: skip
        made = config(
            settings={**common, **(settings or {})},
            provider={"base_url": fake_provider.base_url, "shape": shape},
            marker=folder / "marker",
            **changes,
        )
        yield ProcessEnvironment(folder, api, fake_provider, ledger, made, stack)


def _database_url(folder: Path, wanted: str, stack: AsyncExitStack) -> str:
    if wanted == "sqlite":
        return f"sqlite:///{folder}/ledger.db"
    if wanted != "postgresql":
        return wanted
    # Its context makes and drops the database with a loop of its own, which needs a thread of its own.
    context = services.database()
    url = _in_thread(context.__enter__)
    stack.callback(_in_thread, lambda: context.__exit__(None, None, None))
    return url


def _in_thread(function: Any) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()
