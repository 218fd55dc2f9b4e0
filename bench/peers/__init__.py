"""Sixteen trials of one promise: a tool that costs money runs once per user's act, and its words are true.

`make peers` plays them with our guard, with the bare SDK and with libraries from PyPI that make a part of
the same promise, and writes docs/comparison.md. `bench.peers.plugin` is a pytest plugin by which any other
library can play them: see docs/comparison.md.
"""
