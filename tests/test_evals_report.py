"""A run on disk, and what it is compared with."""

import pytest
from typer.testing import CliRunner

import evals.cli
from evals.cli import app
from evals.runner import USAGE


@pytest.mark.parametrize(
    "text", [None, "<html>", "\udc80", "[]", '{"cases": null}', '{"cases": [{"name": "A01"}]}', "[" * 100_000]
)
def test_a_bad_baseline_plays_nothing(tmp_path, monkeypatch, text):
    """A run of a minute is not lost to a file that could have been looked at before."""
    monkeypatch.setattr(evals.cli, "run_cases", lambda *_, **__: pytest.fail("it was played"))
    path = tmp_path / "before.json"
    if text is not None:
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
    asked = ["run", "--case", "A01", "--baseline", str(path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == USAGE, result.output
    assert "is no report.json of ours" in " ".join(result.output.split())
