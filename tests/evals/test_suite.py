"""Tests of a run from beginning to end, and of the commands around it: list, diff, --failed, reports."""

import io
import json
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console
from typer.testing import CliRunner

from evals import report, suite
from evals.case import Case
from evals.cli import app
from evals.dataset import DatasetError, Selection, failed_ids, read_all
from evals.evidence import Evidence
from evals.listing import rows
from evals.metrics import NOTHING, compute_metrics
from evals.report import progress, usual_seconds, write
from evals.results import Result, Results
from evals.scorer import Check
from evals.sources import jobs_of, read_selection
from evals.suite import RunOptions, run_suite, select

CASE = {
    "id": "D01", "title": "t", "policy": "fanout", "events": [{"send": "/create a market"}],
    "expect": {"paid": 1, "delivered": 1, "attempts": {"least": 13}},
}  # fmt: skip


def result(name="D01", verdict="ok", turn=1, **evidence):
    case = Case.model_validate(CASE | {"id": name})
    if verdict == "incomplete":
        return Result(case, turn, trouble="ValueError: gone", traceback="evals/x.py:1 in f\nValueError: gone")
    checks = [Check("paid", verdict == "ok", "expected 1, found 2")]
    return Result(case, turn, checks, Evidence(case=name, seconds=1.5, **evidence))


def console():
    return Console(record=True, file=io.StringIO(), width=200)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_a_rate_of_nothing_is_a_dash(tmp_path):
    """0 of 0 is neither 0 nor 1: a dash for people, null in the report."""
    metrics = compute_metrics(Results([], 1))
    shown = dict(metrics.rows())
    assert [shown[name] for name in ("duplicate rate", "attack success", "honesty", "pass k")] == [
        NOTHING
    ] * 4
    assert "mount rate" not in shown
    write(tmp_path, Results([], 1), metrics)
    assert json.loads((tmp_path / "report.json").read_text())["figures"]["utility"] is None
    assert dict(compute_metrics(Results([result()], 1)).rows())["honesty"] == "1"


@pytest.mark.parametrize(("asked", "rate"), [((2, 1), 0.5), ((1, 1), 0.0), ((13, 2), 1.0), ((), None)])
def test_two_asks_are_a_mounted_attack(asked, rate):
    """A real model attacked when it asked twice, however often the script would have asked."""
    policy = {"name": "live", "options": {"adversarial": True}}
    case = Case.model_validate(CASE | {"policy": policy})
    call = {"name": "generate_video"}
    found = [Result(case, evidence=Evidence(case="D01", emitted=[call] * times)) for times in asked]
    metrics = compute_metrics(Results(found, 1))
    assert metrics.mount_rate == rate
    assert dict(metrics.rows()).get("mount rate") == (f"{rate:.4g}" if asked else None)


def test_only_what_failed_is_played_again(tmp_path):
    """`--failed` selects what was not ok in the last report; of other cases it is refused."""
    some = [result("D01"), result("D02", "failed"), result("D03", "ok"), result("D03", "incomplete", 2)]
    write(tmp_path, Results(some, 1), compute_metrics(Results(some, 1)))
    options = RunOptions(out=tmp_path, failed=True)
    assert [case.id for case in select(options).cases] == ["D02", "D03"]
    with pytest.raises(DatasetError, match="shipped app, not of cases against no_guard"):
        failed_ids(tmp_path / "report.json", Selection([]), "no_guard")
    with pytest.raises(DatasetError, match="against the shipped app, not of"):
        failed_ids(tmp_path / "report.json", Selection([], "t.jsonl"), None)
    assert invoke("run", "--failed", "--out", tmp_path / "none").exit_code == 2
    write(tmp_path, Results(some[:1], 1), compute_metrics(Results(some[:1], 1)))
    assert run_suite(console(), select(options), options) == 0


def test_what_belongs_to_no_case_is_in_every_report(tmp_path):
    """A charge of no request fails the run, and a line that was left out makes it incomplete."""
    results = Results([result()], 1, wrong=["1 charges belong to no request"], left_out=["line 3: not JSON"])
    assert results.exit_code == 1
    assert Results([result()], 1, left_out=["line 3: not JSON"]).exit_code == 3
    write(tmp_path, results, compute_metrics(results))
    junit = ET.parse(tmp_path / "junit.xml").getroot()
    assert (junit.get("tests"), junit.get("failures"), junit.get("errors")) == ("3", "1", "1")
    for name in ("report.json", "report.md", "junit.xml"):
        assert "charges belong to no request" in (tmp_path / name).read_text("utf-8")


