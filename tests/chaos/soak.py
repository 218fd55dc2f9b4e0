"""The soak: a seeded random storm over the whole house, then calm, then judgement.

    PYTHONPATH=.:tests python tests/soak.py --requests 200 --seed 7

Exit code 1 when a law was broken; the page then names each request with its transitions.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

WORDS_S = 5.0
UNPAID = ("FAILED_UNPAID", "EXPIRED")
NEVER_ORDERED = ("REFUSED", "NO_ORDER", "CANCELLED")


@dataclass
class Soak:
    """What one soak was asked for, and what came of it.

    Attributes:
        seconds: The storm sends nothing new after this; the calm has its own bound.
        calm_s: How long everything may take to come to rest when the weather is fine again.
    """

    requests: int = 200
    seed: int = 7
    provider: str = "keyed"
    database: str = "sqlite"
    workers: int = 3
    seconds: float = 600
    calm_s: float = 90
    sabotage: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    tried: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    breaches: list[dict[str, Any]] = field(default_factory=list)

    @property
    def command(self) -> str:
        """The command that repeats it."""
        words = [f"--{n} {getattr(self, n)}" for n in ("requests", "seed", "provider", "database")]
        words += [f"--sabotage '{self.sabotage}'"] if self.sabotage else []
        return f"PYTHONPATH=.:tests python tests/soak.py {' '.join(words)}"


Say = Callable[[str], None]


async def run(soak: Soak, folder: Path, say: Say) -> Soak:
    """Storm, calm, judgement; fill in what came of it."""
    from tests.chaos.soak_env import open_stage
    from tests.chaos.soak_traffic import Storm

    began = time.monotonic()
    chance = random.Random(soak.seed)
    options = {"dialect": soak.database, "workers": soak.workers, "sabotage": soak.sabotage}
    async with open_stage(folder, soak.provider, chance=chance, **options) as env:
        # The storm begins when the house stands: how long that takes is the machine's affair.
        await env.api.calls.wait_for(lambda call: call.method == "getUpdates", timeout=60)
        storm = Storm(env, soak.seed, soak.requests, time.monotonic() + soak.seconds)
        progress = asyncio.create_task(_progress(storm, say))
        try:
            await storm.run()
            stormed = time.monotonic() - began
            say(f"{stormed:4.0f} s  the storm is over; calm")
            await storm.back()
            await _rest(storm, soak.calm_s)
            if storm.open:
                env.pool.ask_where()
            await _finish(soak, storm, say)
        finally:
            progress.cancel()
            await asyncio.gather(progress, return_exceptions=True)
    soak.metrics["storm seconds"] = round(stormed, 1)
    soak.metrics["seconds"] = round(time.monotonic() - began, 1)
    soak.metrics["requests a minute"] = round(60 * len(storm.sent) / (time.monotonic() - began))
    return soak


async def _progress(storm: Any, say: Say) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(5)
        states = Counter(str(v.state if v else r.state) for r, v in storm.rows)
        shown = ", ".join(f"{count} {word}" for word, count in states.most_common())
        say(f"{time.monotonic() - began:4.0f} s  {len(storm.sent)}/{storm.requests} sent: {shown}")


async def _rest(storm: Any, seconds: float) -> None:
    """Wait until everything rests and every update is confirmed; what does not is for the judge."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await storm.refresh()
        if storm.open == 0 and not storm.env.api.pending_updates:
            return
        await asyncio.sleep(0.1)


async def _finish(soak: Soak, storm: Any, say: Say) -> None:
    """Judge what is held, settle it as an operator would, then judge the rest on stores at peace."""
    from tests.chaos.soak_checks import Breach, history, judge, settle_holds

    env = storm.env
    held = [one for one in storm.rows if one[1] is not None and one[1].state == "HOLD"]
    breaches = await _wrong_words(env, held)
    try:
        settled = await settle_holds(storm)
    except SQLAlchemyError as error:
        settled = 0
        breaches.append(Breach("store", "-", f"the ledger is locked in fine weather: {type(error).__name__}"))
    if settled:
        say(f"        {settled} held orders settled by the provider's log")
        await _rest(storm, soak.calm_s / 2)
    stuck = await env.pool.stop(env.keeper)
    breaches += [Breach("stop", "-", f"{stuck} workers did not stop when asked")] if stuck else []
    await storm.refresh()
    breaches += await judge(storm)
    if len(storm.sent) < soak.requests:
        breaches.append(
            Breach("short", "-", f"{len(storm.sent)} of {soak.requests} requests were sent in time")
        )
    fell = [f"{word} ×{times}" for word, times in env.pool.ends.items() if word.startswith("fell")]
    breaches += [Breach("fell", "-", f"a worker ended by itself: {word}") for word in fell]
    for breach in breaches:
        names = [name for name in breach.request_id.split() if name != "-"]
        moves = {name: await history(env, name) for name in names[:5]}
        soak.breaches.append({**asdict(breach), "transitions": moves})
    _count(soak, storm, len(held))


