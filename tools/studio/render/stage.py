"""What a scene is built from: layers that move at different speeds, and things that drift between them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Final, Literal

from PIL import Image

from tools.studio.render.brush import Sheet
from tools.studio.render.mood import Mood

Drift = Literal["steam", "mote", "firefly", "glint", "bird"]
_TILE: Final = 64  # pixels
_EMPTY, _SOLID = (0, 0), (255, 255)  # least and greatest alpha


@dataclass(frozen=True, slots=True)
class Stage:
    """The empty stage of one shot.

    Attributes:
        width: Of the picture, pixels.
        height: Of the picture, pixels.
        margin: Pixels by which every layer is wider than the picture, on each side.
        unit: Pixels of one hundredth of the shorter side, times the zoom of this shot.
        horizon: Where the sky ends, pixels from the top.
        sun: Where sun or moon stand, as shares of width and height.
        zoom: 1 for a wide shot, more for a close one.
        mood: Place, hour and colours.
        rng: The only source of chance.
    """

    width: int
    height: int
    margin: int
    unit: float
    horizon: float
    sun: tuple[float, float]
    zoom: float
    mood: Mood
    rng: random.Random

    @property
    def span(self) -> int:
        """Width of a layer."""
        return self.width + 2 * self.margin

    def sheet(self, top: float, bottom: float | None = None) -> Sheet:
        """A sheet from `top` to `bottom`, or to the floor of the picture."""
        return Sheet(self.span, max(0, top), self.height if bottom is None else min(bottom, self.height))


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a layer, `at` pixels from its corner. Nothing shines through a solid one: it is copied."""

    picture: Image.Image
    at: tuple[int, int]
    solid: bool


@dataclass(frozen=True, slots=True)
class Layer:
    """One strip. `depth` is the share of the camera's way that it follows: 0 at the sky, 1 up front."""

    picture: Image.Image
    left: int
    top: int
    depth: float
    sway: float = 0.0  # pixels up and down, for things on water
    pieces: Sequence[Piece] = ()  # the same picture without its empty parts, if it was taken to pieces

    def paste(self, onto: Image.Image, left: int, top: int) -> None:
        """Put the layer where its own corner says, moved by `left` and `top` pixels."""
        x, y = self.left + left, self.top + top
        for piece in self.pieces or (Piece(self.picture, (0, 0), solid=False),):
            place = (x + piece.at[0], y + piece.at[1])
            onto.paste(piece.picture, place, None if piece.solid else piece.picture)


@dataclass(frozen=True, slots=True)
class Source:
    """Where something drifts from, in the coordinates of its layer."""

    kind: Drift
    x: float
    y: float
    depth: float


@dataclass(slots=True)
class Scenery:
    layers: list[Layer] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)

    def add(self, sheet: Sheet, depth: float, *, sway: float = 0.0, blur: float = 0.0) -> None:
        """Put a finished sheet in front of all others, without its empty edge: pasting air costs time."""
        picture = sheet.finish(blur=blur)
        inked = picture.getbbox(alpha_only=True)
        if inked is None:
            return
        left, top = inked[:2]
        self.layers.append(Layer(picture.crop(inked), left, sheet.top + top, depth, sway))


def quicker(layers: Sequence[Layer]) -> list[Layer]:
    """The same picture from fewer layers, each in pieces: every frame pastes them all."""
    return [replace(layer, pieces=_pieces(layer.picture)) for layer in _joined(layers)]


def _pieces(picture: Image.Image) -> list[Piece]:
    """Part a picture into rectangles that are all solid or not, and leave out those that are empty."""
    alpha, (width, height) = picture.getchannel("A"), picture.size
    done, columns = list[Piece](), range(0, width, _TILE)
    for top in range(0, height, _TILE):
        bottom = min(top + _TILE, height)
        tiles = [alpha.crop((x, top, min(x + _TILE, width), bottom)).getextrema() for x in columns]
        kinds = [kind if kind in (_EMPTY, _SOLID) else None for kind in tiles]
        for kind, run in groupby(zip(columns, kinds, strict=True), key=itemgetter(1)):
            if kind != _EMPTY:
                lefts = [x for x, _ in run]
                part = picture.crop((lefts[0], top, min(lefts[-1] + _TILE, width), bottom))
                solid = kind == _SOLID
                done.append(Piece(part.convert("RGB") if solid else part, (lefts[0], top), solid))
    return done


def _joined(layers: Sequence[Layer], near: float = 0.11) -> list[Layer]:
    """Neighbours of almost the same depth, pasted onto one another once."""
    done = list[Layer]()
    for layer in layers:
        last = done[-1] if done else None
        if last is None or last.sway or layer.sway or abs(layer.depth - last.depth) > near:
            done.append(layer)
            continue
        left, top = min(last.left, layer.left), min(last.top, layer.top)
        right = max(one.left + one.picture.width for one in (last, layer))
        bottom = max(one.top + one.picture.height for one in (last, layer))
        both = Image.new("RGBA", (right - left, bottom - top))
        for one in (last, layer):
            both.alpha_composite(one.picture, (one.left - left, one.top - top))
        done[-1] = Layer(both, left, top, last.depth)
    return done
