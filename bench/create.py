"""A whole /create: its CPU, SQL and Redis commands, and how many a machine makes in a second."""

import asyncio
import itertools
import statistics
import time
from pathlib import Path

from bench.agent_run import bare_run
from bench.measure import quartiles
from bench.processes import Site, Usage, site
from bench.results import Figure, Results, Size
from ledger.requests import NewRequest, open_request

_SETTLE_S = 1.5
"""After the last delivery: the last message, the trace's end and the outcome are still being written."""


async def run(folder: Path, results: Results, size: Size) -> None:
    """Measure every row that begins with `create`."""
    short = size == "short"
    await _one_process(folder / "one", results, turns=2 if short else 8, count=10 if short else 25)
    if not short:
        await _waiting(folder, results, count=30)
        await _rate(folder, results, count=200)


async def _one_process(folder: Path, results: Results, turns: int, count: int) -> None:
    """Measure CPU ÷ bare run, SQL and Redis commands, with bot and worker in one process."""
    ratios: list[float] = []
    uses: list[Usage] = []
    async with site(folder) as one:
        await one.start("run", WORKER="inside")
        await one.create(1000, 5)  # imports that the first run makes
        await asyncio.sleep(_SETTLE_S)
        idle = await one.idle(3)
        for turn in range(turns):
            bare = await _bare_cpu_s(20)
            used = await used_by(one, 10_000 * (turn + 1), count, idle)
            uses.append(used)
            ratios.append(used.cpu_s / bare)
        dialect, lost = one.ledger.dialect, one.lost
        results.series["commits_per_s"] = await _commits_per_s(one, 2)
    low, high = quartiles(ratios)
    cpu = statistics.median(ratios)
    median = Usage(
        *(statistics.median(column) for column in zip(*(used.values for used in uses), strict=True))
    )
    results.series["create"] = {
        "cpu_ms": median.cpu_s * 1e3, "transactions": median.transactions, "statements": median.statements,
        "commands": median.commands, "redis_cpu_ms": median.redis_cpu_s * 1e3, "dialect": dialect,
    }  # fmt: skip
    where = f"bot and worker in one process on {dialect}, {count} at once, less what an idle process uses"
    results.figures["create.cpu"] = Figure(
        cpu, f"{cpu:.1f}", f"{low:.1f} to {high:.1f}", f"{median.cpu_s * 1e3:.0f} ms of CPU here; {where}"
    )
    sent = 5 + turns * count
    results.figures["create.lost"] = Figure(lost, str(lost), "", f"of {sent}; {where}")
    for name in ("transactions", "statements", "commands"):
        values = [getattr(used, name) for used in uses]
        figure = getattr(median, name)
        results.figures[f"create.{name}"] = Figure(
            figure, f"{figure:.1f}", f"{min(values):.1f} to {max(values):.1f}", where
        )


async def used_by(one: Site, first_user: int, count: int, idle: Usage, wait_s: float = 120) -> Usage:
    """Return what one of `count` /create at once used, less what the same time costs without any."""
    before, began = await one.usage(), time.monotonic()
    await one.create(first_user, count, wait_s)
    await asyncio.sleep(_SETTLE_S)
    after = await one.usage()
    return (after - before - idle * (time.monotonic() - began)) * (1 / count)


async def _commits_per_s(one: Site, seconds: float) -> float:
    """Return how many durable inserts the ledger commits in a second, ten at once."""
    made = itertools.count()
    end = time.monotonic() + seconds

    async def insert() -> None:
        while time.monotonic() < end:
            number = next(made)
            await open_request(one.ledger, NewRequest(f"commit:{number}", 9, 9, number, 9, "en", "a market"))

    await asyncio.gather(*(insert() for _ in range(10)))
    return next(made) / seconds


async def _bare_cpu_s(runs: int) -> float:
    cpu = time.process_time()
    for _ in range(runs):
        await bare_run()
    return (time.process_time() - cpu) / runs


async def _waiting(folder: Path, results: Results, count: int) -> None:
    """Compare the SQL of a job of two seconds with one of twenty, asked about equally often.

    Both are long enough for the one edit that says that the video is being made.
    """

    async def measure(job_s: float) -> Usage:
        async with site(folder / f"waits{job_s}") as one:
            await one.start("run", WORKER="inside", BENCH_JOB_S=str(job_s * 0.9), BENCH_POLL_S=str(job_s))
            await one.create(1000, 2)
            await asyncio.sleep(_SETTLE_S)
            idle = await one.idle(5)
            return await used_by(one, 10_000, count, idle)

    jobs = (2.0, 20.0)
    found = dict(zip(jobs, await asyncio.gather(*map(measure, jobs)), strict=True))  # counts, not times
    brief, long = found[2.0], found[20.0]
    more = long.transactions - brief.transactions
    results.series["waiting"] = {str(job_s): used.values for job_s, used in found.items()}
    results.figures["create.waiting"] = Figure(
        max(0.0, more), f"{more:+.1f}", "",
        f"{brief.transactions:.1f} transactions and {brief.commands:.0f} Redis commands for a job of 2 s, "
        f"{long.transactions:.1f} and {long.commands:.0f} for one of 20 s; both are asked about twice",
    )  # fmt: skip


async def _rate(folder: Path, results: Results, count: int) -> None:
    """Measure /create per second with a bot and one worker, then two, in processes of their own."""
    cpu: dict[int, float] = {}
    rates: dict[int, float] = {}
    for workers in (1, 2):
        async with site(folder / f"rate{workers}") as one:
            await one.start("run", WORKER="apart")
            for _ in range(workers):
                await one.start("worker")
            await one.create(1000, 10)
            await asyncio.sleep(_SETTLE_S)
            idle = await one.idle(3)
            before, began = await one.usage(), time.monotonic()
            seconds = await one.create(10_000, count, 600)
            await asyncio.sleep(_SETTLE_S)
            used = await one.usage() - before - idle * (time.monotonic() - began)
            cpu[workers], rates[workers] = used.cpu_s / count, count / seconds
            dialect = one.ledger.dialect
    results.series["rate"] = {"per_second": rates, "cpu_ms": {n: one * 1e3 for n, one in cpu.items()}}
    results.figures["create.rate"] = Figure(
        rates[1], f"{rates[1]:.1f}", "",
        f"{count} at once on {dialect}; with 2 workers {rates[2]:.1f}; Bot API, load and stores run here too",
    )  # fmt: skip
    growth = cpu[2] / cpu[1]
    results.figures["create.workers"] = Figure(
        growth, f"{growth:.2f}", "", f"{cpu[1] * 1e3:.0f} ms with one worker, {cpu[2] * 1e3:.0f} ms with two"
    )
