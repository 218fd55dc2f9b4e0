"""Writes docs/comparison.md from the results of one run."""

import importlib.metadata
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.peers.catalog import ALL, BARE, DENY, OURS, PEERS, Entry

Report = Mapping[str, Any]
Reports = Mapping[str, Report]

TITLES: Final[Mapping[str, str]] = {
    "parallel": "13 calls in one turn",
    "paraphrases": "13 paraphrases, one per turn",
    "two_runs": "13 calls over two runs of one act",
    "timeout": "effect, then a timeout and five retries",
    "kill": "kill -9 between effect and answer",
    "two_processes": "two processes at once",
    "redeliveries": "five redeliveries at once",
    "emptied": "store emptied between two calls",
    "away": "store away",
    "two_items": "two items in one act",
    "cancelled": "run cancelled after the effect",
    "slow": "slow call beyond any lease",
    "not_sent": "refused before anything was sent",
    "next_day": "redelivered after 25 h",
    "restarted": "guard killed and restarted mid-act",
    "restored": "store restored from an old snapshot",
}
EDGES: Final[Mapping[str, str]] = {
    "quota": "quota of 5, 20 acts from 4 processes",
    "budget": "budget of $15 at $3, 20 acts from 4 processes",
}

_HEAD: Final = """\
# Side by side: a tool that costs money runs once

Written by `make peers` (`python -m bench.peers --write`); do not edit.

An agent's model may call a paid tool again at any time: in one turn, in other words, after a timeout, after
a restart. Sixteen trials play that with our guard ([guardrails.md](guardrails.md)), with libraries from PyPI
that make a part of the same promise, and with the agents SDK alone. A trial is right only if, in every seed,
**the effects are exactly those wanted** (not one more, and not one fewer) **and every sentence that the model
was answered is true**, both by machine: the tool's body writes one line per effect to a synced file, the
provider's charge log, and a checker compares each sentence with that file. A guard that refuses everything is
as red as no guard.

![Charges over time in the incident, replayed with the bare SDK and with the guard](pictures/incident.svg)

*The incident, replayed from a real run: a model calls the paid tool 13 times in 26 minutes. One run has no
guard and pays $39; the other has one and pays $3.*
"""

_READ: Final = """\
- **✓**: right in effects and in words, in every seed. **e3**: the effects were wrong in 3 seeds. **w2**: a
  sentence was untrue in 2 seeds, or invited a retry of what was charged.
- **In brackets**: outside of what the library promises; the reasons are below.
- **✓ better**: right where ours is not. **–**: the library has no such limit.
- Every library is in its best set-up: key = act and item, its durable store, its verifier where it has one,
  `failure_error_function` set, its typed errors answered by honest sentences that the trials bring. Where a
  choice exists, the one that is right more often: `bench/peers/adapters/` has the code, `requirements/` the
  versions. Leases are 2 s, so that the trials take minutes.
- 25 hours pass by a shifted clock, and by setting back what expires in Redis, PostgreSQL and SQLite.
- *Store emptied* and *store away* take the faster of two stores, or the only one; *away* and *restored* take
  each store in turn where there are two."""

_OWN: Final = """\
## Play the trials with another library

Write an adapter (a subclass of `SdkAdapter` with one method, `call`; `bench/peers/adapters/agent_once.py` is
a short one), and run

```
python -m pytest -p bench.peers.plugin --adapter my_library.adapter:Mine --seeds 20
```

The trials are a pytest plugin: `--trials kill,timeout` plays some, `--peers-report FILE` keeps the results.
`python -m bench.peers --only AgentOnce --seeds 3` makes an environment with the pinned versions and plays
there; with `ONETAKE_TEST_POSTGRES` naming a PostgreSQL server, agent-ledger plays too.
"""


def by_trial(report: Report) -> dict[str, list[Mapping[str, Any]]]:
    """Return the results by trial."""
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in report["results"]:
        found[one["trial"]].append(one)
    return found


