"""Adds up what is around a word: many small signs together refuse what no single one does.

Near a child a bed, an adult or a secret is harmless alone; the three together are not. A list counts once,
so a text is not refused for saying one thing often. Where a rule has `harmless` lists it is turned round: a
text is refused unless it is plainly harmless, told in words that are known to be so.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from .normalize import FoldedWord
from .rules import Score
from .search import Hit

_SHORTEST_STRANGE: Final = 4  # letters; shorter words are mostly grammar


def strange_words(words: list[FoldedWord], found: list[Hit]) -> list[int]:
    """Return the places of the words that are in no phrase of the rules and are not mere grammar."""
    known = {place for hit in found for place in range(hit.start, hit.end)}
    return [
        place
        for place, word in enumerate(words)
        if place not in known and len(word.text) >= _SHORTEST_STRANGE and word.text.isalpha()
    ]


def first_at_score(hits: list[Hit], score: Score, strange: list[int]) -> tuple[Hit, ...] | None:
    """Return a hit of the lists `near` and the signs around it for which it is refused, or None."""
    signs = _Placed(hit for hit in hits if hit.phrase.tag in score.points)
    if not score.harmless and _points(signs.hits, score) < score.refused_at:
        return None
    harmless = _Harmless(hits, score, strange) if score.harmless else None
    for middle in (hit for hit in hits if hit.phrase.tag in score.near):
        counted = _counted(signs.around(middle, score.within), middle, score)
        points = _points(counted, score)
        if points >= score.refused_at:
            return (middle, *counted)
        if harmless and not harmless.outweighs(points, [middle, *counted]):
            return (middle, *counted)
    return None


class _Placed:
    """Hits by place, to find those around another one."""

    def __init__(self, hits: Iterable[Hit]) -> None:
        self.hits = sorted(hits, key=lambda hit: (hit.start, hit.end))
        self._starts = [hit.start for hit in self.hits]

    def around(self, middle: Hit, within: int) -> list[Hit]:
        first = bisect_left(self._starts, middle.start - within)
        return self.hits[first : bisect_left(self._starts, middle.end + within)]


class _Harmless:
    """What speaks for a text, and the strange words that speak for nothing."""

    def __init__(self, hits: list[Hit], score: Score, strange: list[int]) -> None:
        self._score = score
        self._strange = strange
        self._harmless = _Placed(hit for hit in hits if hit.phrase.tag in score.harmless)
        self._ordinary = _Placed(hit for hit in hits if hit.phrase.tag in score.ordinary)

    def outweighs(self, points: int, others: list[Hit]) -> bool:
        """Return whether what is harmless around `others[0]` outweighs the points of `others`."""
        middle, within = others[0], self._score.within
        firm = _separate(self._harmless.around(middle, within), others)
        plain = _separate(self._ordinary.around(middle, within), others)
        if firm + plain // 2 < points or firm + plain == 0:
            return False
        first = bisect_left(self._strange, middle.start - within)
        strange = bisect_left(self._strange, middle.end + within) - first
        return strange <= self._score.strange_at_most * (firm + plain)


def _points(hits: list[Hit], score: Score) -> int:
    return sum(score.points[tag] for tag in {hit.phrase.tag for hit in hits})


def _counted(signs: list[Hit], middle: Hit, score: Score) -> list[Hit]:
    """Return one hit of each list, the heaviest lists first, of which no two share a word."""
    counted: dict[str, Hit] = {}
    taken: set[int] = set()
    for hit in sorted(signs, key=lambda hit: -score.points[hit.phrase.tag]):
        places = range(hit.start, hit.end)
        itself = middle.start <= hit.start and hit.end <= middle.end
        if not itself and hit.phrase.tag not in counted and taken.isdisjoint(places):
            counted[hit.phrase.tag] = hit
            taken.update(places)
    return list(counted.values())


def _separate(excusing: list[Hit], others: list[Hit]) -> int:
    """Count the excusing hits that share no word with each other or with `others`."""
    taken = {place for hit in others for place in range(hit.start, hit.end)}
    count = 0
    for hit in excusing:
        places = range(hit.start, hit.end)
        if taken.isdisjoint(places):
            count += 1
            taken.update(places)
    return count
