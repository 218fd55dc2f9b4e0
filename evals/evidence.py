"""Evidence of a played case: what was charged, said, refused and logged."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, Field
from redis.asyncio import Redis

from evals.faults import WorkerKilled
from evals.tracebacks import traceback_of
from guardrails.admission import Admission, AdmissionRequest, Decision
from telemetry.redaction import redact_event


class ChargeRecord(BaseModel):
    """One line of the provider's charge log: a charge, or a refund with negative micro-dollars."""

    job: str
    key: str = ""
    micros: int
    request: str | None = None
    """The request whose key it carries; None if no request has this key."""
    foreign: bool = False
    """Whether it stands in the log of an account at which the request's bot does not order."""


class ChatLine(BaseModel):
    """One message in a chat, as it is at the end."""

    chat: str
    bot: bool
    text: str
    video: bool = False
    still: bool = False
    at: str = ""
    """The id of the bot whose chat holds it."""


class RequestFate(BaseModel):
    """How one request ended."""

    request: str
    who: str
    state: str
    video: str | None = None
    told: str = ""
    reason: str | None = None
    quote_micros: int = 0
    booked_micros: int = 0

    @property
    def word(self) -> str:
        return self.video or self.state

    @property
    def end(self) -> str:
        """The state of the video, or of the request with its reason."""
        return self.video or (f"{self.state} ({self.reason})" if self.reason else self.state)


class Refusal(BaseModel):
    """One call that a guard, or the ledger, refused."""

    request: str
    tool: str
    word: str
    layer: str
    arguments: str = ""


class Turn(BaseModel):
    """One answer of a model, and its position in a run."""

    agent: str
    idea: str
    position: int
    """How many items the conversation had before it."""
    items: list[dict[str, Any]]


class Evidence(BaseModel):
    """Everything that the scorer reads; it travels between processes as JSON.

    `texts` holds every text that the bot sent, edits included; `lines` is what the chats hold at the end.
    """

    case: str
    seconds: float = 0
    cpu_s: float = 0
    lag_s: float = 0
    """The longest time for which the playing process stood still; see `evals.waiting.LagMeter`."""
    crowding: float = 1
    """How many processes shared a core; see `evals.waiting.crowding`."""
    idle_s: float = 0
    """The seconds that an idle machine would have needed."""
    charges: list[ChargeRecord] = Field(default_factory=list)
    stills: list[ChargeRecord] = Field(default_factory=list)
    """The charge log of the image server."""
    stills_delivered: int = 0
    posts: list[str | None] = Field(default_factory=list)
    """The request of every paid POST, by its key; None without a key, or for a key of no request."""
    ledger_mismatch: str = ""
    """How the ledger and the charge log differ; empty if they agree."""
    delivered: int = 0
    tools: list[str] = Field(default_factory=lambda: ["generate_video"])
    """The paid tools whose calls are counted."""
    fates: list[RequestFate] = Field(default_factory=list)
    missed: str = ""
    """What an event waited for and did not get; empty if the case was played to its end."""
    unmet: list[str] = Field(default_factory=list)
    """Faults that were set up and never happened; also empty if an event was missed."""
    doubts: int | None = None
    """Calls of a foreign agent's tools whose outcome stayed unknown; None where the bot was played."""
    restless: list[str] = Field(default_factory=list)
    """Requests that did not settle in time."""
    refusals: list[Refusal] = Field(default_factory=list)
    unrecorded: int = 0
    """Refusals that a slow ledger did not record in time: this loses evidence, never money."""
    emitted: list[dict[str, Any]] = Field(default_factory=list)
    turns: list[Turn] = Field(default_factory=list)
    """The same items, answer by answer, as `--record` writes them."""
    heard: list[str] = Field(default_factory=list)
    model_calls: dict[str, int] = Field(default_factory=dict)
    texts: list[ChatLine] = Field(default_factory=list)
    lines: list[ChatLine] = Field(default_factory=list)
    errors: list[str] = Field(default_factory=list)
    """Log events of level ERROR, and uncaught exceptions."""
    tracebacks: list[str] = Field(default_factory=list)
    """Where uncaught exceptions, and those that were logged as errors, were raised; redacted."""
    log: list[str] = Field(default_factory=list)
    """Guard decisions and what was paid, as they were logged."""
    guard_ms: list[float] = Field(default_factory=list)
    guard_trips: list[int] = Field(default_factory=list)
    """Redis round trips of each admission."""

    @property
    def paid(self) -> int:
        return sum(charge.micros > 0 for charge in self.charges)

    @property
    def cost(self) -> int:
        """Micro-dollars after refunds."""
        return sum(charge.micros for charge in self.charges)

    @property
    def attempts(self) -> int:
        return sum(item.get("name") in self.tools for item in self.emitted)

    @property
    def prevented(self) -> int:
        return sum(one.tool in self.tools for one in self.refusals)

    def calls_of(self, tool: str) -> tuple[int, int]:
        """Return how often the model called a tool, and how many of these calls were refused or replayed."""
        asked = sum(item.get("name") == tool for item in self.emitted)
        return asked, sum(one.tool == tool for one in self.refusals)

    @property
    def excess(self) -> int:
        """Charges beyond one for each request, and those that belong to no request."""
        owners = [charge.request for charge in (*self.charges, *self.stills) if charge.micros > 0]
        return len(owners) - len({owner for owner in owners if owner is not None})

    @property
    def overspend(self) -> int:
        """Micro-dollars charged beyond the first charge of each request."""
        seen: set[str | None] = {None}
        spent = 0
        for charge in (*self.charges, *self.stills):
            if charge.micros > 0:
                spent += charge.micros if charge.request in seen else 0
                seen.add(charge.request)
        return spent


