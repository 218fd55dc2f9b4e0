"""Colours, light, letters and emoji."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont, ImageText

Colour = tuple[int, int, int]
Size = tuple[int, int]

INK: Colour = (24, 20, 40)
PAPER: Colour = (255, 253, 248)
LABEL = "PREVIEW · sandbox"
FINE = 2  # shapes are drawn this many times larger, then shrunk: Pillow's own edges are jagged
_FONTS = Path(__file__).parent / "fonts"
_TITLES = "Nunito-ExtraBold"  # a text with a letter that it lacks is set in DejaVu Sans
SEQUENCES = _FONTS / "sequences.txt"  # emoji of several characters
_PRIVATE = 0xF0000  # where fonts/Actors.ttf keeps them, in that order


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Return `one` with `share` (0 to 1) of `other` in it."""
    a, b, c = (round(x + (y - x) * share) for x, y in zip(one, other, strict=True))
    return a, b, c


def gradient(size: Size, stops: Sequence[Colour]) -> Image.Image:
    """A vertical gradient through evenly spaced `stops`, top to bottom."""
    column = Image.new("RGB", (1, len(stops)))
    column.putdata([*stops])
    return column.resize((1, size[1]), Image.Resampling.BILINEAR).resize(size, Image.Resampling.NEAREST)


def glow(radius: float, colour: Colour, strength: float = 1.0) -> Image.Image:
    """A sprite of round light: `strength` (0 to 1) at its centre and nothing at its rim."""
    side = max(2, round(2 * radius))
    light = Image.radial_gradient("L").resize((side, side), Image.Resampling.BILINEAR)
    sprite = Image.new("RGBA", light.size, colour)
    # The gradient reaches 181 at the middle of an edge; beyond it lie the corners.
    sprite.putalpha(light.point([round(strength * 255 * max(0.0, 1 - v / 180) ** 2) for v in range(256)]))
    return sprite


def panel(size: Size, radius: float, colour: Colour, alpha: int) -> Image.Image:
    """A rounded rectangle, RGBA."""
    large = Image.new("RGBA", (size[0] * FINE, size[1] * FINE), (*colour, 0))
    box = (0, 0, large.width - 1, large.height - 1)
    ImageDraw.Draw(large).rounded_rectangle(box, radius=radius * FINE, fill=(*colour, alpha))
    return large.reduce(FINE)


class FontMissing(Exception):
    """A font that travels with OneTake is not there or cannot be read."""


@dataclass(frozen=True)
class Lettering:
    """The fonts of one film. `unit` is one hundredth of the picture's shorter side, pixels."""

    unit: float
    fonts: Path = _FONTS

    def font(self, units: float, name: str = _TITLES) -> ImageFont.FreeTypeFont:
        path = self.fonts / f"{name}.ttf"
        try:
            return _opened(path, max(8, round(units * self.unit)))
        except OSError:
            reason = f"the font {path.name} is missing or cannot be read: install OneTake again"
            raise FontMissing(reason) from None

    def drawable(self, text: str) -> str:
        """Return `text` without controls, emoji, lonely commas, and scripts that no font here can set."""
        plain = " ".join(unicodedata.normalize("NFC", text[:4000]).split()).replace("...", "…")
        kept = "".join(c for c in plain if c == " " or self._letter(c))
        tidy = re.sub(r"\s*([.,;:])(?:\s*[.,;:])*(?=\s|$)", r"\1", " ".join(kept.split()))
        return tidy.strip(" ,;:") if re.search(r"\w", tidy) else ""

    def _letter(self, c: str) -> bool:
        lost = (
            unicodedata.category(c)[0] == "C"
            or unicodedata.bidirectional(c) in {"R", "AL", "AN"}
            or c > "\u25ff"
        )
        return not lost and (_has(self.font(4), c) or _has(self.font(4, "DejaVuSans"), c))

    def card(self, text: str, width: int, most: int, sizes: Sequence[float]) -> Image.Image:
        """A card with `text`, RGBA: up to `most` lines of `width` pixels in the first size that fits.

        What is too much for the last size is cut at a word.
        """
        name = _TITLES if all(_has(self.font(4), c) for c in set(text)) else "DejaVuSans"
        font, words, lines = self.font(sizes[-1], name), text.split(), list[str]()
        long = int(width / font.getlength("W"))  # only a word wider than the card is parted
        words = [
            part for one in words for part in (wrap(one, long) if font.getlength(one) > width else [one])
        ]
        for font in (self.font(units, name) for units in sizes):
            if max(map(font.getlength, words)) <= width:
                lines = _lines(words, font, width)
                if len(lines) <= most:  # as many, of nearly one length
                    even = (
                        _lines(words, font, round(width * share)) for share in (0.5, 0.6, 0.7, 0.8, 0.9, 1)
                    )
                    lines = next(one for one in even if len(one) == len(lines))
                    break
        else:
            lines = [*lines[: most - 1], f"{lines[most - 1].rpartition(' ')[0].rstrip(' ,;:.…')}…"]
        shown, pad = ImageText.Text("\n".join(lines), font), round(4 * self.unit)
        x, y, right, low = (round(v) for v in shown.get_bbox(align="center"))
        card = panel((right - x + 2 * pad, low - y + 2 * pad), pad, PAPER, 240)
        ImageDraw.Draw(card).text((pad - x, pad - y), shown, (*INK, 255), align="center")
        return card

    def picture(self, emoji: str, pixels: float) -> Image.Image:
        """An emoji as a sprite without an empty edge, RGBA, at most `pixels` wide and tall."""
        sprite, listed = Image.new("RGBA", (round(pixels * 1.25),) * 2), SEQUENCES.read_text("utf-8").split()
        character = chr(_PRIVATE + listed.index(emoji)) if emoji in listed else emoji
        font = self.font(pixels / self.unit, "Actors")
        ImageDraw.Draw(sprite).text((2, 2), character, font=font, embedded_color=True)
        return sprite.crop(sprite.getbbox())

    def label(self) -> Image.Image:
        """The honest label of every frame, RGBA."""
        u, font = self.unit, self.font(2.9)
        pill = panel((round(font.getlength(LABEL) + 7.6 * u), round(5.6 * u)), 2.8 * u, INK, 190)
        pill.alpha_composite(panel((round(1.6 * u),) * 2, 0.8 * u, (255, 196, 84), 255), (round(2 * u),) * 2)
        ImageDraw.Draw(pill).text((4.8 * u, pill.height / 2), LABEL, PAPER, font, anchor="lm")
        return pill


def _lines(words: Sequence[str], font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = ImageText.Text(" ".join(words), font)
    lines.wrap(max(width, *(round(font.getlength(word) + 1) for word in words)))
    return lines.text.split("\n")


@cache
def _opened(path: Path, pixels: int) -> ImageFont.FreeTypeFont:
    # Plain layout: the other one needs a library of the system.
    return ImageFont.truetype(path, pixels, layout_engine=ImageFont.Layout.BASIC)


@cache
def _has(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Whether the font draws something else than its box for code points that no font may define."""
    seen, tofu = font.getmask(character), font.getmask("\U0010fffd")
    return character == " " or (seen.size, bytes(seen)) != (tofu.size, bytes(tofu))
