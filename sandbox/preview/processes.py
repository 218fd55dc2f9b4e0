"""Renderer processes of the preview provider: a limited number at once, each of which may be killed.

A renderer inherits two locks, its job's and its slot's. The system releases both when it ends, however it
ends, so no crash can leave a job or a slot locked.
"""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from providers.base import Transient
from sandbox.preview.jobs import JobFolder, try_lock

MAX_STARTS = 3
COMMAND = (sys.executable, "-m", "sandbox.renderer")
_KILL_AFTER_S = 2.0
# The renderer reads untrusted text and needs none of our secrets.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
_REPO_ROOT = Path(__file__).resolve().parents[2]

Started = Literal["running", "queued"]


@dataclass(slots=True)
class Renderers:
    """Starts, counts and ends renderers. An instance belongs to one event loop."""

    root: Path
    slots: int
    command: Sequence[str] = COMMAND
    _children: dict[str, Process] = field(default_factory=dict)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _waiting: dict[str, JobFolder] = field(default_factory=dict)
    _closed: bool = False

    async def start(self, job: JobFolder) -> Started:
        """Have `job` rendered: by a running renderer, by a new one, or as soon as a slot is free.

        After `MAX_STARTS` renderers died without a verdict, the job is marked as failed instead.

        Raises:
            OSError: The job's folder cannot be used.
            Transient: This provider was closed.
        """
        if self._closed:
            raise Transient("the local provider is closed")
        if job.job_id in self._children:
            return "running"
        task = asyncio.create_task(self._start(job))
        self._keep(task)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End all renderers of this process, by SIGTERM, then by SIGKILL, and wait for them."""
        self._closed = True
        self._waiting.clear()
        while self._tasks:
            await asyncio.gather(*(_end(child) for child in [*self._children.values()]))
            await asyncio.gather(*(asyncio.wait([task], timeout=0.1) for task in [*self._tasks]))

    async def _start(self, job: JobFolder) -> Started:
        locks = await asyncio.to_thread(self._acquire, job)
        if locks == "busy":
            return "running"
        if locks == "full":
            self._waiting[job.job_id] = job
            return "queued"
        try:
            await self._spawn(job, locks)
        finally:
            for lock in locks:
                os.close(lock)
        return "running"

    async def _spawn(self, job: JobFolder, locks: tuple[int, int]) -> None:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        try:
            # The child reads its standard input to notice our death; no byte is ever sent.
            child = await asyncio.create_subprocess_exec(
                *self.command, str(job.path.resolve()),
                stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, pass_fds=locks, start_new_session=True,
                env={**environment, "PYTHONPATH": str(_REPO_ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
        except BaseException:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(job.count_start, -1)
            raise
        self._children[job.job_id] = child  # if closed meanwhile, `close` still waits for this task
        self._keep(asyncio.create_task(self._wait_for_exit(job, child)))

    async def _wait_for_exit(self, job: JobFolder, child: Process) -> None:
        """Wait for the renderer's end, then start waiting jobs."""
        await child.wait()
        if child.stdin is not None:
            child.stdin.close()
        del self._children[job.job_id]
        for waiting in [*self._waiting.values()]:
            del self._waiting[waiting.job_id]
            with contextlib.suppress(OSError, Transient):  # the next question for its state gets the error
                if not self._closed and await self._start(waiting) == "queued":
                    return

    def _acquire(self, job: JobFolder) -> tuple[int, int] | Literal["busy", "full"]:
        """Acquire both locks and count the start, all or nothing."""
        held = list[int]()
        try:
            if (lock := try_lock(job.lock)) is None:
                return "busy"
            held.append(lock)
            if job.verdict is not None:
                return "busy"
            if job.starts >= MAX_STARTS:
                job.fail(f"the renderer stopped {MAX_STARTS} times without a result")
                return "busy"
            if (slot := self._slot()) is None:
                return "full"
            held.append(slot)
            job.count_start(+1)
            acquired, held = (lock, slot), []
            return acquired
        finally:
            for handle in held:
                os.close(handle)

    def _slot(self) -> int | None:
        locks = (try_lock(self.root / f"place-{number}.lock") for number in range(self.slots))
        return next((lock for lock in locks if lock is not None), None)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        def done(ended: asyncio.Task[Any]) -> None:
            self._tasks.discard(ended)
            if not ended.cancelled():
                ended.exception()  # retrieved: the caller that waited has raised it

        self._tasks.add(task)
        task.add_done_callback(done)


async def _end(child: Process) -> None:
    for signal_it in (child.terminate, child.kill):
        with contextlib.suppress(ProcessLookupError):
            signal_it()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILL_AFTER_S):
                await child.wait()
                return
