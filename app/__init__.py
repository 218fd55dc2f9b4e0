"""Settings, wiring, processes and operator commands.

It owns no rule: what may be paid is decided in `guardrails` and `ledger`, what users read in `chat`.
"""
