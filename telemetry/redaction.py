"""Takes secrets out of text before it is written anywhere."""

import re
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from telemetry.people import unnamed

HIDDEN: Final = "***"

# Bot tokens stand in Telegram's URLs (`/bot123456:AA…/sendVideo`), so every exception text of an HTTP client
# may carry one, right behind a letter.
_SHAPES: Final = re.compile(
    r"""
    (?<!\d)\d{5,}(?::|%3A)[A-Za-z0-9_-]{30,}   # Telegram bot token
    | \b(?:sk|rk|pk)-[A-Za-z0-9_-]{8,}         # OpenAI and alike
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


def redact(text: str) -> str:
    """Return `text` with everything that has the shape of a secret replaced by `***`."""
    return _SHAPES.sub(HIDDEN, text)


def redact_event(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take secrets, chats and users out of a log event, at any depth (a structlog processor)."""
    for name, value in event.items():
        event[name] = _redacted(value)
    return event


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(unnamed(value))  # in this order: a part of an id may look like a secret
    if isinstance(value, BaseException):
        return _redacted(f"{type(value).__name__}: {value}")
    if isinstance(value, bytes):
        return _redacted(value.decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return {name: _redacted(one) for name, one in value.items()}
    if isinstance(value, list | set | frozenset) or type(value) is tuple:
        return [_redacted(one) for one in value]
    return value
