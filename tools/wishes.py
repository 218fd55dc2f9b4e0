"""What an idea asks for in plain words of our languages: a length, a shape, sound, a look, several videos."""

import re
from dataclasses import dataclass
from typing import Final, Literal

Shape = Literal["upright", "wide", "square"]

# Not "in 3 seconds", which is part of the scene, nor "an 80s car".
_SECONDS: Final = re.compile(
    r"(?<![\w.,:])(?<!\bin )(?<!\ben )(?<!\bem )(?![2-9]0s\b)(\d{1,3})(?:[.,]0)?"
    r"[\s-]*(?:s|sec|secs|second|seconds|seg|segs|segundos?)\b",
    re.IGNORECASE,
)
_WORDS: Final[dict[str, int]] = {
    word: number
    for number, words in {
        3: "three tres três", 4: "four cuatro quatro", 5: "five cinco", 6: "six seis", 7: "seven siete sete",
        8: "eight ocho oito", 9: "nine nueve nove", 10: "ten diez dez", 12: "twelve doce doze",
        15: "fifteen quince quinze", 20: "twenty veinte vinte", 30: "thirty treinta trinta",
        60: "sixty sesenta sessenta",
    }.items()
    for word in words.split()
}  # fmt: skip
_SECONDS_IN_WORDS: Final = re.compile(
    rf"(?<!\bin )(?<!\ben )(?<!\bem )\b({'|'.join(_WORDS)})[\s-]+(?:seconds?|segundos?)\b", re.IGNORECASE
)
_MINUTES: Final = re.compile(
    r"(?<![\w.,:])(\d{1,2}|a|one|un|uno|um)[\s-]*(?:min|mins|minutes?|minutos?)[\s-]+"
    r"(?:long|video|vídeo|clip|film|de duración|de duração|de largo)\b", re.IGNORECASE,
)  # fmt: skip
_SHAPES: Final[tuple[tuple[Shape, re.Pattern[str]], ...]] = (
    ("upright", re.compile(
        r"\b(?:9:16|upright|portrait (?:format|mode|video|orientation)|vertical (?:format|video|vídeo|shot)"
        r"|(?:en|formato|vídeo|video|na|em) vertical|(?:for|para) (?:reels|stories|tiktok))\b",
        re.IGNORECASE,
    )),
    ("wide", re.compile(
        r"\b(?:16:9|widescreen|wide (?:format|video)|landscape (?:format|mode|video|orientation)"
        r"|horizontal (?:format|video|vídeo)|(?:en|formato|vídeo|video|na|em) horizontal|apaisad[oa]"
        r"|formato paisagem|for youtube|para youtube|para o youtube)\b",
        re.IGNORECASE,
    )),
    ("square", re.compile(
        r"\b(?:1:1|square (?:format|video|frame)|(?:formato|vídeo|video) (?:cuadrado|quadrado))\b",
        re.IGNORECASE,
    )),
)  # fmt: skip
_SOUNDS: Final[tuple[tuple[bool, re.Pattern[str]], ...]] = (
    (False, re.compile(
        r"\b(?:(?:no|without|without any) (?:sound|audio)|silent (?:video|film|clip)"
        r"|sin (?:sonido|audio)|(?:video|vídeo|película|filme) mud[oa]|sem (?:som|áudio|audio))\b",
        re.IGNORECASE,
    )),
    (True, re.compile(
        r"\b(?:with (?:sound|audio)|con (?:sonido|audio)|com (?:som|áudio|audio))\b", re.IGNORECASE
    )),
)  # fmt: skip
_LOOK: Final = re.compile(
    r"\b(?:(?:photo)?realist(?:ic|a)|fotorrealista|hiperrealista|hyperrealistic|live[- ]action"
    r"|animation|animated|cartoons?|animación|animad[oa]s?|dibujos? animados?|caricatura|animação"
    r"|desenhos? animados?|pixar|anime|manga|watercolou?rs?|acuarelas?|aquarelas?|clay|claymation"
    r"|plastilina|massinha|stop[- ]motion|black[- ]and[- ]white|blanco y negro|preto e branco"
    r"|monochrome|sepia|noir|oil painting|pintura al óleo|pintura a óleo|pixel[- ]art|low[- ]poly"
    r"|3d|cgi|sketch|styles?|estilos?)\b",
    re.IGNORECASE,
)
_NUMBERS: Final = (
    r"[2-9]|1\d|20|two|three|four|five|six|seven|eight|nine|ten|several|many|dos|tres|cuatro|cinco|seis|siete|ocho"
    r"|nueve|diez|varios|muchos|dois|três|quatro|sete|oito|nove|dez|vários|muitos"
)
_SEVERAL: Final = re.compile(
    rf"\b(?:{_NUMBERS})\s+(?:videos|vídeos|clips|versions|versiones|versões)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What an idea asks for; None where it says nothing.

    Attributes:
        seconds: The length.
        shape: Upright, wide or square.
        several: It asks for more than one video.
        sound: With sound or without.
        look: It names a style of its own, such as "in watercolour".
    """

    seconds: int | None = None
    shape: Shape | None = None
    several: bool = False
    sound: bool | None = None
    look: bool = False


def wish_of(idea: str) -> Wish:
    """Return what an idea asks for. A figure that is part of the scene ("12 candles") is no length."""
    shapes = [shape for shape, words in _SHAPES if words.search(idea)]
    return Wish(
        _seconds_in(idea),
        shapes[0] if len(shapes) == 1 else None,
        _SEVERAL.search(idea) is not None,
        next((sound for sound, words in _SOUNDS if words.search(idea)), None),
        _LOOK.search(idea) is not None,
    )


def _seconds_in(idea: str) -> int | None:
    named = {int(found) for found in _SECONDS.findall(idea)}
    named |= {_WORDS[word.lower()] for word in _SECONDS_IN_WORDS.findall(idea)}
    for found in _MINUTES.findall(idea):
        named.add(60 * (int(found) if found.isdecimal() else 1))
    return named.pop() if len(named) == 1 else None


def shape_of(size: str) -> Shape:
    """Return the shape of a size, `{width}x{height}` in pixels."""
    width, height = (int(part) for part in size.split("x"))
    if width == height:
        return "square"
    return "upright" if height > width else "wide"
