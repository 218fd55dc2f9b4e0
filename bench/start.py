"""Starts of processes, and what an idle one uses."""

import asyncio
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.history import Shape, fill
from bench.measure import quartiles
from bench.processes import Site, site
from bench.results import Figure, Results, Size
from ledger.database import Ledger

_IMPORT = "import agents, aiogram"


async def run(folder: Path, results: Results, size: Size) -> None:
    """Measure every row that begins with `start`."""
    short = size == "short"
    async with site(folder) as one:
        await _worker(one, results, turns=1 if short else 5)
        if not short:  # seconds and shares, which no run is judged by
            await _bot(one, results, turns=5)
            await _costs(one, folder, results, turns=5)
            await _idle(one, results, seconds=60)


async def _worker(one: Site, results: Results, turns: int) -> None:
    """Measure a worker to the moment when it works, and the plain imports, in turns."""
    ratios: list[float] = []
    walls: list[float] = []
    for _ in range(turns):
        plain_s, plain_cpu = await asyncio.to_thread(_run, [sys.executable, "-c", _IMPORT], {}, one.folder)
        worker_s, worker_cpu = await _until_up(one, "worker", "worker started")
        ratios.append(worker_cpu / plain_cpu)
        walls.append(worker_s / plain_s)
    low, high = quartiles(ratios)
    found = statistics.median(ratios)
    results.figures["start.worker"] = Figure(
        found, f"{found:.2f}", f"{low:.2f} to {high:.2f}",
        f"wall {statistics.median(walls):.2f}; aiogram's types are built only when they are used",
    )  # fmt: skip


async def _bot(one: Site, results: Results, turns: int) -> None:
    taken = [(await _until_up(one, "run", "polling", WORKER="apart"))[0] for _ in range(turns)]
    found = statistics.median(taken)
    results.figures["start.bot"] = Figure(
        found, f"{found:.1f}", f"{min(taken):.1f} to {max(taken):.1f}",
        "until it asks Telegram for updates, on stores that answer",
    )  # fmt: skip


async def _until_up(one: Site, role: str, word: str, **more: str) -> tuple[float, float]:
    """Start `python -m bot ROLE`; return seconds and CPU seconds until its log says `word`."""
    log = one.folder / f"start-{role}-{time.monotonic_ns()}"
    began = time.perf_counter()
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [sys.executable, "-m", "bot", role],
            env=one.environment(VIDEO_PROVIDER="local", **more), cwd=one.folder, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        while f'"{word}"'.encode() not in log.read_bytes():
            assert popen.poll() is None, log.read_text(errors="replace")[-1000:]
            await asyncio.sleep(0.005)
        taken = time.perf_counter() - began
        fields = Path(f"/proc/{popen.pid}/stat").read_text().rpartition(")")[2].split()
        return taken, (int(fields[11]) + int(fields[12])) / 100
    finally:
        popen.kill()
        await asyncio.to_thread(popen.wait, 30)


def _run(command: list[str], environment: dict[str, str], cwd: Path) -> tuple[float, float]:
    """Run a command to its end; return seconds and CPU seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, cwd=cwd, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    taken = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def _costs(one: Site, folder: Path, results: Results, turns: int) -> None:
    """Measure `python -m bot costs` on a ledger with some past."""
    past = Ledger(f"sqlite:///{folder / 'past.db'}")
    await fill(past, 2000, Shape(per_day=70))
    await past.close()
    environment = one.environment(VIDEO_PROVIDER="local", DATABASE_URL=f"sqlite:///{folder / 'past.db'}")
    taken = [
        (await asyncio.to_thread(_run, [sys.executable, "-m", "bot", "costs"], environment, folder))[0]
        for _ in range(turns)
    ]
    found = statistics.median(taken)
    results.figures["start.costs"] = Figure(
        found, f"{found:.2f}", f"{min(taken):.2f} to {max(taken):.2f}", ""
    )


async def _idle(one: Site, results: Results, seconds: float) -> None:
    await one.start("worker")
    await asyncio.sleep(2)
    used = await one.idle(seconds)
    results.series["idle"] = {
        "cpu_share": used.cpu_s, "transactions_per_s": used.transactions, "commands_per_s": used.commands,
    }  # fmt: skip
    results.figures["start.idle"] = Figure(
        used.cpu_s * 100, f"{used.cpu_s * 100:.1f} %", "",
        f"{used.transactions:.1f} SQL transactions, {used.commands:.1f} Redis commands a second",
    )  # fmt: skip
