"""One run from beginning to end: selects cases, plays them, shows and writes the results."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from evals.adversaries.catalog import make_adversary
from evals.adversaries.scripted import record
from evals.case import Case
from evals.dataset import Selection, choose, failed_ids
from evals.events import FAILED, OK
from evals.inspect_log import write_inspect_log
from evals.metrics import compute_metrics
from evals.mutants.registry import mutant
from evals.pool import max_parallel_cases, open_pool, play_jobs
from evals.report import Baseline, kind_of, progress, read_baseline, show, usual_seconds, write
from evals.results import Result, Results
from evals.sources import jobs_of, read_selection
from evals.topologies import topology
from evals.waiting import cores

_SAID: Final = 40
"""Cases that are not ok are named as they come, up to so many."""


@dataclass(frozen=True)
class RunOptions:
    """What `python -m evals run` was asked for.

    Attributes:
        corpus: A file of texts in place of YAML cases.
        folder: Another folder of YAML cases.
        suite, tags, ids: Which of them.
        failed: Only those that were not ok in the last report of `out`.
        repeat: How often each is played.
        broken: The mutant to play against.
        workers: Processes, each with an app of its own; None for twice the cores, or the cores for texts.
        out: Folder of the reports.
        baseline: A report.json to compare with.
        recordings: Folder for what the models said.
        inspect: Folder for a log in the format of inspect-ai.
    """

    corpus: Path | None = None
    folder: Path | None = None
    suite: str = "full"
    tags: Sequence[str] = ()
    ids: Sequence[str] = ()
    failed: bool = False
    repeat: int = 1
    broken: str | None = None
    workers: int | None = None
    out: Path = Path("var/evals")
    baseline: Path | None = None
    recordings: Path | None = None
    inspect: Path | None = None


def select(options: RunOptions) -> Selection:
    """Return the cases of a run, and check that all they name exists before the first is played.

    Raises:
        EvalError: A file, a case or a name in it cannot be used.
    """
    selection = read_selection(options.corpus, options.folder)
    ids = list(options.ids)
    if options.failed:
        ids = failed_ids(options.out / "report.json", selection, options.broken)
        if not ids:
            return selection.only([])
    chosen = choose(selection.cases, options.suite, options.tags, ids)
    _check_names(chosen, options.broken)
    return selection.only(chosen)


def _check_names(cases: Sequence[Case], broken: str | None) -> None:
    with mutant(broken):
        for case in cases:
            if kind_of(case) != "corpus":  # the same two for thousands
                make_adversary(case.policy)
                with topology(case.topology):
                    pass


def run_suite(console: Console, selection: Selection, options: RunOptions) -> int:
    """Play the cases, show and write the results; return the exit code.

    Raises:
        EvalError: The baseline cannot be read.
    """
    if options.failed and not selection.cases:
        console.print("every case of the last report was ok", style="green")
        return OK
    before = read_baseline(options.baseline) if options.baseline else None
    for note in selection.notes[:_SAID]:
        console.print(note, style="yellow", markup=False)
    results = _play(console, selection, options)
    return _report(console, results, options, before)


def _play(console: Console, selection: Selection, options: RunOptions) -> Results:
    jobs = list(jobs_of(selection.cases))
    workers = _workers(selection, len(jobs) * options.repeat, options.workers)
    number = len(selection.cases) * options.repeat
    usual_s = usual_seconds(options.out / "report.json", selection.cases) * options.repeat / workers
    console.print(
        f"{number} cases, {workers} processes; about {_duration(usual_s)} once they have started", style="dim"
    )
    said = 0
    with open_pool(workers) as pool, progress(console, "cases", number) as advance:

        def on_result(result: Result) -> None:
            nonlocal said
            advance(result.case.id, 1)
            if result.verdict != "ok" and said < _SAID:
                said += 1
                console.print(Text(f"{result.name} {result.verdict}: {result.reason}"[:400], "red"))

        results = asyncio.run(
            play_jobs(jobs, pool, repeat=options.repeat, broken=options.broken, on_result=on_result)
        )
    wrong = [*results.wrong, *_nothing_made(results, selection)]
    return replace(results, source=selection.source, left_out=selection.left_out, wrong=wrong)


def _workers(selection: Selection, jobs: int, wanted: int | None) -> int:
    """A case waits as long as it computes; a batch of texts computes all the time."""
    usual = max_parallel_cases() if selection.source == "cases" else cores()
    return max(1, min(wanted or usual, jobs))


def _nothing_made(results: Results, selection: Selection) -> list[str]:
    """Texts may be refused, but not all of them: a sweep over an app that makes nothing proves nothing."""
    delivered = sum(one.evidence.delivered for one in results.results if one.evidence)
    if selection.source == "cases" or delivered or not results.results:
        return []
    return [f"none of {len(results.results)} requests became a video"]


def _report(console: Console, results: Results, options: RunOptions, before: Baseline | None) -> int:
    metrics = compute_metrics(results)
    show(console, results, metrics)
    worse = write(options.out, results, metrics, before)
    for line in _written(results, options):
        console.print(line, style="dim", markup=False)
    for line in worse:
        console.print(line, style="red", markup=False)
    return FAILED if worse else results.exit_code


def _written(results: Results, options: RunOptions) -> list[str]:
    """Write what was asked for beside the reports; return lines that say where."""
    lines = []
    for result in results.results:
        if options.recordings is not None and result.evidence is not None:
            path = record(options.recordings, result.case, result.evidence, result.name)
            lines.append(f"recorded {path}")
    if options.inspect is not None:
        lines.append(f"for inspect view: {write_inspect_log(options.inspect, results)}")
    return [*lines, f"{options.out}{os.sep}report.json, report.md, junit.xml"]


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{max(1.0, seconds):.0f} s"