async def _wrong_words(env: Any, held: list[Any]) -> list[Any]:
    """Read what the chat says of what is held, until it is right or time is up.

    A teller that was paused may bring an older edit after a newer one, and then mends it by itself: what
    counts is what stays.
    """
    from tests.chaos.soak_checks import in_words

    end = time.monotonic() + WORDS_S
    while True:
        wrong = [breach for one in held for breach in await in_words(env, *one)]
        if not wrong or time.monotonic() > end:
            return wrong
        await asyncio.sleep(0.2)


def _count(soak: Soak, storm: Any, held: int) -> None:
    from tests.chaos.soak_checks import doubled

    env = storm.env
    states = Counter(str(v.state if v else r.state) for r, v in storm.rows)
    laws = Counter(one["law"] for one in soak.breaches)
    soak.metrics |= {
        "requests": len(storm.sent),
        "paid": len(env.fake_provider.charges()),
        "delivered": states["DELIVERED"],
        "paid and failed": states["FAILED_PAID"],
        "refunded by the provider": len(env.fake_provider.refunds()),
        "ended unpaid": sum(states[word] for word in UNPAID),
        "never ordered (refused, cancelled)": sum(states[word] for word in NEVER_ORDERED),
        "held, then settled by a person": held,
        "messages doubled (allowed)": doubled(env, storm.rows),
        "duplicates": laws["duplicate"],
        "lost": laws["lost"],
        "posts": len(env.fake_provider.posts()),
        "kills": sum(n for word, n in env.pool.ends.items() if word == "killed" or word.startswith("at ")),
        "flushes": storm.tried["redis flushed"],
        "lulls between gusts": storm.lulls,
        "clock ahead at the end, seconds": env.clock_file.shift,
    }
    soak.tried = dict(sorted(storm.tried.items()))
    soak.ends = dict(sorted(env.pool.ends.items()))


def page(soak: Soak, console: Console) -> None:
    """Print the one page."""
    table = Table(
        title=f"Soak: seed {soak.seed}, {soak.provider} provider, {soak.database}", show_header=False
    )
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in soak.metrics.items():
        bad = name in ("duplicates", "lost") and value
        table.add_row(name, f"[red]{value}[/]" if bad else str(value))
    console.print(table)
    console.print("Faults tried: " + ", ".join(f"{name} {count}" for name, count in soak.tried.items()))
    console.print("Workers ended: " + ", ".join(f"{name} {count}" for name, count in soak.ends.items()))
    for one in soak.breaches:
        console.print(f"[red]{one['law']}[/] {one['request_id']}: {one['detail']}", highlight=False)
        for name, lines in one["transitions"].items():
            console.print("\n".join([f"    {name}", *(f"      {line}" for line in lines)]), highlight=False)
    verdict = "[green]Every law held.[/]" if not soak.breaches else f"[red]{len(soak.breaches)} breaches.[/]"
    console.print(f"{verdict} To repeat it: {soak.command}", highlight=False, soft_wrap=True)


def _asked(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3600, help="send nothing new after this")
    parser.add_argument("--provider", choices=("keyed", "listable", "blind"), default="keyed")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--workers", type=int, default=3, help="worker processes")
    parser.add_argument("--sabotage", help="break a law of the house on purpose, to see this go red")
    parser.add_argument("--json", type=Path, help="write the page as JSON as well")
    parser.add_argument("--keep", type=Path, help="a new folder for stores and logs, which then stays")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run one soak from the command line; 1 when a law was broken."""
    asked = _asked(words)
    given = {name: value for name, value in vars(asked).items() if name not in ("json", "keep")}
    console, soak = Console(), Soak(**given)
    with tempfile.TemporaryDirectory(prefix="onetake-soak-") as folder:
        if asked.keep is not None:
            asked.keep.mkdir(parents=True)
        with suppress(KeyboardInterrupt):
            asyncio.run(
                run(soak, asked.keep or Path(folder), partial(console.print, highlight=False, soft_wrap=True))
            )
    if not soak.metrics:
        return 130
    page(soak, console)
    if asked.json is not None:
        asked.json.write_text(json.dumps({"command": soak.command, **asdict(soak)}, indent=2) + "\n")
    return 1 if soak.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
