"""OTEL variables of others: what OpenTelemetry would raise at is left out and said, the rest is kept."""

import os
import subprocess
import sys

import pytest

from telemetry.environment import leave_out_unusable
from tests.support.services import ROOT


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("OTEL_PROPAGATORS", "b3", None),
        ("OTEL_PROPAGATORS", "tracecontext,b3, baggage", "tracecontext,baggage"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "none", None),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "-4", None),
        ("OTEL_PYTHON_CONTEXT", "of-others", None),
        ("OTEL_PYTHON_TRACER_PROVIDER", "of-others", None),
        ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "of-others", None),
    ],
)
def test_what_cannot_be_used_is_left_out_in_one_sentence(name, value, kept):
    """The sentence names the variable; other variables stay as they are."""
    env = {name: value, "OTEL_SERVICE_NAME": "ours"}
    (sentence,) = leave_out_unusable(env)
    assert name in sentence
    assert env == {"OTEL_SERVICE_NAME": "ours"} | ({} if kept is None else {name: kept})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_PROPAGATORS", "tracecontext"),
        ("OTEL_PROPAGATORS", "tracecontext,baggage"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "64"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", ""),
        ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "otel"),
    ],
)
def test_what_can_be_used_is_kept(name, value):
    """Nothing is said of a value that works."""
    env = {name: value}
    assert leave_out_unusable(env) == []
    assert env == {name: value}


OF_OTHERS = {
    "OTEL_PROPAGATORS": "tracecontext,baggage,b3",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "none",
    "OTEL_SDK_DISABLED": "true",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_OTHERS)
def test_a_process_starts_with_what_others_set(tmp_path, name):
    """A real start: OpenTelemetry reads its variables at import, so a late check would be a traceback."""
    env = {**os.environ, name: OF_OTHERS[name], "VAR_DIR": str(tmp_path), "COLUMNS": "300"}
    command = [sys.executable, "-m", "bot", "doctor"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert name in said
