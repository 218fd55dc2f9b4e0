"""Plays many cases in parallel processes, each with a Valkey of its own and one case at a time."""

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Final

import pydantic_evals
from pydantic_evals.evaluators import EvaluationReason, Evaluator, EvaluatorContext
from pydantic_evals.reporting import EvaluationReport

from app.embedded_redis import embedded_valkey
from evals.case import Case
from evals.events import EvalError
from evals.evidence import Evidence
from evals.runner import CaseResources, Result, Results, play
from evals.scorer import Check, score
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


@dataclass
class Pool:
    """Plays cases in worker processes."""

    executor: ProcessPoolExecutor

    async def play(self, case: Case, broken: str | None = None) -> Evidence:
        """Play one case as soon as a process is free.

        Raises:
            EvalError: The process died, or the case names something that does not exist.
        """
        loop = asyncio.get_running_loop()
        try:
            evidence = await loop.run_in_executor(self.executor, _play, case.model_dump_json(), broken)
        except BrokenProcessPool:
            raise EvalError("a process that plays cases died") from None
        return Evidence.model_validate_json(evidence)


def max_parallel_cases() -> int:
    """Return how many cases are played at once: a case waits about as long as it computes."""
    return max(2, cores() * 2)


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2


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


def _play(case: str, broken: str | None) -> str:
    return play(Case.model_validate_json(case), _resources[0], broken).model_dump_json()


@dataclass
class Expectations(Evaluator[Case, Evidence, None]):
    """Turns every check of a case into one pydantic-evals assertion with its reason."""

    def evaluate(self, ctx: EvaluatorContext[Case, Evidence, None]) -> dict[str, EvaluationReason]:
        return {
            check.name: EvaluationReason(check.holds, check.reason) for check in score(ctx.inputs, ctx.output)
        }


async def evaluate_cases(
    cases: Sequence[Case],
    pool: Pool,
    *,
    repeat: int = 1,
    broken: str | None = None,
    on_result: OnResult = lambda _: None,
) -> Results:
    """Play every case `repeat` times; `on_result` is called with each result as it arrives."""
    began = time.monotonic()
    dataset = pydantic_evals.Dataset[Case, Evidence, None](
        name="onetake",
        cases=[pydantic_evals.Case(name=case.id, inputs=case) for case in cases],
        evaluators=[Expectations()],
    )

    async def task(case: Case) -> Evidence:
        try:
            found = await pool.play(case, broken)
        except Exception as error:
            on_result(Result(case, trouble=f"{type(error).__name__}: {error}"))
            raise
        on_result(Result(case, checks=score(case, found), evidence=found))
        return found

    report = await dataset.evaluate(
        task, name="onetake", progress=False, repeat=repeat, max_concurrency=max_parallel_cases() + 2
    )
    return Results(_results(report), time.monotonic() - began, broken)


def _results(report: EvaluationReport[Case, Evidence, None]) -> list[Result]:
    found: list[Result] = []
    turns: dict[str, int] = {}

    def next_turn(case: Case) -> int:
        turns[case.id] = turns.get(case.id, 0) + 1
        return turns[case.id]

    for one in report.cases:
        checks = [Check(name, it.value, it.reason or "") for name, it in one.assertions.items()]
        trouble = "; ".join(f"{bad.name}: {bad.error_message}" for bad in one.evaluator_failures)
        found.append(Result(one.inputs, next_turn(one.inputs), checks, one.output, trouble))
    found += [Result(bad.inputs, next_turn(bad.inputs), trouble=bad.error_message) for bad in report.failures]
    return sorted(found, key=lambda result: (result.case.id, result.turn))
