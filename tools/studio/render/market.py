"""A market square: old houses, strings of cut paper, stalls with striped awnings, pots that steam."""

import math

from tools.studio.render.brush import Colour, Sheet, darker, lighter, mix
from tools.studio.render.land import far_hills
from tools.studio.render.stage import Scenery, Source, Stage
from tools.studio.render.stall import stall


def market(stage: Stage) -> Scenery:
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


def _houses(stage: Stage, scene: Scenery) -> None:
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
    sheet: Sheet, foot: tuple[float, float], wide: float, tall: float, wall: Colour, stage: Stage
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


def _square(stage: Stage, scene: Scenery, top: float) -> None:
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


def _bunting(stage: Stage, scene: Scenery, top: float, size: float, depth: float) -> None:
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


def _flowers(stage: Stage, scene: Scenery) -> None:
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


def _row(stage: Stage, scene: Scenery, ground: float, size: float, depth: float) -> None:

    u, rng = stage.unit * size, stage.rng
    sheet = stage.sheet(ground - 46 * u, ground + 6 * u)
    x, turn = -rng.uniform(0, 20) * u, rng.randrange(6)
    while x < stage.span:
        wide = rng.uniform(32, 38) * u
        pots = stall(sheet, (x + wide / 2, ground), wide, u, turn, stage)
        scene.sources += [Source("steam", px, py, depth) for px, py in pots]
        x, turn = x + wide + rng.uniform(5, 11) * u, turn + 1
    scene.add(sheet, depth)
