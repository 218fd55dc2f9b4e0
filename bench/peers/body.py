"""The body of the paid tool, and the ways in which it goes wrong. Knows no guard.

It charges at the provider each time that it runs: whatever runs it twice pays twice.
"""

import asyncio
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, Literal

from bench.peers.place import Place, append, done, lines

Way = Literal["good", "timeout", "not_sent", "slow"]
"""good: charges and answers; timeout: charges, then raises; slow: charges at one end of a long wait;
not_sent: the first run of an act raises before anything is sent."""

OUTCOME_UNKNOWN: Final = "the connection was lost after the order was sent"


class NotSentError(ConnectionError):
    """The provider could not be reached: nothing was sent, so nothing was charged."""


@dataclass(frozen=True)
class Body:
    """The paid tool of one player.

    Attributes:
        before_s: What passes between its beginning and its effect.
        after_s: What passes between its effect and its answer.
    """

    place: Place
    way: Way = "good"
    before_s: float = 0
    after_s: float = 0.01

    async def run(self, act: str, item: str, key: str = "") -> str:
        """Charge, as an asynchronous tool; `key` is what the guard offers for the provider's own header."""
        steps = self._steps(act, item, key)
        try:
            while True:
                await asyncio.sleep(next(steps))
        except StopIteration as end:
            return str(end.value)
        finally:
            steps.close()

    def run_sync(self, act: str, item: str) -> str:
        """Charge, as a tool that blocks its thread."""
        steps = self._steps(act, item, "")
        try:
            while True:
                time.sleep(next(steps))
        except StopIteration as end:
            return str(end.value)

    def _steps(self, act: str, item: str, key: str) -> Generator[float, None, str]:
        """Do what a run does, and yield how long it waits."""
        began, me = time.monotonic(), {"act": act, "item": item, "pid": os.getpid()}
        first = not any(line["act"] == act and line["item"] == item for line in lines(self.place.calls))
        append(self.place.calls, {**me, "what": "began", "at": began, "call": f"{os.getpid()}-{began}"})
        try:
            yield self.before_s
            if self.way == "not_sent" and first:
                raise NotSentError("the provider refused the connection, nothing was sent")
            receipt = self.place.charge(act, item, began, key)
            yield self.after_s
            if self.way == "timeout":
                raise TimeoutError(OUTCOME_UNKNOWN)
            return done(item, receipt)
        finally:
            ended = {**me, "what": "ended", "at": time.monotonic(), "call": f"{os.getpid()}-{began}"}
            append(self.place.calls, ended)
