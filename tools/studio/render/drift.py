"""What drifts through a shot: steam, motes, fireflies, glints on water, birds. Each depends on time alone."""

import math
from collections.abc import Iterator

from PIL import Image, ImageDraw

from tools.studio.render.brush import lighter, puff
from tools.studio.render.stage import Drift, Source, Stage

_COUNT: dict[Drift, int] = {"steam": 9, "mote": 10, "firefly": 9, "glint": 22, "bird": 5}
_STEPS = 6  # sizes of puff kept ready: a sprite is made once, then only pasted


class Drifter:
    """All that one source sends out.

    `at(t)` yields (sprite, x, y) in the coordinates of the source's layer; sprites are RGBA.
    """

    def __init__(self, source: Source, stage: Stage) -> None:
        self._source, self._stage = source, stage
        rng = stage.rng
        self._seeds = [(rng.random(), rng.random(), rng.random()) for _ in range(_COUNT[source.kind])]
        self._sprites = _sprites(source.kind, stage, source.depth)
        self.depth = source.depth

    def at(self, t: float) -> Iterator[tuple[Image.Image, float, float]]:
        """What is in the air `t` seconds into the shot."""
        place = {"steam": _rise, "mote": _float, "firefly": _float, "glint": _glint, "bird": _fly}[
            self._source.kind
        ]
        for seed in self._seeds:
            x, y, age = place(t, seed, self._stage.unit)
            sprite = self._sprites[min(int(age * len(self._sprites)), len(self._sprites) - 1)]
            yield sprite, self._source.x + x - sprite.width / 2, self._source.y + y - sprite.height / 2


Seed = tuple[float, float, float]


def _rise(t: float, seed: Seed, u: float) -> tuple[float, float, float]:
    age = (t / 3.2 + seed[0]) % 1
    sway = math.sin(age * 5 + seed[1] * math.tau) * (0.6 + 2.6 * age)
    return (sway + (seed[2] - 0.5) * 1.6) * u, -17 * u * age, age


def _float(t: float, seed: Seed, u: float) -> tuple[float, float, float]:
    x = (seed[0] - 0.5) * 60 + 4 * math.sin(t * 0.7 + seed[1] * math.tau)
    y = (seed[1] - 0.5) * 70 - 2.5 * t + 3 * math.sin(t * 0.9 + seed[2] * math.tau)
    return x * u, y * u, abs(math.sin(t * (0.7 + seed[2]) + seed[0] * math.tau))


def _glint(t: float, seed: Seed, u: float) -> tuple[float, float, float]:
    down = seed[0] ** 1.5
    x = (seed[1] - 0.5) * (10 + 60 * down) + 1.5 * math.sin(t + seed[2] * 9)
    return x * u, down * 52 * u, abs(math.sin(t * 1.4 + seed[2] * math.tau))


def _fly(t: float, seed: Seed, u: float) -> tuple[float, float, float]:
    x = (seed[0] - 0.5) * 34 + 5.5 * t
    y = (seed[1] - 0.5) * 16 - 0.9 * t + math.sin(t * 1.3 + seed[2] * 6)
    return x * u, y * u, (math.sin(t * 9 + seed[2] * math.tau) + 1) / 2


def _sprites(kind: Drift, stage: Stage, depth: float) -> list[Image.Image]:
    u, palette = stage.unit, stage.mood.palette
    ages = [(i + 0.5) / _STEPS for i in range(_STEPS)]
    match kind:
        case "steam":
            white = lighter(palette.sky[-1], 0.6)
            near = 0.6 + 0.6 * depth
            return [
                puff(
                    max(3, round((1.6 + 4.6 * a) * u * near)),
                    white,
                    0.78 * math.sin(math.pi * (0.12 + 0.88 * a)),
                )
                for a in ages
            ]
        case "bird":
            return [_bird(u, a, palette.near) for a in ages]
        case "glint":
            return [_dash(u, a, palette.sun) for a in ages]
        case "mote" | "firefly":
            size = 1.1 if kind == "mote" else 1.9
            strength = 0.5 if kind == "mote" else 0.95
            return [
                puff(max(2, round(size * u * (0.6 + 0.5 * depth))), palette.lamp, strength * a) for a in ages
            ]


def _bird(u: float, beat: float, colour: tuple[int, int, int]) -> Image.Image:
    size = max(8, round(3.4 * u))
    sprite = Image.new("RGBA", (size * 4, size * 4), (*colour, 0))
    draw, middle, wing = ImageDraw.Draw(sprite), size * 2, size * 1.5
    lift = (beat - 0.35) * size * 1.3
    for side in (-1, 1):
        points = [
            (middle, middle),
            (middle + side * wing * 0.5, middle - lift),
            (middle + side * wing, middle - lift * 0.55),
        ]
        draw.line(points, fill=(*colour, 220), width=max(3, size // 5), joint="curve")
    return sprite.reduce(4)


def _dash(u: float, age: float, colour: tuple[int, int, int]) -> Image.Image:
    wide, tall = max(4, round(4.4 * u * (0.3 + age))), max(2, round(0.55 * u))
    sprite = Image.new("RGBA", (wide * 2, tall * 2), (*colour, 0))
    ImageDraw.Draw(sprite).rounded_rectangle(
        (0, 0, wide * 2 - 1, tall * 2 - 1), radius=tall, fill=(*colour, round(210 * age))
    )
    return sprite.reduce(2)


def drifters(stage: Stage, sources: list[Source]) -> list[Drifter]:
    """At most six sources: a shot crowded with pots must not cost more time than it has."""
    chosen = sources if len(sources) <= 6 else stage.rng.sample(sources, 6)
    return [Drifter(source, stage) for source in chosen]
