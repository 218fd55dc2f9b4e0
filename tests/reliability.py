"""Writes docs/reliability.md from a test run (`make reliability`): no count in it comes from a hand.

python tests/reliability.py JUNIT.xml [SOAK.json] > docs/reliability.md
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

GROUPS = {
    "test_provider_contract": "One POST per submit: every fault × dialect of `openai_compat`",
    "test_hosts_contract": "One POST per submit: every fault × `fal`, `replicate`",
    "test_crash_matrix": "SIGKILL at each durable step × kind of provider",
    "test_stop_signals": "SIGSTOP past every deadline, SIGTERM at a step",
    "test_studio_doubt": "Doubtful answers: replayed, listed, held",
    "test_late": "Charges that turn up late",
    "test_stores_redis": "Redis away, slow, emptied, failed over",
    "test_stores_sql": "SQL away, locked, full, serialization failures",
    "test_edges": "Limits at the edge, many replicas, clocks apart",
    "test_rehearsal_redelivery": "Telegram's redelivery law",
    "test_delivery": "Delivery under Telegram's faults",
}
CELL = re.compile(r"test_a_worker_is_killed_at_each_step\[(\w+)-(\w+)\]")


@dataclass(frozen=True)
class Run:
    """One test of the run."""

    module: str
    name: str
    passed: bool
    seconds: float


def read(path: Path) -> list[Run]:
    runs = []
    for case in ET.parse(path).iter("testcase"):
        bad = any(case.find(word) is not None for word in ("failure", "error"))
        if case.find("skipped") is None:
            module = case.get("classname", "").rsplit(".", 1)[-1]
            runs.append(Run(module, case.get("name", ""), not bad, float(case.get("time", 0))))
    return runs


def groups(runs: list[Run]) -> str:
    lines = ["| what was tried | faults and lives tried | held | broken |", "|---|---:|---:|---:|"]
    for module, words in GROUPS.items():
        mine = [run for run in runs if run.module == module]
        if mine:
            good = sum(run.passed for run in mine)
            lines.append(f"| {words} | {len(mine)} | {good} | {len(mine) - good} |")
    total, good = len(runs), sum(run.passed for run in runs)
    lines.append(f"| **all** | **{total}** | **{good}** | **{total - good}** |")
    return "\n".join(lines)


def matrix(runs: list[Run]) -> str:
    cells = {(m[1], m[2]): run.passed for run in runs if (m := CELL.fullmatch(run.name))}
    columns = list(dict.fromkeys(column for _, column in cells))
    points = list(dict.fromkeys(point for point, _ in cells))
    lines = [f"| killed at | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    words = {True: "held", False: "**broken**", None: "not run"}
    lines += [
        f"| `{point}` | {' | '.join(words[cells.get((point, c))] for c in columns)} |" for point in points
    ]
    return "\n".join(lines)


def soak(path: Path) -> str:
    """The storm's own summary, as it was written."""
    found = json.loads(path.read_text())
    flat = {name: value for name, value in found.items() if isinstance(value, int | float | str)}
    lines = ["| the storm | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in flat.items())]
    for name, value in found.items():
        if isinstance(value, dict) and value:
            lines += ["", f"| {name} | times |", "|---|---:|", *(f"| {k} | {v} |" for k, v in value.items())]
    return "\n".join(lines)


HEAD = """\
# Reliability

Written by `make reliability` from its own run; do not edit. The oracle of every row is the provider's
append-only charge log, never our tables.
"""
KILLED = """\
## Killed at each durable step

*keyed*: replays under a documented key. *listable*: shows its jobs. *blind*: cannot be asked, so a doubt
waits for a person (HOLD). *held* means: at most one charge, and the end that the kind allows.
"""
REMAINS = """\
## What remains

Between `shoot`'s last look at its boot-time clock and the first byte on the wire a process can be paused. If
others have settled the doubt by then, its POST makes a job that nobody expects. The job id that it brings is
adopted from any doubtful state; if it dies as well, the late-charge sweep looks for the job for 24 hours,
where the provider can be asked. A blind provider cannot be: that doubt is a HOLD.
"""


def page(runs: list[Run], storm: Path | None) -> str:
    parts = [HEAD, groups(runs), KILLED, matrix(runs), REMAINS]
    if storm is not None and storm.exists():
        parts += ["## The storm", soak(storm)]
    files = len({run.module for run in runs})
    parts.append(f"<!-- {len(runs)} tests of {files} files -->")
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    given = [Path(one) for one in sys.argv[1:]]
    sys.stdout.write(page(read(given[0]), given[1] if len(given) > 1 else None))
