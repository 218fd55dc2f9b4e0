"""The meter of a live run: what was used, in one file for all processes; refuses before a cap is exceeded.

A request reserves the most that it may cost and is corrected to what it did cost. One that failed keeps its
reservation, because it may have been billed.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from evals.events import CaseModel, EvalError
from guardrails.money import Money


class CapReachedError(EvalError):
    """Another request might exceed a cap."""


class Caps(CaseModel):
    """What one run may use at most, and the price of a million tokens."""

    usd_micros: int = Field(gt=0)
    tokens: int = Field(gt=0)
    requests: int = Field(gt=0)
    price_in: float = Field(ge=0)
    """Dollars per million tokens sent, which is micro-dollars per token."""
    price_out: float = Field(ge=0)

    def micros(self, sent: int, answered: int) -> int:
        return round(sent * self.price_in + answered * self.price_out)


class Used(BaseModel):
    """What was used so far. `estimated` counts answers without usage; `stopped` names the cap."""

    requests: int = 0
    tokens: int = 0
    micros: int = 0
    estimated: int = 0
    stopped: str = ""

    def __str__(self) -> str:
        estimated = f" ({self.estimated} of them estimated from characters)" if self.estimated else ""
        return f"{self.requests} requests{estimated}, {self.tokens} tokens, {Money(self.micros)}"


@dataclass(frozen=True, slots=True)
class SpendReservation:
    """What was reserved for one request."""

    tokens: int
    micros: int


@dataclass(frozen=True)
class SpendMeter:
    """The meter of one run."""

    path: Path
    caps: Caps

    def reserve(self, sent: int, answered: int) -> SpendReservation:
        """Reserve one request of at most this many tokens.

        Raises:
            CapReachedError: It might exceed a cap; every later request is refused too.
        """
        reservation = SpendReservation(sent + answered, self.caps.micros(sent, answered))
        with self._open() as used:
            used.stopped = used.stopped or self._beyond(used, reservation)
            if not used.stopped:
                used.requests += 1
                used.tokens += reservation.tokens
                used.micros += reservation.micros
            stopped = used.stopped
        if stopped:
            raise CapReachedError(stopped)
        return reservation

    def settle(
        self, reservation: SpendReservation, sent: int, answered: int, *, estimated: bool = False
    ) -> None:
        """Replace a reservation by what the request did use."""
        with self._open() as used:
            used.tokens += sent + answered - reservation.tokens
            used.micros += self.caps.micros(sent, answered) - reservation.micros
            used.estimated += estimated

    def read(self) -> Used:
        with self._open() as used:
            return used.model_copy()

    def _beyond(self, used: Used, more: SpendReservation) -> str:
        caps = self.caps
        if used.requests >= caps.requests:
            return f"stopped on a cap: {used.requests} of {caps.requests} requests were sent"
        if used.tokens + more.tokens > caps.tokens:
            next_one = f"the next request may use {more.tokens}"
            return f"stopped on a cap: {used.tokens} of {caps.tokens} tokens are used, {next_one}"
        if used.micros + more.micros > caps.usd_micros:
            spent, cap = Money(used.micros), Money(caps.usd_micros)
            return f"stopped on a cap: {spent} of {cap} spent, the next may cost {Money(more.micros)}"
        return ""

    @contextmanager
    def _open(self) -> Iterator[Used]:
        with self.path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            used = Used.model_validate(json.loads(file.read() or "{}"))
            before = used.model_copy()
            yield used
            if used != before:
                file.seek(0)
                file.truncate()
                file.write(used.model_dump_json())
                file.flush()
