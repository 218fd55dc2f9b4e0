"""The runner: pydantic-evals plays every case and keeps every check; the exit code is ours.

Its averages leave out cases that raised, so a run is judged by checks, failures and evaluators' failures.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pydantic_evals
from pydantic_evals.evaluators import EvaluationReason, Evaluator, EvaluatorContext
from pydantic_evals.reporting import EvaluationReport

from evals.case import Case
from evals.evidence import Evidence
from evals.judge import Check, judge
from evals.pool import Pool, places
from evals.result import Result, Results

Tell = Callable[[Result], None]


@dataclass
class Expectations(Evaluator[Case, Evidence, None]):
    """Every check of a case as one assertion with its reason."""

    def evaluate(self, ctx: EvaluatorContext[Case, Evidence, None]) -> dict[str, EvaluationReason]:
        return {
            check.name: EvaluationReason(check.holds, check.reason) for check in judge(ctx.inputs, ctx.output)
        }


async def run(
    cases: Sequence[Case], pool: Pool, *, repeat: int = 1, broken: str | None = None, tell: Tell | None = None
) -> Results:
    """Play every case `repeat` times; `tell` hears of each as it ends."""
    began = time.monotonic()
    dataset = pydantic_evals.Dataset[Case, Evidence, None](
        name="onetake",
        cases=[pydantic_evals.Case(name=case.id, inputs=case) for case in cases],
        evaluators=[Expectations()],
    )

    async def task(case: Case) -> Evidence:
        try:
            found = await pool.play(case, broken)
        except Exception as error:
            if tell is not None:
                tell(Result(case, trouble=_words(error)))
            raise
        if tell is not None:
            tell(Result(case, checks=judge(case, found), evidence=found))
        return found

    report = await dataset.evaluate(
        task, name="onetake", progress=False, repeat=repeat, max_concurrency=places() + 2
    )
    return Results(_results(report), time.monotonic() - began, broken)


def _results(report: EvaluationReport[Case, Evidence, None]) -> list[Result]:
    found: list[Result] = []
    turns: dict[str, int] = {}

    def turn(case: Case) -> int:
        turns[case.id] = turns.get(case.id, 0) + 1
        return turns[case.id]

    for one in report.cases:
        checks = [Check(name, said.value, said.reason or "") for name, said in one.assertions.items()]
        trouble = "; ".join(f"{bad.name}: {bad.error_message}" for bad in one.evaluator_failures)
        found.append(Result(one.inputs, turn(one.inputs), checks, one.output, trouble))
    found += [Result(bad.inputs, turn(bad.inputs), trouble=bad.error_message) for bad in report.failures]
    return sorted(found, key=lambda result: (result.case.id, result.turn))


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
