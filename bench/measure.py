"""Interleaved measurement: two kinds of work in alternating turns, so that load slows both.

Ratios are compared within one run and no absolute time is judged. Wall time is the median (p50) of single
calls; CPU time is this process' own, over a whole turn.
"""

import asyncio
import gc
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

Work = Callable[[int], Awaitable[object]]
"""One call; the number is new for every call of a measurement."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours ÷ theirs.

    Attributes:
        wall: Of the medians of all calls.
        low, high: Quartiles of the ratios of single turns.
        least: Of the shortest calls, which noise does not lengthen: for work that is the same each time.
        cpu: The median of the turns' ratios of CPU time.
        ours_us, theirs_us: Medians of one call, microseconds.
        ours_cpu_us, theirs_cpu_us: CPU time of one call, microseconds.
    """

    wall: float
    low: float
    high: float
    least: float
    cpu: float
    ours_us: float
    theirs_us: float
    ours_cpu_us: float
    theirs_cpu_us: float

    @property
    def spread(self) -> str:
        """The quartiles, as a reader sees them."""
        return f"{self.low:.2f} to {self.high:.2f}"


@dataclass
class Side:
    """The times of one kind of work: of every call, and of each turn."""

    work: Work
    calls: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    async def turn(self, numbers: Sequence[int], at_once: int) -> None:
        """Make one turn: `numbers` are made in batches of `at_once`, and each batch counts as one call."""
        taken: list[float] = []
        cpu = time.process_time()
        for start in range(0, len(numbers), at_once):
            batch = numbers[start : start + at_once]
            began = time.perf_counter()
            if at_once == 1:
                await self.work(batch[0])
            else:
                await asyncio.gather(*map(self.work, batch))
            taken.append(time.perf_counter() - began)
        self.cpu.append((time.process_time() - cpu) / len(numbers))
        self.calls += taken
        self.turns.append(statistics.median(taken))


async def ratio(ours: Work, theirs: Work, *, turns: int = 15, calls: int = 40, at_once: int = 1) -> Ratio:
    """Measure both sides in alternating turns of `calls` calls, after one turn that is not counted.

    With `at_once` a call is a batch of so many, made at the same time.
    """
    for work in (ours, theirs):
        await Side(work).turn(range(-max(at_once, 4), 0), at_once)
    sides = Side(ours), Side(theirs)
    gc.collect()
    for turn in range(turns):
        first = turn * calls * at_once
        numbers = range(first, first + calls * at_once)
        for side in sides if turn % 2 == 0 else reversed(sides):
            await side.turn(numbers, at_once)
    return compare(*sides)


def compare(ours: Side, theirs: Side) -> Ratio:
    """Return the ratio of two measured sides."""
    by_turn = [one / other for one, other in zip(ours.turns, theirs.turns, strict=True)]
    low, high = quartiles(by_turn)
    medians = statistics.median(ours.calls), statistics.median(theirs.calls)
    cpu = [one / other for one, other in zip(ours.cpu, theirs.cpu, strict=True) if other]
    return Ratio(
        wall=medians[0] / medians[1],
        low=low,
        high=high,
        least=min(ours.calls) / min(theirs.calls),
        cpu=statistics.median(cpu) if cpu else 0.0,
        ours_us=medians[0] * 1e6,
        theirs_us=medians[1] * 1e6,
        ours_cpu_us=statistics.median(ours.cpu) * 1e6,
        theirs_cpu_us=statistics.median(theirs.cpu) * 1e6,
    )


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the first and third quartile; of one value, that value twice."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` (0 to 1) of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]
