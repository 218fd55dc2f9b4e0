"""Starts, kills and joins the players of a trial, and gives it a random generator of its own."""

import multiprocessing
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bench.peers.adapter import Adapter, Call, Run
from bench.peers.body import Body
from bench.peers.place import Place, append, lines
from bench.peers.player import Part, play
from bench.peers.stores import Store
from bench.peers.words import claim_of

HANGS_S: Final = 60
"""A player that takes longer hangs, and is killed."""


@dataclass
class Stage:
    """One trial in one seed.

    Attributes:
        notes: Faults in effects that the counts at the end do not show.
        hung: Players that did not end.
        hurt: Whether a store lost something, so that a guard may not know what it knew.
    """

    path: str
    adapter: type[Adapter]
    place: Place
    stores: list[Store]
    seed: int
    random: random.Random
    notes: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    hurt: bool = False

    def part(self, turns: Sequence[Sequence[Call]], act: str = "act-1", **more: Any) -> Part:
        """Return a part of one run; `more` are fields of `Body` and of `Part`."""
        of_body = {name: more.pop(name) for name in ("way", "before_s", "after_s") if name in more}
        return Part([Run(act, turns)], Body(self.place, **of_body), **more)

    def start(self, part: Part) -> Any:
        """Start a process that plays the part."""
        process = _context().Process(target=play, args=(self.path, self.place, part), daemon=True)
        process.start()
        return process

    def join(self, *processes: Any) -> None:
        """Wait until they have ended."""
        until = time.monotonic() + HANGS_S
        for process in processes:
            process.join(max(0, until - time.monotonic()))
            if process.is_alive():
                self.hung.append(f"a player did not end within {HANGS_S} s")
                self.kill(process)

    def kill(self, process: Any) -> None:
        """End a process with SIGKILL."""
        process.kill()
        process.join()
        line = {"what": "killed", "act": "", "item": "", "pid": process.pid, "at": time.monotonic()}
        append(self.place.calls, line)

    def play(self, *parts: Part) -> None:
        """Play parts at once, each in a process of its own, and wait for them."""
        if len(parts) > 1:
            self.play(self.part([], act="set-up"))  # tables are made before, as a deployment does
        starts_at = time.monotonic() + (0.25 if len(parts) > 1 else 0)
        self.join(*[self.start(replace(part, starts_at=starts_at)) for part in parts])

    def wait_for(self, what: str, process: Any) -> None:
        """Wait until the first body has `began`, or the first `effect` happened."""
        until = time.monotonic() + HANGS_S
        path = self.place.effects if what == "effect" else self.place.calls
        while not lines(path) and process.is_alive() and time.monotonic() < until:
            time.sleep(0.002)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def random_sleep(self, at_most_s: float) -> None:
        """Let a random part of this time pass."""
        time.sleep(self.random.uniform(0, at_most_s))

    def redeliver(self, part: Part, times: int = 3) -> None:
        """Play the part again after the lease, until the last answer is no doubt any more."""
        time.sleep(self.adapter.lease_s * 1.2)
        for _ in range(times):
            self.play(part)
            said = lines(self.place.sentences)
            if said and claim_of(said[-1]["text"]) == "done":
                return
            time.sleep(0.5)

    def effects(self) -> dict[tuple[str, str], int]:
        """Return how often each item of each act was charged."""
        found: dict[tuple[str, str], int] = {}
        for line in lines(self.place.effects):
            key = (line["act"], line["item"])
            found[key] = found.get(key, 0) + 1
        return found


def _context() -> Any:
    return multiprocessing.get_context("forkserver")


def preload(module: str) -> None:
    """Let players be forked from a process that has imported everything already."""
    _context().set_forkserver_preload([module, "bench.peers.player", "time_machine"])
