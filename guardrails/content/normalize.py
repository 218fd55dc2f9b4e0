"""Undoes disguises: folds a text to plain lower-case letters and digits and splits it into words.

Every step is linear in the length of the text. In particular each character is decomposed alone and its marks
are dropped at once: normalising a whole string sorts runs of combining marks in quadratic time.
"""

import re
import unicodedata
from collections.abc import Iterator
from itertools import accumulate
from string import ascii_lowercase
from typing import Final, NamedTuple

# Letters that resemble a Latin letter but do not decompose to it, each followed by that letter.
# Capitals are listed separately: Ν resembles N, but its small letter ν resembles v.
_PAIRS: Final = """
    ΑA ΒB ΕE ΖZ ΗH ΙI ΚK ΜM ΝN ΟO ΡP ΤT ΥY ΧX  αa βb εe ηn ιi κk νv οo ρp τt υu χx γy ωw σo ςs
    АA ВB ЕE ЅS ІI ЈJ КK МM НH ОO РP СC ТT УY ХX ҮY ԌG ԚQ ԜW ӀI
    аa вb еe ѕs іi јj кk мm нh оo рp сc тt уy хx үy ԁd ԛq ԝw ӏl һh ьb яr иn дa зe єe ԍg
    ՕO ՏS օo սu հh ոn ցg զq տs
    ᴀa ʙb ᴄc ᴅd ᴇe ꜰf ɢg ʜh ɪi ᴊj ᴋk ʟl ᴍm ɴn ᴏo ᴘp ʀr ꜱs ᴛt ᴜu ᴠv ᴡw ʏy ᴢz
    ɑa ɩi ıi łl øo đd ħh ðd ƒf ɛe ɔc ʋu ɡg ǝe ŧt ŋn
"""
_LOOKALIKES: Final[dict[str, str]] = {
    **{pair[0]: pair[1].lower() for pair in _PAIRS.split()},
    "æ": "ae",
    "œ": "oe",
    "þ": "th",
    # Letters by category, yet invisible: the Hangul fillers.
    **dict.fromkeys("\u115f\u1160\u3164\uffa0", ""),
}
# Emoji letters, which do not decompose: 🅐…, 🅰…, and the letters that flags are made of.
_ENCLOSED: Final[dict[str, str]] = {
    chr(start + n): chr(97 + n) + (" " if start == 0x1F1E6 else "")
    for start in (0x1F150, 0x1F170, 0x1F1E6)
    for n in range(26)
}
_KEPT: Final = 8192  # characters; more than most chats ever use
_LONGEST: Final = 4  # one Arabic sign folds to 18 letters; no one reads a Latin name in it
_INVISIBLE: Final = frozenset({"Mn", "Mc", "Me", "Cf", "Cs", "Co", "Cn", "Cc"})


class FoldedWord(NamedTuple):
    """One folded word, and its place in the folded text.

    `glued` if neither white space nor a hard stop separates it from the previous word.
    """

    text: str
    glued: bool
    start: int = 0
    end: int = 0


def _spelt_vowel(character: str) -> str:
    """Return the letter of an Indic vowel sign: dropped like a mark, it would leave a name without vowels."""
    name = unicodedata.name(character, "")
    if " VOWEL SIGN " not in name:
        return character
    try:
        return unicodedata.lookup(name.replace(" VOWEL SIGN ", " LETTER "))
    except KeyError:
        return character


def _fold_character(code: int) -> str:
    character = chr(code)
    if character.isspace():
        return " "
    if character in _ENCLOSED:
        return _ENCLOSED[character]
    character = _spelt_vowel(character)
    compatible = unicodedata.normalize("NFKC", character)
    # Capitals are compared before they become small letters.
    seen = "".join(_LOOKALIKES.get(part, part) for part in unicodedata.normalize("NFKD", compatible))
    small = unicodedata.normalize("NFKD", seen.casefold())
    folded = "".join(
        _LOOKALIKES.get(part, part)
        for part in small
        if unicodedata.category(part) not in _INVISIBLE or part == " "
    )
    return folded if len(folded) <= _LONGEST else " "


class _Folding(dict[int, str]):
    """A table for `str.translate` that folds each character when it is first used."""

    def __missing__(self, code: int) -> str:
        folded = _fold_character(code)
        if len(self) < _KEPT:
            self[code] = folded
        return folded


