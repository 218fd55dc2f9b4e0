"""Benchmarks. They may import everything; nothing imports them."""
