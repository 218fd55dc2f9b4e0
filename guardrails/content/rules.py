"""The offline rules: YAML files in `guardrails/rules/`, loaded once into one index of phrases.

A file describes one category: `rules`, of which any phrase refuses; `words`, which refuse nothing alone; and
`together`, which refuses where words of two lists are near each other. `benign.yaml` lists phrases that make
the words inside them harmless ("Trump card", "árboles desnudos").
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError

from .normalize import fold, split_words, squeeze
from .verdict import SEVERITY, ContentCategory

RULES_DIR: Final = Path(__file__).parent.parent / "rules"
# libyaml's loader where PyYAML has it: the pure Python one takes half a second at each start.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
AGE: Final = "{age}"  # in a phrase: every whole number of years below 18


class ContentRulesError(ValueError):
    """A rule file is unusable; the message names the file, the place and the problem."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Phrases = Annotated[tuple[StrictStr, ...], Field(min_length=1)]


class PhraseList(_Strict):
    """Phrases by language; `any` is for names that are written the same in every language."""

    any: Phrases | None = None
    en: Phrases | None = None
    es: Phrases | None = None
    pt: Phrases | None = None

    def phrases(self) -> Iterator[str]:
        """Yield every phrase, with `{age}` expanded."""
        for phrase in (*(self.any or ()), *(self.en or ()), *(self.es or ()), *(self.pt or ())):
            if AGE in phrase:
                yield from (phrase.replace(AGE, str(age)) for age in range(18))
            else:
                yield phrase


class ProximityRule(_Strict):
    """Refuses where words of two lists (or of a category's rules) are near each other.

    `within` is a number of words; None means anywhere in the text.
    """

    lists: tuple[StrictStr, StrictStr]
    within: Annotated[int, Field(strict=True, ge=1)] | None


class RuleFile(_Strict):
    category: ContentCategory | Literal["benign"]
    rules: dict[StrictStr, PhraseList] = Field(default_factory=dict)
    words: dict[StrictStr, PhraseList] = Field(default_factory=dict)
    together: dict[StrictStr, ProximityRule] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Phrase:
    """One folded phrase: its words, the id of its rule, and its list (a category or a name under `words`)."""

    words: tuple[str, ...]
    rule: str
    tag: str

    @property
    def text(self) -> str:
        return "".join(self.words)


@dataclass(frozen=True, slots=True)
class Proximity:
    """A `ProximityRule` with its id and the category that it refuses for."""

    rule: str
    category: ContentCategory
    lists: tuple[str, str]
    within: int | None


@dataclass(slots=True)
class RuleIndex:
    """All phrases by their squeezed letters, and every prefix of those, so that a search ends early."""

    phrases: dict[str, list[Phrase]] = field(default_factory=dict)
    prefixes: set[str] = field(default_factory=set)
    near: list[Proximity] = field(default_factory=list)

    def add(self, phrase: Phrase) -> None:
        """Add one phrase.

        Raises:
            ContentRulesError: It has no letter or digit, or belongs to two rules.
        """
        if not phrase.words:
            raise ContentRulesError(f"rule {phrase.rule!r}: a phrase has no letter or digit")
        key = squeeze(phrase.text)
        known = self.phrases.setdefault(key, [])
        for other in known:
            if other.words == phrase.words and (other.rule, other.tag) != (phrase.rule, phrase.tag):
                text = " ".join(phrase.words)
                raise ContentRulesError(f"{text!r} is in both {other.rule!r} and {phrase.rule!r}")
        if phrase not in known:
            known.append(phrase)
        self.prefixes.update(key[:length] for length in range(1, len(key) + 1))


def load_rules(folder: Path = RULES_DIR) -> RuleIndex:
    """Load every `*.yaml` of a folder.

    Raises:
        ContentRulesError: There is no file, or one is unreadable, malformed or contradicts another.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise ContentRulesError(f"{folder}: no rule files (*.yaml) found")
    index = RuleIndex()
    files = [(path, _read(path)) for path in paths]
    for path, content in files:
        try:
            _add_file(content, index)
        except ContentRulesError as error:
            raise ContentRulesError(f"{path}: {error}") from None
    _check_lists(files)
    return index


def _check_lists(files: list[tuple[Path, RuleFile]]) -> None:
    known = {*map(str, SEVERITY)}.union(*(content.words for _, content in files))
    for path, content in files:
        for rule, together in content.together.items():
            for name in together.lists:
                if name not in known:
                    names = ", ".join(sorted(known))
                    raise ContentRulesError(
                        f"{path}: together.{rule}.lists: {name!r} is unknown; known: {names}"
                    )


def _read(path: Path) -> RuleFile:
    try:
        return RuleFile.model_validate(yaml.load(path.read_text(encoding="utf-8"), _LOADER))  # noqa: S506 - safe
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ContentRulesError(f"{path}: {place}: {first['msg']}, found {first['input']!r}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ContentRulesError(f"{path}: {error}") from error


def _add_file(content: RuleFile, index: RuleIndex) -> None:
    category = content.category
    for rule, phrases in content.rules.items():
        for phrase in phrases.phrases():
            index.add(Phrase(_words(phrase), rule, category))
    for tag, phrases in content.words.items():
        for phrase in phrases.phrases():
            index.add(Phrase(_words(phrase), tag, tag))
    if content.together and category == "benign":
        raise ContentRulesError("benign.yaml refuses nothing: it takes no `together`")
    for rule, together in content.together.items():
        if category != "benign":
            index.near.append(Proximity(rule, category, together.lists, together.within))


def _words(phrase: str) -> tuple[str, ...]:
    return tuple(word.text for word in split_words(fold(phrase)))
