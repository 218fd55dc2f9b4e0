"""Logs, traces and metrics, and the redaction of everything that leaves the process.

Secrets, prompts and chat texts are never written in the clear: `telemetry.redaction` is the last processor of
every log line, `telemetry.exporter` has an allow-list of span attributes, and metric labels are closed sets.
"""

from telemetry.environment import IGNORED, leave_out_unusable

IGNORED.extend(leave_out_unusable())  # before anything imports OpenTelemetry, which reads them and raises
