"""The film: actors on a scene seen by a slow camera, or the user's picture, with the idea on a card."""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from providers.base import BadAsset
from sandbox.renderer.drawing import Lettering, Size, glow
from sandbox.renderer.scenes import MARGIN, Scene
from sandbox.renderer.subjects import motion_of, subjects_of

FPS = 24
ZOOM = 1.2  # how much closer a picture is at the end than at the beginning
_COME_IN_S = 0.6  # all are there within the first second, from which the thumbnail is taken
# Units right of the middle and size in units, for one, two and three actors.
# A style is a treatment of the colours: the rows of a matrix from red, green, blue and 1 to each of them.
_COLOURS: dict[str, tuple[float, ...]] = {
    "realistic": (0.9, 0.1, 0, -6, 0.05, 0.9, 0.05, -6, 0, 0.15, 0.85, -2),
    "animation": (1.25, -0.15, -0.1, 8, -0.1, 1.2, -0.1, 8, -0.1, -0.15, 1.25, 8),
    "anime": (1.1, -0.1, 0.1, 18, -0.05, 1.05, 0.1, 10, 0.05, 0, 1.1, 26),
    "watercolour": (0.62, 0.08, 0.02, 84, 0.04, 0.64, 0.04, 84, 0.02, 0.1, 0.6, 80),
    "clay": (0.75, 0.25, 0, 24, 0.2, 0.65, 0.05, 6, 0.15, 0.25, 0.45, -4),
    "black_and_white": (0.3, 0.59, 0.11, 0) * 3,
}
_PLACES = (((0, 62),), ((-16, 46), (24, 34)), ((0, 44), (31, 28), (-31, 28)))


