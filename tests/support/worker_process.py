"""Worker processes that a test may kill: forked from one preloaded forkserver, stopped at named points.

The whole house runs in the child (updates by polling, a worker, the sweep); Telegram, the provider and the
stores live outside it and outlive it. The kill is a real SIGKILL by the child's own pid.
"""

import asyncio
import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from tests.support.services import ROOT

CONTEXT = multiprocessing.get_context("forkserver")


@functools.cache
def start_forkserver() -> None:
    """Start the forkserver with everything heavy imported.

    Python 3.11's forkserver is told our sys.path and does not use it, and it forgets imports that failed in
    silence: so the path goes through the environment.
    """
    CONTEXT.set_forkserver_preload(["tests.support.worker_child"])
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
class Orders:
    """All that a child needs to know; everything in it can be pickled.

    Attributes:
        settings: Names and plain values for `read_settings`.
        provider: `base_url` and `shape` of the peer.
        capabilities: Changed capabilities of the provider.
        pace: Fields of `Pace`.
        stop_at: The point at which this child stops until it is killed.
        marker: The file that it writes when it stands there.
        sleep_at: Go on from the point when the marker is deleted, in place of waiting to be killed.
        parts: `all`, `worker` for a child that takes no updates, or `bot` for one behind a webhook.
        behaviour: How the model of this child behaves.
        redelivery_s: After which another worker takes over a dead one's task.
    """

    settings: Mapping[str, Any]
    provider: Mapping[str, str]
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    timeouts: Mapping[str, Any] = field(default_factory=dict)
    stop_at: str | None = None
    marker: Path | None = None
    sleep_at: bool = False
    parts: str = "all"
    behavior: str = "benign"
    redelivery_s: float = 1.5


class Member:
    """One child."""

    def __init__(self, orders: Orders) -> None:
        from tests.support.worker_child import play

        start_forkserver()
        self.orders = orders
        self._process = CONTEXT.Process(target=play, args=(orders,), daemon=True)
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

    async def at_point(self, seconds: float = 20) -> None:
        """Wait until the child stands at its point."""
        end = time.monotonic() + seconds
        assert self.orders.marker is not None
        while not self.orders.marker.exists():
            assert self.alive, f"the child died by itself with {self.exit_code}"
            assert time.monotonic() < end, f"not at {self.orders.stop_at} after {seconds} s"
            await asyncio.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.join(10)

    def wait(self, seconds: float) -> int | None:
        """Wait for an end by itself; its exit code, or None if it still runs."""
        self._process.join(seconds)
        return self._process.exitcode


@contextmanager
def member(orders: Orders) -> Iterator[Member]:
    """Run one child beside the block; it is killed at the end if it still lives."""
    one = Member(orders)
    try:
        yield one
    finally:
        one.kill()
