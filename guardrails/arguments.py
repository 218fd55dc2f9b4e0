"""Reads the raw arguments of a tool call strictly, and names them in logs without their values."""

import json
import re
from typing import Annotated, Any, Final, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError

ArgumentsModel = TypeVar("ArgumentsModel", bound=BaseModel)

MAX_ARGUMENTS: Final = 20_000
"""Longer raw arguments, in characters, are refused unread."""

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    if "\0" in text:
        raise ValueError("it contains a NUL, which cannot be stored")
    return text


ArgumentText = Annotated[str, AfterValidator(_check_text)]
"""A text argument: neither blank nor with a NUL."""


def _exact_integer(value: Any) -> Any:
    """Read what is an integer in another notation, as endpoints write it; leave the rest to be refused."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    return value


ArgumentInteger = Annotated[int, BeforeValidator(_exact_integer)]
"""An integer argument: `8`, and `8.0` and `"8"`, which are exactly that; not `8.5`, `true` or NaN."""


def argument_names(raw: str) -> list[str]:
    """Return the names in a raw arguments string, for logs; values never leave this function.

    A name that is not an identifier may be a value that the model put in its place, so it becomes `?`.
    """
    try:
        found = json.loads(raw[:MAX_ARGUMENTS])
    except (ValueError, RecursionError):
        return []
    return sorted(map(_loggable, found))[:20] if isinstance(found, dict) else []


def _loggable(name: str) -> str:
    return name if _NAME.fullmatch(name) else "?"


def read_arguments(raw: str, form: type[ArgumentsModel]) -> ArgumentsModel:
    """Parse raw arguments into `form`, strictly: no NaN, no duplicate key, numbers as declared.

    Raises:
        ValueError: What is wrong, in words for the model, without quoting long values.
    """
    return check_arguments(parse_raw(raw), form)


def parse_raw(raw: str) -> Any:
    """Parse raw arguments that no form has checked yet; see `read_arguments`."""
    if len(raw) > MAX_ARGUMENTS:
        raise ValueError(f"the arguments are {len(raw)} characters long; at most {MAX_ARGUMENTS} are read")
    try:
        return json.loads(raw, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("the arguments are nested too deeply") from None


def check_arguments(found: Any, form: type[ArgumentsModel]) -> ArgumentsModel:
    """Validate arguments that are parsed already; see `read_arguments`."""
    try:
        return form.model_validate(found, strict=True)
    except ValidationError as error:
        raise ValueError(describe_problems(error)) from None


def describe_problems(error: ValidationError) -> str:
    """Return what a validation found, by field, without the values."""
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in error.errors()
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("the arguments contain a key twice")
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number that can be ordered")