_FOLDING: Final = _Folding()
_LETTER: Final = r"[^\W\d_]"
# Thai, kana, Han and the parts of Hangul: nothing separates words or endings, so each letter is a word.
_UNSPACED: Final = r"\u0e00-\u0eff\u1100-\u11ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD: Final = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}]){_LETTER})+|\d+")
_HARD: Final = re.compile(r"[\s,;!?¡¿()\[\]{}<>\"“”«»…]")
_CHUNK: Final = re.compile(r"\S+")
_HAS_LETTER: Final = re.compile(_LETTER)
_HAS_LEET: Final = re.compile(r"[0-9@$€!|]")
# Spaced out like the letters around it: "p 1 k a".
_LONE_LEET: Final = re.compile(rf"(?<=\b{_LETTER} )[0-9@$](?= {_LETTER}\b)")
_LEET: Final = (
    str.maketrans("0123456789@$€!|", "oizeasgtbgaseii"),
    str.maketrans("0123456789@$€!|", "olzeasgtbgasell"),
)
_MASKED: Final = re.compile(rf"(?<={_LETTER})[*#](?={_LETTER})")
_DOUBLED: Final = re.compile("|".join(letter * 2 for letter in ascii_lowercase))  # much quicker than _REPEATS
_REPEATS: Final = re.compile(rf"({_LETTER})\1+")


def fold(text: str) -> str:
    """Return `text` in small letters without accents, marks, look-alikes or invisible characters.

    Accepts any `str`, lone surrogates included, and never raises.
    """
    return text.translate(_FOLDING)


def split_words(folded: str) -> list[FoldedWord]:
    """Split a folded text into runs of letters and runs of digits."""
    words: list[FoldedWord] = []
    end = 0
    for found in _WORD.finditer(folded):
        glued = end == found.start() or not _HARD.search(folded, end, found.start())
        words.append(FoldedWord(found[0], glued and bool(words), found.start(), found.end()))
        end = found.end()
    return words


def interpretations(text: str) -> list[list[FoldedWord]]:
    """Return the readings of `text`: as written, and with digits, symbols and masks in words as letters."""
    folded = fold(text)
    tables = _LEET if _HAS_LEET.search(folded) else ()
    texts = dict.fromkeys((folded, *(_undo_leet(folded, table) for table in tables), *_unmasked(folded)))
    return [split_words(each) for each in texts]


def _unmasked(folded: str) -> Iterator[str]:
    """Yield a text with masked letters ("s*x") once for each vowel."""
    if _MASKED.search(folded):
        yield from (_MASKED.sub(vowel, folded) for vowel in "aeiou")


def _undo_leet(folded: str, table: dict[int, int]) -> str:
    def read(chunk: re.Match[str]) -> str:
        body = chunk[0].rstrip("!|")  # "hola!" is not "holai"
        leet = _HAS_LETTER.search(body) and _HAS_LEET.search(body)
        # As long as before: the places of words are those of the folded text.
        return body.translate(table).ljust(len(chunk[0])) if leet else chunk[0]

    return _LONE_LEET.sub(lambda lone: lone[0].translate(table), _CHUNK.sub(read, folded))


def excerpt(text: str, start: int, end: int, longest: int) -> str:
    """Return what folds to `fold(text)[start:end]`, as written, cut to `longest` characters.

    Of one character that folds to several, either all or nothing is returned.
    """
    ends = list(accumulate(len(_FOLDING[ord(character)]) for character in text))
    first = next((place for place, upto in enumerate(ends) if upto > start), 0)
    last = next((place for place, upto in enumerate(ends) if upto >= end), len(text) - 1)
    return text[first : last + 1][:longest]


def squeeze(word: str) -> str:
    """Collapse repeated letters: `messsi` and `messi` both become `mesi`."""
    if word.isascii() and not _DOUBLED.search(word):
        return word
    return _REPEATS.sub(r"\1", word)


def append_squeezed(key: str, piece: str) -> str:
    """Join two squeezed pieces: a letter repeated across the gap is squeezed as well."""
    return key + piece[1:] if key.endswith(piece[0]) and not piece[0].isdigit() else key + piece


def stretches(word: str, plain: str) -> bool:
    """Return whether `word` is `plain` with letters repeated, as `baaatman` is `batman`.

    Dropping a repeated letter is no stretch: `bobs` is not `boobs`.
    """
    if word == plain:
        return True
    if squeeze(word) != squeeze(plain):
        return False
    pairs = zip(_run_lengths(word), _run_lengths(plain), strict=True)
    return all(ours >= theirs for ours, theirs in pairs)


def _run_lengths(word: str) -> list[int]:
    return [len(run[0]) for run in re.finditer(r"(.)\1*", word)]
