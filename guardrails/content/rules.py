"""The offline rules: YAML files in `guardrails/rules/`, loaded once into one index of phrases.

A file describes one category: `rules`, of which any phrase refuses; `words`, which refuse nothing alone;
`together`, which refuses where words of two lists are near each other; `scores`, which adds points for lists
near a word of others; and `excuses`, by which words of one list make another's harmless from where they are
("kill the lights", "Trump Tower"). A file of the category `benign` lists phrases that make the words inside
them harmless ("Trump card", "árboles desnudos").
docs/content.md shows how rules are written.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError, model_validator

from .normalize import fold, split_words, squeeze
from .verdict import SEVERITY, ContentCategory
from .wordforms import Language, UnknownEndingsError, forms, word_forms

MIN_STEM: Final = 4  # letters of a phrase that ends in `*`; fewer begin too many words
RULES_DIR: Final = Path(__file__).parent.parent / "rules"
# libyaml's loader where PyYAML has it: the pure Python one takes half a second at each start.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LANGUAGES: Final[tuple[Language, ...]] = ("any", "en", "es", "pt")


class ContentRulesError(ValueError):
    """A rule file is unusable; the message names the file, the place and the problem."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Phrases = Annotated[tuple[StrictStr, ...], Field(min_length=1)]


class PhraseList(_Strict):
    """Phrases by language, with the endings of `wordforms.py`; `any` is for what has no language.

    `only` holds words that are harmless in another language: they count where theirs is plausible.
    """

    any: Phrases | None = None
    en: Phrases | None = None
    es: Phrases | None = None
    pt: Phrases | None = None
    only: "PhraseList | None" = None

    def phrases(self) -> Iterator[tuple[str, Language | None]]:
        """Yield every form of every phrase, and the language without which it does not count."""
        for language in _LANGUAGES:
            listed: Phrases = getattr(self, language) or ()
            for phrase in listed:
                yield from ((form, None) for form in forms(phrase, language))
        if self.only is not None:
            for language in _LANGUAGES:
                listed = getattr(self.only, language) or ()
                yield from ((form, language) for phrase in listed for form in forms(phrase, language))


class ProximityRule(_Strict):
    """Refuses where words of two lists (or of a category's rules) are near each other.

    `within` is a number of words from start to start; None means anywhere in the text. Where they are
    `ordered`, the first list's words come first, and `within` counts from their end: 1 is the next word.
    """

    lists: tuple[StrictStr, StrictStr]
    within: Annotated[int, Field(strict=True, ge=1)] | None
    ordered: StrictBool = False


_Words = Annotated[int, Field(strict=True, ge=1)]


class ScoreRule(_Strict):
    """Refuses where the words around one of the lists `near` have enough points.

    Each list of `points` counts once, however many of its words are at most `within` words away, and no word
    counts for two lists. With `harmless` the rule is turned round: below `refused_at` points too it refuses,
    unless the words of the `harmless` lists within reach are as many as the points. Two words of the
    `ordinary` lists are as good as one harmless word, and without a point one word of either is enough.
    `strange_at_most` is how many words of no list there may be for each word of these two; the words of the
    `neutral` lists say nothing and do not count.
    """

    near: Annotated[tuple[StrictStr, ...], Field(min_length=1)]
    within: _Words
    refused_at: _Words
    harmless: tuple[StrictStr, ...] = ()
    ordinary: tuple[StrictStr, ...] = ()
    neutral: tuple[StrictStr, ...] = ()
    strange_at_most: Annotated[float, Field(gt=0)] = inf
    points: Annotated[dict[StrictStr, _Words], Field(min_length=1)]


class ExcuseRule(_Strict):
    """Words of the list `by` make those of the lists or rules `of` harmless.

    They begin at most `after` words behind an excused phrase, or end at most `before` words in front of it,
    or are `anywhere` in the text. Exactly one of the three is set.
    """

    of: Annotated[tuple[StrictStr, ...], Field(min_length=1)]
    by: StrictStr
    before: _Words | None = None
    after: _Words | None = None
    anywhere: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if [self.before, self.after, self.anywhere].count(None) != 2:
            raise ValueError("exactly one of before, after and anywhere is needed")
        return self


class RuleFile(_Strict):
    category: ContentCategory | Literal["benign"]
    rules: dict[StrictStr, PhraseList] = Field(default_factory=dict)
    words: dict[StrictStr, PhraseList] = Field(default_factory=dict)
    together: dict[StrictStr, ProximityRule] = Field(default_factory=dict)
    scores: dict[StrictStr, ScoreRule] = Field(default_factory=dict)
    excuses: dict[StrictStr, ExcuseRule] = Field(default_factory=dict)


class Phrase(NamedTuple):
    """One folded phrase.

    Attributes:
        words: Its folded words, with a space between two.
        rule: The id of its rule.
        tag: Its list: a category, or a name under `words`.
        only: The language without which it does not count; None if it counts in every text.
    """

    words: str
    rule: str
    tag: str
    only: Language | None = None

    @property
    def text(self) -> str:
        """The folded words without a space."""
        return self.words.replace(" ", "")


@dataclass(frozen=True, slots=True)
class Proximity:
    """A `ProximityRule` with its id and the category that it refuses for."""

    rule: str
    category: ContentCategory
    lists: tuple[str, str]
    within: int | None
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """A `ScoreRule` with its id and the category that it refuses for."""

    rule: str
    category: ContentCategory
    near: frozenset[str]
    within: int
    refused_at: int
    points: dict[str, int]
    harmless: frozenset[str]
    ordinary: frozenset[str]
    neutral: frozenset[str]
    strange_at_most: float


