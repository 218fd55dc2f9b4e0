"""Finds the phrases of the rules in folded words, and drops those that something harmless excuses.

The search uses no regular expressions: it visits each word once and continues from it only while the words
read so far begin some phrase. So its time is linear in the length of the text, whatever the text is.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Final

from .normalize import FoldedWord, append_squeezed, squeeze, stretches
from .rules import MIN_STEM, ExcuseRule, Phrase, Proximity, RuleIndex

_MAX_IDLE_WORDS: Final = 3  # consecutive words that only repeat the last letter: "m e s s s i"
_MIN_SPLIT_LETTERS: Final = 7  # a phrase of this many letters also matches when split elsewhere: "pika chu"
_SMALL: Final = """
    a an as at by de do e el en es he i in is it la le lo me my no o of on or os se si so te the to tu u um un
    y al con da das del dos em eu for las los mas na nas nos por que sin su te uma una us yo
"""
_SMALL_WORDS: Final = frozenset(_SMALL.split())
_LONGEST_STEM: Final = 16  # letters
_MIN_STRETCH_LETTERS: Final = 6  # from here on one doubled letter is a stretch: "batmann", but not "penne"


@dataclass(frozen=True, slots=True)
class Hit:
    """A phrase of the rules, and the words in which it stands."""

    phrase: Phrase
    start: int
    end: int


def search(words: list[FoldedWord], index: RuleIndex) -> Iterator[Hit]:
    squeezed = [squeeze(word.text) for word in words]
    keys, last = index.keys, len(index.keys)
    for start in range(len(words)):
        key, idle = "", 0
        for end in range(start + 1, len(words) + 1):
            longer = append_squeezed(key, squeezed[end - 1])
            idle = idle + 1 if longer == key else 0
            key = longer
            # Together these two bound the inner loop by the longest phrase, so the search stays linear.
            place = bisect_left(keys, key)
            if idle > _MAX_IDLE_WORDS or place == last or not keys[place].startswith(key):
                break
            for phrase in index.phrases.get(key, ()):
                if _matches(words[start:end], phrase):
                    yield Hit(phrase, start, end)
        for phrase in _begun(words[start].text, squeezed[start], index):
            yield Hit(phrase, start, start + 1)


def _begun(word: str, squeezed: str, index: RuleIndex) -> Iterator[Phrase]:
    """Yield the stems with which a word begins, as written or with a letter drawn out ("stabbbed")."""
    for end in range(MIN_STEM - 1, min(len(squeezed), _LONGEST_STEM) + 1):
        for phrase in index.stems.get(squeezed[:end], ()):
            if word.startswith(phrase.words) or any(letter * 3 in word for letter in set(word)):
                yield phrase


def _matches(window: list[FoldedWord], phrase: Phrase) -> bool:
    """Return whether the words are this phrase, and not other words with the same letters."""
    said = "".join(word.text for word in window)
    if said != phrase.text and not _stretched(said, phrase.text):
        return False
    if len(window) == 1 or " ".join(word.text for word in window) == phrase.words:
        return True
    plains = phrase.words.split()
    if len(window) == len(plains) and all(
        stretches(word.text, plain) for word, plain in zip(window, plains, strict=True)
    ):
        return True
    glued = all(word.glued for word in window[1:])
    letters = all(len(word.text) == 1 for word in window)
    return glued or letters or (len(phrase.text) >= _MIN_SPLIT_LETTERS and not _is_grammar(window))


def _is_grammar(window: list[FoldedWord]) -> bool:
    """Return whether a word of a few letters is at an end: "de sangre" is not a split "desangre"."""
    return window[0].text in _SMALL_WORDS or window[-1].text in _SMALL_WORDS


def _stretched(said: str, plain: str) -> bool:
    firm = len(squeeze(plain)) >= _MIN_STRETCH_LETTERS
    return stretches(said, plain) and (firm or any(letter * 3 in said for letter in set(plain)))


def outside_benign(hits: list[Hit], harmless: frozenset[str]) -> list[Hit]:
    """Drop the benign phrases, and every hit wholly inside one of them that is not of a `harmless` list."""
    covered: dict[int, int] = {}
    for hit in hits:
        if hit.phrase.tag == "benign":
            for place in range(hit.start, hit.end):
                covered[place] = max(covered.get(place, 0), hit.end)
    return [
        hit
        for hit in hits
        if hit.phrase.tag in harmless or (hit.phrase.tag != "benign" and covered.get(hit.start, 0) < hit.end)
    ]


def excused(hits: list[Hit], rules: list[ExcuseRule]) -> list[Hit]:
    """Drop the hits that words of another list make harmless from where they are."""
    named = {hit.phrase.tag for hit in hits} | {hit.phrase.rule for hit in hits}
    for rule in rules:
        if rule.by in named and not named.isdisjoint(rule.of):
            places = _excusing_places(hits, rule)
            hits = [hit for hit in hits if not (_is_of(hit, rule) and _reaches(hit, rule, places))]
    return hits


def _is_of(hit: Hit, rule: ExcuseRule) -> bool:
    return hit.phrase.tag in rule.of or hit.phrase.rule in rule.of


def _excusing_places(hits: list[Hit], rule: ExcuseRule) -> list[int]:
    excusing = [hit for hit in hits if hit.phrase.tag == rule.by]
    return sorted(hit.end if rule.before is not None else hit.start for hit in excusing)


def _reaches(hit: Hit, rule: ExcuseRule, places: list[int]) -> bool:
    if rule.before is not None:
        return _any_within(places, hit.start - rule.before + 1, hit.start)
    if rule.after is not None:
        return _any_within(places, hit.end, hit.end + rule.after - 1)
    return True


def _any_within(places: list[int], first: int, last: int) -> bool:
    found = bisect_left(places, first)
    return found < len(places) and places[found] <= last


def first_pair(hits: list[Hit], near: Proximity) -> tuple[Hit, Hit] | None:
    """Return a hit of each list of a proximity rule that are near enough, or None."""
    one, other = ([hit for hit in hits if hit.phrase.tag == tag] for tag in near.lists)
    if not one or not other:
        return None
    starts = [hit.start for hit in other]
    for hit in one:
        first, last = _reach(hit, near)
        found = bisect_left(starts, first)
        if found < len(starts) and starts[found] <= last:
            return hit, other[found]
    return None


def _reach(hit: Hit, near: Proximity) -> tuple[float, float]:
    """Return the first and the last word at which a hit of the other list may start."""
    within = inf if near.within is None else near.within
    return (hit.end, hit.end + within - 1) if near.ordered else (hit.start - within, hit.start + within)
