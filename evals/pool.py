"""Plays many cases in parallel processes, each with a Valkey of its own and one case at a time."""

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Final

from app.embedded_redis import embedded_valkey
from evals.case import Case
from evals.events import EvalError
from evals.results import Played, Result, Results
from evals.runner import CaseResources, play, play_alone
from evals.scorer import score
from evals.tracebacks import described, traceback_of
from evals.waiting import cores
from ledger import database
from ledger.database import Ledger
from telemetry.logs import setup_logs

_RAM_DISK: Final = Path("/dev/shm")  # noqa: S108 - folders in it get random names
_REPO_ROOT: Final = Path(__file__).resolve().parent.parent
_LAZY_IMPORTS: Final = (
    "httpcore2", "trio", "anyio._backends._asyncio", "openai.resources.videos", "openai.lib.azure",
    "PIL.JpegImagePlugin", "PIL.PngImagePlugin",
)  # fmt: skip
"""What libraries import at first use; the forkserver imports it once for all processes."""

_WARM_UP: Final = Case.model_validate(
    {
        "id": "A00",
        "title": "What is slow at its first use is used once before guards have a time limit.",
        "events": [{"send": "/create a warm room"}],
        "expect": {"paid": 1, "delivered": 1, "attempts": 1},
    }
)

_resources: list[CaseResources] = []
_open = ExitStack()
OnResult = Callable[[Result], None]
Player = Callable[[Sequence[Any], CaseResources, str | None], Played]
"""Plays cases in one app, with a mutant or without; a function of a module, because it is pickled."""


@dataclass(frozen=True)
class Job:
    """What one process plays at a time: one case, or a batch of a sweep's texts."""

    cases: tuple[Case, ...]
    player: Player = play_alone

    @property
    def name(self) -> str:
        ids = [case.id for case in self.cases]
        return ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"


class PlayError(EvalError):
    """Playing raised something unexpected: what, and its redacted traceback from the playing process."""

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message, trace)
        self.message, self.trace = message, trace

    def __str__(self) -> str:
        return self.message


@dataclass
class Pool:
    """Plays jobs in worker processes."""

    executor: ProcessPoolExecutor

    async def run(self, job: Job, broken: str | None = None) -> Played:
        """Play a job as soon as a process is free.

        Raises:
            EvalError: The process died, or a case names something that does not exist.
            PlayError: Playing raised something else.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.executor, _play, job, broken)
        except BrokenProcessPool:
            raise EvalError("a process that plays cases died") from None


def max_parallel_cases() -> int:
    """Return how many cases are played at once: a case waits about as long as it computes."""
    return max(2, cores() * 2)


def process_resources() -> CaseResources:
    """Return the resources of this worker process."""
    return _resources[0]


@contextmanager
def open_pool(number: int | None = None) -> Iterator[Pool]:
    """Start the processes. They fork from one server that has imported everything heavy once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["evals.runner", "evals.pool", "evals.corpus.batch", *_LAZY_IMPORTS])
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch_disk(), prefix="evals-")))
        template = scratch / "empty.db"
        asyncio.run(_migrate(template))
        stack.enter_context(_forkserver_path())
        executor = ProcessPoolExecutor(
            number or max_parallel_cases(),
            context,
            initializer=_begin,
            initargs=(str(scratch), str(template)),
        )
        try:
            yield Pool(executor)
        finally:
            executor.shutdown(cancel_futures=True)


@contextmanager
def _forkserver_path() -> Iterator[None]:
    """Start the forkserver with the repository in PYTHONPATH.

    It ignores the `sys.path` that it is given, and skips without an error what it cannot import.
    """
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_REPO_ROOT), known]))
    try:
        forkserver.ensure_running()
        yield
    finally:
        if known is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = known


def scratch_disk() -> Path | None:
    """Return a folder in memory if there is one: cases would wait for thousands of fsyncs otherwise."""
    return _RAM_DISK if os.access(_RAM_DISK, os.W_OK) else None


async def _migrate(path: Path) -> None:
    store = Ledger(f"sqlite:///{path}")
    await database.migrate(store)
    await store.close()


def _begin(scratch: str, template: str) -> None:
    """Set up one process: a Valkey that ends with it, and one warm-up case."""
    setup_logs("INFO", "json", Path(scratch) / f"log-{os.getpid()}.jsonl")
    folder = Path(scratch) / f"valkey-{os.getpid()}"
    folder.mkdir()
    url = _open.enter_context(embedded_valkey(folder))
    multiprocessing.util.Finalize(None, _open.close, exitpriority=10)
    _resources[:] = [CaseResources(url, Path(template), Path(scratch))]
    play(_WARM_UP, _resources[0])


def _play(job: Job, broken: str | None) -> Played:
    try:
        return job.player(job.cases, _resources[0], broken)
    except EvalError:
        raise
    except Exception as error:  # noqa: BLE001 - any: a case that cannot be played ends no other
        # A traceback cannot be pickled, and the executor's own text of it holds this machine's paths.
        raise PlayError(described(error), traceback_of(error)) from None


async def play_jobs(
    jobs: Iterable[Job],
    pool: Pool,
    *,
    repeat: int = 1,
    broken: str | None = None,
    on_result: OnResult = lambda _: None,
) -> Results:
    """Play every job `repeat` times; `on_result` is called with each result as it arrives."""
    began = time.monotonic()
    wrong: list[str] = []

    async def play_job(job: Job, turn: int) -> list[Result]:
        try:
            played = await pool.run(job, broken)
        except EvalError as error:
            trace = error.trace if isinstance(error, PlayError) else ""
            found = [Result(case, turn, trouble=str(error), traceback=trace) for case in job.cases]
        else:
            pairs = zip(job.cases, played.evidence, strict=True)
            found = [Result(case, turn, score(case, seen), seen) for case, seen in pairs]
            wrong.extend(f"{job.name}: {line}" for line in played.wrong)
        for result in found:
            on_result(result)
        return found

    planned = [(job, turn) for job in jobs for turn in range(1, repeat + 1)]
    done = await asyncio.gather(*(play_job(*one) for one in planned))
    results = sorted((one for some in done for one in some), key=lambda one: (one.case.id, one.turn))
    return Results(results, time.monotonic() - began, broken, wrong=wrong)
