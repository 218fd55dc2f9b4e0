"""Waits for a condition instead of sleeping; shared with the evals."""

from evals.waiting import wait_until

__all__ = ["wait_until"]
