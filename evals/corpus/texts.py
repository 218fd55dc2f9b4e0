"""Reads the file of a sweep: JSON lines with a `text`. Other lines are reported and skipped."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from evals.events import EvalError

_LONG: Final = 8000


@dataclass(frozen=True, slots=True)
class CorpusText:
    """One text of the file; `number` is its line, from 1."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class OddLine:
    """A line that is left out, or (`played`) one that cannot be sent unchanged in every slot."""

    number: int
    why: str
    played: bool = False


@dataclass
class CorpusFile:
    """The texts of a file, and its odd lines."""

    texts: list[CorpusText] = field(default_factory=list)
    odd: list[OddLine] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        return sum(not one.played for one in self.odd)


def read_corpus(path: Path) -> CorpusFile:
    """Read a file of JSON lines; blank lines are ignored.

    Raises:
        EvalError: The file cannot be read, or holds no text.
    """
    found = CorpusFile()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    _add(found, number, line)
    except OSError as error:
        raise EvalError(f"{path} cannot be read: {error.strerror}") from None
    if not found.texts:
        why = f"; line {found.odd[0].number}: {found.odd[0].why}" if found.odd else ""
        raise EvalError(f"{path} holds no JSON line with a `text`{why}")
    return found


def _add(found: CorpusFile, number: int, line: bytes) -> None:
    text = _text(line)
    if isinstance(text, OddLine):
        found.odd.append(OddLine(number, text.why))
        return
    found.texts.append(CorpusText(number, text))
    found.odd += [OddLine(number, why, played=True) for why in _strange(text)]


def _text(line: bytes) -> str | OddLine:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return OddLine(0, f"not JSON: {type(error).__name__}")
    if not isinstance(value, dict) or "text" not in value:
        return OddLine(0, "not an object with a `text`")
    text = value["text"]
    if not isinstance(text, str):
        return OddLine(0, f"`text` is not a string but {type(text).__name__}")
    return text if text.strip() else OddLine(0, "`text` is empty")


def _strange(text: str) -> Iterator[str]:
    """Yield what Telegram cannot carry unchanged; models and providers can."""
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        yield "half a surrogate: as an idea or an argument it is a replacement character"
    if "\0" in text:
        yield "NUL: as an idea it is a replacement character"
    if len(text) > _LONG:
        yield f"{len(text)} characters: as an argument it is cut"
