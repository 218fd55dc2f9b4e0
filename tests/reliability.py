"""Writes docs/reliability.md from a test run (`make reliability`): no count in it comes from a hand.

python tests/reliability.py JUNIT.xml [SOAK.json] > docs/reliability.md
"""

import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from telemetry.failpoints import FAILPOINTS

GROUPS = {
    "test_provider_contract": "One POST per submit: every fault × dialect of `openai_compat`",
    "test_provider_jobs": "Jobs, files and prices, in every dialect of `openai_compat`",
    "test_hosts_contract": "One POST per submit: every fault × `fal`, `replicate`",
    "test_hosts_jobs": "Jobs, files and prices of `fal`, `replicate`",
    "test_hosts_doubt": "Doubts settled by the lists of `fal`, `replicate`",
    "test_crash_matrix": "SIGKILL at each durable step × kind of provider",
    "test_stop_signals": "SIGSTOP past every deadline, SIGTERM at a step",
    "test_studio_doubt": "Doubtful answers: replayed, listed, held",
    "test_doubts": "Doubts: two lists, a living key, whose job it is",
    "test_late": "Charges that turn up late",
    "test_late_books": "Late charges in the books and in words",
    "test_stores_redis": "Redis away, slow, cut",
    "test_stores_emptied": "Redis emptied, evicting, failed over",
    "test_stores_sql": "SQL locked, serialization failures, deadlocks",
    "test_stores_wire": "SQL away, hanging, its commit lost",
    "test_stores_disk": "SQL on a full disk",
    "test_edges": "Limits at the edge, many replicas, clocks apart",
    "test_rehearsal_redelivery": "Telegram's redelivery law",
    "test_delivery": "Delivery under Telegram's faults",
    "test_fleet": "Three bots and four workers on one Redis and one PostgreSQL, killed in the middle",
}
CONTRACTS = tuple(module for module in GROUPS if module.startswith(("test_provider_", "test_hosts_")))
KINDS = {
    "test_every_fault_costs_one_post_and_leaves_doubt": "faults at the POST",
    "test_one_key_and_at_most_one_charge_over_a_life": "lives",
    "test_one_seed_and_at_most_one_charge_over_a_life": "lives",
    "test_a_bad_download_leaves_no_file": "bad downloads",
}
COLUMNS = (*dict.fromkeys(KINDS.values()), "other laws")
STORES = (*(module for module in GROUPS if module.startswith("test_stores_")), "test_edges")
CELL = re.compile(r"test_a_worker_is_killed_at_each_step\[(\w+)-(\w+)\]")
UNANSWERED = re.compile(r"test_a_worker_is_killed_between_(post_and_answer)\[(\w+)\]")
KINDS_OF_PROVIDER = ("keyed", "listable", "blind", "listable_on_postgresql")
STEPS = (
    *FAILPOINTS[: FAILPOINTS.index("answered")],
    "post_and_answer",
    *FAILPOINTS[FAILPOINTS.index("answered") :],
)


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
    lines = ["| what was tried | laws run | held | broken |", "|---|---:|---:|---:|"]
    for module, words in GROUPS.items():
        mine = [run for run in runs if run.module == module]
        if mine:
            good = sum(run.passed for run in mine)
            lines.append(f"| {words} | {len(mine)} | {good} | {len(mine) - good} |")
    total, good = len(runs), sum(run.passed for run in runs)
    lines.append(f"| **all** | **{total}** | **{good}** | **{total - good}** |")
    return "\n".join(lines)


def matrix(runs: list[Run]) -> str:
    found = ((CELL.fullmatch(run.name) or UNANSWERED.fullmatch(run.name), run.passed) for run in runs)
    cells = {(m[1], m[2]): passed for m, passed in found if m}
    columns = [name for name in KINDS_OF_PROVIDER if name in {column for _, column in cells}]
    points = [step for step in STEPS if step in {point for point, _ in cells}]
    lines = [f"| killed at | {' | '.join(columns).replace('_', ' ')} |", f"|---|{'---|' * len(columns)}"]
    words = {True: "held", False: "**broken**", None: "not run"}
    lines += [
        f"| {_step(point)} | {' | '.join(words[cells.get((point, c))] for c in columns)} |"
        for point in points
    ]
    return "\n".join(lines)


def _step(name: str) -> str:
    return "between the POST and its answer" if name == "post_and_answer" else f"`{name}`"


