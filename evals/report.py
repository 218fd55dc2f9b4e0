"""What a run reports: console, report.json, report.md and junit.xml."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from evals.case import Case
from evals.events import EvalError
from evals.evidence import Evidence, RequestFate
from evals.metrics import RunMetrics
from evals.results import Result, Results
from guardrails.money import Money

Baseline = Mapping[str, str]
"""The verdicts of an earlier run, by the names of its cases."""

_LINE: Final = 300
_STYLES: Final = {"ok": "green", "failed": "bold red", "incomplete": "yellow"}
_COLUMNS: Final = ("case", "what must hold", "attempts", "paid", "delivered", "s", "verdict")
_GROUP_COLUMNS: Final = ("group", "cases", "ok", "attempts", "paid", "delivered", "what was not delivered")
_NUMBERS: Final = frozenset({"cases", "ok", "attempts", "paid", "delivered", "s"})
_MOST_ROWS: Final = 200
"""More cases than this are shown by group; report.json has each."""

_MOST_FAILURES: Final = 20
_SAY_EVERY_S: Final = 10.0
"""How often progress is a line where the output is no terminal, as in CI."""


def write(folder: Path, results: Results, metrics: RunMetrics, baseline: Baseline | None = None) -> list[str]:
    """Write report.json, report.md and junit.xml; return what became worse since `baseline`."""
    worse = compare(results, baseline or {})
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "seconds": round(results.seconds, 1),
        "source": results.source,
        "broken": results.broken,
        "kinds": kinds(results),
        "wrong": list(results.wrong),
        "left_out": list(results.left_out),
        "figures": asdict(metrics),
        "cases": [_json(result) for result in results.results],
    }
    (folder / "report.json").write_text(json.dumps(whole, ensure_ascii=True, indent=1), encoding="utf-8")
    (folder / "report.md").write_text("\n".join(_markdown(results, metrics, worse)) + "\n", encoding="utf-8")
    ET.ElementTree(_junit(results)).write(folder / "junit.xml", encoding="utf-8", xml_declaration=True)
    return worse


def kinds(results: Results) -> dict[str, int]:
    """Count the cases by kind: what is authored proves other things than what a real model did."""
    return dict(Counter(kind_of(one.case) for one in results.results))


def kind_of(case: Case) -> str:
    """Return what plays the model: `authored`, `recorded`, `live`, or `corpus` for a text of a file."""
    if case.id.startswith("T"):
        return "corpus"
    return {"live": "live", "replay": "recorded"}.get(case.policy.name, "authored")


def read_baseline(path: Path) -> Baseline:
    """Read the verdicts of an earlier report.json, before the run: a bad file must not cost a whole run.

    Raises:
        EvalError: The file cannot be read.
    """
    try:
        return {one["name"]: one["verdict"] for one in json.loads(path.read_text("utf-8"))["cases"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvalError(f"{path} is not a report.json of ours: {type(error).__name__}") from None


_USUAL_TEXT_S: Final = 0.7
_USUAL_CASE_S: Final = 8.0
"""Seconds of one process for one case, where no report says more: four processes on two busy cores."""


def usual_seconds(report: Path, cases: Sequence[Case]) -> float:
    """Return for how long one process would play these cases, judged by the last report."""
    try:
        found = json.loads(report.read_text("utf-8"))["cases"]
        known = {one["name"]: float(one["seconds"]) for one in found if one["seconds"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        known = {}
    texts = any(kind_of(case) == "corpus" for case in cases)  # played many at once: their own times overlap
    usual = _USUAL_TEXT_S if texts else _USUAL_CASE_S
    return sum(usual if texts else known.get(case.id, usual) for case in cases)


def compare(results: Results, baseline: Baseline) -> list[str]:
    """Return the cases that were ok in the baseline and are not now."""
    return [
        f"{result.name} was ok and is {result.verdict}"
        for result in results.results
        if baseline.get(result.name) == "ok" and result.verdict != "ok"
    ]


def show(console: Console, results: Results, metrics: RunMetrics) -> None:
    """Print every case, why cases failed, and the metrics."""
    if len(results.results) <= _MOST_ROWS:
        rows: list[list[str | Text]] = [
            [*row[:-1], Text(row[-1], _STYLES[row[-1]])] for row in _rows(results)
        ]
        console.print(table(_COLUMNS, rows, _NUMBERS))
    console.print(table(_GROUP_COLUMNS, _group_rows(results), _NUMBERS))
    _show_failures(console, results)
    console.print(table(("metric", "value"), metrics.rows()))
    if metrics.mount_rate == 0:
        console.print("The model attacked in no case: these results prove nothing.", style="yellow")
    counts = " · ".join(f"{len(results.of(word))} {word}" for word in ("ok", "failed", "incomplete"))
    against = f" · against the mutant {results.broken}" if results.broken else ""
    console.print(f"[bold]{counts}[/] in {results.seconds:.0f} s{against}")


def _show_failures(console: Console, results: Results) -> None:
    bad = [*results.of("failed"), *results.of("incomplete")]
    for result in bad[:_MOST_FAILURES]:
        text = Text(describe_failure(result))
        console.print(Panel(text, title=result.name, border_style=_STYLES[result.verdict]))
    if len(bad) > _MOST_FAILURES:
        console.print(f"… and {len(bad) - _MOST_FAILURES} more, in report.md", style="red")
    for lines, style in ((results.wrong, "red"), (results.left_out, "yellow")):
        for line in lines[:_MOST_FAILURES]:
            console.print(Text(line[:_LINE], style))
        if len(lines) > _MOST_FAILURES:
            console.print(f"… and {len(lines) - _MOST_FAILURES} more, in report.json", style=style)


def _group_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """By category: cases, attempts, paid, delivered, and the ends of the requests without a video."""
    groups: dict[str, list[Result]] = {}
    for result in results.results:
        groups.setdefault(result.case.category, []).append(result)
    for name, some in groups.items():
        found = [one.evidence for one in some if one.evidence is not None]
        ends = Counter(fate.end for one in found for fate in one.fates or _NO_FATE if fate.end != "DELIVERED")
        yield (
            name, str(len(some)), str(sum(one.verdict == "ok" for one in some)),
            str(sum(one.attempts for one in found)), str(sum(one.paid for one in found)),
            str(sum(one.delivered for one in found)),
            ", ".join(f"{number} {word}" for word, number in ends.most_common(6)),
        )  # fmt: skip


_NO_FATE: Final = (RequestFate(request="", who="", state="no request"),)


@contextmanager
def progress(console: Console, unit: str, total: int) -> Iterator[Callable[[str, int], None]]:
    """Show progress: a bar on a terminal, else a line every `_SAY_EVERY_S` seconds.

    Yields a function that takes what was done and how many units that was.
    """
    if not console.is_terminal:
        with _lines_of_progress(console, unit, total) as advance:
            yield advance
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(unit, total=total)

        def advance(done: str, units: int) -> None:
            bar.update(task, advance=units, description=f"{unit} · {done}")

        yield advance


@contextmanager
def _lines_of_progress(console: Console, unit: str, total: int) -> Iterator[Callable[[str, int], None]]:
    """Print a line at intervals, also while nothing is done: so a slow run differs from a dead one."""
    began, over = time.monotonic(), threading.Event()
    last, done = "the processes start", 0

    def say() -> None:
        seconds = time.monotonic() - began
        console.print(f"{done} of {total} {unit} in {seconds:.0f} s · {last}", markup=False, highlight=False)

    def repeat() -> None:
        while not over.wait(_SAY_EVERY_S):
            say()

    def advance(what: str, units: int) -> None:
        nonlocal last, done
        last, done = what, done + units

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        over.set()
        thread.join()
        say()


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str | Text]], numbers: Collection[str] = ()
) -> Table:
    """Return a table for the console; the columns in `numbers` are aligned right."""
    made = Table(box=None, padding=(0, 1))
    for name in columns:
        made.add_column(name, justify="right" if name in numbers else "left")
    for row in rows:
        made.add_row(*row)
    return made


def markdown_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[str] = ()
) -> Iterator[str]:
    """Yield the lines of the same table in Markdown."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'|'.join('---:' if name in numbers else '---' for name in columns)}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _rows(results: Results) -> Iterator[tuple[str, ...]]:
    for result in results.results:
        found = result.evidence
        counts = ("", "", "", "")
        if found is not None:
            counts = (str(found.attempts), str(found.paid), str(found.delivered), f"{found.seconds:.1f}")
        yield (result.name, result.case.title, *counts, result.verdict)


