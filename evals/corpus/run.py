"""Plays a file of texts in all slots, and reports what was paid: console and sweep.json."""

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

from evals.corpus.batch import Batch, BatchResult, PlayedText, play_batch
from evals.corpus.slots import ECHO_MODES, SLOTS
from evals.corpus.texts import CorpusFile, read_corpus
from evals.events import FAILED, INCOMPLETE, OK
from evals.pool import cores, open_pool, process_resources
from evals.report import progress, table, upper_bound
from evals.waiting import BUSY_S

_BATCH_SIZE: Final = 60
"""Texts in one app: starting an app costs little, a full ledger is slow."""

_FIRST_USER: Final = 100_000
_SHOWN: Final = 40
_SWITCH_S: Final = 0.0005
"""Threads that wait for a busy event loop get their turn after this; the default is ten times as long."""

_COLUMNS: Final = ("slot", "echo", "texts", "paid", "paid twice", "what was not delivered")


@dataclass
class CorpusReport:
    """Everything that was played. `lost` names the batches that failed as a whole, and why."""

    lines: CorpusFile
    batch_results: list[BatchResult] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    seconds: float = 0

    @property
    def played(self) -> list[PlayedText]:
        return [one for batch in self.batch_results for one in batch.played]

    @property
    def wrong(self) -> list[str]:
        """Every violation, in one line each."""
        played = self.played
        found = [f"{one.place}: paid {one.paid} times" for one in played if one.paid > 1]
        found += [f"{one.place}: {error}" for one in played for error in one.errors]
        found += [trouble for batch in self.batch_results for trouble in batch.trouble]
        leaks = sum(batch.leaks for batch in self.batch_results)
        found += [f"{leaks} runs read what only the provider said"] if leaks else []
        found += [f"{one.place}: {why}" for one, why in self._unmade(busy=False)]
        if played and not any(one.ended == "DELIVERED" for one in played):
            found.append(f"none of {len(played)} requests became a video")
        return found

    def _unmade(self, *, busy: bool) -> Iterator[tuple[PlayedText, str]]:
        """Yield how the app failed its users, in batches on a busy or on a quiet machine."""
        for batch in self.batch_results:
            if (batch.lag_s >= BUSY_S) is busy:
                yield from ((one, one.unmade) for one in batch.played if one.unmade)

    @property
    def missing(self) -> list[str]:
        """What was not played to its end."""
        found = [f"{one.place}: {why}; the machine was busy" for one, why in self._unmade(busy=True)]
        left = self.lines.left_out
        return [*found, *self.lost, *([f"{left} lines were left out"] if left else [])]

    @property
    def exit_code(self) -> int:
        """A violation outweighs what is missing; neither is ok."""
        if self.wrong:
            return FAILED
        return INCOMPLETE if self.missing else OK

    def rows(self) -> Iterator[tuple[str, ...]]:
        """By slot and echo: texts, paid, paid more than once, and the ends of those not delivered."""
        for slot in SLOTS:
            for echo in ECHO_MODES:
                some = [one for one in self.played if (one.slot, one.echo) == (slot, echo)]
                ends = Counter(one.ended for one in some if one.ended != "DELIVERED")
                paid, twice = sum(one.paid for one in some), sum(one.paid > 1 for one in some)
                yield slot, echo, str(len(some)), str(paid), str(twice), _counts(ends)

    def metrics(self) -> list[tuple[str, str]]:
        """Return names and values to be shown."""
        played = self.played
        excess = sum(max(0, one.paid - 1) for one in played)
        ideas = [one for one in played if one.slot == "idea"]
        times = sorted(one.seconds for one in played) or [0.0]
        rate = len(played) / self.seconds if self.seconds else 0
        each = sum(batch.cpu_s for batch in self.batch_results) / max(1, len(played)) * 1000
        p50, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
        bound = upper_bound(excess, len(played))
        return [
            ("texts, requests", f"{len(self.lines.texts)}, {len(played)}"),
            ("calls of the paid tool", str(sum(batch.attempts for batch in self.batch_results))),
            ("paid beyond one", f"{excess} (95 % upper bound of the rate {bound:.2%})"),
            ("ideas paid exactly once", f"{sum(one.paid == 1 for one in ideas)} of {len(ideas)}"),
            ("ideas not paid", _counts(Counter(one.ended for one in ideas if one.paid == 0)) or "none"),
            ("exceptions", str(sum(len(one.errors) for one in played))),
            ("seconds of one request", f"p50 {p50:.1f}, p95 {p95:.1f}"),
            ("seconds", f"{self.seconds:.0f}; {rate:.1f} requests/s, {each:.0f} ms of CPU each"),
        ]  # fmt: skip

    def report(self) -> dict[str, Any]:
        """Return the whole sweep as JSON; texts are identified by their line numbers and not repeated."""
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


