"""The content policy on the final arguments of a paid tool: offline rules, then moderation if configured.

The search uses no regular expressions: it visits each word once and continues from it only while the words
read so far begin some phrase. So its time is linear in the length of the text, whatever the text is.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from .normalize import FoldedWord, interpretations, squeeze, stretches
from .rules import Phrase, Proximity, RuleIndex, load_rules
from .verdict import (
    ALLOWED,
    SEVERITY,
    ContentCategory,
    ContentVerdict,
    Judge,
)

__all__ = ["ContentCategory", "ContentPolicy", "ContentVerdict", "Judge", "RulesJudge"]

_THREAD_FROM: Final = 10_000  # characters; takes about 10 ms
_MAX_IDLE_WORDS: Final = 3  # consecutive words that only repeat the last letter: "m e s s s i"
_MIN_SPLIT_LETTERS: Final = 7  # a phrase of this many letters also matches when split elsewhere: "pika chu"
_MIN_STRETCH_LETTERS: Final = 6  # from here on one doubled letter is a stretch: "batmann", but not "penne"


class ContentPolicy:
    """Judges the text of a paid call: first the rules, then moderation.

    Args:
        rules: The offline judge; its refusal is final.
        moderation: Judges what the rules allow; None if no moderation key is configured.

    Attributes:
        rules: The offline judge alone.
        remote: Whether judging sends the text to another company.
    """

    def __init__(self, rules: Judge | None = None, moderation: Judge | None = None) -> None:
        self.rules: Judge = rules or RulesJudge(load_rules())
        self._judges = [judge for judge in (self.rules, moderation) if judge]
        self.remote = moderation is not None

    async def judge(self, text: str) -> ContentVerdict:
        """Judge all text that the provider would get, joined by new lines. Never raises on any `str`."""
        for judge in self._judges:
            verdict = await judge.judge(text)
            if verdict.word != "allowed":
                return verdict
        return ALLOWED


@dataclass(frozen=True, slots=True)
class _Hit:
    phrase: Phrase
    start: int
    end: int


class RulesJudge:
    """Judges texts by the offline rules: deterministic, a fraction of a millisecond for a usual idea."""

    def __init__(self, index: RuleIndex) -> None:
        self._index = index

    async def judge(self, text: str) -> ContentVerdict:
        """Judge one text; a long one in a thread, so that it does not block the event loop."""
        return (
            self.judge_sync(text)
            if len(text) < _THREAD_FROM
            else await asyncio.to_thread(self.judge_sync, text)
        )

    def judge_sync(self, text: str) -> ContentVerdict:
        """Judge one text; of several objections the gravest is returned."""
        found = (objection for words in interpretations(text) for objection in self._objections(words))
        return min(found, key=lambda verdict: SEVERITY.index(verdict.category or "other"), default=ALLOWED)

    def _objections(self, words: list[FoldedWord]) -> Iterator[ContentVerdict]:
        hits = _outside_benign(list(_search(words, self._index)))
        for category in SEVERITY:
            for hit in hits:
                if hit.phrase.tag == category:
                    yield ContentVerdict("refused", category, hit.phrase.rule)
                    break
        for near in self._index.near:
            if _are_near(hits, near):
                yield ContentVerdict("refused", near.category, near.rule)


def _search(words: list[FoldedWord], index: RuleIndex) -> Iterator[_Hit]:
    squeezed = [squeeze(word.text) for word in words]
    for start in range(len(words)):
        key, idle = "", 0
        for end in range(start + 1, len(words) + 1):
            longer = _append(key, squeezed[end - 1])
            idle = idle + 1 if longer == key else 0
            key = longer
            # Together these two bound the inner loop by the longest phrase, so the search stays linear.
            if key not in index.prefixes or idle > _MAX_IDLE_WORDS:
                break
            for phrase in index.phrases.get(key, ()):
                if _matches(words[start:end], phrase):
                    yield _Hit(phrase, start, end)


def _append(key: str, piece: str) -> str:
    # A letter repeated across the gap is squeezed as well, as it is in the phrase's own key.
    return key + piece[1:] if key.endswith(piece[0]) and not piece[0].isdigit() else key + piece


def _matches(window: list[FoldedWord], phrase: Phrase) -> bool:
    """Return whether the words are this phrase, and not other words with the same letters."""
    said = "".join(word.text for word in window)
    if said != phrase.text and not _stretched(said, phrase.text):
        return False
    if tuple(word.text for word in window) == phrase.words or len(window) == 1:
        return True
    if len(window) == len(phrase.words) and all(
        stretches(word.text, plain) for word, plain in zip(window, phrase.words, strict=True)
    ):
        return True
    glued = all(word.glued for word in window[1:])
    letters = all(len(word.text) == 1 for word in window)
    return glued or letters or len(phrase.text) >= _MIN_SPLIT_LETTERS


def _stretched(said: str, plain: str) -> bool:
    firm = len(squeeze(plain)) >= _MIN_STRETCH_LETTERS
    return stretches(said, plain) and (firm or any(letter * 3 in said for letter in set(plain)))


def _outside_benign(hits: list[_Hit]) -> list[_Hit]:
    """Drop the benign phrases, and every hit that is wholly inside one of them."""
    covered: dict[int, int] = {}
    for hit in hits:
        if hit.phrase.tag == "benign":
            for place in range(hit.start, hit.end):
                covered[place] = max(covered.get(place, 0), hit.end)
    return [hit for hit in hits if hit.phrase.tag != "benign" and covered.get(hit.start, 0) < hit.end]


def _are_near(hits: Iterable[_Hit], near: Proximity) -> bool:
    one, other = ([hit.start for hit in hits if hit.phrase.tag == tag] for tag in near.lists)
    if near.within is None:
        return bool(one and other)
    for place in one:
        next_one = bisect_left(other, place - near.within)
        if next_one < len(other) and other[next_one] <= place + near.within:
            return True
    return False