@dataclass(frozen=True, slots=True)
class _Actor:
    """`x` and `y` are the middle of its feet in pixels; it comes at `begins` seconds."""

    sprite: Image.Image
    shadow: Image.Image | None
    motion: str
    x: float
    y: float
    unit: float
    begins: float

    def paste(self, picture: Image.Image, t: float, shift: float) -> None:
        come = 1 - (1 - min(1.0, max(0.0, (t - self.begins) / _COME_IN_S))) ** 3
        sprite, late, u = self.sprite, t + 2 * self.begins, self.unit
        far, right, down = {
            "fly": ((75, -30), 3 * math.sin(0.9 * late), -3.5 + 3 * math.sin(1.6 * late)),
            "swim": ((95, 0), 2 * math.sin(0.7 * late), 1.3 * math.sin(1.8 * late)),
            "roll": ((95, 0), 4 - 1.1 * t, -1.6 * abs(math.sin(4 * late))),
            "bob": ((0, 0), 0, -1.2 - 1.2 * math.sin(2.2 * late)),
        }[self.motion]
        x, y = self.x - shift + (right + far[0] * (1 - come)) * u, self.y + far[1] * (1 - come) * u
        if self.motion == "bob" and come < 1:
            sprite = ImageOps.scale(sprite, max(0.02, come * (1.4 - 0.4 * come)), Image.Resampling.BILINEAR)
        for image, feet in ((self.shadow, y + 2.5 * u), (sprite, y + down * u)):
            if image is not None:
                picture.paste(image, (round(x) - image.width // 2, round(feet) - image.height), image)


class Film:
    """All frames of one video, the same for the same words and seed.

    Args:
        prompt: What the director wrote; read if the idea names nothing, and shown only if there is no idea.
        caption: The user's idea, shown on the card.
        seconds: Length.
        size: Width and height, pixels, both even.
        seed: With the words, the only source of chance.
        picture: A JPEG or PNG to animate in place of a scene. `BadAsset` if it cannot be read.
        style: The word of a style, which treats the colours; another word changes nothing.
        letters: The fonts; None uses those that travel with OneTake. `FontMissing` if one is missing.
    """

    def __init__(
        self, prompt: str, caption: str, seconds: int, size: Size, seed: int,
        picture: Path | None = None, letters: Lettering | None = None, *, style: str = "",
    ) -> None:  # fmt: skip
        self._colours = _COLOURS.get(style)
        self.frames, self.size, self._u = seconds * FPS, size, min(size) / 100
        self._letters = letters or Lettering(self._u)
        words, found = self._letters.drawable(caption or prompt), subjects_of(caption or prompt, prompt)
        dice = seed ^ zlib.crc32(words.encode())
        self._way = 1 if dice % 2 else -1
        self._photo = None if picture is None else _photo(picture, size)
        self._scene = Scene(size, found.setting, dice)
        actors = () if self._photo else found.actors or (() if words else ("🎬",))
        self._actors = [self._actor(name, at, _PLACES[len(actors) - 1][at]) for at, name in enumerate(actors)]
        alone = not actors and not self._photo
        most, sizes = (7, (10, 8.5, 7, 6)) if alone else (4, (5.6, 4.9, 4.3))
        width = round(min(size[0] - 20 * self._u, 100 * self._u))
        self._card = self._letters.card(words, width, most, sizes) if words else Image.new("RGBA", (1, 1))
        self._top = (size[1] - self._card.height) * (0.5 if alone else 1) - (0 if alone else 8 * self._u)
        self._label = self._letters.label()

    def frame(self, number: int) -> Image.Image:
        """The picture with this number, RGB."""
        t, share = number / FPS, number / max(1, self.frames - 1)
        picture = self._zoomed(self._photo, share) if self._photo else self._played(t, share)
        if self._colours is not None:
            picture = picture.convert("RGB", self._colours)
        shown, mask = min(1.0, t / 0.5), self._card.getchannel("A")
        if shown < 1:
            mask = mask.point([round(v * shown) for v in range(256)])
        place = ((self.size[0] - self._card.width) // 2, round(self._top + (1 - shown) * 3 * self._u))
        picture.paste(self._card, place, mask)
        picture.paste(self._label, (round(4 * self._u), round(4.5 * self._u)), self._label)
        return picture

    def _played(self, t: float, share: float) -> Image.Image:
        shift = self._way * (2 * share - 1) * MARGIN * self.size[0] * 0.8
        picture = self._scene.behind(shift)
        for actor in reversed(self._actors):
            actor.paste(picture, t, shift)
        self._scene.before(picture, t)
        return picture

    def _zoomed(self, photo: Image.Image, share: float) -> Image.Image:
        wide, tall = (side / (1 + (ZOOM - 1) * share) for side in photo.size)
        left, top = (photo.width - wide) * (0.5 + 0.4 * self._way * share), (photo.height - tall) * 0.4
        return photo.resize(self.size, Image.Resampling.BILINEAR, box=(left, top, left + wide, top + tall))

    def _actor(self, name: str, at: int, place: tuple[int, int]) -> _Actor:
        motion, u, landscape = motion_of(name), self._u, self.size[0] > self.size[1]
        sprite = self._letters.picture(name, place[1] * u * (0.8 if landscape else 1))
        x = self.size[0] / 2 + self._way * place[0] * u * (1.6 if landscape else 1)
        lift = -10 - 16 * (at == 0) if motion == "fly" else 3 * (at == 0)
        wide, shade = round(sprite.width * 1.2), None if motion == "fly" else self._scene.shade
        shadow = glow(wide / 2, shade, 0.6).resize((wide, round(5 * u))) if shade else None
        return _Actor(sprite, shadow, motion, x, self._scene.floor + lift * u, u, 0.15 * at)


def _photo(path: Path, size: Size) -> Image.Image:
    """The user's picture, upright and cut to the film's shape, large enough for the closest view."""
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as file:
            upright = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        raise BadAsset("the picture of the order cannot be read") from None
    return ImageOps.fit(upright, (round(size[0] * ZOOM), round(size[1] * ZOOM)))
