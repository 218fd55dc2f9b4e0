"""OTEL variables of others: what OpenTelemetry would raise at is left out and said, the rest is kept."""

import pytest

from telemetry.environment import leave_out_unusable


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
