"""The dispatcher claims what is due, runs it, and lets no row, step or store stop the others."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy.exc import OperationalError

from tests.support.dispatching import run_dispatcher
from tests.support.waiting import wait_until
from worker.dispatcher import Dispatcher, Step


class Work:
    """Rows of one step that are due; `run` is what the step does."""

    def __init__(self, run: Callable[[int], Awaitable[None]] | None = None) -> None:
        self.due: list[int] = []
        self.done: list[int] = []
        self.failed: list[int] = []
        self.given_back: list[int] = []
        self.claims = 0
        self._run = run

    async def claim(self, most: int) -> list[int]:
        self.claims += 1
        claimed, self.due = self.due[:most], self.due[most:]
        return claimed

    async def run(self, row: int) -> None:
        if self._run is not None:
            await self._run(row)
        self.done.append(row)

    async def on_failed(self, row: int, _: Exception) -> None:
        self.failed.append(row)

    async def give_back(self, row: int) -> None:
        self.given_back.append(row)

    def step(self, name: str = "work", slots: int = 10, **more: Any) -> Step[int]:
        return Step(
            name, frozenset({name}), slots, self.claim, self.run, self.on_failed, self.give_back, **more
        )


def dispatching(*work: Step[int], due=dict, pause_s: float = 30.0):
    async def next_due():
        return due()

    return run_dispatcher(Dispatcher(work, next_due, pause_s), stop_s=0)


async def until(condition: Callable[[], bool]) -> None:
    async def check() -> bool:
        return condition()

    await wait_until(check, 5, "the work")


async def test_work_that_is_due_is_run_without_a_wake_up():
    """Nothing kicks: the question of what is due finds it."""
    work = Work()
    work.due = [1, 2, 3]
    async with dispatching(work.step(), due=lambda: {"work": -1.0} if work.due else {}, pause_s=0.05):
        await until(lambda: work.done == [1, 2, 3])


async def test_a_kick_while_the_step_runs_is_seen():
    """A change that comes while its step runs is claimed, also if every slot is taken then."""
    for slots in (1, 2):
        begun, release = asyncio.Event(), asyncio.Event()

        async def run(row: int, begun=begun, release=release) -> None:
            begun.set()
            await release.wait()

        work = Work(run)
        work.due = [1]
        async with dispatching(work.step(slots=slots)) as dispatcher:
            dispatcher.kick("work")
            await asyncio.wait_for(begun.wait(), 5)
            work.due = [2]
            dispatcher.kick("work")
            await asyncio.sleep(0.05)
            release.set()
            await until(lambda work=work: work.done == [1, 2])


async def test_a_row_that_raises_stops_no_other():
    """One poisoned row among many is put back; the others are done."""

    async def run(row: int) -> None:
        if row == 7:
            raise ValueError("poisoned")

    work = Work(run)
    work.due = list(range(100))
    async with dispatching(work.step()) as dispatcher:
        dispatcher.kick("work")
        await until(lambda: len(work.done) == 99)
    assert work.failed == [7]


async def test_a_claim_that_raises_stops_no_other_step():
    work, broken = Work(), Work()
    work.due = [1]

    async def claim(most: int) -> list[int]:
        raise OperationalError("UPDATE", {}, OSError("away"))

    broken.claim = claim  # type: ignore[method-assign]  # one that raises
    due = {"broken": -1.0, "work": -1.0}
    async with dispatching(broken.step("broken"), work.step(), due=lambda: due, pause_s=0.05):
        await until(lambda: work.done == [1])


async def test_constant_kicks_do_not_hide_what_is_due():
    """Kicks of one step in quick succession do not keep the others from being asked about."""
    busy, work = Work(), Work()
    work.due = [1]
    async with dispatching(
        busy.step("busy"), work.step(), due=lambda: {"work": -1.0} if work.due else {}, pause_s=0.2
    ) as dispatcher:

        async def kick() -> None:
            while True:
                dispatcher.kick("busy")
                await asyncio.sleep(0)

        kicks = asyncio.create_task(kick())
        await until(lambda: work.done == [1])
        kicks.cancel()


async def test_what_stops_is_given_back_and_a_submit_may_finish():
    """When the process stops, steps that may finish do, within the grace time; the rows of others are given
    back at once, also those that were claimed and had not begun.
    """
    release = asyncio.Event()

    async def wait(row: int) -> None:
        await release.wait()

    finishing, other = Work(wait), Work(wait)
    finishing.due, other.due = [1], [1, 2]

    async def next_due():
        return {"finishing": -1.0, "other": -1.0}

    steps = [finishing.step("finishing", finishes=True), other.step("other")]
    dispatcher = Dispatcher(steps, next_due, 30)
    run = asyncio.create_task(dispatcher.run())
    await until(lambda: dispatcher.running("other") == 2)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    stop = asyncio.create_task(dispatcher.stop(5))
    await until(lambda: sorted(other.given_back) == [1, 2])
    release.set()
    await stop
    assert (finishing.done, finishing.given_back, other.done) == ([1], [], [])


async def test_a_claim_under_way_at_the_stop_is_given_back():
    """The process stops while a claim is being committed: its rows are given back at once."""
    claiming, commit = asyncio.Event(), asyncio.Event()
    work = Work(lambda _: asyncio.sleep(30))
    work.due = [1, 2]
    claim = work.claim

    async def slow(most: int) -> list[int]:
        claiming.set()
        await commit.wait()
        return await claim(most)

    work.claim = slow  # type: ignore[method-assign]  # one that waits

    async def next_due():
        return {"work": -1.0}

    dispatcher = Dispatcher([work.step()], next_due, 30)
    run = asyncio.create_task(dispatcher.run())
    await asyncio.wait_for(claiming.wait(), 5)
    run.cancel()
    await asyncio.sleep(0.02)
    commit.set()
    await asyncio.gather(run, return_exceptions=True)
    await dispatcher.stop(1)
    assert sorted(work.given_back) == [1, 2]
