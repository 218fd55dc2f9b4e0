"""What can be seen: logs, and the names that they share. Imports nothing of ours.

Secrets, prompts and chat texts never pass through here in the clear: `telemetry.redaction` is the
last processor before anything is written.
"""
