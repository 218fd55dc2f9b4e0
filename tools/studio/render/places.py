"""The other places: sea, forest, desert and hills."""

import math

from tools.studio.render.brush import Colour, Point, Sheet, darker, lighter, mix
from tools.studio.render.land import far_hills, ridge, slope
from tools.studio.render.stage import Drift, Scenery, Source, Stage


def sea(stage: Stage) -> Scenery:
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


def forest(stage: Stage) -> Scenery:
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


def desert(stage: Stage) -> Scenery:
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


def hills(stage: Stage) -> Scenery:
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


def _water(stage: Stage, scene: Scenery, water: Colour, sun: float) -> None:
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


def _wave(stage: Stage, scene: Scenery, y: float, paint: Colour, depth: float) -> None:
    u, phase = stage.unit, stage.rng.uniform(0, math.tau)
    length = stage.unit * (14 + 22 * depth)
    crest: list[Point] = [
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


def _boat(stage: Stage, scene: Scenery, y: float, size: float, depth: float) -> None:
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


def _pines(stage: Stage, scene: Scenery, points: list[Point], colour: Colour, share: float) -> None:
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


def _pine(sheet: Sheet, foot: Point, tall: float, paint: Colour) -> None:
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


def _cactus(sheet: Sheet, foot: Point, u: float, colour: Colour) -> None:
    x, y = foot
    sheet.box(x - 1.4 * u, y - 18 * u, x + 1.4 * u, y, colour, round_by=1.4 * u)
    for side, high in ((-1, 8), (1, 11)):
        a, b = x + side * 4.6 * u, x
        sheet.box(min(a, b) - u, y - (high - 1) * u, max(a, b) + u, y - (high - 3) * u, colour, round_by=u)
        sheet.box(a - u, y - (high + 5) * u, a + u, y - (high - 3) * u, colour, round_by=u)


def _round_tree(sheet: Sheet, foot: Point, u: float, colour: Colour) -> None:
    x, y = foot
    sheet.box(x - 0.5 * u, y - 7 * u, x + 0.5 * u, y, darker(colour, 0.4))
    for dx, dy, r in ((0, 10, 4.6), (-2.6, 8, 3.2), (2.8, 8.2, 3.4)):
        sheet.disc((x + dx * u, y - dy * u), r * u, colour)
    sheet.disc((x - 1.2 * u, y - 11.4 * u), 2.6 * u, lighter(colour, 0.16))


def _cottage(sheet: Sheet, foot: Point, u: float, stage: Stage) -> None:
    x, y = foot
    wall = mix((246, 232, 208), stage.mood.palette.far, 0.25)
    sheet.box(x - 5 * u, y - 6 * u, x + 5 * u, y + 3 * u, wall)
    roof = mix((186, 84, 66), stage.mood.palette.near, 0.2)
    corners = ((-6.4, 6.0), (6.4, 6.0), (3.6, 10.5), (-3.6, 10.5))
    sheet.shape([(x + dx * u, y - dy * u) for dx, dy in corners], roof)
    sheet.box(x - 0.9 * u, y - 3.6 * u, x + 1.1 * u, y + 2 * u, darker(wall, 0.5))
    for dx in (-3.2, 3.2):
        sheet.box(x + (dx - 0.8) * u, y - 4 * u, x + (dx + 0.8) * u, y - 2.2 * u, stage.mood.palette.lamp)
