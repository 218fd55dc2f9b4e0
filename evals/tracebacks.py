"""Tracebacks that may stand in a report: without secrets, users' ids, texts of frames, and machine paths."""

import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from telemetry.redaction import pseudonymize, redact

_REPO_ROOT: Final = Path(__file__).resolve().parent.parent
_PATH: Final = re.compile(r"(?<![\w/.:~-])~?(?:/[\w.@+~-]+){2,}/?")
_FRAMES: Final = 12
_ERRORS: Final = 3
_MESSAGE: Final = 300


def traceback_of(error: BaseException) -> str:
    """Return where an exception was raised, the innermost frame last, and what caused it.

    Frames are named by file, line and function, without source and values.
    """
    found = traceback.TracebackException.from_exception(error)
    blocks = [_block(one) for one in _chain(found)][:_ERRORS]
    return "\ncaused by\n".join(blocks)


def described(error: BaseException) -> str:
    """Return type and message of an exception, redacted as a traceback is."""
    return f"{type(error).__name__}: {_clean(str(error))}"


def _chain(found: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    one: traceback.TracebackException | None = found
    while one is not None:
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _block(found: traceback.TracebackException) -> str:
    frames = list(found.stack)
    cut = [f"… {len(frames) - _FRAMES} frames"] if len(frames) > _FRAMES else []
    shown = [f"{_file(one.filename)}:{one.lineno} in {one.name}" for one in frames[-_FRAMES:]]
    last = list(found.format_exception_only())[-1].strip()
    return "\n".join([*cut, *shown, _clean(last)])


def _file(name: str) -> str:
    """Return a file's name below the repository, or below the folder that modules are imported from."""
    path = Path(name)
    if not path.is_absolute():
        return name
    places = sorted((Path(one) for one in sys.path if one), key=lambda one: -len(one.parts))
    for place in (_REPO_ROOT, *places):
        if path.is_relative_to(place) and ".venv" not in path.relative_to(place).parts:
            return path.relative_to(place).as_posix()
    return path.name


def _clean(text: str) -> str:
    return _PATH.sub("…", redact(pseudonymize(text)))[:_MESSAGE]
