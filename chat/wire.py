"""What comes over the wire: JSON that may hold half a character."""

import json
import re
from typing import Any, Final

_ESCAPED: Final = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(text: str | bytes) -> Any:
    """Read JSON as aiogram wants it; a lone surrogate becomes a replacement character.

    pydantic refuses text with a lone surrogate, and with it the whole batch of updates: one such message
    would stop everybody's, for ever.
    """
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    found = json.loads(words)
    # Decoded UTF-8 cannot hold one, so only an escape can.
    return _whole(found) if _ESCAPED.search(words) else found


def whole(text: str) -> str:
    """Return `text` with every lone surrogate replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _whole(found: Any) -> Any:
    if isinstance(found, str):
        return whole(found)
    if isinstance(found, list):
        return [_whole(one) for one in found]
    if isinstance(found, dict):
        return {name: _whole(one) for name, one in found.items()}
    return found
