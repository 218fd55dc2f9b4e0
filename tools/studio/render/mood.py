"""What the words of an idea look like: a place, an hour and the colours of both."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, TypeVar

from tools.studio.render.brush import Colour

Place = Literal["market", "sea", "city", "forest", "desert", "hills"]
Hour = Literal["dawn", "day", "dusk", "night"]
_Word = TypeVar("_Word", bound=str)

# Beginnings of words, without accents, in English, Spanish and Portuguese.
_PLACES: dict[Place, str] = {
    "market": (
        "market mercad bazaar bazar feira tianguis stall vendor fair plaza fiesta carnival taco tamal fruit"
    ),
    "sea": (
        "sea ocean beach playa praia mar wave ola onda ship boat barco harbor harbour puerto porto "
        "island isla ilha coast costa surf sail whale dolphin fish lago lake river rio water agua"
    ),
    "city": (
        "city ciudad cidade street calle rua skyline tower torre traffic downtown neon urban building "
        "rooftop metro office skyscraper tokyo york london paris taxi robot car coche carro"
    ),
    "forest": (
        "forest bosque floresta selva jungle wood tree arbol arvore pine pino fox zorro deer bear "
        "mushroom fairy moss snow nieve neve winter invierno christmas navidad natal"
    ),
    "desert": ("desert desierto deserto dune duna cactus camel sahara canyon mars"),
    "hills": (
        "hill mountain montan valley valle field campo farm granja village pueblo aldea meadow flower castle"
    ),
}
_HOURS: dict[Hour, str] = {
    "dawn": ("dawn amanec sunrise alba madrugada morning manana manha early breakfast"),
    "dusk": ("dusk sunset atardec anochec crepuscul evening tarde golden por-do-sol twilight autumn otono"),
    "night": ("night noche noite midnight moon luna lua star estrella estrela neon firework dark space"),
    "day": ("day dia noon mediodia summer verano verao sun sunny sol spring primavera"),
}


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of one hour. `sky` runs from zenith to horizon; `bright` are paints for small things."""

    sky: tuple[Colour, ...]
    sun: Colour
    far: Colour
    near: Colour
    ground: Colour
    lamp: Colour
    bright: tuple[Colour, ...]


@dataclass(frozen=True, slots=True)
class Mood:
    place: Place
    hour: Hour
    palette: Palette


_PAINTS: tuple[Colour, ...] = (
    (226, 72, 88), (242, 152, 56), (42, 157, 143), (236, 196, 74), (196, 78, 150), (70, 118, 190),
)  # fmt: skip
_NIGHT_PAINTS: tuple[Colour, ...] = (
    (186, 62, 92), (206, 126, 62), (38, 120, 128), (200, 164, 84), (146, 66, 140), (60, 92, 160),
)  # fmt: skip
_PALETTES: dict[Hour, Palette] = {
    "dawn": Palette(
        sky=((62, 62, 118), (146, 100, 150), (238, 146, 132), (255, 206, 150), (255, 230, 186)),
        sun=(255, 240, 206), far=(172, 122, 152), near=(72, 50, 88), ground=(150, 98, 104),
        lamp=(255, 206, 120), bright=_PAINTS,
    ),
    "day": Palette(
        sky=((58, 134, 198), (112, 178, 222), (176, 216, 232), (226, 238, 232), (244, 244, 226)),
        sun=(255, 250, 222), far=(140, 178, 188), near=(48, 92, 92), ground=(196, 172, 130),
        lamp=(255, 232, 170), bright=_PAINTS,
    ),
    "dusk": Palette(
        sky=((44, 36, 88), (112, 58, 122), (208, 88, 104), (250, 152, 92), (255, 204, 128)),
        sun=(255, 224, 160), far=(136, 80, 124), near=(46, 30, 66), ground=(118, 68, 86),
        lamp=(255, 196, 106), bright=_PAINTS,
    ),
    "night": Palette(
        sky=((9, 12, 38), (17, 26, 66), (30, 46, 98), (52, 72, 128), (78, 96, 148)),
        sun=(238, 238, 220), far=(42, 56, 104), near=(14, 18, 44), ground=(36, 42, 78),
        lamp=(255, 204, 112), bright=_NIGHT_PAINTS,
    ),
}  # fmt: skip
_ORDER: tuple[Hour, ...] = ("dawn", "day", "dusk", "night")


def mood_of(prompt: str, seed: int) -> Mood:
    """Read place and hour out of the words; what they leave open, the seed decides."""
    words = _plain_words(prompt)
    place = _first(words, _PLACES) or "hills"
    hour = _first(words, _HOURS) or _ORDER[seed % 3]
    return Mood(place, hour, _PALETTES[hour])


def _plain_words(prompt: str) -> list[str]:
    bare = "".join(c for c in unicodedata.normalize("NFD", prompt.casefold()) if not unicodedata.combining(c))
    return re.findall(r"[a-z-]+", bare)


def _first(words: list[str], table: dict[_Word, str]) -> _Word | None:
    """The entry that most words speak for; on a tie the one that is spoken of first."""
    spoken = {
        name: [at for at, word in enumerate(words) if _speaks(word, starts.split())]
        for name, starts in table.items()
    }
    best = max(spoken, key=lambda name: (len(spoken[name]), -min(spoken[name], default=0)))
    return best if spoken[best] else None


def _speaks(word: str, starts: list[str]) -> bool:
    """Short beginnings must be the whole word: `mar` is the sea, `marvellous` is not."""
    return any(
        word in {start, f"{start}s", f"{start}es"} or (len(start) > 4 and word.startswith(start))
        for start in starts
    )
