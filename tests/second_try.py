"""Runs what just failed once more, alone, for CI: `python tests/second_try.py`, after a red run of pytest.

A law that passes only now is named loudly, since it, or the house, has a defect; all else stays red. Where
the line that failed counts what was sent or charged, and found too much, there is no second try: such a race
is what the laws are for.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

MOST: Final = 5
_FAILED: Final = Path(".pytest_cache/v/cache/lastfailed")
_MONEY: Final = "onetake/money"
_COUNTS: Final = re.compile(r"^>.*\b(charges|posts|paid|net)\b|'law': '(duplicate|nobody)", re.MULTILINE)
_NOTHING_YET: Final = re.compile(r"^E +(AssertionError: )?assert 0 ==", re.MULTILINE)


class Witness:
    """A pytest plugin that notes which laws failed because too much was sent or charged."""

    def __init__(self, config: pytest.Config) -> None:
        self._config, self._names = config, set[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        said = str(report.longrepr)
        if report.failed and _COUNTS.search(said) and not _NOTHING_YET.search(said):
            self._names.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        if self._config.cache is not None and not hasattr(self._config, "workerinput"):
            self._config.cache.set(_MONEY, sorted(self._names))


def main() -> int:
    """Return 0 only if few laws failed and each of them passes alone."""
    names = _read(_FAILED)
    if not 1 <= len(names) <= MOST:
        say(f"{len(names)} laws are written down as failed; 1 to {MOST} get a second try")
        return 1
    if money := _read(Path(".pytest_cache/v") / _MONEY):
        say("RED: too much was sent or charged, which has no second try:", *money)
        return 1
    say(f"A second try, alone, of {len(names)}:", *names)
    again = [sys.executable, "-m", "pytest", "--last-failed", "--last-failed-no-failures", "none"]
    code = subprocess.run(again, check=False).returncode
    if code:
        say("RED: not even the second try passed")
        return 1
    say("PASSED ONLY AT THE SECOND TRY (mend these laws, or what they look at):", *names)
    return 0


def _read(path: Path) -> list[str]:
    return sorted(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def say(first: str, *lines: str) -> None:
    bar = "!" * 100
    sys.stdout.write("\n".join(["", bar, first, *(f"  {line}" for line in lines), bar, ""]))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
