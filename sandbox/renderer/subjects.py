"""What an idea names: subjects and settings, by the names of the `emoji` package and those of words.tsv."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import emoji

from sandbox.renderer.drawing import SEQUENCES

MOST = 3  # pictures in one scene
_WORDS = Path(__file__).with_name("words.tsv")
_DRAWN_UNTIL = 15.0  # the version of Emoji that fonts/Actors.ttf draws
_THINGS = re.compile("[\u231a-\u23f0\u2600-\U0001f3fa\U0001f400-\U0001f9af\U0001f9b4-\U0001ffff]")
# What ends a plural or a diminutive, and what stands there in the word itself.
_ENDINGS = {
    "en": "ies:y ves:f es: s:",
    "es": "ces:z ones:ón anes:án ines:ín es: s: cito: cita: ito:o ita:a ito: illo:o",
    "pt": "ões:ão ães:ão ãos:ão ais:al éis:el óis:ol ns:m es: s: zinho: zinha: inho:o inha:a",
}


class Subjects(NamedTuple):
    """`actors` are emoji, the main one first, at most `MOST`; `setting` names the rows `@…` of words.tsv."""

    actors: tuple[str, ...]
    setting: frozenset[str]


class _Hit(NamedTuple):
    name: str
    owner: bool  # the child of "a child's balloon"


@dataclass(slots=True)
class _Lexicon:
    """The names of one language; `marks` are those of words.tsv."""

    actors: dict[str, str] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    marks: dict[str, set[str]] = field(default_factory=lambda: {mark: set() for mark in "<!-~?+"})

    def enter(self, mark: str, names: Sequence[str]) -> None:
        """Enter names, and `=name` without accents, since many people write none. What comes first stays."""
        for key in filter(None, (" ".join(_words(name)).casefold() for name in names)):
            for name in (key,) if key.isascii() else (key, f"={_bare(key)}"):
                if mark in self.marks:
                    self.marks[mark].add(name)
                elif mark.startswith("@"):
                    self.places.setdefault(name, []).append(mark[1:])
                elif key not in self.marks["-"]:
                    self.actors.setdefault(name, mark)

    def find(self, words: Sequence[str], language: str) -> str | None:
        *first, last = (word.casefold() for word in words)
        for form in _forms(last.removesuffix("'s"), language):
            name = " ".join([*first, form])
            for key in (name, f"={_bare(name)}" if len(name) > 3 else name):
                if key in self.actors or key in self.places or key in self.marks["-"]:
                    return key
        return None

    def rank(self, hit: _Hit) -> int:
        """0 for a subject, 1 for what comes after it, 2 for what is one only if nothing else is."""
        last = (hit.name in self.places or hit.name in self.marks["?"]) and hit.name not in self.marks["+"]
        return 2 if last else int(hit.owner or hit.name in self.marks["~"])


def subjects_of(idea: str, prompt: str = "") -> Subjects:
    """Read the idea; where it names nothing that can be drawn, the first sentence of the prompt."""
    found = _read(idea)
    if found.actors or not prompt:
        return found
    other = _read(re.split(r"[.!?\n]", prompt, maxsplit=1)[0])
    return Subjects(other.actors, found.setting or other.setting)


def motion_of(picture: str) -> str:
    """Return `fly`, `swim`, `roll`, or `bob` for what stays where it is."""
    return _tables()[1].get(picture, "bob")


def _read(text: str) -> Subjects:
    words, best = _words(text[:2000]), (-1, Subjects((), frozenset()))
    for language, lexicon in _tables()[0].items():
        hits = [*_hits(words, language, lexicon)]
        small = sum(word.casefold() in lexicon.marks["<"] for word in words)
        known = sum(len(hit.name.split()) for hit in hits)
        ranked = sorted((hit for hit in hits if hit.name in lexicon.actors), key=lexicon.rank)
        ranked = [hit for hit in ranked if lexicon.rank(hit) < 2] or ranked
        actors = tuple(dict.fromkeys(lexicon.actors[hit.name] for hit in ranked))[:MOST]
        setting = frozenset(place for hit in hits for place in lexicon.places.get(hit.name, ()))
        best = max(best, (2 * small + known, Subjects(actors, setting)), key=lambda pair: pair[0])
    return best[1]


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFC", text).replace("’", "'").replace("\ufe0f", "")
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?|[^\w\s.,;:!?'-]", plain)


def _hits(words: Sequence[str], language: str, lexicon: _Lexicon) -> Iterator[_Hit]:
    """The longest names first, from left to right; a word after "without" names nothing."""
    named, at = _parts_of_names(words), 0
    while at < len(words):
        if words[at].casefold() in lexicon.marks["!"]:
            at += 2
            continue
        tries = range(min(5, len(words) - at), 1 if at in named else 0, -1)
        found = ((long, lexicon.find(words[at : at + long], language)) for long in tries)
        long, name = next(((long, name) for long, name in found if name), (1, None))
        if name and (name not in lexicon.marks["-"] or name in lexicon.places):
            yield _Hit(name, words[at + long - 1].endswith("'s"))
        at += long


def _parts_of_names(words: Sequence[str]) -> set[int]:
    """Where words such as the `King` of `Martin Luther King` are: two capitals in a row, but no title."""
    capital = [word[:1].isupper() for word in words]
    title = all(yes or len(word) < 4 for word, yes in zip(words, capital, strict=True))
    beside = [any(capital[i + 1 : i + 2] + capital[i - 1 : i]) for i in range(len(words))]
    return set() if title else {i for i in range(len(words)) if capital[i] and beside[i]}


def _forms(word: str, language: str, depth: int = 2) -> Iterator[str]:
    """The word, then what it may be the plural or the diminutive of, or both."""
    yield word
    for end, new in (pair.split(":") for pair in _ENDINGS[language].split() if depth):
        if word.endswith(end) and len(word) - len(end) > 1:
            yield from _forms(word.removesuffix(end) + new, language, depth - 1)


def _bare(text: str) -> str:
    return re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", text))


@cache
def _tables() -> tuple[dict[str, _Lexicon], dict[str, str]]:
    """Return the names of each language, and how the pictures move that do more than stay."""
    lexicons, motions = {language: _Lexicon() for language in _ENDINGS}, dict[str, str]()
    for mark, *columns in (row.split("\t") for row in _WORDS.read_text("utf-8").splitlines()):
        if mark.startswith("%"):
            motions |= dict.fromkeys(columns[0].split(), mark[1:])
            continue
        for lexicon, column in zip(lexicons.values(), columns, strict=False):
            lexicon.enter(mark, column.split(","))
    emoji.config.load_language([*lexicons])
    drawn = set(SEQUENCES.read_text("utf-8").split())
    for text, facts in emoji.EMOJI_DATA.items():
        picture = text.replace("\ufe0f", "")
        if (_THINGS.fullmatch(picture) or picture in drawn) and facts["E"] <= _DRAWN_UNTIL:
            for language, lexicon in lexicons.items():
                lexicon.enter(picture, [facts.get(language, "").replace("_", " "), picture])
    return lexicons, motions
