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
    """Draw how many times as long one admission takes as with an empty window, both measured in turns."""
    done = [point for point in points if "failed" not in point]
    orders = [point["orders"] for point in done]
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    axes.plot(orders, [point["others"] for point in done], "o-", label="others' orders in the window")
    axes.plot(orders, [point["own"] for point in done], "s-", label="one's own orders too")
    axes.axhline(1, linestyle="--", color="gray", label="an empty window")
    axes.set(xscale="log", xlabel="orders in the window", ylabel="one admission ÷ with an empty window, p50")
    _finish(figure, axes, path)


def latency_against_load(points: Points, path: Path) -> None:
    """Draw p50 and p99 of one admission against the number that are made at once."""
    at_once = [point["at_once"] for point in points]
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    axes.plot(at_once, [point["p50_ms"] for point in points], "o-", label="p50")
    axes.plot(at_once, [point["p99_ms"] for point in points], "s-", label="p99")
    axes.set(xlabel="admissions at once, one process", ylabel="ms")
    axes.set_xlim(left=0)
    _finish(figure, axes, path)


def _finish(figure: Any, axes: Any, path: Path) -> None:
    axes.margins(y=0.2)
    axes.set_ylim(bottom=0)  # a cut axis makes small differences look large
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
