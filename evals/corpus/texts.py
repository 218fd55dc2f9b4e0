"""Reads the file of a sweep: JSON lines with a `text`. What is no such line is named and stops nothing."""

import json
from collections.abc import Iterator, Sequence
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
    """A line that is not played, or (`played`) one that cannot be played to the letter everywhere."""

    number: int
    why: str
    played: bool = False


@dataclass
class CorpusFile:
    """What a file holds."""

    texts: list[CorpusText] = field(default_factory=list)
    odd: list[OddLine] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        return sum(not one.played for one in self.odd)


def read_corpus(path: Path) -> CorpusFile:
    """Read a file of JSON lines; blank ones are nothing.

    Raises:
        EvalError: The file cannot be read, or holds no line that can be played.
    """
    found = CorpusFile()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    _take(found, number, line)
    except OSError as error:
        raise EvalError(f"{path} cannot be read: {error.strerror}") from None
    if not found.texts:
        why = f"; line {found.odd[0].number}: {found.odd[0].why}" if found.odd else ""
        raise EvalError(f"{path} holds no JSON line with a `text`{why}")
    return found


def _take(found: CorpusFile, number: int, line: bytes) -> None:
    text = _text(line)
    if isinstance(text, OddLine):
        found.odd.append(OddLine(number, text.why))
        return
    found.texts.append(CorpusText(number, text))
    found.odd += [OddLine(number, why, played=True) for why in _strange(text)]


def _text(line: bytes) -> str | OddLine:
    try:
        said = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return OddLine(0, f"no JSON: {type(error).__name__}")
    if not isinstance(said, dict) or "text" not in said:
        return OddLine(0, "no object with a `text`")
    text = said["text"]
    if not isinstance(text, str):
        return OddLine(0, f"`text` is no string but {type(text).__name__}")
    return text if text.strip() else OddLine(0, "`text` is empty")


def _strange(text: str) -> Iterator[str]:
    """Say what Telegram cannot carry to the letter; models and providers can."""
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        yield "half a surrogate: as an idea or an argument it is a replacement character"
    if "\0" in text:
        yield "NUL: as an idea it is a replacement character"
    if len(text) > _LONG:
        yield f"{len(text)} characters: as an argument it is cut"


def batches(texts: Sequence[CorpusText], size: int) -> list[Sequence[CorpusText]]:
    """Cut the texts into pieces of at most `size`."""
    return [texts[at : at + size] for at in range(0, len(texts), size)]
