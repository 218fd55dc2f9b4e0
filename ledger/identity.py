"""What is derived from a request's id alone, so that it survives the loss of every store."""

from uuid import uuid5

from telemetry.people import NAMESPACE, short_id

__all__ = ["NAMESPACE", "provider_key", "seed", "short_id"]


def provider_key(request_id: str) -> str:
    """Return the idempotency key under which the one order of this request is submitted."""
    return str(uuid5(NAMESPACE, request_id))


def seed(request_id: str) -> int:
    """Return a whole number below 2**31: the fingerprint by which a provider's job list is searched."""
    return uuid5(NAMESPACE, f"seed:{request_id}").int % 2**31
