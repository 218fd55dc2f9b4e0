"""`python -m bench.peers`: play the trials with every library, and write docs/comparison.md."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from bench.peers import page
from bench.peers.catalog import ALL, Entry
from bench.peers.environments import FOLDER, HERE, ROOT, python_of

RESULTS: Final = FOLDER / "results"


def play(entry: Entry, seeds: int, trials: str) -> None:
    """Play the trials with one library, in its environment; the report is kept even if trials fail."""
    python = python_of(entry.module)
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = RESULTS / f"{entry.kind}.json"
    report.unlink(missing_ok=True)
    began = time.monotonic()
    command = [str(python), "-m", "pytest", "-c", str(HERE / "pytest.ini"), "-p", "bench.peers.plugin", "-q"]
    command += ["--adapter", entry.path, "--seeds", str(seeds), "--trials", trials]
    command += ["--peers-report", str(report), "--basetemp", str(FOLDER / "runs" / entry.kind)]
    log = RESULTS / f"{entry.kind}.log"
    (FOLDER / "runs").mkdir(exist_ok=True)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with log.open("w") as out:
        subprocess.run(command, cwd=ROOT, stdout=out, stderr=out, env={**os.environ, "PYTHONPATH": path})
    print(f"{entry.name}: {time.monotonic() - began:.0f} s, {report if report.exists() else log}", flush=True)


def measure() -> None:
    """Measure what our guard costs, and how long a doubt lasts."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    command = [str(python_of("ours")), "-m", "bench.peers.cost", "--json", str(RESULTS / "cost.json")]
    subprocess.run(command, cwd=ROOT, check=True)


def draw() -> None:
    """Replay the incident, and write its picture."""
    picture = [str(python_of("ours")), "-m", "bench.peers.picture"]
    subprocess.run(picture, cwd=ROOT, check=True)


def reports() -> dict[str, Any]:
    """Read what was measured, by the name of the library."""
    found = {one.name: RESULTS / f"{one.kind}.json" for one in ALL}
    return {name: json.loads(path.read_text()) for name, path in found.items() if path.exists()}


def play_all(chosen: list[Entry], asked: argparse.Namespace) -> None:
    """Play the trials with these libraries; a run that writes the page begins without older results."""
    if asked.write:
        shutil.rmtree(RESULTS, ignore_errors=True)
    for module in {one.module for one in chosen}:
        python_of(module)
    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(lambda one: play(one, asked.seeds, asked.trials), chosen))
    measure()
    if asked.write:
        draw()


def main() -> int:
    """Return 1 if our guard has a trial that is not right."""
    names = [one.kind for one in ALL]
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", default="", help=f"some of {','.join(names)}")
    parser.add_argument("--trials", default="", help="only these trials, by name")
    parser.add_argument("--jobs", type=int, default=2, help="libraries at once")
    parser.add_argument("--write", action="store_true", help="write docs/comparison.md and its pictures")
    parser.add_argument(
        "--render", action="store_true", help="play nothing: write the page from the last run"
    )
    asked = parser.parse_args()
    chosen = asked.only.split(",") if asked.only else names
    if asked.write and (asked.only or asked.trials):
        parser.error("--write needs every library and every trial: the page is of one run")
    if unknown := set(chosen) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: known are {', '.join(names)}")
    if not asked.render:
        play_all([one for one in ALL if one.kind in chosen], asked)
    found = reports()
    if asked.write or asked.render:
        cost = RESULTS / "cost.json"
        page.write(found, json.loads(cost.read_text()) if cost.exists() else {}, ROOT / "docs")
    for line in page.summary(found):
        print(line)
    ours = found.get("onetake-guardrails")
    return 0 if ours and not page.wrong_trials(ours) else 1


if __name__ == "__main__":
    sys.exit(main())
