"""What live models have used, in one file for all processes; it refuses before anything is sent.

A request reserves the most that it may cost and settles with what it did cost. One that failed keeps its
reservation: nobody can know whether it was billed.
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
    """A cap has no room for another request."""


class Caps(CaseModel):
    """How much may be used in one run, and what a million tokens cost, in micro-dollars and tokens."""

    usd_micros: int = Field(gt=0)
    tokens: int = Field(gt=0)
    requests: int = Field(gt=0)
    price_in: float = Field(ge=0)
    """Dollars for a million tokens that are sent: micro-dollars for one."""
    price_out: float = Field(ge=0)

    def micros(self, sent: int, answered: int) -> int:
        return round(sent * self.price_in + answered * self.price_out)


class Used(BaseModel):
    """What was used so far; `estimated` requests came back without usage. `stopped` names the cap."""

    requests: int = 0
    tokens: int = 0
    micros: int = 0
    estimated: int = 0
    stopped: str = ""

    def __str__(self) -> str:
        guessed = f" ({self.estimated} of them estimated from characters)" if self.estimated else ""
        return f"{self.requests} requests{guessed}, {self.tokens} tokens, {Money(self.micros)}"


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
        """Take room for one request of so many tokens at most.

        Raises:
            CapReachedError: There is none; from now on there is none for anybody.
        """
        ticket = SpendReservation(sent + answered, self.caps.micros(sent, answered))
        with self._open() as used:
            used.stopped = used.stopped or self._beyond(used, ticket)
            if not used.stopped:
                used.requests += 1
                used.tokens += ticket.tokens
                used.micros += ticket.micros
            stopped = used.stopped
        if stopped:
            raise CapReachedError(stopped)
        return ticket

    def settle(self, ticket: SpendReservation, sent: int, answered: int, *, estimated: bool = False) -> None:
        """Put what a request did use in the place of what was reserved for it."""
        with self._open() as used:
            used.tokens += sent + answered - ticket.tokens
            used.micros += self.caps.micros(sent, answered) - ticket.micros
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
