"""Function tools, one module each, and the factory that builds agents from `agents/*.md`.

A tool never pays: `generate_video` writes an order to the ledger, and the worker pays for orders. The body of
every tool is safe without its guard.
"""