def by_provider(runs: list[Run]) -> str:
    """Count what each adapter and dialect was put through."""
    tried: dict[str, Counter[str]] = {}
    for run in runs:
        name, _, case = run.name.partition("[")
        if run.module in CONTRACTS and case:
            who = re.split(r"[-\]]", case)[0]
            tried.setdefault(who, Counter())[KINDS.get(name, "other laws")] += 1
            tried[who]["broken"] += not run.passed
    head = (*COLUMNS, "broken")
    lines = [f"| provider | {' | '.join(head)} |", f"|---|{'---:|' * len(head)}"]
    known = sorted((who, found) for who, found in tried.items() if found["faults at the POST"])
    lines += [f"| `{who}` | {' | '.join(str(found[one]) for one in head)} |" for who, found in known]
    return "\n".join(lines)


def by_store(runs: list[Run]) -> str:
    """Count on which database the laws of the stores ran; without one it is SQLite beside a Valkey."""
    mine = [run for run in runs if run.module in STORES]
    on = Counter("PostgreSQL" if "postgresql" in run.name else "SQLite" for run in mine)
    broken = Counter("PostgreSQL" if "postgresql" in run.name else "SQLite" for run in mine if not run.passed)
    lines = ["| ledger | laws of the stores | broken |", "|---|---:|---:|"]
    lines += [f"| {name} | {on[name]} | {broken[name]} |" for name in ("SQLite", "PostgreSQL")]
    return "\n".join(lines)


def soak(path: Path) -> str:
    """The storm's own summary, as it was written."""
    found = json.loads(path.read_text())
    lines = [f"`{found['command']}`", "", "| the storm | |", "|---|---:|"]
    lines += [f"| {name} | {value} |" for name, value in found["figures"].items()]
    for name, words in (("tried", "Faults"), ("ends", "Ends of workers")):
        told = ", ".join(f"{one} ×{times}" for one, times in found[name].items())
        lines += ["", f"{words}, {sum(found[name].values())} in all: {told}."]
    return "\n".join(lines)


def laws(module: str) -> Iterator[tuple[str, str]]:
    """Return name and sentence of each law that a file states."""
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name, " ".join((ast.get_docstring(node) or "").split())


def word_for_word(runs: list[Run]) -> str:
    """List every law with the number of cases that ran."""
    times = Counter((run.module, run.name.partition("[")[0]) for run in runs)
    lines = []
    for module, words in GROUPS.items():
        lines += ["", f"**{words}** (`tests/{module}.py`)", ""]
        lines += [f"- `{name}` ×{times[module, name]}: {said}" for name, said in laws(module)]
    return "\n".join(lines).strip()


HEAD = """\
# Reliability

Written by `make reliability` from its own run; do not edit. Where a provider takes part, the oracle is its
own append-only charge log, never our tables. The laws of the stores and of the edges have no provider: they
count the orders that stand, and Telegram's redeliveries are counted by Telegram.
"""
KILLED = """\
## Killed at each durable step

*keyed*: replays under a documented key. *listable*: shows its jobs. *blind*: cannot be asked, so a doubt
waits for a person (HOLD). *held* means: at most one charge, and the end that the kind allows.
"""
REMAINS = """\
## What remains

Between the last look at the boot-time clock (`shoot` before its POST, `reconcile` before a replay) and the
first byte on the wire a process can be paused. If others have settled the doubt by then, the POST makes a job
that nobody expects; a replay does so only if the provider forgot its key meanwhile. The job id that it brings
is adopted from any doubtful state; if it dies as well, the late-charge sweep looks for the job for 24 hours,
where the provider can be asked. A blind provider cannot be: that doubt is a HOLD.
"""


def page(runs: list[Run], storm: Path | None) -> str:
    parts = [HEAD, groups(runs), "## By provider and dialect", by_provider(runs)]
    parts += ["## By ledger", by_store(runs), KILLED, matrix(runs)]
    if storm is not None and storm.exists():
        parts += ["## The storm", soak(storm)]
    parts += [REMAINS, "## The laws, word for word", word_for_word(runs)]
    files = len({run.module for run in runs})
    parts.append(f"<!-- {len(runs)} tests of {files} files -->")
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    given = [Path(one) for one in sys.argv[1:]]
    sys.stdout.write(page(read(given[0]), given[1] if len(given) > 1 else None))
