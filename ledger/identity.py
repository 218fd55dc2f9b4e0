"""What is derived from a request's id alone, so that it survives the loss of every store."""

from typing import Final
from uuid import UUID, uuid5

NAMESPACE: Final = UUID("6f6e6574-616b-5e00-8000-000000000001")
"""Fixed for ever: a new value would give every order of the past a second key."""


def provider_key(request_id: str) -> str:
    """Return the idempotency key under which the one order of this request is submitted."""
    return str(uuid5(NAMESPACE, request_id))


def seed(request_id: str) -> int:
    """Return a whole number below 2**31: the fingerprint by which a provider's job list is searched."""
    return uuid5(NAMESPACE, f"seed:{request_id}").int % 2**31


def short_id(request_id: str) -> str:
    """Return six letters that people can read out; shown as `#id` beside every message about a request."""
    return uuid5(NAMESPACE, f"short:{request_id}").hex[:6]
