"""What is noted while a case is played: errors and guard decisions from the log, and what guards cost."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis

from evals.evidence import Refusal
from guardrails.admission import Admission, Ask, Decision

_SHOWN: Final = (
    "DUPLICATE CALL PREVENTED", "call refused", "order refused", "executing", "replayed", "paying",
    "in doubt: it may have been charged", "counters rebuilt from the ledger", "request", "the run broke",
)  # fmt: skip
_REFUSED: Final = ("DUPLICATE CALL PREVENTED", "call refused", "order refused")
_LOST: Final = "refused call not recorded"
_trips: ContextVar[list[int] | None] = ContextVar("trips", default=None)


@dataclass
class Notes:
    """What was noted."""

    errors: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    unrecorded: int = 0
    log: list[str] = field(default_factory=list)
    guard_ms: list[float] = field(default_factory=list)
    guard_trips: list[int] = field(default_factory=list)


class _Listener(logging.Handler):
    """Keeps our own events; structlog hands each over as a record whose message is a dictionary."""

    def __init__(self, notes: Notes) -> None:
        super().__init__(logging.INFO)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        said: Any = record.msg
        event = str(said.get("event", "")) if isinstance(said, dict) else record.getMessage()
        fields = (
            {name: value for name, value in said.items() if name not in _PLUMBING}
            if isinstance(said, dict)
            else {}
        )
        line = " ".join([event, *(f"{name}={value}" for name, value in fields.items())])
        if event in _REFUSED:
            self._notes.refusals.append(_refusal(fields))
        if event == _LOST:
            self._notes.unrecorded += 1
        elif record.levelno >= logging.ERROR:
            self._notes.errors.append(line)
        if event in _SHOWN or record.levelno >= logging.WARNING:
            self._notes.log.append(line)


_PLUMBING: Final = frozenset({"event", "level", "logger", "timestamp", "trace_id", "span_id"})


def _refusal(fields: dict[str, Any]) -> Refusal:
    return Refusal(
        request=str(fields.get("request", "")),
        tool=str(fields.get("tool", "")),
        word=str(fields.get("verdict", "replay")),
        layer=str(fields.get("layer", "")),
        arguments=", ".join(fields.get("arguments", ())),
    )


@contextmanager
def noting() -> Iterator[Notes]:
    """Note what happens in this process inside the block."""
    notes = Notes()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:], root.level = [_Listener(notes)], logging.INFO
    take, execute = Admission.take, Redis.execute_command

    async def timed(self: Admission, ask: Ask) -> Decision:
        began = time.perf_counter()
        trips: list[int] = []
        token = _trips.set(trips)
        try:
            return await take(self, ask)
        finally:
            _trips.reset(token)
            notes.guard_ms.append((time.perf_counter() - began) * 1000)
            notes.guard_trips.append(len(trips))

    def counted(self: Any, *args: Any, **more: Any) -> Any:
        trips = _trips.get()
        if trips is not None:
            trips.append(1)
        return execute(self, *args, **more)  # type: ignore[no-untyped-call]  # redis-py has no types here

    Admission.take, Redis.execute_command = timed, counted  # type: ignore[method-assign]  # put back below
    try:
        yield notes
    finally:
        Admission.take, Redis.execute_command = take, execute  # type: ignore[method-assign]
        root.handlers[:], root.level = before


def note_uncaught(notes: Notes) -> None:
    """Note exceptions that no task's owner looked at."""

    def note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        notes.errors.append(f"uncaught: {type(error).__name__ if error else context['message']}")

    asyncio.get_running_loop().set_exception_handler(note)
