"""Logs, traces and metrics, and the redaction of everything that leaves the process.

Secrets, prompts and chat texts are never written in the clear: `telemetry.redaction` is the last processor of
every log line, `telemetry.exporter` has an allow-list of span attributes, and metric labels are closed sets.
"""
