"""One process of a trial: plays agent runs with an armed tool, until it ends or is killed."""

import asyncio
import logging
import os
import random
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from bench.peers.adapter import Adapter, Run
from bench.peers.body import Body
from bench.peers.place import Place, append, lines


@dataclass(frozen=True)
class Part:
    """What one process plays.

    Attributes:
        runs: Agent runs, one after the other.
        hours: By how much its clock is ahead.
        starts_at: When it begins (`time.monotonic()`), so that several begin at once.
        cancel_after_s: How long after the first effect its run is cancelled; None: it is not.
    """

    runs: Sequence[Run]
    body: Body
    hours: float = 0
    starts_at: float = 0
    cancel_after_s: float | None = None


def adapter_named(path: str) -> type[Adapter]:
    """Import an adapter by `module:Class`."""
    module, _, name = path.partition(":")
    found: type[Adapter] = getattr(import_module(module), name)
    return found


def play(path: str, place: Place, part: Part) -> None:
    """Play the part in this process; what the libraries print is kept in the trial's folder."""
    os.setpgid(0, 0)
    log = os.open(place.folder / "players.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    random.seed()
    try:
        if part.hours:
            _ahead(path, place, part)
        else:
            asyncio.run(_play(path, place, part))
    except BaseException as error:
        traceback.print_exc()
        line = {"what": "died", "act": "", "item": "", "why": f"{type(error).__name__}: {str(error)[:200]}"}
        append(place.folder / "died.jsonl", line)
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _ahead(path: str, place: Place, part: Part) -> None:
    """Play with a clock that is ahead; without `time_machine` only the stores have been set back."""
    try:
        import time_machine
    except ImportError:
        asyncio.run(_play(path, place, part))
        return
    with time_machine.travel(time.time() + part.hours * 3600, tick=True):
        asyncio.run(_play(path, place, part))


async def _play(path: str, place: Place, part: Part) -> None:
    adapter = adapter_named(path)(place)
    try:
        await adapter.open()
    except Exception:
        traceback.print_exc()  # its store is away: this process does not start, and says nothing
        return
    try:
        await asyncio.sleep(max(0, part.starts_at - time.monotonic()))
        for run in part.runs:
            task = asyncio.ensure_future(adapter.run(run, part.body))
            if part.cancel_after_s is not None:
                await _cancel(task, place, part.cancel_after_s)
            else:
                await task
    finally:
        await adapter.close()


async def _cancel(task: "asyncio.Future[None]", place: Place, after_s: float) -> None:
    while not lines(place.effects) and not task.done():
        await asyncio.sleep(0.002)
    await asyncio.sleep(after_s)
    task.cancel()
    await asyncio.wait([task], timeout=5)
