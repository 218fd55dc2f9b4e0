"""The scene around the actors: only what the idea's words say, and a plain stage where they say nothing."""

import itertools
import math
import random
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor, ImageDraw, ImageOps

from sandbox.renderer.drawing import FINE, Colour, Size, glow, gradient, mix, panel

MARGIN = 0.07
"""By how much a scene is wider than the picture on each side, as a share of the picture's width."""


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "scenes.toml").read_text("utf-8"))


class Scene:
    """What is behind the actors and before them, drawn once; the same for the same words and seed.

    The methods from `paint` on are the steps of scenes.toml, in fine pixels. `floor` is where feet stand, in
    pixels from the top; `shade` is the colour of what is under them, None where there is nothing.
    """

    def __init__(self, size: Size, setting: frozenset[str], seed: int) -> None:
        self.size, self._u, table = size, FINE * min(size) / 100, _table()
        self._width, self._height = FINE * round(size[0] * (1 + 2 * MARGIN)), FINE * size[1]
        self._rng = rng = random.Random(seed)  # noqa: S311 - pictures, not secrets
        place = next((name for name in table["places"] if name in setting), "stage")
        self._hour = next(hour for hour in table["hours"] if setting & {*hour["words"]} or not hour["words"])
        self._said = setting | {place, self._hour["name"]}
        palette = rng.choice(self._hour.get("colours", table["colours"]))
        self._names = dict(zip(("high", "low", "floor", "soft"), palette, strict=True))
        floor, shade = table["floors"].get(place, (0.68, "#181428"))
        self.floor, self.shade = floor * size[1], self._colour(shade) if shade else None
        steps = table["places"].get(place) or [*rng.choice(table["ornaments"]), *table["stage"]]
        for step, *arguments in [["paint", *self._hour["sky"]], *self._hour["above"], *steps]:
            getattr(self, step)(*arguments)
        self._back = self._image.reduce(FINE)
        if rng.random() < 0.5:
            self._back = ImageOps.mirror(self._back)
        self._specks = [
            (sprite, rng.random() * size[0], rng.random() * size[1], rng.uniform(0.35, 0.6) * self._u, *way)
            for name, (count, shape, codes, sides, way) in table["specks"].items() if name in self._said
            for sprite in rng.choices(self._sprites(shape, codes, sides), k=count)
        ]  # fmt: skip

    def behind(self, shift: float) -> Image.Image:
        """The picture without actors, the camera `shift` pixels right of the middle."""
        left = round(MARGIN * self.size[0] + shift)
        return self._back.crop((left, 0, left + self.size[0], self.size[1]))

    def before(self, picture: Image.Image, t: float) -> None:
        """Put what drifts before the actors onto the picture at `t` seconds."""
        for sprite, x, y, pace, right, down, sway in self._specks:
            pad, left = max(sprite.size), x + pace * (right * t + sway * math.sin(1.3 * t + y))
            place = (left % (self.size[0] + pad) - pad, (y + pace * down * t) % (self.size[1] + pad) - pad)
            picture.paste(sprite, (round(place[0]), round(place[1])), sprite)

    def _sprites(self, shape: str, codes: Sequence[str], sides: tuple[float, float]) -> list[Image.Image]:
        done = list[Image.Image]()
        for code, scale in itertools.product(codes, (0.6, 0.8, 1.0)):
            wide, tall = (max(3, round(side * scale * self._u / FINE)) for side in sides)
            sprite = panel((wide, tall), wide / 2, self._colour(code), 215)
            done.append(glow(wide, self._colour(code), 0.55) if shape == "glow" else sprite)
            if shape == "paper":
                done[-1] = sprite.rotate(wide * 37 % 90, expand=True)
        return done

    def _colour(self, code: str) -> Colour:
        """A light (#…) as it is; a thing on the ground in this hour and weather."""
        code = self._names.get(code, code)
        red, green, blue = ImageColor.getrgb(f"#{code.lstrip('#')}")[:3]
        colour = red, green, blue
        for word, other, share in _table()["lights"] if code[0] != "#" else ():
            colour = mix(colour, self._colour(other), share) if word in self._said else colour
        return colour

    def _anywhere(self, top: float, low: float) -> tuple[float, float]:
        return self._rng.uniform(0, 1) * self._width, self._rng.uniform(top, low) * self._height

    def _disc(self, x: float, y: float, r: float, colour: Colour, flat: float = 1.0) -> None:
        self._draw.ellipse((x - r, y - r * flat, x + r, y + r * flat), colour)

    def _box(self, x: float, y: float, wide: float, tall: float, colour: Colour, corner: float = 0) -> None:
        self._draw.rounded_rectangle((x, y, x + wide, y + tall), corner, colour)

    def paint(self, *codes: str) -> None:
        self._image = gradient((self._width, self._height), [self._colour(code) for code in codes])
        self._draw = ImageDraw.Draw(self._image)

    def light(self, x: float, y: float, radius: float, code: str, strength: float) -> None:
        side, small = (
            round(2 * radius * self._u),
            glow(radius * self._u / 4, (0, 0, 0), strength).getchannel("A"),
        )
        place = (round(x * self._width) - side // 2, round(y * self._height) - side // 2)
        self._image.paste(self._colour(code), place, small.resize((side, side), Image.Resampling.BILINEAR))

    def disc(self, x: float, y: float, radius: float, code: str, flat: float = 1.0) -> None:
        self._disc(x * self._width, y * self._height, radius * self._u, self._colour(code), flat)

    def dots(
        self, count: int, top: float, low: float, size: float, codes: Sequence[str], flat: float = 1
    ) -> None:
        for colour in self._rng.choices([self._colour(code) for code in codes], k=count):
            self._disc(*self._anywhere(top, low), size * self._u * self._rng.uniform(0.5, 1.5), colour, flat)

    def clouds(self, count: int, top: float, low: float, size: float = 1.0) -> None:
        u = size * self._u
        for colour in self._rng.choices([self._colour(code) for code in self._hour["clouds"]], k=count):
            x, y = self._anywhere(top, low)
            for dx, dy, radius in ((-9, 1, 4.5), (-4, -2, 6.5), (3, -3.5, 7.5), (9, 0, 5)):
                self._disc(x + dx * u, y + dy * u, radius * u, colour)
            self._box(x - 13.5 * u, y - u, 27.5 * u, 6.5 * u, colour, 3.2 * u)

    def ridge(
        self, base: float, tall: float, waves: float, code: str, sharp: float = 0, cap: str = ""
    ) -> None:
        """Land up to a wavy line; `sharp` makes peaks of it, whose tops have the colour `cap`."""
        turn, a, b, c = math.tau * waves / self._width, *(self._rng.uniform(0, math.tau) for _ in range(3))
        corners, line, low = [self._width, self._height, 0, self._height], list[float](), list[float]()
        for x in range(-12, self._width + 24, 12):
            wave = 0.35 * math.sin(x * turn + a) + 0.14 * math.sin(x * turn * 2.3 + b)
            peak = 0.6 - 2.4 * abs((x * turn / math.pi + c) % 1 - 0.5)
            high, edge = 0.5 + wave * (1 - sharp) + peak * sharp, 0.72 + 0.05 * (x // 12 % 5 - 2)
            line += [x, base * self._height - tall * self._u * high]
            low += [x, base * self._height - tall * self._u * min(high, edge)]
        self._draw.polygon([*line, *corners], self._colour(cap or code))
        if cap:
            self._draw.polygon([*low, *corners], self._colour(code))

    def water(self, top: float, *codes: str) -> None:
        colours, high = [self._colour(code) for code in codes], round(top * self._height)
        self._image.paste(gradient((self._width, self._height - high), colours), (0, high))
        for x, y in (self._anywhere(top + 0.01, 0.98) for _ in range(90)):
            wide, tint = (
                self._rng.uniform(2, 9) * self._u * y / self._height,
                mix(colours[1], (255, 255, 255), 0.3),
            )
            self._box(x, y, wide, 0.5 * self._u, tint, 0.25 * self._u)

    def blocks(self, base: float, low: float, high: float, wide: float, codes: Sequence[str]) -> None:
        """A row of buildings with windows; some are lit when it is dark."""
        u, rng, x, dark = self._u, self._rng, -2 * self._u, self._hour["name"] in {"night", "dusk"}
        while x < self._width:
            columns, rows = round(rng.uniform(wide * 0.8, wide * 1.3) / 5), round(rng.uniform(low, high) / 5)
            colour, top = self._colour(rng.choice(codes)), base * self._height - 5 * rows * u
            self._box(x, top, (4.4 * columns + 1) * u, self._height, colour)
            for row, column in itertools.product(range(rows), range(columns)):
                lit = (255, 220, 130) if dark and rng.random() < 0.6 else mix(colour, (20, 30, 60), 0.25)
                self._box(
                    x + (1.6 + 4.4 * column) * u, top + (2.2 + 5 * row) * u, 2.2 * u, 2.8 * u, lit, 0.3 * u
                )
            x += (4.4 * columns + 1.6) * u

    def rays(self, count: int, x: float, y: float, code: str) -> None:
        left, top, far = x * self._width, y * self._height, self._height
        for turn in (360 * i / count for i in range(count)):
            box = (left - far, top - far, left + far, top + far)
            self._draw.pieslice(box, turn, turn + 180 / count, self._colour(code))
