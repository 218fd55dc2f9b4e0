"""What our guard costs next to a bare run, and how long a doubt lasts once the provider can be asked."""

import argparse
import asyncio
import json
import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from agents import Tool

from bench.measure import Ratio, ratio
from bench.peers.adapter import Run, SdkAdapter
from bench.peers.adapters.bare import Bare
from bench.peers.adapters.ours import Ours, OursInMemory, OursInSql
from bench.peers.body import Body
from bench.peers.place import Place, done

DOUBTS: Final = 5
AWAY_S: Final = 2.0
"""How long the provider cannot be asked after the effect."""


class _Quick(Body):
    """A body that does nothing, so that only the guard and the SDK are measured."""

    async def run(self, act: str, item: str, key: str = "") -> str:
        return done(item, "R-00000000-A")


class _Armed(Bare):
    """The bare SDK whose tool is made once, as a program makes it; the guard's is made once too."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._tool = super().tool(Run("", []), _Quick(place))

    def tool(self, run: Run, body: Body) -> Tool:
        return self._tool


async def compared(kind: type[Ours], folder: Path) -> Ratio:
    """Measure one run with one call: guarded against bare, CPU of this process."""
    folder.mkdir()
    place = Place(folder)
    ours, bare = kind(place), _Armed(place)
    await ours.open()

    def play(adapter: SdkAdapter) -> Any:
        async def call(number: int) -> None:
            # The acts are the same on both sides; what is said goes to no file.
            await adapter.run(Run(f"act-{number}", [[("A", "a poster")]], user=f"u{number}"), _Quick(place))

        adapter.say = lambda *_: None  # type: ignore[method-assign]
        return call

    try:
        return await ratio(play(ours), play(bare), turns=15, calls=20)
    finally:
        await ours.close()


async def doubt(folder: Path) -> float:
    """Return how many seconds a doubt lasts after its provider can be asked again."""
    folder.mkdir()
    up_at = time.monotonic() + AWAY_S
    place = Place(folder, provider_is_up_at=up_at)
    adapter = OursInSql(place)
    await adapter.open()
    try:
        await adapter.run(Run("act-1", [[("A", "a poster")]]), replace(Body(place), way="timeout"))
        while time.monotonic() < up_at + 30:
            await asyncio.sleep(max(0.05, up_at - time.monotonic()))
            if not await adapter.guard.pending():
                return time.monotonic() - up_at
        return float("inf")
    finally:
        await adapter.close()


async def measured(folder: Path) -> dict[str, Any]:
    """Measure everything."""
    memory = await compared(OursInMemory, folder / "memory")
    sql = await compared(OursInSql, folder / "sql")
    doubts = [await doubt(folder / f"doubt-{number}") for number in range(DOUBTS)]
    return {
        "memory": {"cpu": memory.cpu, "ours_us": memory.ours_cpu_us, "bare_us": memory.theirs_cpu_us},
        "sql": {"cpu": sql.cpu, "ours_us": sql.ours_cpu_us, "bare_us": sql.theirs_cpu_us},
        "doubt_s": [round(one, 2) for one in doubts],
    }


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers.cost", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measured(Path(folder)))
    asked.json.write_text(json.dumps(found, indent=1))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
