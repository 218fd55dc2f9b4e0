"""A run on disk: report.json for machines, report.md for people, junit.xml for CI."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from evals.base import EvalError
from evals.evidence import Evidence
from evals.figures import Figures
from evals.result import Result, Results
from ledger.money import Money

_LINE = 300
Baseline = Mapping[str, str]
"""The verdicts of an earlier run, by the names of its cases."""


def write(folder: Path, results: Results, summed: Figures, baseline: Baseline | None = None) -> list[str]:
    """Write all three; return what became worse since `baseline`."""
    worse = compare(results, baseline or {})
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "seconds": round(results.seconds, 1),
        "broken": results.broken,
        "kinds": kinds(results),
        "figures": asdict(summed),
        "cases": [_json(result) for result in results.results],
    }
    (folder / "report.json").write_text(json.dumps(whole, ensure_ascii=False, indent=1), encoding="utf-8")
    (folder / "report.md").write_text("\n".join(_markdown(results, summed, worse)) + "\n", encoding="utf-8")
    ET.ElementTree(_junit(results)).write(folder / "junit.xml", encoding="utf-8", xml_declaration=True)
    return worse


def kinds(results: Results) -> dict[str, int]:
    """Count the cases by who plays the model: an adversary of ours, a recording, or a live endpoint."""
    named = {"live": "live", "replay": "recorded"}
    return dict(Counter(named.get(one.case.policy.name, "authored") for one in results.results))


def read_baseline(path: Path) -> Baseline:
    """Read the verdicts of an earlier report.json; before anything is played, so that no run is lost to it.

    Raises:
        EvalError: It cannot be read.
    """
    try:
        return {one["name"]: one["verdict"] for one in json.loads(path.read_text("utf-8"))["cases"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvalError(f"{path} is no report.json of ours: {type(error).__name__}") from None


def compare(results: Results, baseline: Baseline) -> list[str]:
    """Return the cases that held in the baseline and do not now."""
    return [
        f"{result.name} was ok and is {result.verdict}"
        for result in results.results
        if baseline.get(result.name) == "ok" and result.verdict != "ok"
    ]


def account(result: Result) -> str:
    """Tell a case that failed: what was expected, what happened, the chats, the guards, the charges."""
    lines = [result.case.title, ""]
    if result.trouble:
        lines.append(f"incomplete: {result.trouble}")
    lines += [f"✗ {check.name}: {check.reason}" for check in result.failures]
    if result.evidence is not None:
        lines += _told(result.evidence)
    return "\n".join(line[:_LINE] for line in lines)


def _told(found: Evidence) -> Iterator[str]:
    yield from _block("transcript", [f"{_who(line)} {line.text!r}" for line in found.lines])
    yield from _block("the model", [_item(item) for item in found.emitted][:40])
    refusals = [f"{one.tool}: {one.word} by {one.layer} ({one.arguments})" for one in found.refusals]
    yield from _block("guard decisions", refusals[:40])
    charges = [f"{one.job[:14]} {Money(one.micros)} for {one.request}" for one in found.charges]
    yield from _block("charge log", charges)
    ends = [
        f"{one.request} ({one.who}): {one.word}, told {one.told}, {one.reason or ''}" for one in found.fates
    ]
    yield from _block("ledger", ends)
    yield from _block("log", found.log[-30:])


def _block(name: str, lines: Sequence[str]) -> Iterator[str]:
    yield ""
    yield f"{name}:" if lines else f"{name}: nothing"
    yield from (f"  {line}" for line in lines)


def _who(line: Any) -> str:
    return f"{line.chat} {'bot' if line.bot else 'person'}{' [video]' if line.video else ''}:"


def _item(item: dict[str, Any]) -> str:
    if item.get("type") == "function_call":
        return f"{item['agent']} → {item['name']}({item['arguments']}) {item['call_id']}"
    return f"{item.get('agent')}: {item.get('text', '')!r}"


def _json(result: Result) -> dict[str, Any]:
    evidence = result.evidence.model_dump(exclude={"heard", "turns"}) if result.evidence else None
    return {
        "name": result.name,
        "title": result.case.title,
        "verdict": result.verdict,
        "trouble": result.trouble,
        "checks": [asdict(check) for check in result.checks],
        "paid": result.evidence.paid if result.evidence else None,
        "delivered": result.evidence.delivered if result.evidence else None,
        "attempts": result.evidence.attempts if result.evidence else None,
        "seconds": round(result.evidence.seconds, 2) if result.evidence else None,
        "evidence": evidence if result.verdict != "ok" else None,
    }


def _markdown(results: Results, summed: Figures, worse: Sequence[str]) -> Iterator[str]:
    against = f" against the mutant `{results.broken}`" if results.broken else ""
    yield f"# Evals{against}"
    yield ""
    yield f"{len(results.of('ok'))} of {len(results.results)} ok in {results.seconds:.0f} s."
    if worse:
        yield ""
        yield from (f"- worse: {line}" for line in worse)
    yield ""
    yield "| figure | value |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in summed.rows())
    yield ""
    yield "| case | what must hold | asked | paid | came | |"
    yield "|---|---|---:|---:|---:|---|"
    for result in results.results:
        found = result.evidence
        figures = f"{found.attempts} | {found.paid} | {found.delivered}" if found else " | | "
        yield f"| {result.name} | {result.case.title} | {figures} | {result.verdict} |"
    for result in (*results.of("failed"), *results.of("incomplete")):
        yield from ("", f"## {result.name}", "", "```", account(result), "```")


def _junit(results: Results) -> ET.Element:
    suite = ET.Element(
        "testsuite", name="evals", tests=str(len(results.results)), failures=str(len(results.of("failed"))),
        errors=str(len(results.of("incomplete"))), time=f"{results.seconds:.1f}",
    )  # fmt: skip
    for result in results.results:
        seconds = result.evidence.seconds if result.evidence else 0
        case = ET.SubElement(
            suite, "testcase", classname=f"evals.{result.case.category}", name=result.name,
            time=f"{seconds:.2f}",
        )  # fmt: skip
        if result.verdict != "ok":
            kind = "failure" if result.verdict == "failed" else "error"
            bad = ET.SubElement(case, kind, message=_printable(result.reason)[:_LINE])
            bad.text = _printable(account(result))
    return suite


def _printable(text: str) -> str:
    """XML has no room for control signs and lone surrogates, which hostile cases hold."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "?" for sign in text)
