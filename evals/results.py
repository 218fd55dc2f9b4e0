"""The results of a run: of each case its checks, its evidence, and whether load alone may have failed it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from evals.case import Case
from evals.events import FAILED, INCOMPLETE, OK
from evals.evidence import Evidence
from evals.scorer import NO_EXCUSE, Check
from evals.waiting import BUSY_S, CROWDED

CaseVerdict = Literal["ok", "failed", "incomplete"]


@dataclass(frozen=True)
class Played:
    """What one process played in one app: of each case its evidence, and what was wrong in no single case."""

    evidence: Sequence[Evidence]
    wrong: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """One run of one case. `trouble` says why there is no evidence, `traceback` where that was raised."""

    case: Case
    turn: int = 1
    checks: Sequence[Check] = ()
    evidence: Evidence | None = None
    trouble: str = ""
    traceback: str = ""

    @property
    def name(self) -> str:
        return self.case.id if self.turn == 1 else f"{self.case.id}#{self.turn}"

    @property
    def verdict(self) -> CaseVerdict:
        if self.evidence is None or self.trouble:
            return "incomplete"
        if not self.failures:
            return "ok"
        return "incomplete" if self.is_excused else "failed"

    @property
    def is_excused(self) -> bool:
        """Whether load alone may have failed it, and money is right.

        The process got no CPU for `BUSY_S`, or the machine was `CROWDED` with the work of others.
        """
        found = self.evidence
        was_busy = found is not None and (found.lag_s >= BUSY_S or found.crowding >= CROWDED)
        return was_busy and not any(check.name in NO_EXCUSE for check in self.failures)

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.holds]

    @property
    def reason(self) -> str:
        """Why it is not ok, in one line."""
        if self.evidence is None or self.trouble:
            return self.trouble
        failed = "; ".join(f"{check.name}: {check.reason}" for check in self.failures)
        if self.is_excused:
            stood, crowd = self.evidence.lag_s, self.evidence.crowding
            busy = f"this process stood still for {stood:.1f} s, {crowd:.0f} shared a core"
            return f"the machine was busy, {busy}: {failed}"
        return failed


@dataclass(frozen=True)
class Results:
    """All results of a run.

    Attributes:
        broken: The mutant it was run against.
        source: Where the cases are from: `cases`, or a file of texts.
        wrong: What was wrong in no single case, such as a charge that belongs to no request.
        left_out: What of the source could not be played, a sentence each.
    """

    results: Sequence[Result]
    seconds: float
    broken: str | None = None
    source: str = "cases"
    wrong: Sequence[str] = field(default_factory=tuple)
    left_out: Sequence[str] = field(default_factory=tuple)

    @property
    def exit_code(self) -> int:
        """A failed expectation outweighs an incomplete case; a run without cases is incomplete."""
        if self.of("failed") or self.wrong:
            return FAILED
        whole = self.results and not self.left_out and not self.of("incomplete")
        return OK if whole else INCOMPLETE

    def of(self, verdict: CaseVerdict) -> list[Result]:
        return [result for result in self.results if result.verdict == verdict]
