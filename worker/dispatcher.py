"""Runs the steps that are due: claims rows from SQL by lease, oldest due first, in every worker.

A step reads one row, does one thing and writes when the row is due again, or that it is not. It never waits
for another step and never loops over rows, so a slot is held only while there is something to do. What is due
is read from the rows alone: an emptied Redis, a killed worker or a lost wake-up delays a step by seconds and
loses nothing. No worker leads.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from telemetry.logs import get_logger

log = get_logger(__name__)

Row = TypeVar("Row")
_STORE_ERRORS: Final = (SQLAlchemyError, RedisError, OSError, TimeoutError)
_SOON_S: Final = 0.05


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
        finishes: It may finish when the process stops, as a POST whose answer would be lost; others are
            cancelled at once.
    """

    name: str
    due: frozenset[str]
    slots: int
    claim: Callable[[int], Awaitable[Sequence[Row]]]
    run: Callable[[Row], Awaitable[None]]
    failed: Callable[[Row, Exception], Awaitable[None]] | None = None
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
        self._steps, self._next_due, self._pause_s = {step.name: step for step in steps}, next_due, pause_s
        self._running: dict[str, set[asyncio.Task[None]]] = {step.name: set() for step in steps}
        self._kicked: set[str] = set()
        self._changed = asyncio.Event()

    def kick(self, name: str) -> None:
        """Claim this step's work now: a change in this process, or a message of another, made it due."""
        if name in self._steps:
            self._kicked.add(name)
            self._changed.set()

    async def run(self) -> None:
        """Claim and run until cancelled. An unavailable store is logged once per pause, and tried again."""
        while True:
            self._changed.clear()
            try:
                wait_s = await self._dispatch()
            except _STORE_ERRORS as error:
                log.warning("store unavailable, nothing claimed", error=type(error).__name__)
                wait_s = self._pause_s
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def stop(self, grace_s: float) -> None:
        """Cancel what runs; steps that may finish are given `grace_s` seconds first."""
        for name, running in self._running.items():
            for task in running if not self._steps[name].finishes else ():
                task.cancel()
        tasks = [task for running in self._running.values() for task in running]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _dispatch(self) -> float:
        """Claim for every step that has free slots and something due; return how long to wait."""
        kicked, self._kicked = self._kicked, set()
        if kicked:  # what was kicked is claimed without asking first
            for name in kicked:
                await self._claim(self._steps[name])
            return 0 if self._kicked else _SOON_S
        due = await self._next_due()
        wait_s = self._pause_s
        for step in self._steps.values():
            first = min((due[name] for name in step.due if name in due), default=None)
            if first is None:
                continue
            if first > 0:
                wait_s = min(wait_s, first)
            elif await self._claim(step):
                wait_s = 0
        return wait_s

    async def _claim(self, step: Step[Any]) -> bool:
        """Claim rows for the free slots and run them; return whether there may be more to claim now."""
        running = self._running[step.name]
        free = step.slots - len(running)
        if free <= 0:
            return False  # the end of a task claims again
        rows = await step.claim(free)
        for row in rows:
            task = asyncio.create_task(self._run_row(step, row))
            running.add(task)
            task.add_done_callback(lambda done: self._ended(step, done))
        return len(rows) == free

    def _ended(self, step: Step[Any], task: "asyncio.Task[None]") -> None:
        running = self._running[step.name]
        full = len(running) >= step.slots
        running.discard(task)
        if full:  # what waited for this slot
            self.kick(step.name)

    async def _run_row(self, step: Step[Any], row: Any) -> None:
        try:
            await step.run(row)
        except Exception as error:  # noqa: BLE001 - one row must not stop the others
            unavailable = isinstance(error, _STORE_ERRORS)
            report = log.warning if unavailable else log.error
            report("step failed", step=step.name, error=type(error).__name__)
            await self._put_back(step, row, error)

    async def _put_back(self, step: Step[Any], row: Any, error: Exception) -> None:
        if step.failed is None:
            return
        try:
            await step.failed(row, error)
        except Exception as second:  # noqa: BLE001 - the row is due again when its lease ends
            log.warning("row not put back", step=step.name, error=type(second).__name__)
