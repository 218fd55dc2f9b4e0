"""Adversaries: small seeded models that drive the real run loop as bad models were seen to.

One instance plays one case. An adversary decides from the conversation alone, so two runs with one seed are
the same.
"""
