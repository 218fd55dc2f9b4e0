"""Reads, plays and scores a corpus."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from evals import pool
from evals.corpus.batch import Batch, BatchResult, PlayedText, batch_of, play_batch
from evals.corpus.slots import ECHO_MODES, SLOTS
from evals.corpus.texts import CorpusFile, batches, read_corpus
from evals.pool import cores, open_pool
from evals.report import upper_bound
from evals.runner import FAILED, INCOMPLETE, OK


@dataclass
class CorpusReport:
    """Everything that was played. `lost` says which batches came to nothing, and why."""

    lines: CorpusFile
    batch_results: list[BatchResult] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    seconds: float = 0

    @property
    def played(self) -> list[PlayedText]:
        return [one for floor in self.batch_results for one in floor.played]

    @property
    def wrong(self) -> list[str]:
        """Every broken law, in one line each."""
        found = [
            f"line {one.line}, {one.slot}, {one.echo}: paid {one.paid} times"
            for one in self.played
            if one.paid > 1
        ]
        found += [
            f"line {one.line}, {one.slot}, {one.echo}: {error}" for one in self.played for error in one.errors
        ]
        found += [trouble for floor in self.batch_results for trouble in floor.trouble]
        leaks = sum(floor.leaks for floor in self.batch_results)
        return found + ([f"{leaks} runs read what only the provider said"] if leaks else [])

    @property
    def missing(self) -> list[str]:
        """What was not played to its end."""
        found = [
            f"line {one.line}, {one.slot}, {one.echo}: did not come to rest"
            for one in self.played
            if one.ended == "restless"
        ]
        left = self.lines.left_out
        return [*found, *self.lost, *([f"{left} lines were left out"] if left else [])]

    @property
    def exit_code(self) -> int:
        """A broken law outweighs what is missing; neither is green."""
        if self.wrong:
            return FAILED
        return INCOMPLETE if self.missing else OK

    def rows(self) -> Iterator[tuple[str, str, int, int, int, str]]:
        """By slot and echo: texts, paid, paid more than once, and how those ended that were not paid once."""
        for slot in SLOTS:
            for echo in ECHO_MODES:
                some = [one for one in self.played if (one.slot, one.echo) == (slot, echo)]
                ends = Counter(one.ended for one in some if one.ended != "DELIVERED")
                said = ", ".join(f"{count} {word}" for word, count in ends.most_common())
                paid, twice = sum(one.paid for one in some), sum(one.paid > 1 for one in some)
                yield slot, echo, len(some), paid, twice, said

    def metrics(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        played = self.played
        excess = sum(max(0, one.paid - 1) for one in played)
        ideas = [one for one in played if one.slot == "idea"]
        refused = Counter(one.ended for one in ideas if one.paid == 0)
        times = sorted(one.seconds for one in played) or [0.0]
        cpu = sum(floor.cpu_s for floor in self.batch_results)
        rate = len(played) / self.seconds if self.seconds else 0
        each = cpu / max(1, len(played)) * 1000
        p50, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
        bound = upper_bound(excess, len(played))
        return [
            ("texts, requests", f"{len(self.lines.texts)}, {len(played)}"),
            ("calls of the paid tool", str(sum(floor.attempts for floor in self.batch_results))),
            ("paid beyond one", f"{excess} (95 % upper bound of the rate {bound:.2%})"),
            ("ideas paid exactly once", f"{sum(one.paid == 1 for one in ideas)} of {len(ideas)}"),
            ("ideas not paid", ", ".join(f"{n} {word}" for word, n in refused.most_common()) or "none"),
            ("exceptions", str(sum(len(one.errors) for one in played))),
            ("seconds of one request", f"p50 {p50:.1f}, p95 {p95:.1f}"),
            ("seconds", f"{self.seconds:.0f}; {rate:.1f} requests/s, {each:.0f} ms of CPU each"),
        ]  # fmt: skip

    def report(self) -> dict[str, Any]:
        """Return the whole sweep as JSON; texts are named by their lines and not repeated."""
        texts: dict[int, dict[str, Any]] = {}
        for one in self.played:
            line = texts.setdefault(one.line, {"line": one.line, "paid": {}, "ended": {}, "seconds": 0.0})
            place = f"{one.slot}/{one.echo}"
            line["paid"][place], line["ended"][place] = one.paid, one.ended
            line["seconds"] = round(line["seconds"] + one.seconds, 2)
            if one.errors:
                line.setdefault("errors", {})[place] = one.errors
        odd = [{"line": one.number, "why": one.why, "played": one.played} for one in self.lines.odd]
        return {
            "figures": dict(self.metrics()), "wrong": self.wrong, "missing": self.missing, "odd": odd,
            "texts": [texts[number] for number in sorted(texts)],
        }  # fmt: skip


_SIZE: Final = 60
"""Texts on one stage: a new house costs little, a full one is slow."""

_FIRST_USER: Final = 100_000
_SHOWN: Final = 40
_SWITCH_S: Final = 0.0005
"""Threads that wait for a busy loop get their turn after this, and not after ten times as long."""


def run_corpus(console: Console, path: Path, out: Path) -> int:
    """Sweep a file, show and write what came of it; return the exit code.

    Raises:
        EvalError: The file cannot be used.
    """
    lines = read_corpus(path)
    for odd in lines.odd[:_SHOWN]:
        end = "" if odd.played else "; left out"
        console.print(f"line {odd.number}: {odd.why}{end}", style="yellow", markup=False)
    swept = CorpusReport(lines)
    began = time.monotonic()
    _play(console, lines, swept)
    swept.seconds = time.monotonic() - began
    out.mkdir(parents=True, exist_ok=True)
    report = out / "sweep.json"
    report.write_text(json.dumps(swept.report(), ensure_ascii=True, indent=1), encoding="utf-8")
    show(console, swept)
    console.print(f"paid, end and seconds of each text: {report}", markup=False, style="dim")
    return swept.exit_code


def plan(lines: CorpusFile) -> list[Batch]:
    """Return all batches: every text in every slot with every echo, each time as a new user."""
    found: list[Batch] = []
    user = _FIRST_USER
    for texts in batches(lines.texts, _SIZE):
        for slot in SLOTS:
            for echo in ECHO_MODES:
                found.append(batch_of(slot, echo, texts, user))
                user += len(texts)
    return found


def _play(console: Console, lines: CorpusFile, swept: CorpusReport) -> None:
    planned = plan(lines)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=console.is_terminal)
    with open_pool(min(cores(), len(planned))) as opened, bar:
        task = bar.add_task("requests", total=sum(len(one.texts) for one in planned))
        futures = {opened.executor.submit(_in_process, one): one for one in planned}
        for future in as_completed(futures):
            batch = futures[future]
            try:
                swept.batch_results.append(future.result())
            except Exception as error:  # noqa: BLE001 - whatever ended a batch is named, and the rest goes on
                swept.lost.append(_lost(batch, error))
            paid = sum(one.paid > 1 for one in swept.played)
            more = f" · {paid} paid twice" if paid else ""
            words = f"requests · {batch.slot}, {batch.echo}{more}"
            bar.update(task, advance=len(batch.texts), description=words)


def _lost(batch: Batch, error: Exception) -> str:
    first, last = batch.texts[0][0], batch.texts[-1][0]
    return f"lines {first} to {last}, {batch.slot}, {batch.echo}: {type(error).__name__}: {error}"[:300]


def _in_process(batch: Batch) -> BatchResult:
    sys.setswitchinterval(_SWITCH_S)
    return play_batch(batch, pool.process_resources())


def show(console: Console, swept: CorpusReport) -> None:
    """Print the table, the figures, and what is wrong."""
    table = Table(box=None, padding=(0, 1))
    for name in ("slot", "echo", "texts", "paid", "paid twice", "what was not delivered"):
        table.add_column(name, justify="right" if name in ("texts", "paid", "paid twice") else "left")
    for row in swept.rows():
        table.add_row(*map(str, row))
    console.print(table)
    for name, value in swept.metrics():
        console.print(f"{name}: {value}", markup=False, highlight=False)
    for words, style in ((swept.wrong, "red"), (swept.missing, "yellow")):
        for line in words[:_SHOWN]:
            console.print(line, style=style, markup=False)
        if len(words) > _SHOWN:
            console.print(f"… and {len(words) - _SHOWN} more", style=style)