class RuleIndex:
    """All phrases by their squeezed letters, sorted, so that a search ends where no phrase begins so.

    Attributes:
        phrases: By squeezed letters.
        stems: Phrases that end in `*`, each the beginning of a word, by squeezed letters.
        keys: The keys of `phrases`, sorted: a binary search finds whether any begins with some letters.
        near: The proximity rules.
        scores: The score rules.
        harmless: The lists that these name as harmless.
        excuses: The excuse rules.
    """

    def __init__(self) -> None:
        self.phrases: dict[str, tuple[Phrase, ...]] = {}
        self.stems: dict[str, tuple[Phrase, ...]] = {}
        self.scores: list[Score] = []
        self.harmless: frozenset[str] = frozenset()
        self.near: list[Proximity] = []
        self.excuses: list[ExcuseRule] = []
        self.keys: list[str] = []

    def add(self, phrase: Phrase, *, stem: bool = False) -> None:
        """Add one phrase; of two rules of a category that list it, the first keeps it.

        Raises:
            ContentRulesError: It has no letter or digit, or is a stem of fewer than `MIN_STEM` letters or of
                several words.
        """
        if not phrase.words:
            raise ContentRulesError(f"rule {phrase.rule!r}: a phrase has no letter or digit")
        if stem and (" " in phrase.words or len(phrase.words) < MIN_STEM):
            raise ContentRulesError(
                f"rule {phrase.rule!r}: '{phrase.words}*' must be one word of at least {MIN_STEM} letters"
            )
        kept = self.stems if stem else self.phrases
        key = squeeze(phrase.text)
        known = kept.get(key)
        if known is None:
            kept[key] = (phrase,)
            return
        if any((other.words, other.tag) == (phrase.words, phrase.tag) for other in known):
            return
        kept[key] = (*known, phrase)

    def sort(self) -> None:
        """Make what was added searchable."""
        self.keys = sorted(self.phrases)
        self.harmless = frozenset[str]().union(
            *(score.harmless | score.ordinary | score.neutral for score in self.scores)
        )


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
    with _without_collection():
        for path, content in files:
            try:
                _add_file(content, index)
            except ContentRulesError as error:
                raise ContentRulesError(f"{path}: {error}") from None
    _check_lists(files)
    index.sort()
    word_forms.cache_clear()
    return index


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep the garbage collector off: it would walk 100,000 objects that all stay (0.3 s)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _check_lists(files: list[tuple[Path, RuleFile]]) -> None:
    lists = {*map(str, SEVERITY)}.union(*(content.words for _, content in files))
    rules = lists.union(*(content.rules for _, content in files))
    for path, content in files:
        for name in lists.intersection(content.rules):
            raise ContentRulesError(f"{path}: {name!r} is a rule, and also a list of words or a category")
    for path, content in files:
        for rule, together in content.together.items():
            _check_names(f"{path}: together.{rule}.lists", together.lists, lists)
        for rule, score in content.scores.items():
            _check_names(f"{path}: scores.{rule}.near", score.near, lists)
            _check_names(f"{path}: scores.{rule}.points", tuple(score.points), lists)
            _check_names(
                f"{path}: scores.{rule}.harmless", score.harmless + score.ordinary + score.neutral, lists
            )
        for rule, excuse in content.excuses.items():
            _check_names(f"{path}: excuses.{rule}.of", excuse.of, rules)
            _check_names(f"{path}: excuses.{rule}.by", (excuse.by,), lists)


def _check_names(place: str, names: tuple[str, ...], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise ContentRulesError(f"{place}: {name!r} is unknown; known: {', '.join(sorted(known))}")


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
        _add_phrases(phrases, rule, category, index)
    for tag, phrases in content.words.items():
        _add_phrases(phrases, tag, tag, index)
    if (content.together or content.scores) and category == "benign":
        raise ContentRulesError("benign refuses nothing: it takes no `together` and no `scores`")
    for rule, together in content.together.items():
        if category != "benign":
            index.near.append(Proximity(rule, category, together.lists, together.within, together.ordered))
    for rule, score in content.scores.items():
        if category != "benign":
            index.scores.append(_score(rule, category, score))
    index.excuses += content.excuses.values()


def _score(rule: str, category: ContentCategory, score: ScoreRule) -> Score:
    return Score(
        rule=rule,
        category=category,
        near=frozenset(score.near),
        within=score.within,
        refused_at=score.refused_at,
        points=dict(score.points),
        harmless=frozenset(score.harmless),
        ordinary=frozenset(score.ordinary),
        neutral=frozenset(score.neutral),
        strange_at_most=score.strange_at_most,
    )


def _add_phrases(phrases: PhraseList, rule: str, tag: str, index: RuleIndex) -> None:
    try:
        for phrase, only in phrases.phrases():
            index.add(Phrase(_words(phrase), rule, tag, only), stem=phrase.endswith("*"))
    except UnknownEndingsError as error:
        raise ContentRulesError(f"rule {rule!r}: {error}") from None


def _words(phrase: str) -> str:
    folded = fold(phrase)
    if folded.isascii() and folded.replace(" ", "").isalpha():  # as nearly all are
        return " ".join(folded.split())
    return " ".join(word.text for word in split_words(folded))
