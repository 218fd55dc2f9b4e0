"""One market stall with its vendor, fruit and pots."""

from tools.studio.render.brush import Colour, Point, Sheet, darker, lighter, mix
from tools.studio.render.stage import Stage

_SKIN: tuple[Colour, ...] = ((150, 98, 72), (176, 118, 86), (122, 78, 58))
_CREAM: Colour = (250, 238, 214)
_CLAY: Colour = (150, 84, 62)
_WOOD: Colour = (112, 74, 58)


def stall(sheet: Sheet, foot: Point, wide: float, u: float, turn: int, stage: Stage) -> list[Point]:
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


def _tint(stage: Stage) -> Colour:
    return stage.mood.palette.far if stage.mood.hour != "day" else stage.mood.palette.sky[-1]


def _vendor(sheet: Sheet, foot: Point, u: float, stage: Stage) -> None:
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
    sheet: Sheet, place: tuple[float, float, float], u: float, paint: Colour, stage: Stage
) -> list[Point]:
    left, right, ground = place
    rng, top = stage.rng, ground - 10 * u
    slots = max(3, int((right - left) / (9 * u)))
    step, pots = (right - left - 2 * u) / slots, list[Point]()
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


def _pot(sheet: Sheet, foot: Point, u: float) -> Point:
    x, y = foot
    sheet.box(x - 3 * u, y - 5.2 * u, x + 3 * u, y, _CLAY, round_by=1.6 * u)
    sheet.box(x - 3 * u, y - 3.4 * u, x + 3 * u, y - 2.7 * u, lighter(_CLAY, 0.35))
    sheet.box(x - 2.4 * u, y - 4.6 * u, x - 1.7 * u, y - 1.2 * u, lighter(_CLAY, 0.22), round_by=0.3 * u)
    sheet.disc((x, y - 5.2 * u), 3.2 * u, darker(_CLAY, 0.25), ry=0.9 * u)
    for dx in (-1.5, 0.1, 1.6):
        sheet.disc((x + dx * u, y - 5.5 * u), 1.05 * u, (236, 214, 164), ry=0.75 * u)
    return x, y - 6.4 * u


def _crate(sheet: Sheet, foot: Point, wide: float, u: float, paint: Colour, stage: Stage) -> None:
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
