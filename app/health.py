"""Readiness and liveness of one process: do its stores take its writes, and would a restart help."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, NoReturn

from app.application import App
from guardrails.admission import RedisKeys, write_health
from guardrails.redis_client import connect
from ledger import health as ledger_health
from ledger import heartbeats
from ledger.database import Ledger
from telemetry.logs import get_logger

log = get_logger(__name__)

CHECK_EVERY_S: Final = 3.0
"""A store is written to at most so often, however many ask."""

UNHEALED_S: Final = 60.0
"""How long this process's writes fail before it is asked whether those of a new connection would not."""

STALLED_S: Final = 300.0
"""A dispatcher that has not looked for work for so long is stuck: its longest step of a pass is a minute."""

_WRITE_TIMEOUT_S: Final = 10.0

Write = Callable[[], Awaitable[object]]
"""Writes to a store, and raises if it does not take it."""


class StuckError(Exception):
    """This process does not heal by itself, and a new one would work; the message says what is stuck."""


def _report_stuck(part: str, why: str) -> NoReturn:
    log.error("this process is stuck, restart it", part=part, why=why)
    raise StuckError(f"{part}: {why}")


class WriteCheck:
    """Whether a store takes writes: cached, and one write at a time for any number of callers.

    Args:
        name: Of the store.
        write: Writes over the connections that this process works with.
        write_anew: Writes over a connection of its own.
        every_s: How long a result is kept.
        unhealed_s: See `UNHEALED_S`.
    """

    def __init__(
        self,
        name: str,
        write: Write,
        write_anew: Write,
        *,
        every_s: float = CHECK_EVERY_S,
        unhealed_s: float = UNHEALED_S,
    ) -> None:
        self._name, self._unhealed_s = name, unhealed_s
        self._own = _Attempt(write, every_s)
        self._anew = _Attempt(write_anew, every_s)

    async def ready(self) -> None:
        """Raise the error of the last write, or of one that is made now."""
        if (task := self._own.refresh()) is not None:
            await asyncio.shield(task)
        if self._own.error is not None:
            raise self._own.error

    async def alive(self) -> None:
        """Return at once; raise if writes of this process have failed long, while new connections work.

        Raises:
            StuckError: A restart would help.
        """
        self._own.refresh()
        if self._own.failing_s() < self._unhealed_s:
            self._anew.succeeded_since = 0.0
            return
        self._anew.refresh()
        # A write of this process must have failed after the other one succeeded: the store may be just back.
        if self._anew.succeeded_since and self._own.failed_began_at > self._anew.succeeded_since:
            _report_stuck(self._name, "a new connection works, those of this process do not")


class _Attempt:
    """A write that is repeated at most every so often; knows since when it fails."""

    def __init__(self, write: Write, every_s: float) -> None:
        self._write, self._every_s = write, every_s
        self._task: asyncio.Task[None] | None = None
        self._ended_at = float("-inf")
        self._failing_since: float | None = None
        self.error: Exception | None = None
        self.succeeded_since = self.failed_began_at = 0.0

    def refresh(self) -> "asyncio.Task[None] | None":
        """Start a write if the last result is old; return the write that runs."""
        if self._task is None and time.monotonic() - self._ended_at >= self._every_s:
            self._task = asyncio.create_task(self._run())
        return self._task

    def failing_s(self) -> float:
        return 0.0 if self._failing_since is None else time.monotonic() - self._failing_since

    async def _run(self) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await self._write()
        except Exception as error:  # noqa: BLE001 - whatever it is, the store did not take it
            self.error, self.failed_began_at = error, began
            self._failing_since = began if self._failing_since is None else self._failing_since
            self.succeeded_since = 0.0
        else:
            self.error, self._failing_since = None, None
            self.succeeded_since = self.succeeded_since or time.monotonic()
        finally:
            self._ended_at, self._task = time.monotonic(), None


def write_checks(app: App) -> Mapping[str, WriteCheck]:
    """Return the checks of the stores of this process, by name."""
    return {
        "ledger": WriteCheck(
            "ledger", partial(ledger_health.write, app.ledger), partial(_write_ledger_anew, app)
        ),
        "redis": WriteCheck("redis", app.chat.admission.ping, partial(_write_redis_anew, app)),
    }


async def _write_ledger_anew(app: App) -> None:
    ledger = Ledger(app.settings.ledger_url, shift=app.settings.clock_shift)
    try:
        await ledger_health.write(ledger)
    finally:
        await ledger.close()


async def _write_redis_anew(app: App) -> None:
    redis = connect(app.redis_url.get_secret_value())
    try:
        await write_health(redis, RedisKeys(app.settings.key_prefix))
    finally:
        with suppress(Exception):
            await redis.aclose()


class ProcessCounts:
    """How many workers and bots live, by the ledger: readiness shows them, and fails for neither.

    A bot without workers must stay in service: it is what answers people that their request waits.
    """

    def __init__(self, app: App, every_s: float = CHECK_EVERY_S) -> None:
        self._app, self._every_s = app, every_s
        self._read_at, self._found = float("-inf"), dict[str, int]()

    async def read(self) -> Mapping[str, int]:
        """Return the counts, by `workers` and `bots`; the ledger is asked at most every three seconds."""
        if time.monotonic() - self._read_at >= self._every_s:
            self._read_at = time.monotonic()
            found = await heartbeats.alive(self._app.ledger, self._app.bot.id)
            self._found = {f"{role}s": one.count for role, one in found.items()}
        return self._found


async def dispatcher_alive(app: App) -> None:
    """Raise if this process runs a dispatcher that does not look for work any more.

    Raises:
        StuckError: A restart would help.
    """
    idle_s = app.dispatcher.idle_s()
    if idle_s is not None and idle_s > STALLED_S:
        _report_stuck("dispatcher", f"it has not looked for work for {idle_s:.0f} s")
