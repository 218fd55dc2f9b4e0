"""A sweep from the command line: read, play in processes, show, write."""

import json
import sys
import time
from concurrent.futures import as_completed
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from evals import pool
from evals.pool import cores, open_pool
from evals.sweep.floor import Batch, Floor, batch_of, play_batch
from evals.sweep.lines import Lines, batches, read_lines
from evals.sweep.slots import ECHOES, SLOTS
from evals.sweep.verdict import Swept

_SIZE: Final = 60
"""Texts on one stage: a new house costs little, a full one is slow."""

_FIRST_USER: Final = 100_000
_SHOWN: Final = 40
_SWITCH_S: Final = 0.0005
"""Threads that wait for a busy loop get their turn after this, and not after ten times as long."""


def sweep(console: Console, path: Path, out: Path) -> int:
    """Sweep a file, show and write what came of it; return the exit code.

    Raises:
        EvalError: The file cannot be used.
    """
    lines = read_lines(path)
    for odd in lines.odd[:_SHOWN]:
        end = "" if odd.played else "; left out"
        console.print(f"line {odd.number}: {odd.why}{end}", style="yellow", markup=False)
    swept = Swept(lines)
    began = time.monotonic()
    _play(console, lines, swept)
    swept.seconds = time.monotonic() - began
    out.mkdir(parents=True, exist_ok=True)
    report = out / "sweep.json"
    report.write_text(json.dumps(swept.report(), ensure_ascii=True, indent=1), encoding="utf-8")
    show(console, swept)
    console.print(f"paid, end and seconds of each text: {report}", markup=False, style="dim")
    return swept.exit_code


def plan(lines: Lines) -> list[Batch]:
    """Return all batches: every text in every slot with every echo, each time as a new user."""
    found: list[Batch] = []
    user = _FIRST_USER
    for texts in batches(lines.texts, _SIZE):
        for slot in SLOTS:
            for echo in ECHOES:
                found.append(batch_of(slot, echo, texts, user))
                user += len(texts)
    return found


def _play(console: Console, lines: Lines, swept: Swept) -> None:
    planned = plan(lines)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=console.is_terminal)
    with open_pool(min(cores(), len(planned))) as opened, bar:
        task = bar.add_task("requests", total=sum(len(one.texts) for one in planned))
        futures = {opened.executor.submit(_in_process, one): one for one in planned}
        for future in as_completed(futures):
            batch = futures[future]
            try:
                swept.floors.append(future.result())
            except Exception as error:  # noqa: BLE001 - whatever ended a batch is named, and the rest goes on
                swept.lost.append(_lost(batch, error))
            paid = sum(one.paid > 1 for one in swept.played)
            more = f" · {paid} paid twice" if paid else ""
            words = f"requests · {batch.slot}, {batch.echo}{more}"
            bar.update(task, advance=len(batch.texts), description=words)


def _lost(batch: Batch, error: Exception) -> str:
    first, last = batch.texts[0][0], batch.texts[-1][0]
    return f"lines {first} to {last}, {batch.slot}, {batch.echo}: {type(error).__name__}: {error}"[:300]


def _in_process(batch: Batch) -> Floor:
    sys.setswitchinterval(_SWITCH_S)
    return play_batch(batch, pool.here())


def show(console: Console, swept: Swept) -> None:
    """Print the table, the figures, and what is wrong."""
    table = Table(box=None, padding=(0, 1))
    for name in ("slot", "echo", "texts", "paid", "paid twice", "what was not delivered"):
        table.add_column(name, justify="right" if name in ("texts", "paid", "paid twice") else "left")
    for row in swept.rows():
        table.add_row(*map(str, row))
    console.print(table)
    for name, value in swept.figures():
        console.print(f"{name}: {value}", markup=False, highlight=False)
    for words, style in ((swept.wrong, "red"), (swept.missing, "yellow")):
        for line in words[:_SHOWN]:
            console.print(line, style=style, markup=False)
        if len(words) > _SHOWN:
            console.print(f"… and {len(words) - _SHOWN} more", style=style)
