"""What an agent can do: the loader that turns a declaration into an agent, one file per tool, the studio.

A tool never pays. `generate_video` writes an order into the ledger; the studio pays for orders. Every body
is safe when it is called without its guard.
"""