def run_corpus(console: Console, path: Path, out: Path) -> int:
    """Play a file, show and write the results; return the exit code.

    Raises:
        EvalError: The file cannot be used.
    """
    lines = read_corpus(path)
    for odd in lines.odd[:_SHOWN]:
        end = "" if odd.played else "; left out"
        console.print(f"line {odd.number}: {odd.why}{end}", style="yellow", markup=False)
    report = CorpusReport(lines)
    began = time.monotonic()
    _play(console, lines, report)
    report.seconds = time.monotonic() - began
    out.mkdir(parents=True, exist_ok=True)
    written = out / "sweep.json"
    written.write_text(json.dumps(report.report(), ensure_ascii=True, indent=1), encoding="utf-8")
    show(console, report)
    console.print(f"paid, end and seconds of each text: {written}", markup=False, style="dim")
    return report.exit_code


def plan(lines: CorpusFile) -> list[Batch]:
    """Return all batches: every text in every slot with every echo, each time as a new user."""
    found: list[Batch] = []
    user = _FIRST_USER
    for start in range(0, len(lines.texts), _BATCH_SIZE):
        texts = [(one.number, one.text) for one in lines.texts[start : start + _BATCH_SIZE]]
        for slot in SLOTS:
            for echo in ECHO_MODES:
                found.append(Batch(slot=slot, echo=echo, texts=texts, first_user=user))
                user += len(texts)
    return found


def _play(console: Console, lines: CorpusFile, report: CorpusReport) -> None:
    planned = plan(lines)
    total = sum(len(one.texts) for one in planned)
    with open_pool(min(cores(), len(planned))) as pool, progress(console, "requests", total) as advance:
        futures = {pool.executor.submit(_in_process, one): one for one in planned}
        for future in as_completed(futures):
            batch = futures[future]
            try:
                report.batch_results.append(future.result())
            except Exception as error:  # noqa: BLE001 - a batch that failed is named, and the others continue
                report.lost.append(_lost(batch, error))
            paid = sum(one.paid > 1 for one in report.played)
            more = f" · {paid} paid twice" if paid else ""
            advance(f"{batch.slot}, {batch.echo}{more}", len(batch.texts))


def _lost(batch: Batch, error: Exception) -> str:
    first, last = batch.texts[0][0], batch.texts[-1][0]
    return f"lines {first} to {last}, {batch.slot}, {batch.echo}: {type(error).__name__}: {error}"[:300]


def _in_process(batch: Batch) -> BatchResult:
    sys.setswitchinterval(_SWITCH_S)
    return play_batch(batch, process_resources())


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {word}" for word, number in counts.most_common())


def show(console: Console, report: CorpusReport) -> None:
    """Print the table, the metrics, and what is wrong."""
    console.print(table(_COLUMNS, report.rows(), {"texts", "paid", "paid twice"}))
    for name, value in report.metrics():
        console.print(f"{name}: {value}", markup=False, highlight=False)
    for lines, style in ((report.wrong, "red"), (report.missing, "yellow")):
        for line in lines[:_SHOWN]:
            console.print(line, style=style, markup=False)
        if len(lines) > _SHOWN:
            console.print(f"… and {len(lines) - _SHOWN} more", style=style)
