"""Drawing tools: colours, gradients, soft light, and a sheet with smooth edges."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]

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


def shine(picture: Image.Image, centre: Point, radius: float, colour: Colour, strength: float) -> None:
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

    def shape(self, points: Sequence[Point], colour: Colour, alpha: int = 255) -> None:
        self._draw.polygon([self._at(p) for p in points], fill=(*colour, alpha))

    def box(
        self, left: float, top: float, right: float, bottom: float, colour: Colour, *,
        round_by: float = 0, alpha: int = 255,
    ) -> None:  # fmt: skip
        corners = (self._at((left, top)), self._at((max(right, left), max(bottom, top))))
        self._draw.rounded_rectangle(corners, radius=round_by * _FINE, fill=(*colour, alpha))

    def disc(
        self, centre: Point, rx: float, colour: Colour, *, ry: float | None = None, alpha: int = 255
    ) -> None:
        x, y, tall = *centre, rx if ry is None else ry
        self._draw.ellipse(
            (self._at((x - rx, y - tall)), self._at((x + rx, y + tall))), fill=(*colour, alpha)
        )

    def line(self, points: Sequence[Point], colour: Colour, width: float, alpha: int = 255) -> None:
        self._draw.line(
            [self._at(p) for p in points],
            fill=(*colour, alpha),
            width=max(1, round(width * _FINE)),
            joint="curve",
        )

    def light(self, centre: Point, radius: float, colour: Colour, strength: float) -> None:
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

    def _at(self, point: Point) -> Point:
        return point[0] * _FINE, (point[1] - self.top) * _FINE
