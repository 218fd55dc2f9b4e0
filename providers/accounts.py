"""Accounts: which server is asked about an order, under whose credentials.

Two configurations with different accounts must not be asked about each other's orders: the one knows nothing
of the other's jobs, so its list would "prove" that a paid job does not exist, and a replay there would be a
second payment.
"""

import hashlib
import json
import re
from typing import Final
from urllib.parse import urlsplit

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST_CHARACTERS: Final = 60
_DIGEST_CHARACTERS: Final = 12


def account_of(provider: str, base_url: str, credentials: str, dialect: str = "") -> str:
    """Return the account of an adapter: `openai_compat:inworld@api.host#0123456789ab`.

    The digest covers the normalised base URL, the dialect and the credentials, which cannot be read from it.

    Args:
        provider: The adapter's name.
        base_url: Where its API begins.
        credentials: The key; empty for an open server.
        dialect: For an adapter that speaks several.
    """
    base = normalized(base_url)
    known = json.dumps([provider, base, dialect, credentials])
    digest = hashlib.sha256(known.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    host = base.partition("://")[2].partition("/")[0]
    name = f"{provider}:{dialect}" if dialect else provider
    return f"{name}@{host[:_HOST_CHARACTERS]}#{digest}"


def named_account(provider: str, name: str) -> str:
    """Return the account to which an operator gave a name, so that a rotated key keeps it.

    Raises:
        ValueError: The name cannot be used; the message says what can.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is no name of an account: use 1 to 60 of A-Z a-z 0-9 . _ -")
    return f"{provider}:{name}"


def normalized(base_url: str) -> str:
    """Return a base URL in the one way in which it is compared: `HTTPS://Host:443/v1/` is `https://host/v1`."""
    parts = urlsplit(base_url.strip())
    scheme, host, port = parts.scheme.lower(), (parts.hostname or "").lower(), parts.port
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != _DEFAULT_PORTS.get(scheme):
        shown += f":{port}"
    return f"{scheme}://{shown}{parts.path.rstrip('/')}"