_SHOWN: Final = (
    "DUPLICATE CALL PREVENTED", "call refused", "order refused", "executing", "replayed", "submitting order",
    "in doubt: it may have been charged", "counters rebuilt from the ledger", "request", "the run broke",
)  # fmt: skip
_REFUSED: Final = ("DUPLICATE CALL PREVENTED", "call refused", "order refused")
_LOST: Final = "refused call not recorded"
_PLUMBING: Final = frozenset({"event", "level", "logger", "timestamp", "trace_id", "span_id"})
_RECORD_ATTRIBUTES: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
_trips: ContextVar[list[int] | None] = ContextVar("trips", default=None)


@dataclass
class Notes:
    """What was logged and measured while a case was played."""

    errors: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    unrecorded: int = 0
    log: list[str] = field(default_factory=list)
    guard_ms: list[float] = field(default_factory=list)
    guard_trips: list[int] = field(default_factory=list)


class _NotesHandler(logging.Handler):
    """Keeps our log events.

    structlog passes each as a record whose message is a dictionary; the guards log by `logging` with `extra`.
    """

    def __init__(self, notes: Notes) -> None:
        super().__init__(logging.INFO)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        event, fields = _event_of(record)
        line = " ".join([event, *(f"{name}={value}" for name, value in fields.items())])
        if event in _REFUSED:
            self._notes.refusals.append(_refusal(fields))
        if event == _LOST:
            self._notes.unrecorded += 1
        elif record.levelno >= logging.ERROR:
            self._notes.errors.append(line)
            if record.exc_info and record.exc_info[1] is not None:
                self._notes.tracebacks.append(traceback_of(record.exc_info[1]))
        if event in _SHOWN or record.levelno >= logging.WARNING:
            self._notes.log.append(line)


def _event_of(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    message: Any = record.msg
    if isinstance(message, dict):
        fields = {name: value for name, value in message.items() if name not in _PLUMBING}
        return str(message.get("event", "")), fields
    extra = {name: value for name, value in vars(record).items() if name not in _RECORD_ATTRIBUTES}
    return record.getMessage(), dict(redact_event(None, "", extra))


def _refusal(fields: dict[str, Any]) -> Refusal:
    return Refusal(
        request=str(fields.get("request", "")),
        tool=str(fields.get("tool", "")),
        word=str(fields.get("verdict", "replay")),
        layer=str(fields.get("layer", "")),
        arguments=", ".join(fields.get("arguments", ())),
    )


@contextmanager
def collect_notes() -> Iterator[Notes]:
    """Collect log events, refusals and guard timings of this process inside the block."""
    notes = Notes()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:], root.level = [_NotesHandler(notes)], logging.INFO
    reserve, execute = Admission.reserve, Redis.execute_command

    async def timed(self: Admission, ask: AdmissionRequest) -> Decision:
        began = time.perf_counter()
        trips: list[int] = []
        token = _trips.set(trips)
        try:
            return await reserve(self, ask)
        finally:
            _trips.reset(token)
            notes.guard_ms.append((time.perf_counter() - began) * 1000)
            notes.guard_trips.append(len(trips))

    def counted(self: Any, *args: Any, **more: Any) -> Any:
        trips = _trips.get()
        if trips is not None:
            trips.append(1)
        return execute(self, *args, **more)  # type: ignore[no-untyped-call]  # redis-py has no types here

    Admission.reserve, Redis.execute_command = timed, counted  # type: ignore[method-assign]  # restored below
    try:
        yield notes
    finally:
        Admission.reserve, Redis.execute_command = reserve, execute  # type: ignore[method-assign]  # as they were
        root.handlers[:], root.level = before


def note_uncaught(notes: Notes) -> None:
    """Add exceptions that no one awaited to the errors."""

    def note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, WorkerKilled):  # a fault that was set up: the task of a killed worker ends so
            return
        notes.errors.append(f"uncaught: {type(error).__name__ if error else context['message']}")
        if error is not None:
            notes.tracebacks.append(traceback_of(error))

    asyncio.get_running_loop().set_exception_handler(note)
