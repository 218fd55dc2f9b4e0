"""One run from the command line: play, show, write."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evals.case import Case
from evals.console import progress, show
from evals.figures import figures
from evals.harness import run
from evals.pool import open_pool
from evals.recording import record
from evals.report import Baseline, write
from evals.result import FAILED, Results


def session(
    console: Console,
    cases: Sequence[Case],
    *,
    repeat: int = 1,
    broken: str | None = None,
    out: Path,
    baseline: Baseline | None = None,
    recordings: Path | None = None,
) -> int:
    """Play cases, show and write what came of them; return the exit code."""
    with open_pool() as pool, progress(console, len(cases) * repeat) as tell:
        results = asyncio.run(run(cases, pool, repeat=repeat, broken=broken, tell=tell))
    summed = figures(results)
    show(console, results, summed)
    worse = write(out, results, summed, baseline)
    if recordings is not None:
        record_all(console, recordings, results)
    for line in worse:
        console.print(line, style="red", markup=False)
    console.print(f"[dim]{out}/report.json, report.md, junit.xml[/]")
    return FAILED if worse else results.exit_code


def record_all(console: Console, folder: Path, results: Results) -> None:
    """Write down what the model said in every case that was played."""
    for result in results.results:
        if result.evidence is not None:
            path = record(folder, result.case, result.evidence, result.name)
            console.print(f"recorded {path}", style="dim", markup=False)
