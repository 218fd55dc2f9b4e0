"""Sky and land: what stands behind every scene."""

import math

from PIL import Image, ImageDraw, ImageFilter

from tools.studio.render.brush import Colour, Point, Sheet, darker, gradient, lighter, mix, shine
from tools.studio.render.stage import Scenery, Stage


def backdrop(stage: Stage) -> Image.Image:
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


def ridge(stage: Stage, base: float, height: float, *, waves: float = 2.0) -> list[Point]:
    """A skyline around `base` with hills `height` pixels tall; `waves` of them fit into the picture."""
    phases = [stage.rng.uniform(0, math.tau) for _ in range(3)]
    turn = math.tau * waves / stage.width
    step = max(4, stage.span // 120)

    def at(x: float) -> float:
        tall = math.sin(x * turn + phases[0]) + 0.45 * math.sin(x * turn * 2.3 + phases[1])
        return base - height * (0.5 + 0.33 * tall + 0.06 * math.sin(x * turn * 6.1 + phases[2]))

    return [(float(x), at(x)) for x in range(-step, stage.span + 2 * step, step)]


def slope(
    stage: Stage, scene: Scenery, points: list[Point], colour: Colour, depth: float, *,
    floor: float | None = None, blur: float = 0.0,
) -> Sheet:  # fmt: skip
    """Fill the land under `points` and put it on the stage."""
    bottom = stage.height if floor is None else floor
    sheet = stage.sheet(min(y for _, y in points) - 2, bottom)
    sheet.shape([*points, (points[-1][0], bottom), (points[0][0], bottom)], colour)
    scene.add(sheet, depth, blur=blur)
    return sheet


def far_hills(stage: Stage, scene: Scenery, *, tall: float = 14) -> None:
    """Two hazy ranges at the horizon."""
    palette = stage.mood.palette
    for share, depth, waves in ((0.3, 0.12, 1.3), (0.75, 0.22, 2.1)):
        points = ridge(stage, stage.horizon + 2, tall * stage.unit * (1.15 - 0.5 * share), waves=waves)
        colour = mix(palette.sky[-2], palette.far, 0.35 + 0.6 * share)
        slope(stage, scene, points, colour, depth, floor=stage.horizon + 4 * stage.unit)


def _stars(stage: Stage, picture: Image.Image) -> None:
    draw, rng = ImageDraw.Draw(picture), stage.rng
    for _ in range(130):
        x, y = rng.uniform(0, stage.span), rng.uniform(0, stage.horizon) * rng.uniform(0.2, 0.95)
        size = rng.choice((0.0, 0.0, 0.5, 1.0)) * max(1.0, stage.unit / 7)
        light = mix((150, 165, 215), (255, 252, 240), rng.random())
        draw.ellipse((x, y, x + size, y + size), fill=light)


def _clouds(stage: Stage, picture: Image.Image) -> None:
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


def _orb(stage: Stage, picture: Image.Image, centre: Point) -> None:
    radius, sun = 5.5 * stage.unit, stage.mood.palette.sun
    sheet = Sheet(stage.span, centre[1] - 2 * radius, centre[1] + 2 * radius)
    sheet.disc(centre, radius, lighter(sun, 0.3))
    if stage.mood.hour == "night":
        for dx, dy, r in ((-0.3, -0.2, 0.22), (0.25, 0.3, 0.16), (0.3, -0.35, 0.1)):
            sheet.disc((centre[0] + dx * radius, centre[1] + dy * radius), r * radius, darker(sun, 0.12))
    drawn = sheet.finish(blur=0.6)
    picture.paste(drawn, (0, sheet.top), drawn)
