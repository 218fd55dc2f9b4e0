"""A city: skylines with lit windows, and a street with lamps."""

from tools.studio.render.brush import Colour, Sheet, darker, lighter, mix
from tools.studio.render.land import far_hills
from tools.studio.render.stage import Scenery, Source, Stage


def city(stage: Stage) -> Scenery:
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


def _skyline(stage: Stage, scene: Scenery, base: float, tall: float, paint: Colour, share: float) -> None:
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
    sheet: Sheet, house: tuple[float, float, float, float], wall: Colour, stage: Stage, share: float
) -> None:
    x, top, wide, tall = house
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


def _street(stage: Stage, scene: Scenery, top: float) -> None:
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