def wrong_trials(report: Report, what: Sequence[str] = ("effects", "words")) -> list[str]:
    """Return the trials, edges included, with something wrong of this kind in any seed."""
    trials = by_trial(report)
    return [name for name, seeds in trials.items() if any(one[kind] for one in seeds for kind in what)]


def right(report: Report, what: Sequence[str] = ("effects", "words"), *, promised: bool = False) -> int:
    """Count the trials, without the edges, that are right in this; `promised`: and not excluded."""
    played = [name for name in by_trial(report) if name in TITLES]
    outside = report["outside"] if promised else {}
    return sum(1 for name in played if name not in wrong_trials(report, what) and name not in outside)


def lead(reports: Reports) -> tuple[int, list[str]]:
    """Return by how many trials ours is ahead of the best peer, and the names of the best."""
    counts = {one.name: right(reports[one.name]) for one in PEERS if one.name in reports}
    best = max(counts.values(), default=0)
    return right(reports[OURS.name]) - best, [name for name, count in counts.items() if count == best]


def summary(reports: Reports) -> Iterator[str]:
    """Yield one line per library."""
    for name, report in reports.items():
        wrong = [f"{trial} ({_cell(report, trial)})" for trial in wrong_trials(report)]
        counts = (
            f"{right(report)} of 16, effects {right(report, ['effects'])}, words {right(report, ['words'])}"
        )
        yield f"{name}: {counts}; wrong: {', '.join(wrong) or 'nothing'}"


def _cell(report: Report, trial: str) -> str:
    seeds = by_trial(report).get(trial)
    if not seeds:
        return "–"
    counts = {kind: sum(1 for one in seeds if one[kind]) for kind in ("effects", "words")}
    marks = [f"{kind[0]}{count}" for kind, count in counts.items() if count]
    shown = " ".join(marks) or "✓"
    return f"({shown})" if trial in report["outside"] else shown


def _row(trial: str, title: str, shown: Sequence[Entry], reports: Reports) -> str:
    ours_right = trial not in wrong_trials(reports[OURS.name]) if OURS.name in reports else False
    cells = []
    for one in shown:
        cell = _cell(reports[one.name], trial)
        better = "✓" in cell and not ours_right and one in PEERS
        cells.append("✓ better" if better else cell)
    return f"| {title} | " + " | ".join(cells) + " |"


