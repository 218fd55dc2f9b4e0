"""Plays the machine: from the command line, and for the tests."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from rich.console import Console

from app.embedded import embedded_valkey
from evals.fuzz.bench import Ground
from evals.fuzz.machine import Machine
from evals.mutants.registry import mutant
from evals.patience import unhurried
from evals.pool import scratch_disk
from evals.result import FAILED, OK
from ledger import migrate
from ledger.database import Ledger
from telemetry.logs import setup_logs


def session(console: Console, examples: int, *, number: int | None, broken: str | None) -> int:
    """Play from the command line; return the exit code. A counterexample is printed with its case."""
    began = time.monotonic()
    with ground() as where:
        setup_logs("CRITICAL", "json", where.folder / "log.jsonl")
        try:
            fuzz(where, examples, number=number, broken=broken)
        except Exception as error:  # noqa: BLE001 - an assertion, or several that hypothesis found
            console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
            for line in getattr(error, "__notes__", ()):
                console.print(line, markup=False, highlight=False)
            return FAILED
    took = time.monotonic() - began
    console.print(f"{examples} games in {took:.0f} s: paid at most once, and nothing was forgotten")
    return OK


@contextmanager
def ground() -> Iterator[Ground]:
    """Start a Valkey and migrate an empty ledger, in a folder that ends with the block."""
    with tempfile.TemporaryDirectory(dir=scratch_disk(), prefix="fuzz-") as name:
        folder = Path(name)
        asyncio.run(_migrate(folder / "empty.db"))
        with embedded_valkey(folder / "valkey") as url:
            yield Ground(url, folder / "empty.db", folder)


async def _migrate(path: Path) -> None:
    store = Ledger(f"sqlite:///{path}")
    await migrate.upgrade(store)
    await store.close()


def fuzz(
    where: Ground,
    examples: int,
    *,
    number: int | None = None,
    broken: str | None = None,
    shrink: bool = True,
    steps: int = 7,
) -> None:
    """Play so many games of so many steps at most; without a `number` always the same ones.

    Raises:
        AssertionError: One of the laws of `machine` was broken; its notes hold the game as a YAML case.
    """

    class Here(Machine):
        ground = where

    chosen = Here if number is None else seed(number)(Here)
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    asked = settings(
        max_examples=examples, stateful_step_count=steps, derandomize=number is None, database=None,
        deadline=None, phases=phases, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
    with mutant(broken), unhurried():
        run_state_machine_as_test(chosen, settings=asked)
