"""The storyboard: shots of one place, seen by a slow camera, with caption cards and gentle cross-fades."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from sandbox.renderer.drawing import Lettering, clauses
from sandbox.renderer.scenes import (
    Drifter,
    Place,
    SceneFrame,
    SceneLayer,
    Scenery,
    backdrop,
    city,
    desert,
    drifters,
    forest,
    hills,
    market,
    mood_of,
    quicker,
    sea,
)

FPS = 24
FADE_S = 0.7
_SCENES: dict[Place, Callable[[SceneFrame], Scenery]] = {
    "market": market, "sea": sea, "city": city, "forest": forest, "desert": desert, "hills": hills,
}  # fmt: skip
# zoom, horizon (share of height), sun (shares of width and height), way of the camera
_FRAMINGS: tuple[tuple[float, float, tuple[float, float], int], ...] = (
    (1.0, 0.55, (0.64, 0.40), 1),
    (1.5, 0.46, (0.28, 0.25), -1),
    (2.1, 0.37, (0.72, 0.20), 1),
    (1.2, 0.52, (0.30, 0.31), -1),
)


@dataclass(frozen=True, slots=True)
class Shot:
    """One shot, drawn once; `frame` only moves its parts."""

    stage: SceneFrame
    base: Image.Image
    layers: Sequence[SceneLayer]
    drifters: Sequence[Drifter]
    card: Image.Image | None
    way: int

    def frame(self, t: float, share: float) -> Image.Image:
        """The picture `t` seconds into the shot, `share` (0 to 1) of the camera's way."""
        camera = self.way * (share * 2 - 1) * self.stage.margin * 0.95
        left = self._left(camera, 0.06)
        picture = self.base.crop((left, 0, left + self.stage.width, self.stage.height))
        waiting = sorted(self.drifters, key=lambda d: d.depth)
        for number, layer in enumerate(self.layers):
            while waiting and waiting[0].depth < layer.depth:
                self._drift(picture, waiting.pop(0), t, camera)
            dip = round(layer.sway * _swing(t + number * 0.9)) if layer.sway else 0
            layer.paste(picture, -self._left(camera, layer.depth), dip)
        for drifter in waiting:
            self._drift(picture, drifter, t, camera)
        return picture

    def _left(self, camera: float, depth: float) -> int:
        return round(self.stage.margin + camera * depth)

    def _drift(self, picture: Image.Image, drifter: Drifter, t: float, camera: float) -> None:
        left = self._left(camera, drifter.depth)
        for sprite, x, y in drifter.at(t):
            if -sprite.width < x - left < self.stage.width:
                picture.paste(sprite, (round(x) - left, round(y)), sprite)


class Film:
    """All frames of one video, the same for the same prompt and seed.

    Args:
        prompt: The idea; its clauses become the caption cards.
        caption: Words for the last card, or nothing.
        seconds: Length.
        size: Width and height, pixels, both even.
        seed: The only source of randomness.
        lettering: The font; None uses the bundled one.
    """

    def __init__(
        self, prompt: str, caption: str, seconds: int, size: tuple[int, int], seed: int,
        lettering: Lettering | None = None,
    ) -> None:  # fmt: skip
        self.frames, self.size, self.mood = seconds * FPS, size, mood_of(prompt, seed)
        self._seed, self._unit = seed, min(size) / 100
        self._letters = lettering or Lettering(self._unit)
        self._texts = self._captions(prompt, caption, 3 if seconds <= 4 else 4)
        self._count = len(self._texts)
        self._length = seconds / self._count
        self._label = self._letters.label()
        self._shot = lru_cache(maxsize=2)(self._draw)

    def frame(self, number: int) -> Image.Image:
        """The picture with this number, RGB."""
        now = number / FPS
        at = min(int(now / self._length), self._count - 1)
        picture = self._seen(at, now)
        left = (at + 1) * self._length - now
        if at + 1 < self._count and left < FADE_S:
            share = 1 - left / FADE_S
            picture = Image.blend(picture, self._seen(at + 1, now), share * share * (3 - 2 * share))
        self._write(picture, at, now - at * self._length, left)
        picture.paste(self._label, (round(4 * self._unit), round(4.5 * self._unit)), self._label)
        return picture

    def _seen(self, at: int, now: float) -> Image.Image:
        begin = at * self._length - (FADE_S if at else 0)
        whole = self._length + (FADE_S if at else 0)
        return self._shot(at).frame(now - begin, min(1.0, (now - begin) / whole))

    def _write(self, picture: Image.Image, at: int, since: float, left: float) -> None:
        """The card comes after the cross-fade and goes before the next one."""
        card = self._shot(at).card
        if card is None:
            return
        gone = left - FADE_S if at + 1 < self._count else left + 1
        shown = max(0.0, min(1.0, since / 0.35, gone / 0.3 + 1))
        if shown <= 0:
            return
        mask = card.getchannel("A")
        if shown < 1:
            mask = mask.point([round(v * shown) for v in range(256)])
        place = (round(5 * self._unit), self.size[1] - card.height - round(self._foot()))
        picture.paste(card, (place[0], place[1] + round((1 - shown) * 1.5 * self._unit)), mask)

    def _foot(self) -> float:
        return (9 if self.size[1] > self.size[0] else 6) * self._unit

    def _captions(self, prompt: str, caption: str, most: int) -> list[str]:
        """One text for each shot, three shots at least; some may be without words."""
        last = self._letters.drawable(caption)
        texts = clauses(self._letters.drawable(prompt), most - bool(last)) + [last] * bool(last)
        return texts + [""] * (3 - len(texts))

    def _draw(self, at: int) -> Shot:
        zoom, horizon, sun, way = _FRAMINGS[at if self._count == 4 or at < 2 else 3]
        width, height = self.size
        rng = random.Random(self._seed * 31 + at)  # noqa: S311 - pictures, not secrets
        stage = SceneFrame(
            width, height, round(width * 0.09), self._unit * zoom * self._tall(), height * horizon, sun, zoom,
            self.mood, rng,
        )  # fmt: skip
        scene = _SCENES[self.mood.place](stage)
        return Shot(
            stage, backdrop(stage), quicker(scene.layers), drifters(stage, scene.sources), self._card(at), way
        )

    def _tall(self) -> float:
        return 1.12 if self.size[1] > self.size[0] else 0.86

    def _card(self, at: int) -> Image.Image | None:
        if not self._texts[at]:
            return None
        width, mood = self.size[0] - round(10 * self._unit), self.mood
        kicker = f"SHOT {at + 1} / {self._count}"
        return self._letters.card(
            self._texts[at], kicker, min(width, round(110 * self._unit)), mood.palette.lamp
        )


def _swing(t: float) -> float:
    """From 0 to 2 and back in four seconds: never up, or a gap would show under a wave."""
    return 1 + math.sin(t * math.tau / 4)
