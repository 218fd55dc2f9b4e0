"""A live run from the command line: the worst case first, then the cases, then what was used."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from evals.case import Case
from evals.live.meter import Meter
from evals.live.start import DEAR, Asked, endpoint, live_case, worst_case
from evals.result import INCOMPLETE

__all__ = ["DEAR", "Asked", "session"]


def session(
    console: Console, cases: Sequence[Case], asked: Asked, play: Callable[..., int], *, repeat: int, out: Path
) -> int:
    """Play cases with a real model; return the exit code, which is 3 if a cap stopped it.

    Raises:
        EvalError: It may not start; see `endpoint`.
    """
    said = endpoint(asked, out)
    for line in worst_case(cases, repeat, said):
        console.print(line, markup=False, highlight=False)
    code = play(console, [live_case(one, said) for one in cases], out=out)
    used = Meter(Path(said.meter), said.caps).read()
    console.print(f"used: {used}", markup=False, highlight=False)
    if used.stopped:
        console.print(used.stopped, style="yellow", markup=False)
        return INCOMPLETE
    return code
