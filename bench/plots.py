"""The pictures of docs/benchmarks.md. They need matplotlib, of requirements-bench.txt."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt

_SIZE: Final = (7.2, 4.0)
Points = Sequence[Mapping[str, Any]]


def admission_against_history(points: Points, path: Path) -> None:
    """Draw the time of one admission against the orders in the window, both scales logarithmic."""
    done = [point for point in points if "failed" not in point]
    orders = [point["orders"] for point in done]
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    axes.plot(orders, [point["others_us"] for point in done], "o-", label="others' orders in the window")
    axes.plot(orders, [point["own_us"] for point in done], "s-", label="one's own orders too")
    axes.plot(orders, [point["empty_us"] for point in done], "--", color="gray", label="none (same turns)")
    axes.set(xscale="log", yscale="log", xlabel="orders in the window", ylabel="one admission, µs (p50)")
    _finish(figure, axes, path)


def latency_against_load(points: Points, path: Path) -> None:
    """Draw p50 and p99 of one admission against the number that are made at once."""
    at_once = [point["at_once"] for point in points]
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    axes.plot(at_once, [point["p50_ms"] for point in points], "o-", label="p50")
    axes.plot(at_once, [point["p99_ms"] for point in points], "s-", label="p99")
    axes.set(xscale="log", yscale="log", xlabel="admissions at once, one process", ylabel="ms")
    _finish(figure, axes, path)


def _finish(figure: Any, axes: Any, path: Path) -> None:
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
