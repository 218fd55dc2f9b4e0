"""One layered scene, with presets per place and hour (shrinks, see section 6)."""

import math
import random
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Final, Literal, TypeVar

from PIL import Image, ImageDraw, ImageFilter

from sandbox.renderer.drawing import XY, Colour, Sheet, darker, gradient, lighter, mix, puff, shine

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


Drift = Literal["steam", "mote", "firefly", "glint", "bird"]
_TILE: Final = 64  # pixels
_EMPTY, _SOLID = (0, 0), (255, 255)  # least and greatest alpha


@dataclass(frozen=True, slots=True)
class SceneFrame:
    """The empty frame of one shot.

    Attributes:
        width: Of the picture, pixels.
        height: Of the picture, pixels.
        margin: Pixels by which every layer is wider than the picture, on each side.
        unit: Pixels of one hundredth of the shorter side, times the zoom of this shot.
        horizon: Where the sky ends, pixels from the top.
        sun: Position of sun or moon, as shares of width and height.
        zoom: 1 for a wide shot, more for a close one.
        mood: Place, hour and colours.
        rng: The only source of randomness.
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
        """A sheet from `top` to `bottom`, or to the bottom of the picture."""
        return Sheet(self.span, max(0, top), self.height if bottom is None else min(bottom, self.height))


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a layer, `at` pixels from its corner. Nothing shines through a solid one: it is copied."""

    picture: Image.Image
    at: tuple[int, int]
    solid: bool


@dataclass(frozen=True, slots=True)
class SceneLayer:
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
    layers: list[SceneLayer] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)

    def add(self, sheet: Sheet, depth: float, *, sway: float = 0.0, blur: float = 0.0) -> None:
        """Put a finished sheet in front of all others, without its empty edge: pasting air costs time."""
        picture = sheet.finish(blur=blur)
        inked = picture.getbbox(alpha_only=True)
        if inked is None:
            return
        left, top = inked[:2]
        self.layers.append(SceneLayer(picture.crop(inked), left, sheet.top + top, depth, sway))


def quicker(layers: Sequence[SceneLayer]) -> list[SceneLayer]:
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


def _joined(layers: Sequence[SceneLayer], near: float = 0.11) -> list[SceneLayer]:
    """Neighbours of almost the same depth, pasted onto one another once."""
    done = list[SceneLayer]()
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
        done[-1] = SceneLayer(both, left, top, last.depth)
    return done


def backdrop(stage: SceneFrame) -> Image.Image:
    """The sky with its lights and clouds over bare ground, as wide as a layer."""
    palette, horizon = stage.mood.palette, int(stage.horizon)
    ground = (mix(palette.ground, palette.sky[-1], 0.35), palette.ground, darker(palette.ground, 0.35))
    picture = gradient((stage.span, stage.height), ground)
    picture.paste(gradient((stage.span, horizon), palette.sky), (0, 0))
    if stage.mood.hour == "night":
        _stars(stage, picture)
    centre = (stage.margin + stage.sun[0] * stage.width, stage.sun[1] * stage.height)
    strength = 0.6 if stage.mood.hour == "night" else 1.0
    shine(picture, centre, 80 * stage.unit / stage.zoom, palette.sun, 0.55 * strength)
    shine(picture, centre, 26 * stage.unit, lighter(palette.sun, 0.4), 0.7 * strength)
    _clouds(stage, picture)
    _orb(stage, picture, centre)
    return picture


