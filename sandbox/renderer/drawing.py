"""Colours, gradients, text."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]
XY = tuple[float, float]

_FINE = 2  # shapes are drawn this many times larger, then shrunk: Pillow's own edges are jagged


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Return `one` with `share` (0 to 1) of `other` in it."""
    a, b, c = (round(x + (y - x) * share) for x, y in zip(one, other, strict=True))
    return a, b, c


def lighter(colour: Colour, share: float) -> Colour:
    return mix(colour, (255, 250, 238), share)


def darker(colour: Colour, share: float) -> Colour:
    return mix(colour, (12, 10, 26), share)


def gradient(size: tuple[int, int], stops: Sequence[Colour]) -> Image.Image:
    """A vertical gradient through evenly spaced `stops`, top to bottom."""
    column = Image.new("RGB", (1, size[1]))
    last = len(stops) - 1
    for y in range(size[1]):
        place = y / max(1, size[1] - 1) * last
        at = min(int(place), last - 1)
        column.putpixel((0, y), mix(stops[at], stops[at + 1], place - at))
    return column.resize(size)


def glow(radius: int, strength: float = 1.0) -> Image.Image:
    """A mask of round light, `strength` (0 to 1) at its centre and nothing at its rim."""
    light = Image.radial_gradient("L").resize((2 * radius, 2 * radius), Image.Resampling.BILINEAR)
    # The gradient reaches 181 at the middle of an edge; beyond it lie the corners.
    return light.point([round(strength * 255 * max(0.0, 1 - v / 180) ** 2) for v in range(256)])


def shine(picture: Image.Image, centre: XY, radius: float, colour: Colour, strength: float) -> None:
    """Lay round light of `colour` on `picture`."""
    size = max(2, round(radius))
    mask = glow(size, strength)
    picture.paste(colour, (round(centre[0]) - size, round(centre[1]) - size), mask)


def puff(radius: int, colour: Colour, strength: float) -> Image.Image:
    """A soft, round sprite."""
    sprite = Image.new("RGBA", (2 * radius, 2 * radius), colour)
    sprite.putalpha(glow(radius, strength))
    return sprite


class Sheet:
    """A transparent strip to draw on, as wide as a layer and reaching from `top` to `bottom` of the picture.

    Coordinates are those of the picture, in pixels; `finish` gives the strip in its final size.
    """

    def __init__(self, width: int, top: float, bottom: float) -> None:
        self.top = int(top)
        self._size = (width, max(2, int(bottom) - self.top))
        self._image = Image.new("RGBA", (self._size[0] * _FINE, self._size[1] * _FINE))
        self._draw = ImageDraw.Draw(self._image, "RGBA")

    def shape(self, points: Sequence[XY], colour: Colour, alpha: int = 255) -> None:
        self._draw.polygon([self._at(p) for p in points], fill=(*colour, alpha))

    def box(
        self, left: float, top: float, right: float, bottom: float, colour: Colour, *,
        round_by: float = 0, alpha: int = 255,
    ) -> None:  # fmt: skip
        corners = (self._at((left, top)), self._at((max(right, left), max(bottom, top))))
        self._draw.rounded_rectangle(corners, radius=round_by * _FINE, fill=(*colour, alpha))

    def disc(
        self, centre: XY, rx: float, colour: Colour, *, ry: float | None = None, alpha: int = 255
    ) -> None:
        x, y, tall = *centre, rx if ry is None else ry
        self._draw.ellipse(
            (self._at((x - rx, y - tall)), self._at((x + rx, y + tall))), fill=(*colour, alpha)
        )

    def line(self, points: Sequence[XY], colour: Colour, width: float, alpha: int = 255) -> None:
        self._draw.line(
            [self._at(p) for p in points],
            fill=(*colour, alpha),
            width=max(1, round(width * _FINE)),
            joint="curve",
        )

    def light(self, centre: XY, radius: float, colour: Colour, strength: float) -> None:
        x, y = self._at(centre)
        size = max(2, round(radius * _FINE))
        sprite = puff(size, colour, strength)
        # `alpha_composite` refuses a sprite that begins outside of the picture.
        left, top = round(x) - size, round(y) - size
        cut = sprite.crop((max(0, -left), max(0, -top), 2 * size, 2 * size))
        if cut.width > 0 and cut.height > 0 and left < self._image.width and top < self._image.height:
            self._image.alpha_composite(cut, (max(0, left), max(0, top)))

    def finish(self, *, blur: float = 0) -> Image.Image:
        picture = self._image.reduce(_FINE)
        if not blur:
            return picture
        # Blurred with premultiplied alpha, or every edge would get a dark rim.
        return picture.convert("RGBa").filter(ImageFilter.GaussianBlur(blur)).convert("RGBA")

    def _at(self, point: XY) -> XY:
        return point[0] * _FINE, (point[1] - self.top) * _FINE


FONT = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"
LABEL = "PREVIEW · sandbox"
_INK: Colour = (18, 14, 30)
_PAPER: Colour = (255, 250, 240)
_CLAUSE = re.compile(r"(?<=[.!?…])\s+|\s*[,;:—–\n]+\s*")
_SMALL = frozenset({
    "and", "at", "in", "on", "with", "while", "under", "over", "from", "to", "for", "by", "near", "through",
    "into", "beside", "behind", "who", "that", "y", "en", "con", "mientras", "bajo", "sobre", "desde",
    "hacia", "para", "por", "junto", "entre", "que", "al", "e", "em", "sob", "até", "no", "na",
})  # fmt: skip


class FontMissing(Exception):
    """The font that travels with OneTake is not there or cannot be read."""


