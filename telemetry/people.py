"""People in traces: a keyed hash of the user's number, the same in every process, no number itself."""

import hashlib
import hmac
import secrets
from typing import Final


class _Key:
    """The key of this process; until one is set, one that nobody knows."""

    value: bytes = secrets.token_bytes(32)


_KEY: Final = _Key()


def set_key(secret: str) -> None:
    """Derive the key from a secret that all processes of one installation share (the bot's token)."""
    _KEY.value = hashlib.sha256(b"onetake/users/" + secret.encode()).digest()


def user_tag(user_id: int) -> str:
    """Return what stands for a user in a trace."""
    return hmac.new(_KEY.value, str(user_id).encode(), "sha256").hexdigest()[:16]
