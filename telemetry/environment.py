"""OTEL variables that others set for every process of a machine or a pod, and that would stop ours.

OpenTelemetry reads some of them while it is imported and raises where it cannot use one. So this is called
before that: what cannot be used is left out, and said in one sentence.
"""

import os
from collections.abc import MutableMapping
from importlib.metadata import entry_points
from typing import Final

_PLUGINS: Final = {
    "OTEL_PROPAGATORS": "opentelemetry_propagator",
    "OTEL_PYTHON_CONTEXT": "opentelemetry_context",
    "OTEL_PYTHON_TRACER_PROVIDER": "opentelemetry_tracer_provider",
    "OTEL_PYTHON_METER_PROVIDER": "opentelemetry_meter_provider",
    "OTEL_PYTHON_LOGGER_PROVIDER": "opentelemetry_logger_provider",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "opentelemetry_resource_detector",
}
"""Variable -> the group of entry points in which its names are looked up."""

_BUILT_IN: Final = {
    "OTEL_PROPAGATORS": frozenset({"tracecontext", "baggage", "none"}),
    "OTEL_PYTHON_CONTEXT": frozenset({"contextvars_context"}),
}
"""Names that are there in every installation, so that the usual values cost no search."""

_COUNTS: Final = ("OTEL_", "_LIMIT")
"""How the names of the limits begin and end: whole numbers, or empty for no limit."""

_NO_LIMIT: Final = ""

IGNORED: Final[list[str]] = []
"""One sentence for each variable that was left out in this process."""


def leave_out_unusable(env: MutableMapping[str, str] = os.environ) -> list[str]:
    """Remove what OpenTelemetry cannot use from `env`; return one sentence for each."""
    found = []
    for name in [name for name in env if name.startswith(_COUNTS[0]) and name.endswith(_COUNTS[1])]:
        value = env[name].strip()
        if value != _NO_LIMIT and not value.isdecimal():
            del env[name]
            found.append(f"{name} is ignored: {value!r} is not a whole number of 0 or more")
    for name, group in _PLUGINS.items():
        if env.get(name) and (unknown := _unknown(name, group, env[name])):
            _keep(env, name, unknown)
            found.append(f"{name} is ignored as to {', '.join(unknown)}: not installed here")
    return found


def _unknown(name: str, group: str, value: str) -> list[str]:
    asked = [one.strip() for one in value.split(",") if one.strip()]
    if missing := [one for one in asked if one not in _BUILT_IN.get(name, ())]:
        installed = {one.name for one in entry_points(group=group)}
        return [one for one in missing if one not in installed]
    return []


def _keep(env: MutableMapping[str, str], name: str, unknown: list[str]) -> None:
    if left := [one.strip() for one in env[name].split(",") if one.strip() and one.strip() not in unknown]:
        env[name] = ",".join(left)
    else:
        del env[name]
