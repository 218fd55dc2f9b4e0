"""The content policy on the final arguments of a paid tool: offline rules, then moderation if configured."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from .languages import DetectedLanguages, Languages
from .normalize import FoldedWord, excerpt, fold, interpretations
from .rules import RuleIndex, load_rules
from .scores import first_at_score, strange_words
from .search import Hit, excused, first_pair, outside_benign, search
from .verdict import (
    ALLOWED,
    LONGEST_MATCH,
    SEVERITY,
    ContentCategory,
    ContentVerdict,
    Judge,
)

__all__ = ["ContentCategory", "ContentPolicy", "ContentVerdict", "Judge", "RulesJudge"]

_THREAD_FROM: Final = 10_000  # characters; takes about 10 ms
_WORDS_AROUND: Final = 6  # on each side; with fewer, a language is a guess


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
        self.rules: Judge = rules or shipped_rules()
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
class _Objection:
    category: ContentCategory
    rule: str
    start: int  # in the folded text
    end: int


class RulesJudge:
    """Judges texts by the offline rules: deterministic, a fraction of a millisecond for a usual idea.

    Args:
        index: The rules.
        languages: Rules out languages for words that are harmless in another one.
    """

    def __init__(self, index: RuleIndex, languages: Languages | None = None) -> None:
        self._index = index
        self._languages = languages or DetectedLanguages()

    async def judge(self, text: str) -> ContentVerdict:
        """Judge one text; a long one in a thread, so that it does not block the event loop."""
        return (
            self.judge_sync(text)
            if len(text) < _THREAD_FROM
            else await asyncio.to_thread(self.judge_sync, text)
        )

    def judge_sync(self, text: str) -> ContentVerdict:
        """Judge one text; of several objections the gravest is returned."""
        found = (one for words in interpretations(text) for one in self._objections(text, words))
        gravest = min(found, key=lambda one: SEVERITY.index(one.category), default=None)
        if gravest is None:
            return ALLOWED
        matched = (
            "" if gravest.category == "minor" else excerpt(text, gravest.start, gravest.end, LONGEST_MATCH)
        )
        return ContentVerdict("refused", gravest.category, gravest.rule, matched)

    def _objections(self, text: str, words: list[FoldedWord]) -> Iterator[_Objection]:
        found = list(search(words, self._index))
        hits = self._counting(text, words, found)
        for category in SEVERITY:
            for hit in hits:
                if hit.phrase.tag == category:
                    yield _objection(category, hit.phrase.rule, words, hit)
                    break
        tags = {hit.phrase.tag for hit in hits}
        for near in self._index.near:
            if tags.issuperset(near.lists) and (pair := first_pair(hits, near)):
                yield _objection(near.category, near.rule, words, *pair)
        strange = strange_words(words, found)
        for score in self._index.scores:
            if not tags.isdisjoint(score.near) and (reached := first_at_score(hits, score, strange)):
                yield _objection(score.category, score.rule, words, *reached)

    def _counting(self, text: str, words: list[FoldedWord], hits: list[Hit]) -> list[Hit]:
        """Drop the hits that a harmless phrase, another word or the text's language excuses."""
        hits = excused(outside_benign(hits, self._index.harmless), self._index.excuses)
        if all(hit.phrase.only is None for hit in hits):
            return hits
        plausible = self._languages.plausible(text)
        return [
            hit
            for hit in hits
            if hit.phrase.only is None
            or hit.phrase.only in plausible
            or hit.phrase.only in self._languages.plausible(_surroundings(text, words, hit))
        ]


def _surroundings(text: str, words: list[FoldedWord], hit: Hit) -> str:
    """Return the words around a hit: a long text may have a part in a second language."""
    first, last = max(0, hit.start - _WORDS_AROUND), min(len(words), hit.end + _WORDS_AROUND)
    return fold(text)[words[first].start : words[last - 1].end]


def _objection(category: ContentCategory, rule: str, words: list[FoldedWord], *hits: Hit) -> _Objection:
    """Place an objection in the folded text: from the first to the last hit, or the last alone."""
    start, end = min(hit.start for hit in hits), max(hit.end for hit in hits)
    if words[end - 1].end - words[start].start > LONGEST_MATCH:
        start, end = hits[-1].start, hits[-1].end
    return _Objection(category, rule, words[start].start, words[end - 1].end)


@cache
def shipped_rules() -> RulesJudge:
    """Return the judge by the rules that are shipped; they are read once, which takes most of a second."""
    return RulesJudge(load_rules())
