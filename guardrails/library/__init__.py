"""The guard for the tools of any agent: one effect for one act, within limits, with an end for every doubt.

`facade.Guard` is its face; docs/guardrails.md says what each store guarantees.
"""
