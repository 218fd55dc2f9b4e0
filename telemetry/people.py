"""Whose it was, in what can be seen: six letters for a request, a keyed hash for a user, no number itself."""

import hashlib
import hmac
import re
import secrets
from typing import Final
from uuid import UUID, uuid5

NAMESPACE: Final = UUID("6f6e6574-616b-5e00-8000-000000000001")
"""Fixed for ever: a new value would give every order of the past a second key."""

# What `chat.updates` makes of a command, and the payers of `ledger.words`. In a private chat the chat's
# number is the user's.
_REQUEST: Final = re.compile(r"tg:\d+:[^:\s'\"]+:-?\d+:[\w-]+")
_PERSON: Final = re.compile(r"\b(user|admin):(\d{1,15})\b")


class _Key:
    """The key of this process; until one is set, one that nobody knows."""

    value: bytes = secrets.token_bytes(32)


_KEY: Final = _Key()


def set_key(secret: str) -> None:
    """Derive the key from a secret that all processes of one installation share (the bot's token)."""
    _KEY.value = hashlib.sha256(b"onetake/users/" + secret.encode()).digest()


def user_tag(user_id: int) -> str:
    """Return what stands for a user in a trace and in a log."""
    return hmac.new(_KEY.value, str(user_id).encode(), "sha256").hexdigest()[:16]


def short_id(request_id: str) -> str:
    """Return six letters that people can read out; shown as `#id` beside every message about a request."""
    return uuid5(NAMESPACE, f"short:{request_id}").hex[:6]


def unnamed(text: str) -> str:
    """Return `text` with six letters for each request's id, which holds a chat's number, a tag for a user."""
    text = _REQUEST.sub(lambda found: short_id(found[0]), text)
    return _PERSON.sub(lambda found: f"{found[1]}:{user_tag(int(found[2]))}", text)
