"""What a preview costs: the whole renderer process against encoding the same frames once they are drawn."""

import asyncio
import resource
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path

from bench.measure import quartiles
from bench.results import Figure, Results, Size
from guardrails.money import Money
from sandbox.preview.jobs import JobFolder
from sandbox.renderer.encoder import write_reel
from sandbox.renderer.film import Film

ROOT = Path(__file__).resolve().parents[1]
SECONDS, SIZE, SEED = 8, (720, 1280), 7
IDEAS = (
    "a horse runs on the beach at dawn",
    "a kitten attacks a ball of wool",
    "un tranvía amarillo bajo la lluvia en la ciudad",
    "three quiet thoughts",
)


class _Drawn:
    """A film whose frames are there already."""

    def __init__(self, film: Film) -> None:
        self.frames, self.size = film.frames, film.size
        self._pictures = [film.frame(number) for number in range(film.frames)]

    def frame(self, number: int):
        return self._pictures[number]


async def run(folder: Path, results: Results, size: Size) -> None:
    """Measure the row `preview.cpu`, one idea a turn."""
    folder.mkdir(parents=True, exist_ok=True)
    ideas = IDEAS[:1] if size == "short" else IDEAS
    ratios = [await asyncio.to_thread(_turn, folder, idea) for idea in ideas]
    low, high = quartiles(ratios)
    found = statistics.median(ratios)
    results.figures["preview.cpu"] = Figure(
        found, f"{found:.2f}", f"{low:.2f} to {high:.2f}",
        f"{SECONDS} s at {SIZE[0]}x{SIZE[1]}; the process from start to published film and thumbnail, "
        "against x264 and AAC on frames in memory",
    )  # fmt: skip


def _turn(folder: Path, idea: str) -> float:
    job = JobFolder(folder / uuid.uuid4().hex)
    body = {
        "prompt": idea, "caption": idea, "seconds": SECONDS, "size": f"{SIZE[0]}x{SIZE[1]}", "seed": SEED,
    }  # fmt: skip
    job.write_order("key", body, Money(0), 0.0)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "sandbox.renderer", str(job.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT) as renderer:
        renderer.wait(300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert job.verdict == "made", job.failure
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    drawn = _Drawn(Film(idea, idea, SECONDS, SIZE, SEED))
    began = time.process_time()
    write_reel(drawn, job.path / "again.mp4", SEED, lambda _: None)
    return whole / (time.process_time() - began)
