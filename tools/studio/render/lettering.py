"""Words on the picture: only glyphs that the font has, lines that fit, cards and the preview label."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tools.studio.render.brush import Colour, lighter

FONT = Path(__file__).parents[1] / "fonts" / "DejaVuSans.ttf"
LABEL = "PREVIEW · rehearsal"
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
    """Where a reader would take breath: before the small word nearest to the middle."""
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
