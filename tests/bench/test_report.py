import json

import pytest

from bench import __main__ as cli
from bench.goals import GOALS
from bench.report import red_rows, render
from bench.results import Figure, Goal, Results

RATIO = Goal("a ratio", "3.6", "≤ 1.8", 1.8)
SECONDS = Goal("seconds", "5", "≤ 1", 1, judged=False)
COUNT = Goal("a count", "54", "0", 0)
RATE = Goal("a rate", "3", "≥ 25", 25, judged=False, at_least=True)


@pytest.mark.parametrize(
    ("goal", "value", "verdict", "red"),
    [
        (RATIO, 1.8, "met", False),
        (RATIO, 2.7, "missed", False),
        (RATIO, 2.71, "missed", True),
        (SECONDS, 60.0, "missed", False),
        (COUNT, 0, "met", False),
        (COUNT, 1, "missed", True),
        (RATE, 25.0, "met", False),
        (RATE, 3.0, "missed", False),
        (RATIO, None, "not measured", False),
    ],
)
def test_ci_is_red_above_one_and_a_half_times_a_goal(goal, value, verdict, red):
    """Ratios and counts are judged; seconds and rates are only reported."""
    one = Figure(value, str(value))
    assert (one.verdict(goal), one.is_red(goal)) == (verdict, red)


def test_a_measurement_that_broke_is_red():
    """A benchmark that no longer runs must not look like one that was left out."""
    broken = Figure(note="KeyError: x", failed=True)
    assert (broken.verdict(SECONDS), broken.is_red(SECONDS)) == ("failed", True)


def full_results():
    """A run in which every row was measured at its goal."""
    figures = {
        key: Figure(goal.limit or 0, str(goal.limit), "1 to 2", "a note") for key, goal in GOALS.items()
    }
    question = {"question": "metrics", "growth": 1.1, "ms": 2.0, "few_ms": 1.8}
    history = {"few": 1000, "many": 10**6, "questions": [question], "bytes_per_request": 2500.0}
    series = {
        "create": {"cpu_ms": 40.0, "transactions": 14, "statements": 40, "commands": 80, "redis_cpu_ms": 1.0},
        "polling": {"jobs": 5000, "lag_p95_s": 1.0, "questions": 20_000, "cpu_s": 20.0, "rss_mb": 200.0},
        "questions_sqlite": history
        | {"questions": [question, {"question": "costs", "failed": "TimeoutError"}]},
        "questions_postgresql": history,
        "admission_against_history": [
            {"orders": 1000, "others_us": 300.0, "own_us": 310.0, "empty_us": 290.0},
            {"orders": 10**6, "failed": "TimeoutError"},
        ],
        "latency_against_load": [{"at_once": 1, "p50_ms": 0.3, "p99_ms": 0.5}],
    }
    return Results(figures, series, {"machine": "2 cores"})


def test_the_page_has_every_row_with_its_verdict():
    page = render(full_results())
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for goal in GOALS.values():
        assert sum(line.startswith(f"| {goal.figure} |") for line in rows) == 1, goal.figure
    assert "**missed**" not in page
    assert "failed: TimeoutError" in page
    assert "## Beyond one machine" in page
    assert "pictures/admission-history.png" in page


def test_a_row_that_was_not_measured_says_so():
    """An absent library is named in its row and in the notes, and fails nothing."""
    results = full_results()
    results.figures["libraries.limits"] = Figure(note="limits is not installed (requirements-bench.txt)")
    del results.figures["polling.lag"]
    page = render(results)
    assert page.count("not measured") == 2
    assert "limits is not installed" in page
    assert red_rows(results) == []


def test_red_rows_name_figure_and_goal():
    results = full_results()
    results.figures["admission.take"] = Figure(3.6, "3.60")
    assert len(red_rows(results)) == 1
    assert "3.60 (goal ≤ 1.4)" in red_rows(results)[0]


def test_results_survive_json():
    results = full_results()
    assert Results.from_json(json.loads(json.dumps(results.as_json()))) == results


@pytest.mark.parametrize(("value", "code"), [(1.0, 0), (9.0, 1)])
def test_the_exit_code_is_the_verdict(monkeypatch, capsys, value, code):
    """CI needs no parser: a red row is exit code 1, and is printed by name."""

    async def measured(*_):
        return Results({"agent_run": Figure(value, str(value))}, {}, {})

    monkeypatch.setattr(cli, "silence_logs", lambda: None)
    monkeypatch.setattr(cli, "measure", measured)
    monkeypatch.setattr("sys.argv", ["bench", "--short", "--only", "agent_run"])
    assert cli.main() == code
    assert ("RED guarded" in capsys.readouterr().out) is bool(code)


async def test_a_section_that_breaks_fails_its_rows_alone(monkeypatch, tmp_path):
    """The other sections are measured all the same."""

    async def breaks(*_):
        raise OSError("no server")

    async def works(_, results, __):
        results.figures["agent_run"] = Figure(1.0, "1.0")

    monkeypatch.setattr(cli, "silence_logs", lambda: None)
    monkeypatch.setattr("bench.admission.run", breaks)
    monkeypatch.setattr("bench.agent_run.run", works)
    results = await cli.measure(["admission", "agent_run"], tmp_path, "short")
    failed = {key for key, one in results.figures.items() if one.failed}
    assert failed == {key for key in GOALS if key.startswith("admission.")}
    assert results.figures["agent_run"].value == 1.0


def test_a_goal_that_is_missed_may_not_get_worse():
    """A known miss is red above today's figure only, and is called missed all the same."""
    goal = Goal("a ratio", "3.6", "≤ 1.8", 1.8, today=4)
    assert [Figure(value).is_red(goal) for value in (1.0, 3.9, 4.1)] == [False, False, True]
    assert Figure(3.9).verdict(goal) == "missed"