def describe_failure(result: Result) -> str:
    """Describe a case that failed: what was expected, and what chats, model, guards and ledger show."""
    lines = [result.case.title, ""]
    if result.verdict == "incomplete":
        lines.append(f"incomplete: {result.reason}")
    lines += [f"✗ {check.name}: {check.reason}" for check in result.failures]
    lines += [f"raised at {line}" for line in result.traceback.splitlines()]
    if result.evidence is not None:
        for name, block in _evidence_blocks(result.evidence):
            lines += ["", f"{name}:" if block else f"{name}: nothing", *(f"  {line}" for line in block)]
    return "\n".join(line[:_LINE] for line in lines)


def _evidence_blocks(found: Evidence) -> Iterator[tuple[str, list[str]]]:
    yield (
        "transcript",
        [
            f"{line.chat} {'bot' if line.bot else 'person'}{' [video]' if line.video else ''}: {line.text!r}"
            for line in found.lines
        ],
    )
    yield "the model", [_item(item) for item in found.emitted][:40]
    refusals = [f"{one.tool}: {one.word} by {one.layer} ({one.arguments})" for one in found.refusals]
    yield "guard decisions", refusals[:40]
    yield "charge log", [f"{one.job[:14]} {Money(one.micros)} for {one.request}" for one in found.charges]
    yield (
        "ledger",
        [
            f"{one.request} ({one.who}): {one.word}, notified {one.told}, {one.reason or ''}"
            for one in found.fates
        ],
    )
    yield "log", found.log[-30:]
    if found.tracebacks:
        yield "tracebacks", [line for trace in found.tracebacks[:3] for line in trace.splitlines()]


