"""The incident as a picture: 13 calls of a paid tool in 26 minutes, with the guard and without.

Both lines are real runs of the agents SDK, their model scripted; a minute of the picture is a
tenth of a second of the run. Charges are read from the provider's charge log.
"""

import asyncio
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.peers.adapter import Call, Run, SdkAdapter
from bench.peers.body import Body
from bench.peers.place import COST, Place, lines

CALLS: Final = 13
MINUTES: Final = 26
_SECONDS_PER_MINUTE: Final = 0.1
_WIDE, _HIGH, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 320, 56, 44, 24, 116
_ITEMS: Final = ("again", "one more", "in other words", "a better one", "please")

Points = Sequence[tuple[float, float]]
"""Minutes since the first call, dollars charged until then."""


def _turns() -> list[list[Call]]:
    return [[("video", f"the video, {_ITEMS[number % len(_ITEMS)]}")] for number in range(CALLS)]


async def replayed(kind: type[SdkAdapter], folder: Path) -> Points:
    """Play the incident once, and return what had been charged when."""
    folder.mkdir()
    place = Place(folder)
    adapter = kind(place)
    await adapter.open()
    began = asyncio.get_running_loop().time()
    pause = MINUTES / CALLS * _SECONDS_PER_MINUTE
    try:
        for number, turn in enumerate(_turns()):
            await adapter.run(Run("create-1", [turn]), Body(place, after_s=0))
            await asyncio.sleep(max(0, began + (number + 1) * pause - asyncio.get_running_loop().time()))
    finally:
        await adapter.close()
    charges = [(line["at"] - began) / _SECONDS_PER_MINUTE for line in lines(place.effects)]
    return [(at, COST * (number + 1)) for number, at in enumerate(charges)]


async def both(folder: Path) -> tuple[Points, Points]:
    """Return the charges without a guard, and with ours."""
    from bench.peers.adapters.bare import Bare
    from bench.peers.adapters.ours import OursInSql

    return await replayed(Bare, folder / "bare"), await replayed(OursInSql, folder / "ours")


def _x(minute: float) -> float:
    return _LEFT + minute / MINUTES * (_WIDE - _LEFT - _RIGHT)


def _y(dollars: float) -> float:
    return _HIGH - _BOTTOM - dollars / (COST * CALLS) * (_HIGH - _BOTTOM - _TOP)


def _steps(points: Points) -> str:
    path, dollars = f"M {_x(0):.1f} {_y(0):.1f}", 0.0
    for minute, after in points:
        path += f" L {_x(minute):.1f} {_y(dollars):.1f} L {_x(minute):.1f} {_y(after):.1f}"
        dollars = after
    return f"{path} L {_x(MINUTES):.1f} {_y(dollars):.1f}"


def drawn(bare: Points, ours: Points) -> str:
    """Return the picture as SVG, in colours that can be read on white and on black."""
    axis = [f'<path class="axis" d="M {_x(0)} {_y(COST * CALLS)} V {_y(0)} H {_x(MINUTES)}"/>']
    for dollars in range(0, COST * CALLS + 1, 13):
        axis.append(f'<text x="{_LEFT - 8}" y="{_y(dollars) + 4:.1f}" text-anchor="end">${dollars}</text>')
        axis.append(f'<path class="grid" d="M {_x(0)} {_y(dollars):.1f} H {_x(MINUTES)}"/>')
    axis += [
        f'<text x="{_x(minute)}" y="{_y(0) + 20}" text-anchor="middle">{minute:.0f} min</text>'
        for minute in (0, MINUTES / 2, MINUTES)
    ]
    axis.append(f'<text x="{_x(MINUTES / 2)}" y="{_HIGH - 8}" text-anchor="middle">time of the run</text>')
    ends = []
    for name, points in (("bare", bare), ("ours", ours)):
        dollars = points[-1][1] if points else 0
        words = "no guard" if name == "bare" else "guard"
        at = f'x="{_x(MINUTES) + 8:.1f}" y="{_y(dollars) + 4:.1f}"'
        ends.append(f'<path class="{name}" d="{_steps(points)}"/>')
        ends.append(f'<text class="end {name}" {at}>{words} ${dollars}</text>')
    inside = "\n".join([*axis, *ends])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" role="img" '
        f'aria-label="Dollars charged over {MINUTES} minutes by {CALLS} calls of one request">\n'
        "<style>text{font:13px system-ui,sans-serif;fill:#7d8590}path{fill:none}.axis{stroke:#7d8590}"
        ".grid{stroke:#7d8590;stroke-opacity:.25}path.bare{stroke:#e5534b;stroke-width:2.5}"
        "path.ours{stroke:#2da44e;stroke-width:2.5}text.end{font-weight:600}text.bare{fill:#e5534b}"
        f"text.ours{{fill:#2da44e}}</style>\n{inside}\n</svg>\n"
    )


def write(path: Path) -> tuple[Points, Points]:
    """Play the incident twice, and write the picture."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        bare, ours = asyncio.run(both(Path(folder)))
    path.write_text(drawn(bare, ours))
    return bare, ours


if __name__ == "__main__":
    write(Path(__file__).parents[2] / "docs" / "pictures" / "incident.svg")
