"""What came of one case, and how it is written down."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from evals.case import Case
from evals.evidence import Evidence
from evals.judge import Check

Verdict = Literal["ok", "failed", "incomplete"]
OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INCOMPLETE: Final = 3


@dataclass(frozen=True)
class Result:
    """One playing of one case; `trouble` says why there is no evidence."""

    case: Case
    turn: int = 1
    checks: Sequence[Check] = ()
    evidence: Evidence | None = None
    trouble: str = ""

    @property
    def name(self) -> str:
        return self.case.id if self.turn == 1 else f"{self.case.id}#{self.turn}"

    @property
    def verdict(self) -> Verdict:
        if self.evidence is None or self.trouble:
            return "incomplete"
        return "ok" if all(check.holds for check in self.checks) else "failed"

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.holds]

    @property
    def reason(self) -> str:
        """One line for people."""
        if self.verdict == "incomplete":
            return self.trouble
        return "; ".join(f"{check.name}: {check.reason}" for check in self.failures)


@dataclass(frozen=True)
class Results:
    """A whole run. `broken` is the mutant that it was run against."""

    results: Sequence[Result]
    seconds: float
    broken: str | None = None
    notes: Sequence[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """An expectation that failed outweighs a case that is incomplete."""
        verdicts = {result.verdict for result in self.results}
        if "failed" in verdicts:
            return FAILED
        return INCOMPLETE if "incomplete" in verdicts or not self.results else OK

    def of(self, verdict: Verdict) -> list[Result]:
        return [result for result in self.results if result.verdict == verdict]
