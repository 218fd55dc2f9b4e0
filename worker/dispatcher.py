"""Runs the steps that are due: claims rows from SQL by lease, oldest due first, in every worker.

A step reads one row, does one thing and writes when the row is due again, or that it is not. It never waits
for another step and never loops over rows, so a slot is held only while there is something to do. What is due
is read from the rows alone: an emptied Redis, a killed worker or a lost wake-up delays a step by seconds and
loses nothing. No worker leads.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from telemetry.logs import get_logger
from worker.outages import is_outage

log = get_logger(__name__)

Row = TypeVar("Row")

_SOON_S: Final = 0.05
"""Least time between two questions of what is due: rows that become due in it are claimed together."""

_MAX_CLAIM: Final = 32
"""Rows of one claim, so that other workers get some of the work."""

_CLAIM_TIMEOUT_S: Final = 3.0
"""How long a process that stops waits for the answer to its last claim."""


@dataclass(frozen=True)
class Step(Generic[Row]):
    """One kind of work that is due by a column of its row.

    Attributes:
        name: For logs, and what `Dispatcher.kick` names.
        due: Names of `ledger.due_work.next_due` that say when something is due.
        slots: How many of it run at once in this process.
        claim: Claims up to so many rows. It may return fewer than are due, as when a rate is used up.
        run: Does the one thing for a row. An error is logged; the row is due again when its lease ends,
            unless `failed` says otherwise.
        failed: Called with the row and the error: puts the row back with a pause, or ends it by its age.
        give_back: Called with a row whose run was cancelled because the process stops: makes it due at once.
            Without it, other workers wait for the end of the lease.
        gap_s: Least time from one claim to the next that a `kick` asks for, unless rows wait for a slot: what
            comes meanwhile is claimed together. The first kick after a pause claims at once.
        finishes: It may finish when the process stops, as a POST whose answer would be lost; others are
            cancelled at once.
    """

    name: str
    due: frozenset[str]
    slots: int
    claim: Callable[[int], Awaitable[Sequence[Row]]]
    run: Callable[[Row], Awaitable[None]]
    failed: Callable[[Row, Exception], Awaitable[None]] | None = None
    give_back: Callable[[Row], Awaitable[None]] | None = None
    gap_s: float = 0
    finishes: bool = False


class Dispatcher:
    """Claims and runs what is due until cancelled.

    Args:
        steps: The kinds of work, in the order in which they are claimed.
        next_due: Returns in how many seconds something is due, by name; see `ledger.due_work.next_due`.
        pause_s: Longest pause between two questions of what is due: how late work may begin without a `kick`.
    """

    def __init__(
        self,
        steps: Sequence[Step[Any]],
        next_due: Callable[[], Awaitable[Mapping[str, float]]],
        pause_s: float,
    ) -> None:
        self._steps, self._next_due, self._pause_s = tuple(steps), next_due, pause_s
        self._running: dict[str, set[asyncio.Task[None]]] = {step.name: set() for step in steps}
        self._kicked: set[str] = set()
        self._claim_at = dict.fromkeys(self._running, 0.0)
        self._changed = asyncio.Event()
        self._ask_at = 0.0
        self._passed_at: float | None = None

    def idle_s(self) -> float | None:
        """Return for how long `run` has not looked for work; None while it does not run."""
        return None if self._passed_at is None else time.monotonic() - self._passed_at

    def kick(self, name: str) -> None:
        """Claim now the work of a step, or of a name of `next_due`: something made it due."""
        self._kicked.update(step.name for step in self._steps if name == step.name or name in step.due)
        self._changed.set()

    def _kick_at_once(self, step: Step[Any]) -> None:
        self._claim_at[step.name] = 0.0
        self.kick(step.name)

    def running(self, name: str) -> int:
        """Return how many rows of one step run in this process now."""
        return len(self._running[name])

    async def run(self) -> None:
        """Claim and run until cancelled. An unavailable store is logged once per pause, and tried again."""
        try:
            while True:
                self._passed_at = time.monotonic()
                self._changed.clear()
                wait_s = await self._dispatch()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
        finally:
            self._passed_at = None

    async def stop(self, grace_s: float) -> None:
        """Cancel what runs, after `run` was cancelled; steps that may finish are given `grace_s` seconds."""
        await asyncio.sleep(0)  # a task that never began could not give its row back
        finishing = {step.name for step in self._steps if step.finishes}
        tasks: list[asyncio.Task[None]] = []
        for name, running in self._running.items():
            tasks += running
            for task in running if name not in finishing else ():
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _dispatch(self) -> float:
        """Claim what was kicked, and what is due if that was not asked lately; return how long to wait."""
        kicked, self._kicked = self._kicked, set()
        for step in self._steps:
            if step.name in kicked and time.monotonic() >= self._claim_at[step.name]:
                kicked.discard(step.name)
                await self._claim(step)
        self._kicked |= kicked  # their gap is not over
        if time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + await self._claim_due()
        next_at = min([self._ask_at, *(self._claim_at[name] for name in self._kicked)])
        return max(0.0, next_at - time.monotonic())

    async def _claim_due(self) -> float:
        """Claim for every step that has something due; return how long to wait before the next question."""
        try:
            due = await self._next_due()
        except Exception as error:  # noqa: BLE001 - this loop must survive every error
            report = log.warning if is_outage(error) else log.error
            report("due work not read", error=type(error).__name__)
            return self._pause_s
        wait_s = self._pause_s
        for step in self._steps:
            first = min((due[name] for name in step.due if name in due), default=wait_s)
            if first > 0:
                wait_s = min(wait_s, first)
            elif await self._claim(step):
                wait_s = _SOON_S  # and when the next one is due
        return max(_SOON_S, wait_s)

    async def _claim(self, step: Step[Any]) -> int:
        """Claim rows for the free slots and run them; return how many."""
        running = self._running[step.name]
        most = min(step.slots - len(running), _MAX_CLAIM)
        if most <= 0:
            return 0  # the end of a task claims again
        self._claim_at[step.name] = time.monotonic() + step.gap_s
        claim = asyncio.ensure_future(step.claim(most))
        try:
            rows = await asyncio.shield(claim)
        except asyncio.CancelledError:  # this process stops: what it has just claimed is given back unbegun
            await asyncio.wait({claim}, timeout=_CLAIM_TIMEOUT_S)
            if claim.done() and not claim.cancelled() and claim.exception() is None and step.give_back:
                for row in claim.result():
                    await self._put_back(step, step.give_back(row))
            raise
        except Exception as error:  # noqa: BLE001 - one step must not stop the others
            report = log.warning if is_outage(error) else log.error
            report("nothing claimed", step=step.name, error=type(error).__name__)
            return 0
        self._start(step, rows)
        if len(rows) == most:  # there may be more
            self._kick_at_once(step)
        return len(rows)

    def _start(self, step: Step[Any], rows: Sequence[Any]) -> None:
        running = self._running[step.name]
        for row in rows:
            task = asyncio.create_task(self._run_row(step, row), name=f"step {step.name}")
            running.add(task)
            task.add_done_callback(lambda done: self._ended(step, done))

    def _ended(self, step: Step[Any], task: "asyncio.Task[None]") -> None:
        running = self._running[step.name]
        full = len(running) >= step.slots
        running.discard(task)
        if full:  # what waited for this slot
            self._kick_at_once(step)

    async def _run_row(self, step: Step[Any], row: Any) -> None:
        try:
            await step.run(row)
        except asyncio.CancelledError:
            if step.give_back is not None:
                await self._put_back(step, step.give_back(row))
            raise
        except Exception as error:  # noqa: BLE001 - one row must not stop the others
            report = log.warning if is_outage(error) else log.error
            report("step failed", step=step.name, error=type(error).__name__)
            if step.failed is not None:
                await self._put_back(step, step.failed(row, error))

    async def _put_back(self, step: Step[Any], write: Awaitable[None]) -> None:
        try:
            await write
        except Exception as error:  # noqa: BLE001 - the row is due again when its lease ends
            log.warning("row not put back", step=step.name, error=type(error).__name__)
