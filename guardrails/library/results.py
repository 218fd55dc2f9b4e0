"""Results as they are recorded: JSON, read back as what the model was given the first time."""

import json
from typing import Any, Final

from pydantic import BaseModel

HAPPENED: Final = "It has taken effect; no further result was recorded."
"""The recorded result of a call of which only that is known."""

_SDK_OUTPUTS: Final = ("ToolOutputText", "ToolOutputImage", "ToolOutputFileContent")
"""Classes of the agents SDK that it reads as plain dictionaries as well."""


def encode_result(result: Any) -> str:
    """Return the result as JSON: texts and plain data as they are, other objects as the text of them."""
    if result is None:
        return json.dumps(HAPPENED)
    plain = _plain(result)
    try:
        text = json.dumps(plain, allow_nan=False)
        same = json.loads(text) == plain
    except (TypeError, ValueError, RecursionError):
        same = False
    return text if same else json.dumps(str(result))


def _plain(result: Any) -> Any:
    if isinstance(result, BaseModel) and type(result).__name__ in _SDK_OUTPUTS:
        return result.model_dump(mode="json", exclude_none=True)
    if isinstance(result, list | tuple):
        return [_plain(one) for one in result]
    return result


def decode_result(text: str | None) -> Any:
    """Return a recorded result."""
    return HAPPENED if text is None else json.loads(text)