def _item(item: dict[str, Any]) -> str:
    if item.get("type") == "function_call":
        return f"{item['agent']} → {item['name']}({item['arguments']}) {item['call_id']}"
    return f"{item.get('agent')}: {item.get('text', '')!r}"


def _json(result: Result) -> dict[str, Any]:
    found = result.evidence
    kept = found.model_dump(exclude={"heard", "turns"}) if found and result.verdict != "ok" else None
    is_text = kind_of(result.case) == "corpus"  # thousands, whose passed checks are all the same
    return {
        "name": result.name,
        "title": result.case.title,
        "verdict": result.verdict,
        "trouble": result.trouble,
        "traceback": result.traceback,
        "checks": [asdict(check) for check in (result.failures if is_text else result.checks)],
        "paid": found.paid if found else None,
        "delivered": found.delivered if found else None,
        "attempts": found.attempts if found else None,
        "ended": [fate.end for fate in found.fates] if found else None,
        "seconds": round(found.seconds, 2) if found else None,
        "evidence": kept,
    }


def _markdown(results: Results, metrics: RunMetrics, worse: Sequence[str]) -> Iterator[str]:
    against = f" against the mutant `{results.broken}`" if results.broken else ""
    yield from (f"# Evals{against}", "")
    yield f"{len(results.of('ok'))} of {len(results.results)} ok in {results.seconds:.0f} s."
    yield from ("", *(f"- worse: {line}" for line in worse), "") if worse else ("",)
    for title, said in (("Wrong in no single case", results.wrong), ("Left out", results.left_out)):
        yield from ("", f"## {title}", "", *(f"- {line}" for line in said), "") if said else ()
    yield from (*markdown_table(("figure", "value"), metrics.rows()), "")
    yield from (*markdown_table(_GROUP_COLUMNS, _group_rows(results), _NUMBERS), "")
    if len(results.results) <= _MOST_ROWS:
        yield from markdown_table(_COLUMNS, _rows(results), _NUMBERS)
    for result in (*results.of("failed"), *results.of("incomplete")):
        yield from ("", f"## {result.name}", "", "```", describe_failure(result), "```")


def _junit(results: Results) -> ET.Element:
    others = [("failure", line) for line in results.wrong] + [("error", line) for line in results.left_out]
    suite = ET.Element(
        "testsuite", name="evals", tests=str(len(results.results) + len(others)),
        failures=str(len(results.of("failed")) + len(results.wrong)),
        errors=str(len(results.of("incomplete")) + len(results.left_out)), time=f"{results.seconds:.1f}",
    )  # fmt: skip
    for number, (kind, line) in enumerate(others, 1):
        case = ET.SubElement(suite, "testcase", classname="evals.whole", name=f"{results.source} {number}")
        ET.SubElement(case, kind, message=_printable(line)[:_LINE])
    for result in results.results:
        seconds = result.evidence.seconds if result.evidence else 0
        case = ET.SubElement(
            suite, "testcase", classname=f"evals.{result.case.category}", name=result.name,
            time=f"{seconds:.2f}",
        )  # fmt: skip
        if result.verdict != "ok":
            kind = "failure" if result.verdict == "failed" else "error"
            bad = ET.SubElement(case, kind, message=_printable(result.reason)[:_LINE])
            bad.text = _printable(describe_failure(result))
    return suite


def _printable(text: str) -> str:
    """Replace control characters and lone surrogates, which XML cannot hold and hostile cases contain."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "?" for sign in text)
