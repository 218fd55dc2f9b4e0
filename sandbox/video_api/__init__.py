"""Fake paid video providers on loopback, each with its own charge log, the oracle of tests about money."""
