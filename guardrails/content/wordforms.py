"""Writes out the forms of a phrase: alternatives, ages, and the endings of nouns, adjectives and verbs.

`{a|b}` stands for either; an alternative may be empty or have alternatives of its own. `{age}` is every
number of years below 18, in digits and in words. A word may end in `~` and the name of its endings:

    en  guard~ guards; bab~y babies; kill~v kills, killed, killing, killer; stab~vv stabbed
    es  mujer~s mujeres; niñ~o niña, niños, niñita; mat~ar, mord~er, part~ir: persons, tenses and pronouns
    pt  mulher~s mulheres; menin~o menina, menininhos; mat~ar, com~er, part~ir

More forms than the language has do no harm: nobody writes them.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from typing import Final, Literal

Language = Literal["any", "en", "es", "pt"]
ADULT: Final = 18  # years
AGE: Final = "{age}"

_NUMBERS: Final[dict[Language, str]] = {
    "any": "",
    "en": "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen",
    "es": "un uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis "
    "diecisiete",
    "pt": "um dois três quatro cinco seis sete oito nove dez onze doze treze catorze quatorze quinze "
    "dezesseis dezasseis dezessete dezassete",
}
_PRONOUNS: Final = ("me", "te", "se", "le", "les", "lo", "la", "los", "las")


def _listed(endings: str) -> list[str]:
    return endings.split()


# Without what nobody asks of a film: the second person plural, the future of the first person.
_ES_AR: Final = _listed(
    "o as a amos an é aste ó aron aba aban ará arán aría arían e es emos en ara ar ando ado ada ados adas"
)
_ES_ER: Final = _listed(
    "o es e emos en í iste ió ieron ía ían erá erán ería erían a as amos an iera er iendo ido ida idos idas"
)
_ES_IR: Final = [*(f"i{ending[1:]}" if ending[:2] == "er" else ending for ending in _ES_ER), "imos"]
_PT_AR: Final = _listed(
    "o as a amos am ei aste ou aram ava avam ará arão aria ariam e es emos em asse ar ando ado ada ados adas"
)
_PT_ER: Final = _listed(
    "o es e emos em i este eu eram ia iam erá erão eria eriam a as amos am esse er endo ido ida idos idas"
)
_PT_IR: Final = _listed(
    "o es e imos em i iste iu iram ia iam irá irão iria iriam a as amos am isse ir indo ido ida idos idas"
)


def _with_pronouns(endings: list[str], *gerunds: str) -> list[str]:
    infinitive = next(ending for ending in endings if ending in {"ar", "er", "ir"})
    bases = (infinitive, *gerunds, "a" if infinitive == "ar" else "e")  # "matarlo", "matándolo", "mátalo"
    return [*endings, *(base + pronoun for base in bases for pronoun in _PRONOUNS)]


def _plural(word: str) -> list[str]:
    if word.endswith("ón"):
        return [word, f"{word[:-2]}ones"]
    if word.endswith("z"):
        return [word, f"{word[:-1]}ces"]
    if word.endswith("ão"):
        return [word, f"{word[:-2]}ões"]
    return [word, f"{word}s"] if word[-1] in "aeiouáéíóú" else [word, f"{word}es"]


def _english_plural(word: str) -> list[str]:
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return [word, f"{word[:-1]}ies"]
    return [word, f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"]


def _english_verb(word: str, stem: str | None = None) -> list[str]:
    stem = stem or word.removesuffix("e")
    past = f"{word[:-1]}ied" if word.endswith("y") and word[-2:-1] not in "aeiou" else f"{stem}ed"
    return [*_english_plural(word), past, f"{stem}ing", f"{stem}er", f"{stem}ers"]


def _join(*endings: str) -> Callable[[str], list[str]]:
    """Join a stem with endings; its last letter keeps its sound before e and i (`ahorco`, `ahorque`)."""
    respelt = endings[1].startswith("a")  # not where the infinitive ends in -er or -ir

    def join(stem: str) -> list[str]:
        soft = {"c": f"{stem[:-1]}qu", "g": f"{stem[:-1]}gu", "z": f"{stem[:-1]}c"}.get(stem[-1:], stem)
        return [(soft if ending[0] in "eéií" and respelt else stem) + ending for ending in endings]

    return join


_ENDINGS: Final[dict[Language, dict[str, Callable[[str], list[str]]]]] = {
    "any": {},
    "en": {
        "": _english_plural,
        "v": _english_verb,
        "y": lambda stem: [f"{stem}y", f"{stem}ies"],
        "vv": lambda word: _english_verb(word, word + word[-1]),
    },
    "es": {
        "s": _plural,
        "o": _join("o", "a", "os", "as", "ito", "ita", "itos", "itas"),
        "ar": _join(*_with_pronouns(_ES_AR, "ándo")),
        "er": _join(*_with_pronouns(_ES_ER, "iéndo")),
        "ir": _join(*_with_pronouns(_ES_IR, "iéndo")),
    },
    "pt": {
        "s": _plural,
        "o": _join("o", "a", "os", "as", "inho", "inha", "inhos", "inhas"),
        "ar": _join(*_PT_AR),
        "er": _join(*_PT_ER),
        "ir": _join(*_PT_IR),
    },
}
_MARK: Final = re.compile(r"[{}| ]")
_ENDING: Final = re.compile(r"(.*[^\s~])~(\w*)", re.DOTALL)


class UnknownEndingsError(ValueError):
    """A phrase names endings that its language does not have; the message lists those that it has."""


def forms(phrase: str, language: Language) -> Iterator[str]:
    """Yield every form of a phrase, some of them twice.

    Raises:
        UnknownEndingsError: After `~` stands no name of endings of this language.
    """
    if "{" not in phrase and "~" not in phrase:
        yield phrase
        return
    words = _split(phrase, " ")
    for chosen in product(*(word_forms(word, language) for word in words)):
        yield " ".join(chosen)


@lru_cache(maxsize=1 << 15)
def word_forms(word: str, language: Language) -> list[str]:
    """Return the forms of a word, or of words that braces hold together."""
    ending = _ENDING.fullmatch(word)
    if ending is None or ending[2].endswith("}"):
        return ["".join(parts) for parts in product(*(_choices(part, language) for part in _split(word, "")))]
    known = _ENDINGS[language]
    if ending[2] not in known:
        names = ", ".join(f"~{name}" for name in known) or "none"
        raise UnknownEndingsError(f"{word!r}: endings of {language!r} are {names}")
    return [form for base in word_forms(ending[1], language) for form in known[ending[2]](base)]


def _choices(part: str, language: Language) -> list[str]:
    if part == AGE:
        return [*map(str, range(ADULT)), *_NUMBERS[language].split()]
    if not part.startswith("{"):
        return [part]
    return [form for choice in _split(part[1:-1], "|") for form in forms(choice, language)]


def _split(text: str, separator: str) -> list[str]:
    """Split at a separator outside braces; without one, between what is in braces and what is not."""
    if "{" not in text:
        return text.split(separator) if separator else [text]
    parts, depth, start = [], 0, 0
    for mark in _MARK.finditer(text):
        sign, at = mark[0], mark.start()
        ends = depth == 0 and sign == (separator or "{")
        depth += (sign == "{") - (sign == "}")
        if ends:
            parts.append(text[start:at])
            start = at + len(separator)
        elif sign == "}" and depth == 0 and not separator:
            parts.append(text[start : at + 1])
            start = at + 1
    return [*parts, text[start:]]