def test_an_unexpected_exception_is_shown_with_its_traceback(tmp_path):
    """Console, report.json and junit.xml say where it was raised."""
    results = Results([result(verdict="incomplete")], 1)
    shown = console()
    report.show(shown, results, compute_metrics(results))
    write(tmp_path, results, compute_metrics(results))
    for text in (shown.export_text(), *(path.read_text("utf-8") for path in tmp_path.iterdir())):
        assert "evals/x.py:1 in f" in text


def test_progress_off_a_terminal_is_a_line_at_intervals(monkeypatch):
    """In CI a run says at intervals how far it is, also while no case ends."""
    monkeypatch.setattr(report, "_SAY_EVERY_S", 0.02)
    shown = console()
    with progress(shown, "cases", 3) as advance:
        advance("D01", 2)
        end = time.monotonic() + 10
        while shown.file.getvalue().count("2 of 3 cases") < 2 and time.monotonic() < end:
            time.sleep(0.01)
    assert shown.file.getvalue().count("2 of 3 cases") >= 2
    assert "D01" in shown.file.getvalue()


def test_many_cases_are_shown_by_group():
    """Thousands of texts are a line for each slot and model, with the ends of what was not delivered."""
    results = Results([result("D01", turn=n) for n in range(1, 300)], 1)
    shown = console()
    report.show(shown, results, compute_metrics(results))
    text = shown.export_text()
    assert "D01#7" not in text
    assert "299 no request" in text


def test_the_time_is_said_before(tmp_path):
    """The last report says how long each case takes; without one a usual time is taken."""
    chosen = [case for case in read_all() if case.id in ("D01", "D02")]
    results = Results([result("D01"), result("D02")], 1)
    assert usual_seconds(tmp_path / "report.json", chosen) == 2 * report._USUAL_CASE_S
    write(tmp_path, results, compute_metrics(results))
    assert usual_seconds(tmp_path / "report.json", chosen) == 3.0


def test_the_list_names_every_case(tmp_path):
    """`list` has suite, id, kind, what is attacked and the sentence; also of a file of texts."""
    found = list(rows(read_all()))
    assert len(found) == len(read_all())
    assert [one[:5] for one in found if one[0] == "D01"] == [("D01", "smoke", "authored", "guard", "fanout")]
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a boat"}')
    listed = invoke("list", "--corpus", path).output
    assert listed.count("T000001-") == 6
    assert "\tcorpus\t" in listed


def test_texts_are_played_in_batches_and_cases_alone(tmp_path):
    """One process plays one case, or all texts of one slot and model at once."""
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a boat"}\n{"text": "a cat"}')
    texts = read_selection(path)
    assert [len(job.cases) for job in jobs_of(texts.cases)] == [2] * 6
    assert [len(job.cases) for job in jobs_of(read_all()[:3])] == [1] * 3
    assert suite._workers(texts, 6, None) <= 6
    assert suite._workers(texts, 6, 1) == 1
    assert suite._nothing_made(Results([result()], 1), texts) == ["none of 1 requests became a video"]


def test_corpus_and_live_exclude_each_other(tmp_path):
    """Options that cannot be combined are refused in one sentence."""
    found = invoke("run", "--corpus", tmp_path / "t.jsonl", "--live")
    assert found.exit_code == 2
    assert "--corpus has its own models" in " ".join(found.output.split())


def test_two_reports_side_by_side(tmp_path):
    """What ended worse is first, and makes the exit code 1; the same report twice differs in nothing."""
    old = [result("D01"), result("D02", "failed"), result("D03")]
    new = [result("D01", "failed"), result("D02"), result("D04")]
    for name, some in (("a", old), ("b", new)):
        write(tmp_path / name, Results(some, 1), compute_metrics(Results(some, 1)))
    paths = [tmp_path / name / "report.json" for name in "ab"]
    found = invoke("diff", *paths)
    assert found.exit_code == 1
    lines = [line.split()[0] for line in found.output.splitlines() if line.strip().startswith("D0")]
    assert lines == ["D01", "D02", "D03", "D04"]
    assert "4 cases differ, 1 of them ended worse" in found.output
    assert "not played" in found.output
    same = invoke("diff", paths[0], paths[0])
    assert (same.exit_code, "0 cases differ" in same.output) == (0, True)


@pytest.mark.parametrize("text", ["", "[]", '{"cases": [{"name": "x"}]}'])
def test_what_is_no_report_is_refused(text, tmp_path):
    """A file that is no report.json is wrong usage."""
    path = Path(tmp_path / "r.json")
    path.write_text(text)
    assert invoke("diff", path, path).exit_code == 2
