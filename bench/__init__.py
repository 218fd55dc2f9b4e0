"""Benchmarks: `python -m bench`. They may import everything; no other package imports them."""
