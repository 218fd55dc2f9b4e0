"""Text of users, models and providers, shortened for columns and messages."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from html import unescape
from typing import Final

_TAG: Final = re.compile(r"</?[a-z][^<>]*>")
_JOINER: Final = "\u200d"
_LEAST_KEPT: Final = 0.6
"""Share of the limit that a cut at a word must keep; else the text is cut within a word.

Scripts without spaces, and a text of one long word, have no word to be cut at.
"""


def trimmed(text: str, most: int, size: Callable[[str], int] = len) -> str:
    """Return `text` on one line of at most `most` characters, cut at a word if that keeps most of it.

    Args:
        text: Any text.
        most: The limit, in what `size` counts.
        size: Counts a text: `len` counts code points, `utf16_units` what Telegram counts.
    """
    line = " ".join(text.split())
    if size(line) <= most:
        return line
    cut = _first_graphemes(line, most - size("…"), size)
    words = cut if line[len(cut) : len(cut) + 1] == " " else cut.rpartition(" ")[0]
    if size(words) < most * _LEAST_KEPT:
        words = cut
    return words.rstrip(" ,;:.") + "…"


def plain_text(html: str, most: int) -> str:
    """Return one of our own texts without its markup, of at most `most` characters."""
    return trimmed(unescape(_TAG.sub("", html)), most)


def utf16_units(text: str) -> int:
    """Return how many UTF-16 units a text has: Telegram counts most emoji as two or more."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def storable(text: str, most: int) -> str:
    """Return at most `most` characters of foreign text, fit for a column: no lone surrogate, no NUL."""
    return text[:most].encode("utf-8", "replace").decode().replace("\0", "")


def _first_graphemes(text: str, most: int, size: Callable[[str], int]) -> str:
    end, left = 0, most
    for one in graphemes(text):
        left -= size(one)
        if left < 0:
            break
        end += len(one)
    return text[:end]


def graphemes(text: str) -> Iterator[str]:
    """Yield what readers see as single characters: a letter with its marks, an emoji sequence, a flag.

    A short form of Unicode's rules (UAX 29): marks, joiners, emoji modifiers, pairs of regional indicators
    and Hangul syllables in parts.
    """
    start = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or not _continues(text, start, at):
            yield text[start:at]
            start = at


def _continues(text: str, start: int, at: int) -> bool:
    before, sign = text[at - 1], text[at]
    if _JOINER in (sign, before) or unicodedata.category(sign) in ("Mn", "Me", "Mc"):
        return True
    if "\U0001f3fb" <= sign <= "\U0001f3ff" or "\U000e0020" <= sign <= "\U000e007f":
        return True
    if _is_regional(sign):
        return _is_regional(before) and (at - start) % 2 == 1
    return _is_jamo_tail(sign) and ("\u1100" <= before <= "\u11ff" or "\uac00" <= before <= "\ud7a3")


def _is_regional(sign: str) -> bool:
    return "\U0001f1e6" <= sign <= "\U0001f1ff"


def _is_jamo_tail(sign: str) -> bool:
    return "\u1160" <= sign <= "\u11ff"