def _table(reports: Reports) -> str:
    shown = [one for one in ALL if one.name in reports]
    rows = ["| trial | " + " | ".join(one.name for one in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    rows += [_row(trial, title, shown, reports) for trial, title in {**TITLES, **EDGES}.items()]
    return "\n".join(rows)


def _answers(report: Report) -> str:
    trials = [one for one in report["results"] if one["trial"] in TITLES]
    said = sum(one["answers"] for one in trials)
    return f"{100 * sum(one['receipts'] for one in trials) / said:.0f} %" if said else "–"


def _libraries(reports: Reports) -> str:
    columns = ("library", "version", "released", "store", "right", "effects", "words", "promised and right")
    rows = ["| " + " | ".join([*columns, "with the result"]) + " |", "|---" * 9 + "|"]
    for one in ALL:
        if one.name in reports:
            report = reports[one.name]
            version = next(iter(report["packages"].values()), "–") if one not in (OURS, DENY) else "–"
            promised = 16 - len([name for name in report["outside"] if name in TITLES])
            counts = f"{right(report)} | {right(report, ['effects'])} | {right(report, ['words'])}"
            kept = f"{right(report, promised=True)} of {promised}"
            rows.append(
                f"| {one.name} | {version} | {one.released} | {report['store']} | {counts} | {kept} | "
                f"{_answers(report)} |"
            )
    return "\n".join(rows)


def _outside(reports: Reports) -> str:
    parts = []
    for one in PEERS:
        report = reports.get(one.name)
        if report is None:
            continue
        reasons: dict[str, list[str]] = defaultdict(list)
        for trial, why in report["outside"].items():
            reasons[why].append({**TITLES, **EDGES}[trial])
        said = "; ".join(f"{', '.join(trials)}: {why}" for why, trials in reasons.items())
        more = f". It has, and ours has not: {one.has}" if one.has else ""
        parts.append(f"- **{one.name}**. {said or 'Nothing'}{more}.")
    return "\n".join(parts)


def _faults(reports: Reports) -> str:
    parts = []
    for one in ALL:
        found = [
            each for each in reports.get(one.name, {"results": []})["results"] if one not in (BARE, DENY)
        ]
        seen: dict[str, str] = {}
        for each in found:
            wrong = [*each["effects"], *each["words"]]
            if wrong:
                seen.setdefault(each["trial"], wrong[0].replace("|", "/"))
        if seen:
            parts.append(f"- **{one.name}**: " + "; ".join(f"{trial}: {why}" for trial, why in seen.items()))
    return "\n".join(parts)


def _cost(cost: Mapping[str, Any]) -> str:
    if not cost:
        return "Not measured in this run."
    doubts = cost["doubt_s"]

    def line(name: str, title: str, goal: str) -> str:
        one = cost[name]
        ours, bare = one["ours_us"] / 1000, one["bare_us"] / 1000
        found = f"{one['cpu']:.2f} ({ours:.1f} against {bare:.1f} ms)"
        return f"| CPU of a guarded run ÷ a bare one, {title} | {goal} | {found} |"

    return "\n".join(
        [
            "| figure | goal | measured |",
            "|---|---|---|",
            line("memory", "in memory", "≤ 1.25"),
            line("sql", "SQLite", "≤ 1.8"),
            f"| a doubt ends after the provider can be asked | ≤ 5 s | {max(doubts):.1f} s at most "
            f"of {len(doubts)} |",
        ]
    )


def _verdict(reports: Reports) -> str:
    ahead, best = lead(reports)
    ours = reports[OURS.name]
    wrong = wrong_trials(ours)
    more = f" Not right: {', '.join(wrong)}." if wrong else ""
    aim = "" if ahead >= 4 else " We wanted a lead of four trials."
    return (
        f"**Ours is right in {right(ours)} of 16 trials; the best of the others, {' and '.join(best)}, in "
        f"{right(ours) - ahead}: a lead of {ahead}.**{aim}{more}"
    )


def _seeds(report: Report) -> int:
    return max((one["seed"] + 1 for one in report["results"]), default=0)


def _machine(reports: Reports) -> str:
    others = sorted({_seeds(report) for name, report in reports.items() if name != OURS.name})
    sdk = importlib.metadata.version("openai-agents")
    return (
        f"Run on {datetime.now(UTC):%Y-%m-%d}; Python {platform.python_version()}, openai-agents {sdk}. "
        f"Every trial was played in {_seeds(reports[OURS.name])} seeds with ours and in "
        f"{' or '.join(map(str, others))} with the others; each seed kills and cuts at other moments."
    )


def render(reports: Reports, cost: Mapping[str, Any]) -> str:
    """Return the page."""
    parts = [_HEAD, _verdict(reports), _machine(reports), "## The trials", _table(reports), _READ]
    parts += ["## The libraries", _libraries(reports)]
    parts += [
        "*Right*: of the sixteen, in effects and words. *Promised and right*: without what the library "
        "excludes. *With the result*: answers that hand back the receipt.",
        "## Outside of their promise",
        _outside(reports),
        "## What went wrong, first seen",
        _faults(reports),
        "## What ours costs",
        _cost(cost),
        _OWN,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def write(reports: Reports, cost: Mapping[str, Any], docs: Path) -> None:
    """Write the page."""
    (docs / "comparison.md").write_text(render(reports, cost))
