"""Removes secrets from texts, and replaces user and request ids by pseudonyms."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, unquote
from uuid import UUID, uuid5

NAMESPACE: Final = UUID("6f6e6574-616b-5e00-8000-000000000001")
"""Never change it: a new value would give every existing order a second idempotency key."""

# Request ids as `chat.updates` makes them, and users' scopes. In a private chat the chat's id is the user's.
_REQUEST_ID: Final = re.compile(r"tg:\d+:[^:\s'\"]+:-?\d+:[\w-]+")
_USER_REF: Final = re.compile(r"\b(user|admin):(\d{1,15})\b")

HIDDEN: Final = "***"

# Telegram's URLs contain the bot token (`/bot123456:AA…/sendVideo`), so any exception text of an HTTP client
# may contain one, directly after a letter.
_SECRET_SHAPES: Final = re.compile(
    r"""
    (?<!\d)\d{5,}(?::|%3A)[A-Za-z0-9_-]{30,}   # Telegram bot token
    | \b(?:sk|rk|pk)-[A-Za-z0-9_-]{8,}         # OpenAI and similar
    | \br8_[A-Za-z0-9]{16,}                    # Replicate
    | \bAIza[A-Za-z0-9_-]{30,}                 # Google
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]+  # JSON web token
    | (?<=://)[^\s/?\#'"]*:[^\s/'"]*(?=@)      # user:password in a URL, `:password` too
    | (?i:(?<=bearer\s)|(?<=basic\s))[A-Za-z0-9+/=._~-]{8,}
    | (?i:(?<=authorization:\ key\s)|(?<=authorization':\ 'key\s))[^\s'",]+
    | (?<=[?&;])(?i:[a-z0-9_-]*(?:sig|signature|token|key|keyid|secret|password|credential)|x-amz-[a-z-]+)
      =[^&\s'"]+                               # signed URLs
    """,
    re.VERBOSE,
)

_MARKS: Final = ("sk-", "rk-", "pk-", "r8_", "AIza", "eyJ", "://", "=")
"""Exact texts, one of which is in every secret but bot tokens and authorization headers."""

_BOT_TOKEN_LENGTH: Final = 36
"""The shortest text in the shape of a bot token."""


class _PseudonymKey:
    """The key of this process; random until one is set."""

    value: bytes = secrets.token_bytes(32)


_PSEUDONYM_KEY: Final = _PseudonymKey()


def set_pseudonym_key(secret: str) -> None:
    """Derive the key from a secret that all processes of an installation share (the bot's token)."""
    _PSEUDONYM_KEY.value = hashlib.sha256(b"onetake/users/" + secret.encode()).digest()


def user_tag(user_id: int) -> str:
    """Return the pseudonym of a user in traces and logs."""
    return hmac.new(_PSEUDONYM_KEY.value, str(user_id).encode(), "sha256").hexdigest()[:16]


@lru_cache(maxsize=4096)
def short_id(request_id: str) -> str:
    """Return the request's six-letter id for people; every message about it shows it as `#id`."""
    return uuid5(NAMESPACE, f"short:{request_id}").hex[:6]


def pseudonymize(text: str) -> str:
    """Return `text` with short ids for request ids (they contain a chat's id) and tags for users."""
    if "tg:" in text:
        text = _REQUEST_ID.sub(lambda found: short_id(found[0]), text)
    if "user:" in text or "admin:" in text:
        text = _USER_REF.sub(lambda found: f"{found[1]}:{user_tag(int(found[2]))}", text)
    return text


class _Hidden:
    """The values of this process's secrets, the longest first: one may contain another."""

    values: tuple[str, ...] = ()


_SHORTEST_SECRET: Final = 6
"""A shorter value may be a part of ordinary words; in a URL its shape hides it."""
_PUBLIC: Final = frozenset({"onetake", "postgres", "default", "password"})
"""Words that our own logs are full of. As a password each is public already."""


def hide_values(values: Iterable[str]) -> None:
    """Replace these values from now on wherever they would be written, as they are and as URLs quote them."""
    given = [one for value in values for one in (value, value.strip())]
    written = {form for one in given for form in (one, quote(one, safe=""), quote(one), unquote(one))}
    fitting = {form for form in written if len(form) >= _SHORTEST_SECRET} - _PUBLIC
    _Hidden.values = tuple(sorted(fitting | set(_Hidden.values), key=lambda form: (-len(form), form)))


def redact(text: str) -> str:
    """Return `text` with every configured secret and everything in the shape of one replaced by `***`."""
    for value in _Hidden.values:
        if value in text:
            text = text.replace(value, HIDDEN)
    return _SECRET_SHAPES.sub(HIDDEN, text) if _may_have_secret(text) else text


def _may_have_secret(text: str) -> bool:
    """Return False only if no shape can match: every one contains one of these texts.

    Most texts of a log line are single words or ids, and the expressions cost much more than this.
    """
    if text.isalnum():
        return "AIza" in text  # every other shape has a separator
    if not text.isascii():
        return True  # `(?i:)` also matches letters outside ASCII
    if any(mark in text for mark in _MARKS):
        return True
    if len(text) >= _BOT_TOKEN_LENGTH and (":" in text or "%3A" in text):
        return True
    small = text.lower()
    return "bearer" in small or "basic" in small or "authorization" in small


def redact_event(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove secrets, chat ids and user ids from a log event, at any depth (a structlog processor)."""
    for name, value in event.items():
        event[name] = _redacted(value)
    return event


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(pseudonymize(value))  # in this order: a part of an id may look like a secret
    if isinstance(value, BaseException):
        return _redacted(f"{type(value).__name__}: {value}")
    if isinstance(value, bytes):
        return _redacted(value.decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return {name: _redacted(one) for name, one in value.items()}
    if isinstance(value, list | set | frozenset) or type(value) is tuple:
        return [_redacted(one) for one in value]
    return value
