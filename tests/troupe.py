"""The workers of the storm: whoever dies is followed by another, as under any supervisor."""

import asyncio
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace

from crew import CONTEXT, Member, start_forkserver
from storm_child import StormOrders, play

from telemetry.failpoints import FAILPOINTS

STOP_S = 15.0
"""A worker that was asked to stop and still runs after this did not stop."""


class Hand(Member):
    """One child of the storm."""

    def __init__(self, orders: StormOrders) -> None:
        self.orders = orders
        start_forkserver()
        self._process = CONTEXT.Process(target=play, args=(orders,), daemon=True)
        self._process.start()


@dataclass
class Troupe:
    """The workers: whoever dies is followed by another, as under any supervisor.

    Attributes:
        ends: How children ended: `killed`, `at POINT`, `stopped`, or `fell with CODE` by themselves.
        armed: New children may die at named points.
    """

    orders: StormOrders
    size: int
    chance: random.Random
    workers: list[Hand] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    armed: bool = True
    closing: bool = False
    _asked: dict[int, str] = field(default_factory=dict)

    async def keep(self) -> None:
        """Start everybody, and replace whoever is gone, until it is closing time."""
        while not self.closing:
            for place in range(self.size):
                if place == len(self.workers):
                    self.workers.append(self._hire(place))
                elif not self.workers[place].alive:
                    self._note(self.workers[place])
                    self.workers[place] = self._hire(place)
            await asyncio.sleep(0.05)

    def _hire(self, place: int) -> Hand:
        dies = None
        if self.armed and self.chance.random() < 0.5:
            dies = (self.chance.choice(FAILPOINTS), self.chance.randrange(6))
        parts = "worker" if place else "all"  # Telegram has one poller
        # Not in a thread: two threads that ask after the same child may wait for ever for its exit code.
        return Hand(replace(self.orders, parts=parts, dies_at=dies))

    def _note(self, hand: Hand) -> None:
        code, orders = hand.exit_code, hand.orders
        asked = self._asked.pop(hand.pid, None)
        if asked is None and code == -signal.SIGKILL and orders.dies_at is not None:
            asked = f"at {orders.dies_at[0]}"
        self.ends[asked or f"fell with {code}"] += 1

    def send(self, hand: Hand, number: signal.Signals, word: str | None = None) -> None:
        """Signal one child by its pid; `word` says how it will have ended."""
        if not hand.alive:
            return
        if word is not None:
            self._asked[hand.pid] = word
        with suppress(ProcessLookupError):
            hand.send(number)

    async def stop(self, keeper: "asyncio.Task[None]") -> int:
        """Ask everybody to stop as an operator does; return how many did not."""
        self.closing = True
        await keeper
        for hand in self.workers:
            self.send(hand, signal.SIGCONT)
            self.send(hand, signal.SIGTERM, "stopped")
        end = time.monotonic() + STOP_S
        while any(hand.alive for hand in self.workers) and time.monotonic() < end:
            await asyncio.sleep(0.05)
        late = [hand for hand in self.workers if hand.alive]
        self.ask_where()
        for hand in self.workers:
            if hand in late:
                hand.kill()  # and whatever lock it holds goes with it
            else:
                self._note(hand)
        return len(late)

    def ask_where(self) -> None:
        """Let every child write where it stands, beside its log: for whoever finds out why it does."""
        for hand in self.workers:
            self.send(hand, signal.SIGUSR1)

    def end(self) -> None:
        for hand in self.workers:
            hand.kill()
