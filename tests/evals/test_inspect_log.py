"""Tests of the export for inspect-ai: the log has the shape that its reader requires.

The schema holds what inspect_ai 0.3.285 requires of what we write (`EvalLog.model_json_schema()`, cut to our
fields); the real reader and viewer were tried with it.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from jsonschema import Draft202012Validator

from evals.case import Case
from evals.evidence import ChatLine, Evidence, Turn
from evals.inspect_log import inspect_log, write_inspect_log
from evals.results import Result, Results
from evals.scorer import Check

SCHEMA = Draft202012Validator(
    json.loads(Path(__file__).with_name("inspect_log.schema.json").read_text("utf-8"))
)
CASE = Case.model_validate(
    {
        "id": "D01", "title": "t", "policy": "fanout", "events": [{"send": "/create a market"}],
        "expect": {"paid": 1, "delivered": 1, "attempts": 1},
    }
)  # fmt: skip
ARGUMENTS = '{"prompt": "a market"}'
CALLS = [
    {
        "agent": "director",
        "type": "function_call",
        "name": "generate_video",
        "arguments": text,
        "call_id": name,
    }
    for name, text in (("c1", ARGUMENTS), ("c2", "no JSON \\ud800"))
]
HEARD = json.dumps([{"type": "function_call_output", "call_id": "c1", "output": "It is being made."}])


def results():
    turns = [
        Turn(agent="director", idea="a market", position=1, items=CALLS),
        Turn(agent="director", idea="a market", position=4, items=[{"type": "message", "text": "Done."}]),
    ]
    found = Evidence(
        case="D01", seconds=2, delivered=1, turns=turns, heard=[HEARD],
        emitted=CALLS, lines=[ChatLine(chat="1", bot=False, text="/create \ud800")],
    )  # fmt: skip
    checks = [Check("paid", False, "expected 1, found 0")]
    broken = Result(CASE, 2, trouble="ValueError: gone", traceback="evals/x.py:1 in f")
    return Results(
        [Result(CASE, checks=checks, evidence=found), broken], 3, source="cases", broken="no_guard"
    )


def test_a_log_has_the_shape_that_inspect_reads(tmp_path):
    """Every part is where the reader wants it, also of hostile texts and of a case without evidence."""
    path = write_inspect_log(tmp_path, results())
    log = json.loads(path.read_text("utf-8"))
    assert [f"{one.json_path}: {one.message}" for one in SCHEMA.iter_errors(log)] == []
    assert path.name.endswith(f"_onetake_{log['eval']['task_id']}.json")
    assert ":" not in path.name


def test_a_sample_is_the_models_own_conversation():
    """Ideas, calls with what they got, and the last words; the scores say why a case failed."""
    log = inspect_log(results(), datetime.now(UTC))
    first, second = log["samples"]
    assert [one["role"] for one in first["messages"]] == ["user", "assistant", "tool", "tool", "assistant"]
    calls = first["messages"][1]["tool_calls"]
    assert [one["arguments"] for one in calls] == [{"prompt": "a market"}, {"raw": "no JSON \\ud800"}]
    assert [one["content"] for one in first["messages"] if one["role"] == "tool"] == [
        "It is being made.",
        "(no answer)",
    ]
    assert first["scores"]["expectations"]["value"] == "I"
    assert "FAILED paid: expected 1, found 0" in first["scores"]["expectations"]["explanation"]
    assert first["scores"]["attempts"]["value"] == 2
    assert (second["epoch"], second["error"]["message"]) == (2, "ValueError: gone")
    assert log["eval"]["task_args"] == {"guard": "no_guard"}