@dataclass(frozen=True)
class Lettering:
    """The font in the sizes of one film. `unit` is one hundredth of the picture's shorter side, pixels."""

    unit: float
    font: Path = FONT

    def sized(self, units: float) -> ImageFont.FreeTypeFont:
        try:
            return ImageFont.truetype(self.font, max(8, round(units * self.unit)))
        except OSError:
            raise FontMissing(
                f"the font {self.font.name} is missing or cannot be read: install OneTake again"
            ) from None

    @cached_property
    def _samples(self) -> tuple[ImageFont.FreeTypeFont, bytes]:
        font = self.sized(24 / self.unit)
        return font, _drawn(font, "\U0010fffd")  # a code point that no font may define: its box is tofu

    def drawable(self, text: str) -> str:
        """Return `text` without control, bidi and surrogate characters and without what the font lacks."""
        font, tofu = self._samples
        plain = " ".join(unicodedata.normalize("NFC", text[:4000]).split())
        seen = (c for c in set(plain) if unicodedata.category(c)[0] != "C")
        keep = {c for c in seen if c == " " or _drawn(font, c) != tofu}
        return " ".join("".join(c if c in keep else "" for c in plain).split())

    def wrap(self, text: str, font: ImageFont.FreeTypeFont, width: float, lines: int) -> list[str]:
        """Break drawable `text` into at most `lines` lines of `width` pixels; an ellipsis ends a cut."""
        done, line = list[str](), ""
        for word in _pieces(text, font, width):
            longer = f"{line} {word}".strip()
            if font.getlength(longer) <= width:
                line = longer
                continue
            done, line = [*done, line], word
            if len(done) == lines:
                return [*done[:-1], _shortened(done[-1], font, width)]
        return [*done, line] if line else done

    def card(self, text: str, kicker: str, width: int, accent: Colour) -> Image.Image:
        """A caption card: `kicker` small above up to three lines of `text`, RGBA, no wider than `width`."""
        u, big, small = self.unit, self.sized(4.6), self.sized(2.5)
        lines = self.wrap(text[:240], big, width - 10 * u, 3)
        high, step = round((9.2 + 6.1 * len(lines)) * u), 6.1 * u
        card = Image.new("RGBA", (width * 2, high * 2))
        ImageDraw.Draw(card).rounded_rectangle(
            (0, 0, width * 2 - 1, high * 2 - 1), radius=5 * u, fill=(*_INK, 172)
        )
        card = card.reduce(2)
        draw = ImageDraw.Draw(card)
        draw.rounded_rectangle((3 * u, 3 * u, 3.7 * u, high - 3 * u), radius=0.35 * u, fill=(*accent, 255))
        draw.text((6 * u, 2.7 * u), kicker, font=small, fill=(*lighter(accent, 0.35), 255))
        for at, line in enumerate(lines):
            draw.text((6 * u, 6.2 * u + at * step), line, font=big, fill=(*_PAPER, 255))
        return card

    def label(self) -> Image.Image:
        """The honest label of every frame, RGBA."""
        u, font = self.unit, self.sized(2.9)
        width, high = round(font.getlength(LABEL) + 7.6 * u), round(5.6 * u)
        pill = Image.new("RGBA", (width * 2, high * 2))
        draw = ImageDraw.Draw(pill)
        draw.rounded_rectangle((0, 0, width * 2 - 1, high * 2 - 1), radius=high, fill=(*_INK, 190))
        draw.ellipse((4 * u, high - 1.4 * u, 6.8 * u, high + 1.4 * u), fill=(255, 196, 84, 255))
        pill = pill.reduce(2)
        ImageDraw.Draw(pill).text((4.6 * u, high / 2), LABEL, font=font, fill=(*_PAPER, 255), anchor="lm")
        return pill


def clauses(text: str, count: int) -> list[str]:
    """Part an idea into at most `count` captions in its own order: at its clauses, else between its words."""
    parts = [part for part in _CLAUSE.split(text) if part]
    while len(parts) > count:
        at = min(range(len(parts) - 1), key=lambda i: len(parts[i]) + len(parts[i + 1]))
        parts[at : at + 2] = [f"{parts[at]}, {parts[at + 1]}"]
    while 0 < len(parts) < count:
        at = max(range(len(parts)), key=lambda i: len(parts[i]))
        words = parts[at].split()
        if len(words) < 6:
            break
        cut = _pause(words)
        parts[at : at + 1] = [" ".join(words[:cut]), " ".join(words[cut:])]
    return parts


def _pause(words: list[str]) -> int:
    """Return where to break a clause: before the small word nearest to the middle."""
    middle = len(words) / 2
    near = [i for i in range(2, len(words) - 1) if words[i].casefold() in _SMALL]
    return min(near, key=lambda i: abs(i - middle), default=len(words) // 2)


def _pieces(text: str, font: ImageFont.FreeTypeFont, width: float) -> Sequence[str]:
    """The words of `text`, those wider than a line cut into pieces that fit."""
    pieces = list[str]()
    for word in text.split():
        rest = word
        while font.getlength(rest) > width:
            fits = next(n for n in range(len(rest) - 1, 0, -1) if n == 1 or font.getlength(rest[:n]) <= width)
            pieces.append(rest[:fits])
            rest = rest[fits:]
        pieces.append(rest)
    return pieces


def _shortened(line: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line.rstrip(' ,;:.')}…"


def _drawn(font: ImageFont.FreeTypeFont, text: str) -> bytes:
    mask = font.getmask(text)
    return bytes(mask) + repr(mask.size).encode()