def ridge(stage: SceneFrame, base: float, height: float, *, waves: float = 2.0) -> list[XY]:
    """A skyline around `base` with hills `height` pixels tall; `waves` of them fit into the picture."""
    phases = [stage.rng.uniform(0, math.tau) for _ in range(3)]
    turn = math.tau * waves / stage.width
    step = max(4, stage.span // 120)

    def at(x: float) -> float:
        tall = math.sin(x * turn + phases[0]) + 0.45 * math.sin(x * turn * 2.3 + phases[1])
        return base - height * (0.5 + 0.33 * tall + 0.06 * math.sin(x * turn * 6.1 + phases[2]))

    return [(float(x), at(x)) for x in range(-step, stage.span + 2 * step, step)]


def slope(
    stage: SceneFrame, scene: Scenery, points: list[XY], colour: Colour, depth: float, *,
    floor: float | None = None, blur: float = 0.0,
) -> Sheet:  # fmt: skip
    """Fill the land under `points` and add it to the scene."""
    bottom = stage.height if floor is None else floor
    sheet = stage.sheet(min(y for _, y in points) - 2, bottom)
    sheet.shape([*points, (points[-1][0], bottom), (points[0][0], bottom)], colour)
    scene.add(sheet, depth, blur=blur)
    return sheet


def far_hills(stage: SceneFrame, scene: Scenery, *, tall: float = 14) -> None:
    """Two hazy ranges at the horizon."""
    palette = stage.mood.palette
    for share, depth, waves in ((0.3, 0.12, 1.3), (0.75, 0.22, 2.1)):
        points = ridge(stage, stage.horizon + 2, tall * stage.unit * (1.15 - 0.5 * share), waves=waves)
        colour = mix(palette.sky[-2], palette.far, 0.35 + 0.6 * share)
        slope(stage, scene, points, colour, depth, floor=stage.horizon + 4 * stage.unit)


def _stars(stage: SceneFrame, picture: Image.Image) -> None:
    draw, rng = ImageDraw.Draw(picture), stage.rng
    for _ in range(130):
        x, y = rng.uniform(0, stage.span), rng.uniform(0, stage.horizon) * rng.uniform(0.2, 0.95)
        size = rng.choice((0.0, 0.0, 0.5, 1.0)) * max(1.0, stage.unit / 7)
        light = mix((150, 165, 215), (255, 252, 240), rng.random())
        draw.ellipse((x, y, x + size, y + size), fill=light)


def _clouds(stage: SceneFrame, picture: Image.Image) -> None:
    """Soft banks, drawn small and enlarged: blurring them in full size would cost more than the film."""
    palette, rng, small = stage.mood.palette, stage.rng, 6
    mask = Image.new("L", (stage.span // small, max(2, int(stage.horizon) // small)))
    draw = ImageDraw.Draw(mask)
    for _ in range(7):
        x, y = rng.uniform(0, mask.width), rng.uniform(0.15, 0.85) * mask.height
        long, strength = rng.uniform(4, 11) * stage.unit / small, rng.randint(60, 130)
        for _ in range(9):
            dx, r = rng.gauss(0, 0.8) * long, rng.uniform(0.25, 0.7) * long
            draw.ellipse((x + dx - r, y - r * 0.2, x + dx + r, y + r * 0.2), fill=strength)
    mask = mask.filter(ImageFilter.GaussianBlur(2.2)).resize(
        (stage.span, int(stage.horizon)), Image.Resampling.BICUBIC
    )
    night = stage.mood.hour == "night"
    colour = mix(palette.sky[2], palette.sun, 0.12 if night else 0.6)
    picture.paste(Image.new("RGB", mask.size, colour), (0, 0), mask)


def _orb(stage: SceneFrame, picture: Image.Image, centre: XY) -> None:
    radius, sun = 5.5 * stage.unit, stage.mood.palette.sun
    sheet = Sheet(stage.span, centre[1] - 2 * radius, centre[1] + 2 * radius)
    sheet.disc(centre, radius, lighter(sun, 0.3))
    if stage.mood.hour == "night":
        for dx, dy, r in ((-0.3, -0.2, 0.22), (0.25, 0.3, 0.16), (0.3, -0.35, 0.1)):
            sheet.disc((centre[0] + dx * radius, centre[1] + dy * radius), r * radius, darker(sun, 0.12))
    drawn = sheet.finish(blur=0.6)
    picture.paste(drawn, (0, sheet.top), drawn)


def sea(stage: SceneFrame) -> Scenery:
    scene, palette, u = Scenery(), stage.mood.palette, stage.unit
    far_hills(stage, scene, tall=9)
    water = mix(mix(palette.sky[0], (22, 110, 140), 0.55), palette.near, 0.1)
    sun = stage.margin + stage.sun[0] * stage.width
    _water(stage, scene, water, sun)
    scene.sources += [
        Source("glint", sun, stage.horizon + 2 * u, 0.1),
        Source("bird", sun, stage.horizon * 0.6, 0.3),
    ]
    low = stage.height - stage.horizon
    for i in range(5):
        share = (i + 1) / 5.4
        y = stage.horizon + low * share**1.15
        if i in {1, 3}:
            _boat(stage, scene, y - 0.4 * u, 0.55 + 0.5 * share, 0.25 + 0.6 * share)
        _wave(stage, scene, y, mix(lighter(water, 0.3), darker(water, 0.42), share), 0.25 + 0.7 * share)
    return scene


def forest(stage: SceneFrame) -> Scenery:
    scene, palette, u = Scenery(), stage.mood.palette, stage.unit
    far_hills(stage, scene, tall=24)
    green = mix((46, 128, 104), palette.near, 0.12 if stage.mood.hour == "day" else 0.42)
    for share in (0.1, 0.38, 0.66, 0.94):
        base = stage.horizon + (stage.height - stage.horizon) * share * 0.72
        colour = mix(mix(palette.sky[-2], green, 0.5), darker(green, 0.55), share)
        points = ridge(stage, base + 5 * u, 9 * u, waves=0.8 + share)
        _pines(stage, scene, points, colour, share)
    kind: Drift = "mote" if stage.mood.hour in {"dawn", "day"} else "firefly"
    scene.sources += [Source(kind, stage.span * s, stage.height * 0.7, 0.98) for s in (0.15, 0.4, 0.6, 0.85)]
    scene.sources.append(Source("bird", stage.span / 2, stage.horizon * 0.45, 0.2))
    return scene


def desert(stage: SceneFrame) -> Scenery:
    scene, palette, u = Scenery(), stage.mood.palette, stage.unit
    far_hills(stage, scene, tall=20)
    sand = mix((226, 160, 96), palette.near, 0.08 if stage.mood.hour == "day" else 0.4)
    for share in (0.2, 0.5, 0.8):
        base = stage.horizon + (stage.height - stage.horizon) * share
        points = ridge(stage, base, 13 * u, waves=0.8 + share)
        paint = mix(mix(sand, palette.sky[-1], 0.35), darker(sand, 0.4), share)
        slope(stage, scene, points, lighter(paint, 0.35), 0.25 + 0.6 * share)
        slope(stage, scene, [(x, y + 0.7 * u) for x, y in points], paint, 0.25 + 0.6 * share)
        sheet = stage.sheet(base - 42 * u, base)
        for _ in range(2):
            foot = stage.rng.choice(points)
            _cactus(
                sheet,
                (foot[0], foot[1] + 2 * u),
                u * (0.4 + share),
                darker(mix((40, 96, 80), paint, 0.2), 0.3 * share),
            )
        scene.add(sheet, 0.25 + 0.6 * share)
    scene.sources += [Source("mote", stage.span * s, stage.height * 0.7, 0.6) for s in (0.3, 0.7)]
    return scene


def hills(stage: SceneFrame) -> Scenery:
    scene, palette, u = Scenery(), stage.mood.palette, stage.unit
    far_hills(stage, scene, tall=30)
    green = mix((96, 158, 96), palette.near, 0.1 if stage.mood.hour == "day" else 0.5)
    for share in (0.15, 0.4, 0.65, 0.95):
        base = stage.horizon + (stage.height - stage.horizon) * share
        points = ridge(stage, base, 15 * u, waves=0.7 + 0.6 * share)
        paint = mix(mix(green, palette.sky[-1], 0.4), darker(green, 0.45), share)
        depth = 0.25 + 0.65 * share
        sheet = stage.sheet(base - 40 * u, base + 2 * u)
        for _ in range(4):
            x, y = stage.rng.choice(points)
            _round_tree(sheet, (x, y + 1.2 * u), u * (0.4 + 0.9 * share), darker(paint, 0.28))
        if share == 0.4:
            _cottage(sheet, stage.rng.choice(points[len(points) // 4 : len(points) // 2]), u, stage)
        scene.add(sheet, depth)
        slope(stage, scene, points, lighter(paint, 0.22), depth)
        slope(stage, scene, [(x, y + 1.1 * u) for x, y in points], paint, depth)
    scene.sources += [Source("mote", stage.span * s, stage.height * 0.66, 0.7) for s in (0.3, 0.6)]
    scene.sources.append(Source("bird", stage.span * 0.4, stage.horizon * 0.5, 0.2))
    return scene


def _water(stage: SceneFrame, scene: Scenery, water: Colour, sun: float) -> None:
    palette, u = stage.mood.palette, stage.unit
    sheet = stage.sheet(stage.horizon)
    tall = stage.height - stage.horizon
    bands = 26
    for i in range(bands):
        paint = mix(mix(palette.sky[-1], water, 0.35), darker(water, 0.3), (i / bands) ** 0.6)
        sheet.box(
            0, stage.horizon + tall * i / bands, stage.span, stage.horizon + tall * (i + 1) / bands + 1, paint
        )
    for _ in range(60):
        share = stage.rng.random() ** 1.6
        x, half = sun + stage.rng.gauss(0, 4 + 22 * share) * u, stage.rng.uniform(0.8, 5) * u * (0.4 + share)
        y = stage.horizon + (0.6 * u) + tall * 0.7 * share
        paint = mix(mix(palette.sky[-1], water, 0.35 + 0.4 * share), palette.sun, 0.75 - 0.45 * share)
        sheet.box(x - half, y, x + half, y + 0.45 * u, paint, round_by=0.2 * u)
    scene.add(sheet, 0.12)


def _wave(stage: SceneFrame, scene: Scenery, y: float, paint: Colour, depth: float) -> None:
    u, phase = stage.unit, stage.rng.uniform(0, math.tau)
    length = stage.unit * (14 + 22 * depth)
    crest: list[XY] = [
        (
            float(x),
            y
            + depth * 1.5 * u * (math.sin(x / length * math.tau + phase) + 0.4 * math.sin(x / length * 4.1)),
        )
        for x in range(-8, stage.span + 16, 8)
    ]
    sheet = stage.sheet(y - 4 * u)
    floor = float(stage.height)
    for down, colour in ((0.0, lighter(paint, 0.4)), (0.55, paint)):
        sheet.shape(
            [*((x, cy + down * u * depth) for x, cy in crest), (crest[-1][0], floor), (-8, floor)], colour
        )
    scene.add(sheet, depth, sway=1.1 * u * depth)


def _boat(stage: SceneFrame, scene: Scenery, y: float, size: float, depth: float) -> None:
    u, x = stage.unit * size, stage.margin + stage.width * stage.rng.uniform(0.15, 0.85)
    sheet = stage.sheet(y - 30 * u, y + 3 * u)
    hull = mix(stage.rng.choice(stage.mood.palette.bright), stage.mood.palette.near, 0.25)
    sail = mix((252, 244, 226), stage.mood.palette.sky[-2], 0.25)
    sheet.shape(
        [(x - 8 * u, y - 2.4 * u), (x + 9 * u, y - 2.8 * u), (x + 6 * u, y + 2 * u), (x - 6 * u, y + 2 * u)],
        hull,
    )
    sheet.line([(x, y - 2.5 * u), (x, y - 26 * u)], darker(hull, 0.5), 0.5 * u)
    sheet.shape([(x + 0.6 * u, y - 25 * u), (x + 0.6 * u, y - 4 * u), (x + 9 * u, y - 4.6 * u)], sail)
    sheet.shape(
        [(x - 0.6 * u, y - 23 * u), (x - 0.6 * u, y - 4 * u), (x - 6.6 * u, y - 4.4 * u)], darker(sail, 0.12)
    )
    scene.add(sheet, depth, sway=1.3 * u)


def _pines(stage: SceneFrame, scene: Scenery, points: list[XY], colour: Colour, share: float) -> None:
    u, rng = stage.unit * (0.45 + 0.85 * share), stage.rng
    sheet = stage.sheet(min(y for _, y in points) - 44 * u)
    stems = [(x, y) for x, y in points[:: round(5 + 9 * share * stage.zoom)]]
    for x, y in sorted(stems, key=lambda _: rng.random()):
        _pine(
            sheet,
            (x + rng.uniform(-3, 3) * u, y + 2 * u),
            rng.uniform(18, 38) * u,
            mix(colour, (70, 160, 130), rng.uniform(0, 0.16)),
        )
    sheet.shape(
        [*points, (stage.span + 9.0, float(stage.height)), (-9.0, float(stage.height))],
        mix(colour, (70, 160, 130), 0.08),
    )
    for x, y in points[::2]:
        sheet.disc(
            (x + rng.uniform(-2, 2) * u, y + 0.4 * u),
            rng.uniform(1.5, 3.2) * u,
            mix(colour, (70, 160, 130), 0.08),
            ry=1.6 * u,
        )
    scene.add(sheet, 0.2 + 0.75 * share)


def _pine(sheet: Sheet, foot: XY, tall: float, paint: Colour) -> None:
    x, y = foot
    sheet.box(
        x - 0.03 * tall, y - 0.2 * tall, x + 0.03 * tall, y, darker(mix(paint, (110, 70, 56), 0.4), 0.3)
    )
    for step in range(4):
        low, half = y - tall * (0.1 + 0.2 * step), tall * (0.24 - 0.045 * step)
        top = (x, low - tall * (0.36 - 0.03 * step))
        sheet.shape(
            [(x - half, low), (x, low + 0.03 * tall), (x + half, low), top], darker(paint, 0.16 - 0.04 * step)
        )
        sheet.shape(
            [(x - half, low), (x - half * 0.1, low + 0.026 * tall), top],
            mix(paint, (150, 210, 170), 0.04 + 0.04 * step),
        )


def _cactus(sheet: Sheet, foot: XY, u: float, colour: Colour) -> None:
    x, y = foot
    sheet.box(x - 1.4 * u, y - 18 * u, x + 1.4 * u, y, colour, round_by=1.4 * u)
    for side, high in ((-1, 8), (1, 11)):
        a, b = x + side * 4.6 * u, x
        sheet.box(min(a, b) - u, y - (high - 1) * u, max(a, b) + u, y - (high - 3) * u, colour, round_by=u)
        sheet.box(a - u, y - (high + 5) * u, a + u, y - (high - 3) * u, colour, round_by=u)


def _round_tree(sheet: Sheet, foot: XY, u: float, colour: Colour) -> None:
    x, y = foot
    sheet.box(x - 0.5 * u, y - 7 * u, x + 0.5 * u, y, darker(colour, 0.4))
    for dx, dy, r in ((0, 10, 4.6), (-2.6, 8, 3.2), (2.8, 8.2, 3.4)):
        sheet.disc((x + dx * u, y - dy * u), r * u, colour)
    sheet.disc((x - 1.2 * u, y - 11.4 * u), 2.6 * u, lighter(colour, 0.16))


def _cottage(sheet: Sheet, foot: XY, u: float, stage: SceneFrame) -> None:
    x, y = foot
    wall = mix((246, 232, 208), stage.mood.palette.far, 0.25)
    sheet.box(x - 5 * u, y - 6 * u, x + 5 * u, y + 3 * u, wall)
    roof = mix((186, 84, 66), stage.mood.palette.near, 0.2)
    corners = ((-6.4, 6.0), (6.4, 6.0), (3.6, 10.5), (-3.6, 10.5))
    sheet.shape([(x + dx * u, y - dy * u) for dx, dy in corners], roof)
    sheet.box(x - 0.9 * u, y - 3.6 * u, x + 1.1 * u, y + 2 * u, darker(wall, 0.5))
    for dx in (-3.2, 3.2):
        sheet.box(x + (dx - 0.8) * u, y - 4 * u, x + (dx + 0.8) * u, y - 2.2 * u, stage.mood.palette.lamp)


_SKIN: tuple[Colour, ...] = ((150, 98, 72), (176, 118, 86), (122, 78, 58))
_CREAM: Colour = (250, 238, 214)
_CLAY: Colour = (150, 84, 62)
_WOOD: Colour = (112, 74, 58)


def stall(sheet: Sheet, foot: XY, wide: float, u: float, turn: int, stage: SceneFrame) -> list[XY]:
    """Draw a stall around `foot` and return where it steams.

    Args:
        sheet: Where to draw.
        foot: The middle of its foot, pixels.
        wide: Pixels.
        u: Its unit: a vendor is about 22 units tall.
        turn: Which paint of the palette it has.
        stage: For colours and chance.
    """
    x, ground = foot
    left, right, rng = x - wide / 2, x + wide / 2, stage.rng
    paint = stage.mood.palette.bright[turn % 6]
    tint = _tint(stage)
    sheet.disc((x, ground + 0.6 * u), wide * 0.56, (20, 12, 28), ry=2.2 * u, alpha=70)
    sheet.box(
        left + u, ground - 27 * u, right - u, ground - 10 * u, darker(mix(paint, tint, 0.3), 0.55), alpha=215
    )
    sheet.light((x, ground - 23 * u), 15 * u, stage.mood.palette.lamp, 0.55)
    for post in (left + 1.2 * u, right - 2.2 * u):
        sheet.box(post, ground - 30 * u, post + u, ground, mix(_WOOD, tint, 0.25))
    _vendor(sheet, (x + rng.uniform(-0.22, 0.22) * wide, ground - 10 * u), u, stage)
    pots = _table(sheet, (left, right, ground), u, stage.mood.palette.bright[(turn + 2) % 6], stage)
    _awning(sheet, (left - 2.2 * u, right + 2.2 * u, ground - 29 * u), u, mix(paint, tint, 0.12))
    sheet.line([(x, ground - 28 * u), (x, ground - 25.4 * u)], (40, 28, 40), 0.25 * u)
    sheet.light((x, ground - 24.6 * u), 5 * u, stage.mood.palette.lamp, 0.9)
    sheet.disc((x, ground - 24.6 * u), 0.9 * u, lighter(stage.mood.palette.lamp, 0.6))
    return pots


def _tint(stage: SceneFrame) -> Colour:
    return stage.mood.palette.far if stage.mood.hour != "day" else stage.mood.palette.sky[-1]


def _vendor(sheet: Sheet, foot: XY, u: float, stage: SceneFrame) -> None:
    x, y = foot
    rng = stage.rng
    shirt = mix(
        rng.choice(((244, 234, 216), (216, 84, 92), (60, 130, 150), (240, 190, 90))), _tint(stage), 0.2
    )
    skin = mix(rng.choice(_SKIN), _tint(stage), 0.12)
    side = rng.choice((-1, 1))
    sheet.box(x - 3 * u, y - 8.6 * u, x + 3 * u, y + 2 * u, shirt, round_by=2.2 * u)
    sheet.line([(x + side * 2.4 * u, y - 6.6 * u), (x + side * 5.4 * u, y - 2.4 * u)], shirt, 1.7 * u)
    sheet.disc((x + side * 5.6 * u, y - 2 * u), 0.85 * u, skin)
    sheet.box(x - 0.8 * u, y - 10 * u, x + 0.8 * u, y - 8 * u, darker(skin, 0.1))
    sheet.disc((x, y - 11.2 * u), 2.05 * u, skin, ry=2.35 * u)
    if rng.random() < 0.6:
        straw = mix((226, 184, 116), _tint(stage), 0.15)
        sheet.disc((x, y - 12.4 * u), 4.5 * u, straw, ry=0.95 * u)
        sheet.box(x - 1.9 * u, y - 15.2 * u, x + 1.9 * u, y - 12.4 * u, straw, round_by=1.2 * u)
        sheet.box(
            x - 1.9 * u, y - 13.3 * u, x + 1.9 * u, y - 12.6 * u, stage.mood.palette.bright[rng.randrange(6)]
        )
    else:
        sheet.disc((x, y - 12.6 * u), 2.2 * u, (44, 30, 36), ry=1.5 * u)
        sheet.disc((x - side * 1.8 * u, y - 11 * u), 0.9 * u, (44, 30, 36), ry=1.9 * u)


def _table(
    sheet: Sheet, place: tuple[float, float, float], u: float, paint: Colour, stage: SceneFrame
) -> list[XY]:
    left, right, ground = place
    rng, top = stage.rng, ground - 10 * u
    slots = max(3, int((right - left) / (9 * u)))
    step, pots = (right - left - 2 * u) / slots, list[XY]()
    steaming = {rng.randrange(slots), rng.randrange(slots)}
    for i in range(slots):
        middle = left + u + step * (i + 0.5)
        if i in steaming:
            pots.append(_pot(sheet, (middle, top), u))
        else:
            _crate(sheet, (middle, top), step * 0.86, u, rng.choice(stage.mood.palette.bright), stage)
    cloth = mix(paint, _tint(stage), 0.15)
    sheet.box(left + 0.4 * u, top - 0.4 * u, right - 0.4 * u, ground - 0.8 * u, cloth)
    sheet.box(
        left - 0.2 * u, top - 0.9 * u, right + 0.2 * u, top + 0.7 * u, lighter(cloth, 0.28), round_by=0.5 * u
    )
    count = max(6, round((right - left) / (3 * u)))
    for i in range(count):
        a = left + 0.4 * u + (right - left - 0.8 * u) * i / count
        b = a + (right - left - 0.8 * u) / count
        sheet.shape(
            [(a, top + 3.6 * u), (b, top + 3.6 * u), ((a + b) / 2, top + 5.6 * u)], lighter(cloth, 0.5)
        )
        sheet.shape(
            [(a, top + 3.6 * u), (b, top + 3.6 * u), ((a + b) / 2, top + 2.2 * u)], darker(cloth, 0.2)
        )
        sheet.box(a, ground - 2.4 * u, b, ground - 0.8 * u, darker(cloth, 0.14 if i % 2 else 0.24))
    return pots


def _pot(sheet: Sheet, foot: XY, u: float) -> XY:
    x, y = foot
    sheet.box(x - 3 * u, y - 5.2 * u, x + 3 * u, y, _CLAY, round_by=1.6 * u)
    sheet.box(x - 3 * u, y - 3.4 * u, x + 3 * u, y - 2.7 * u, lighter(_CLAY, 0.35))
    sheet.box(x - 2.4 * u, y - 4.6 * u, x - 1.7 * u, y - 1.2 * u, lighter(_CLAY, 0.22), round_by=0.3 * u)
    sheet.disc((x, y - 5.2 * u), 3.2 * u, darker(_CLAY, 0.25), ry=0.9 * u)
    for dx in (-1.5, 0.1, 1.6):
        sheet.disc((x + dx * u, y - 5.5 * u), 1.05 * u, (236, 214, 164), ry=0.75 * u)
    return x, y - 6.4 * u


def _crate(sheet: Sheet, foot: XY, wide: float, u: float, paint: Colour, stage: SceneFrame) -> None:
    x, y = foot
    size = 0.98 * u
    for level, count in ((0, 5), (1, 4), (2, 2)):
        for i in range(count):
            middle = x + (i - (count - 1) / 2) * wide / 5.6
            fruit = mix(paint, (255, 226, 140), stage.rng.uniform(0, 0.25))
            sheet.disc((middle, y - (2.7 + 1.15 * level) * u), size, darker(fruit, 0.12))
            sheet.disc((middle - 0.12 * u, y - (2.85 + 1.15 * level) * u), size * 0.82, fruit)
            sheet.disc((middle - 0.35 * u, y - (3.15 + 1.15 * level) * u), size * 0.26, lighter(fruit, 0.6))
    for slat in (0, 1):
        sheet.box(x - wide / 2, y - (2.5 - 1.25 * slat) * u, x + wide / 2, y - (1.5 - 1.25 * slat) * u,
                  lighter(_WOOD, 0.3 - 0.1 * slat), round_by=0.2 * u)  # fmt: skip


def _awning(sheet: Sheet, place: tuple[float, float, float], u: float, paint: Colour) -> None:
    left, right, low = place
    high, inset = low - 9 * u, 3.4 * u
    count = max(7, round((right - left) / (4 * u)) | 1)
    for i in range(count):
        a, b = i / count, (i + 1) / count
        stripe = paint if i % 2 == 0 else _CREAM
        top = [(left + inset + (right - left - 2 * inset) * s, high) for s in (a, b)]
        foot = [(left + (right - left) * s, low) for s in (b, a)]
        sheet.shape([*top, *foot], stripe)
        near = [(t[0] + (f[0] - t[0]) * 0.22, high + 2 * u) for t, f in zip(top, foot[::-1], strict=True)]
        sheet.shape([*top, *near[::-1]], lighter(stripe, 0.3))
        middle, half = (foot[0][0] + foot[1][0]) / 2, (foot[0][0] - foot[1][0]) / 2
        sheet.disc((middle, low + 0.2 * u), half, darker(stripe, 0.14), ry=half * 0.95)
        sheet.shape([*foot, (foot[1][0], low - 0.9 * u), (foot[0][0], low - 0.9 * u)], darker(stripe, 0.05))
    sheet.box(
        left + inset, high - 0.7 * u, right - inset, high + 0.3 * u, lighter(paint, 0.25), round_by=0.5 * u
    )


def market(stage: SceneFrame) -> Scenery:
    scene = Scenery()
    far_hills(stage, scene, tall=16)
    _houses(stage, scene)
    ground = stage.horizon + 9 * stage.unit
    _square(stage, scene, stage.horizon + 3 * stage.unit)
    _row(stage, scene, ground, 0.62, 0.45)
    if stage.zoom < 2:
        _bunting(stage, scene, stage.height * 0.15, 0.5, 0.7)
    _row(stage, scene, ground + 32 * stage.unit, 1.15, 0.9)
    _bunting(stage, scene, stage.height * 0.06, 0.85, 1.0)
    if stage.height > stage.width:
        _flowers(stage, scene)
    return scene


def _houses(stage: SceneFrame, scene: Scenery) -> None:
    u, rng, palette = stage.unit, stage.rng, stage.mood.palette
    base = stage.horizon + 5 * u
    sheet = stage.sheet(stage.horizon - 40 * u, base)
    tower = stage.margin + stage.width * rng.choice((0.3, 0.66))
    x = -rng.uniform(0, 10) * u
    while x < stage.span:
        wide, tall = rng.uniform(13, 20) * u, rng.uniform(11, 19) * u
        wall = mix(lighter(rng.choice(palette.bright), 0.3), palette.far, 0.5)
        _house(sheet, (x, base), wide, tall, wall, stage)
        x += wide
    _church(sheet, tower, base, u, mix(lighter(palette.lamp, 0.35), palette.far, 0.45))
    scene.add(sheet, 0.3)


def _house(
    sheet: Sheet, foot: tuple[float, float], wide: float, tall: float, wall: Colour, stage: SceneFrame
) -> None:
    x, base = foot
    u = stage.unit
    sheet.box(x, base - tall, x + wide, base, wall)
    sheet.box(x - 0.4 * u, base - tall, x + wide + 0.4 * u, base - tall + 1.1 * u, lighter(wall, 0.3))
    sheet.box(x, base - tall + 1.1 * u, x + wide, base - tall + 1.5 * u, darker(wall, 0.2))
    dark, lit = darker(wall, 0.45), mix(stage.mood.palette.lamp, wall, 0.15)
    count = max(2, round(wide / (6 * u)))
    for i in range(count):
        middle = x + wide * (i + 0.5) / count
        for level in range(max(1, int(tall / (8 * u)))):
            top = base - tall + (3.2 + 7.5 * level) * u
            pane = lit if stage.rng.random() < 0.3 else dark
            _arch(sheet, middle, top, 1.2 * u, 4.4 * u, lighter(wall, 0.35))
            _arch(sheet, middle, top + 0.4 * u, 0.85 * u, 4 * u, pane)


def _arch(sheet: Sheet, middle: float, top: float, half: float, tall: float, colour: Colour) -> None:
    sheet.disc((middle, top + half), half, colour)
    sheet.box(middle - half, top + half, middle + half, top + tall, colour)


def _church(sheet: Sheet, middle: float, base: float, u: float, wall: Colour) -> None:
    shade, dark = darker(wall, 0.16), darker(wall, 0.5)
    sheet.disc((middle + 9.5 * u, base - 20 * u), 5.6 * u, mix(shade, (176, 84, 70), 0.45))
    sheet.box(middle + 9.2 * u, base - 28 * u, middle + 9.8 * u, base - 25 * u, dark)
    sheet.box(middle - 4 * u, base - 20 * u, middle + 16 * u, base, shade)
    for side in (-4.2, 0):
        left, right = middle + (side - 0.2) * u, middle + (side + 4.2) * u
        sheet.box(left, base - 27 * u, right, base, wall)
        sheet.box(left - 0.5 * u, base - 21.4 * u, right + 0.5 * u, base - 20.6 * u, lighter(wall, 0.4))
        sheet.shape(
            [(left, base - 27 * u), ((left + right) / 2, base - 32.5 * u), (right, base - 27 * u)],
            mix(shade, (176, 84, 70), 0.5),
        )  # fmt: skip
        _arch(sheet, (left + right) / 2, base - 25.6 * u, 0.95 * u, 3.6 * u, dark)
    _arch(sheet, middle + 8.5 * u, base - 9 * u, 2.2 * u, 9 * u, dark)


def _square(stage: SceneFrame, scene: Scenery, top: float) -> None:
    """Paving that grows wider towards us."""
    palette, u = stage.mood.palette, stage.unit
    sheet = stage.sheet(top)
    y, tall, row = top, 1.1 * u, 0
    light = mix(palette.ground, palette.sky[-1], 0.32)
    while y < stage.height:
        share = (y - top) / (stage.height - top)
        paint = mix(light, darker(palette.ground, 0.38), share**0.8)
        sheet.box(0, y, stage.span, y + tall + 1, paint if row % 2 else lighter(paint, 0.045))
        y, tall, row = y + tall, tall * 1.22, row + 1
    scene.add(sheet, 0.4)


def _bunting(stage: SceneFrame, scene: Scenery, top: float, size: float, depth: float) -> None:
    """Papel picado: cut paper on strings across the square."""
    u, rng = stage.unit / stage.zoom * size, stage.rng
    sheet = stage.sheet(top - 2 * u, top + 34 * u)
    for line in range(2 if stage.height > stage.width else 1):
        high, sag, tilt = top + line * 11 * u, rng.uniform(5, 8) * u, rng.uniform(-4, 4) * u
        count = int(stage.span / (7.2 * u))
        for i in range(count):
            share = (i + 0.5) / count
            x, y = share * stage.span, high + sag * math.sin(share * math.pi) + tilt * share
            _cut_paper(sheet, x, y, u, stage.mood.palette.bright[(i + 2 * line) % 6])
        rope = [
            (s / 40 * stage.span, high + sag * math.sin(s / 40 * math.pi) + tilt * s / 40) for s in range(41)
        ]
        sheet.line(rope, darker(stage.mood.palette.near, 0.2), 0.22 * u, alpha=190)
    scene.add(sheet, depth)


def _cut_paper(sheet: Sheet, x: float, y: float, u: float, colour: Colour) -> None:
    left, right, low = x - 2.9 * u, x + 2.9 * u, y + 5 * u
    sheet.box(left, y, right, low, colour, alpha=225)
    teeth = 5
    for i in range(teeth):
        a = left + (right - left) * i / teeth
        b = left + (right - left) * (i + 1) / teeth
        sheet.shape([(a, low), (b, low), ((a + b) / 2, low + 1.1 * u)], colour, 225)
    pale = lighter(colour, 0.65)
    sheet.disc((x, y + 2.4 * u), 0.8 * u, pale, alpha=210)
    for turn in range(6):
        angle = turn * math.tau / 6
        sheet.disc(
            (x + 1.5 * u * math.cos(angle), y + 2.4 * u + 1.5 * u * math.sin(angle)),
            0.42 * u,
            pale,
            alpha=190,
        )


def _flowers(stage: SceneFrame, scene: Scenery) -> None:
    """Baskets of marigolds close to us, a little out of focus."""
    u, rng = stage.unit / stage.zoom * 1.5, stage.rng
    sheet = stage.sheet(stage.height - 16 * u)
    x, straw = -rng.uniform(0, 8) * u, mix((120, 82, 62), stage.mood.palette.near, 0.35)
    while x < stage.span + 10 * u:
        foot, wide = stage.height - 2 * u, rng.uniform(8, 10) * u
        blossom = rng.choice(((238, 142, 44), (244, 184, 62), (206, 70, 96)))
        sheet.disc((x, foot), wide, darker(blossom, 0.25), ry=7 * u)
        for at in range(70):
            side, high = rng.uniform(-1, 1), (1 - at / 70) * 6.5 * u
            paint = darker(mix(blossom, stage.mood.palette.near, 0.12), 0.02 + rng.uniform(0, 0.12))
            reach = wide * math.sqrt(1 - (high / (8 * u)) ** 2)
            sheet.disc((x + side * reach, foot - high), rng.uniform(0.8, 1.3) * u, paint)
        sheet.box(x - wide, foot, x + wide, stage.height, straw, round_by=u)
        x += 2 * wide + rng.uniform(2, 12) * u
    scene.add(sheet, 1.3, blur=0.12 * u)


def _row(stage: SceneFrame, scene: Scenery, ground: float, size: float, depth: float) -> None:

    u, rng = stage.unit * size, stage.rng
    sheet = stage.sheet(ground - 46 * u, ground + 6 * u)
    x, turn = -rng.uniform(0, 20) * u, rng.randrange(6)
    while x < stage.span:
        wide = rng.uniform(32, 38) * u
        pots = stall(sheet, (x + wide / 2, ground), wide, u, turn, stage)
        scene.sources += [Source("steam", px, py, depth) for px, py in pots]
        x, turn = x + wide + rng.uniform(5, 11) * u, turn + 1
    scene.add(sheet, depth)


_COUNT: dict[Drift, int] = {"steam": 9, "mote": 10, "firefly": 9, "glint": 22, "bird": 5}
_STEPS = 6  # sizes of puff kept ready: a sprite is made once, then only pasted


class Drifter:
    """All that one source sends out.

    `at(t)` yields (sprite, x, y) in the coordinates of the source's layer; sprites are RGBA.
    """

    def __init__(self, source: Source, stage: SceneFrame) -> None:
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


def _sprites(kind: Drift, stage: SceneFrame, depth: float) -> list[Image.Image]:
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


def drifters(stage: SceneFrame, sources: list[Source]) -> list[Drifter]:
    """At most six sources: a shot crowded with pots must not cost more time than it has."""
    chosen = sources if len(sources) <= 6 else stage.rng.sample(sources, 6)
    return [Drifter(source, stage) for source in chosen]


def city(stage: SceneFrame) -> Scenery:
    scene, palette, u = Scenery(), stage.mood.palette, stage.unit
    far_hills(stage, scene, tall=12)
    stone = mix(palette.near, palette.far, 0.4) if stage.mood.hour == "day" else palette.near
    low = stage.height - stage.horizon
    for share, tall in ((0.15, 46.0), (0.45, 40.0), (0.85, 30.0)):
        paint = mix(mix(palette.sky[-2], palette.far, 0.7), darker(stone, 0.15), share)
        _skyline(stage, scene, stage.horizon + low * share * 0.42 + 4 * u, tall * (0.7 + share), paint, share)
    _street(stage, scene, stage.horizon + low * 0.38)
    scene.sources += [
        Source("bird", stage.span * 0.4, stage.horizon * 0.4, 0.2),
        Source("mote", stage.span / 2, stage.height * 0.7, 0.9),
    ]
    return scene


def _skyline(
    stage: SceneFrame, scene: Scenery, base: float, tall: float, paint: Colour, share: float
) -> None:
    u, rng = stage.unit, stage.rng
    sheet = stage.sheet(base - (tall * 1.25 + 6) * u)
    x = -rng.uniform(0, 8) * u
    while x < stage.span:
        wide, high = rng.uniform(8, 15) * u * (0.6 + share), rng.uniform(0.45, 1.2) * tall * u
        wall = mix(paint, lighter(paint, 0.3), rng.random() * 0.6)
        sheet.box(x, base - high, x + wide, stage.height, wall)
        sheet.box(x, base - high, x + 0.28 * wide, stage.height, lighter(wall, 0.08))
        if rng.random() < 0.35:
            sheet.box(x + wide * 0.47, base - high - 5 * u, x + wide * 0.53, base - high, wall)
        elif rng.random() < 0.4:
            sheet.box(x + wide * 0.2, base - high - 2 * u, x + wide * 0.6, base - high, darker(wall, 0.12))
        _windows(sheet, (x, base - high, wide, high + 10 * u), wall, stage, share)
        x += wide + rng.choice((0.0, 0.0, 1.5 * u))
    scene.add(sheet, 0.15 + 0.6 * share)


def _windows(
    sheet: Sheet, building: tuple[float, float, float, float], wall: Colour, stage: SceneFrame, share: float
) -> None:
    x, top, wide, tall = building
    rng, pitch = stage.rng, (1.6 + 1.5 * share) * stage.unit
    lit = {"day": 0.1, "dawn": 0.3, "dusk": 0.5, "night": 0.55}[stage.mood.hour]
    columns = max(2, int(wide / pitch) - 1)
    for row in range(1, int(tall / (pitch * 1.35))):
        for column in range(columns):
            left = x + wide * (column + 0.5) / columns - pitch * 0.22
            y = top + row * pitch * 1.35
            on = rng.random() < lit
            colour = (
                mix(stage.mood.palette.lamp, wall, 0.15 + 0.3 * rng.random()) if on else darker(wall, 0.22)
            )
            sheet.box(left, y, left + pitch * 0.46, y + pitch * 0.72, colour)


def _street(stage: SceneFrame, scene: Scenery, top: float) -> None:
    u, palette = stage.unit, stage.mood.palette
    road = mix(darker(palette.near, 0.25), palette.ground, 0.2)
    sheet = stage.sheet(top)
    sheet.box(0, top, stage.span, top + 5 * u, lighter(road, 0.22))
    sheet.box(0, top + 4 * u, stage.span, stage.height, road)
    dash = 0.0
    while dash < stage.span:
        sheet.box(dash, top + 24 * u, dash + 13 * u, top + 25.4 * u, lighter(road, 0.5), round_by=0.6 * u)
        dash += 26 * u
    scene.add(sheet, 0.8)
    lamps = stage.sheet(top - 34 * u, top + 40 * u)
    for i in range(int(stage.span / (46 * u)) + 2):
        x = (i * 46 + 12) * u
        lamps.box(x - 0.5 * u, top - 27 * u, x + 0.5 * u, top + 4 * u, darker(road, 0.4))
        lamps.box(x, top - 27 * u, x + 6 * u, top - 26 * u, darker(road, 0.4), round_by=0.4 * u)
        lamps.light(
            (x + 6 * u, top - 25 * u), 12 * u, palette.lamp, 0.25 if stage.mood.hour == "day" else 0.75
        )
        lamps.disc((x + 6 * u, top - 25.4 * u), 1.3 * u, lighter(palette.lamp, 0.4), ry=0.9 * u)
        _car(lamps, x + 26 * u, top + (13 if i % 2 else 33) * u, u, palette.bright[i % 6])
        lamps.light((x + 3 * u, top + 6 * u), 10 * u, palette.lamp, 0.12)
    scene.add(lamps, 1.0)


def _car(sheet: Sheet, x: float, foot: float, u: float, paint: Colour) -> None:
    body = darker(paint, 0.15)
    sheet.disc((x, foot + 0.3 * u), 10.5 * u, (8, 6, 16), ry=1.2 * u, alpha=110)
    sheet.box(x - 5 * u, foot - 8 * u, x + 4.6 * u, foot - 3 * u, body, round_by=2.4 * u)
    sheet.box(x - 4 * u, foot - 7.2 * u, x - 0.4 * u, foot - 4.6 * u, (206, 222, 230), round_by=u)
    sheet.box(x + 0.2 * u, foot - 7.2 * u, x + 3.6 * u, foot - 4.6 * u, (206, 222, 230), round_by=u)
    sheet.box(x - 9.6 * u, foot - 5 * u, x + 9.6 * u, foot - 0.8 * u, body, round_by=1.7 * u)
    sheet.box(x + 8.4 * u, foot - 4 * u, x + 9.6 * u, foot - 2.8 * u, (255, 244, 200), round_by=0.5 * u)
    for wheel in (-5.4, 5.4):
        sheet.disc((x + wheel * u, foot - 0.9 * u), 1.9 * u, (26, 22, 34))
        sheet.disc((x + wheel * u, foot - 0.9 * u), 0.8 * u, (170, 170, 180))
