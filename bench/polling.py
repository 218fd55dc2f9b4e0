"""Many jobs in flight on one worker: how late a job is asked about, and the worker's memory."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from bench import instant_provider
from bench.measure import percentile
from bench.processes import Site, site
from bench.results import Figure, Results, Size
from evals.environment import set_status_message
from guardrails.limits import BreakerRates, Limits
from ledger import orders, requests, transitions
from ledger.orders import Order
from ledger.requests import NewRequest

POLL_S: Final = 30.0
ROUNDS: Final = 3


async def run(folder: Path, results: Results, size: Size) -> None:
    """Measure every row that begins with `polling`."""
    short = size == "short"
    jobs = 300 if short else 5000
    async with site(folder) as one:
        known = await _accept(one, jobs)
        asks = folder / "asks.json"
        worker = await one.start(
            "worker", BENCH_JOB_S="86400", BENCH_POLL_S=str(POLL_S), BENCH_ASKS=str(asks)
        )
        began, cpu_before = time.time(), worker.cpu_s
        rss: list[float] = []
        while time.time() < began + POLL_S * (ROUNDS + 1):
            await asyncio.sleep(1)
            rss.append(worker.rss_mb)
        cpu_s = worker.cpu_s - cpu_before
        await worker.stop()
        asked: dict[str, list[float]] = json.loads(asks.read_text())
    ended = began + POLL_S * (ROUNDS + 1)
    late = [max(0.0, gap - POLL_S) for job in known for gap in gaps(asked.get(job, ()), began, ended)]
    never = sum(job not in asked for job in known)
    p95, p50 = percentile(late, 0.95), percentile(late, 0.5)
    questions = sum(map(len, asked.values()))
    note = f"{jobs} jobs for {POLL_S * (ROUNDS + 1):.0f} s, {questions} questions"
    results.series["polling"] = {
        "jobs": jobs,
        "questions": questions,
        "lag_p50_s": p50,
        "lag_p95_s": p95,
        "cpu_s": cpu_s,
        "rss_mb": max(rss),
    }
    of_jobs = f"with {jobs:,} jobs"
    spread = f"p50 {p50:.1f}, greatest {max(late):.1f}"
    results.figures["polling.lag"] = Figure(p95, f"{p95:.1f} {of_jobs}", spread, note)
    results.figures["polling.never"] = Figure(never, f"{never} {of_jobs}", "", note)
    results.figures["polling.memory"] = Figure(max(rss), f"{max(rss):.0f} {of_jobs}", "", "the greatest")


def gaps(asked: Sequence[float], began: float, ended: float) -> Iterator[float]:
    """Yield the times between two questions about one job, from the start to the end of the measurement."""
    times = [began, *(at for at in asked if began < at < ended), ended]
    yield from (later - earlier for earlier, later in pairwise(times))


async def _accept(one: Site, jobs: int) -> list[str]:
    """Write `jobs` accepted orders by the ledger's own transitions, each of a user of its own."""
    semaphore = asyncio.Semaphore(8 if one.ledger.dialect == "postgresql" else 1)
    bot_id = int(one.api.token.partition(":")[0])

    async def accept(number: int) -> str:
        async with semaphore:
            user = 30_000_000 + number
            one.api.user(user, "Ana")
            request = f"tg:{bot_id}:-:{user}:{number}"
            await requests.open_request(
                one.ledger, NewRequest(request, bot_id, user, number, user, "en", "a market")
            )
            wanted = Order(
                request, instant_provider.NAME, instant_provider.MODEL, "a market", 8, "720x1280",
                instant_provider.PRICE, instant_provider.NAME,
            )  # fmt: skip
            await set_status_message(one.ledger, request)
            await orders.place(one.ledger, wanted, Limits())
            await transitions.begin_submit(one.ledger, request, "bench", 3600, BreakerRates())
            job = instant_provider.job_id_at(time.time(), str(number))
            await transitions.adopt_job(one.ledger, request, job, "bench", None)
            return job

    return list(await asyncio.gather(*map(accept, range(jobs))))
