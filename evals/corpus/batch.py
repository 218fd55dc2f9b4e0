"""Plays one batch of texts in one process: many users at once in one app."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast
from unittest.mock import patch
from weakref import WeakKeyDictionary

from aiosqlite.core import Connection
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from chat.context import EditLimits
from evals.corpus.slots import CorpusAdversary, CorpusProvider, EchoMode, Slot, provider_reply
from evals.environment import (
    QUICK_TIMEOUTS,
    AppEnvironment,
    EnvironmentConfig,
    assert_ledger_matches,
    is_settled,
    open_environment,
)
from evals.evidence import Notes, collect_notes, note_uncaught
from evals.faults import relaxed_timeouts
from evals.runner import CaseResources, owners
from evals.waiting import LagMeter
from ledger.database import Ledger
from ledger.models import Request, Video, provider_key
from ledger.schema import requests, videos
from telemetry.redaction import short_id

AT_ONCE: Final = 12
"""Users at once in one process: enough for their waits to overlap, few enough for guards to stay in time."""

SETTLE_TIMEOUT_S: Final = 120.0
LEFTOVERS_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.25
_LIFTED: Final = {"breaker": "{everyone: 100000/5m}", "budget": "{user: $15/day, everyone: $1000000/day}"}
"""Limits for everyone would stop so many users; limits of one user stay as shipped."""

_TIMEOUTS: Final = replace(QUICK_TIMEOUTS, run_s=60, sweep_s=1, refresh_s=60)
_CAPABILITIES: Final = {"submit_timeout_s": 20.0, "poll_s": 0.2, "settle_s": 5.0}
_EDIT_LIMITS: Final = EditLimits(
    private_s=0.3, group_s=0.3, quiet_s=0.1, progress_s=0.3, ping_after_s=0, retry_s=1, lease_s=30
)
_OF_REQUEST: Final = re.compile(r"\brequest=(\S+)")
_APP_FAILED: Final = frozenset({"restless", "REFUSED (closed)", "EXPIRED", "CANCELLED"})
"""Ends that no text brings about: a guard or a worker did not do its part in time."""

_EXPECTED: Final = ("in doubt: it may have been charged",)
"""Provoked by a provider that charges and then fails: an operator gets an alert."""


class Batch(BaseModel):
    """The work for one process."""

    slot: Slot
    echo: EchoMode
    texts: list[tuple[int, str]]
    first_user: int


class PlayedText(BaseModel):
    """The outcome of one text in one slot."""

    line: int
    slot: Slot
    echo: EchoMode
    paid: int = 0
    ended: str = "no request"
    """The state of the video, or of the request with its reason; `no request`; `restless` if not settled."""
    seconds: float = 0
    errors: list[str] = []

    @property
    def unmade(self) -> str:
        """How the app failed its user; empty if it did not.

        A text may be refused for its content or its form, and a provider's text may be that a job failed.
        """
        if self.ended == "DELIVERED":
            return "" if self.paid else "delivered, and never paid"
        nothing_was_sent = self.ended == "no request" and self.slot != "idea"
        return self.ended if nothing_was_sent or self.ended in _APP_FAILED else ""

    @property
    def place(self) -> str:
        return f"line {self.line}, {self.slot}, {self.echo}"


class BatchResult(BaseModel):
    """The outcome of a batch. All but `played` belongs to the batch as a whole.

    `lag_s` is the longest time for which the playing process stood still.
    """

    played: list[PlayedText]
    attempts: int = 0
    leaks: int = 0
    trouble: list[str] = []
    cpu_s: float = 0
    lag_s: float = 0


@dataclass
class _TextRequest:
    """One user and their one command."""

    played: PlayedText
    idea: str
    text: str
    request: str = ""
    update: int = 0
    began: float = field(default_factory=time.monotonic)


def play_batch(batch: Batch, where: CaseResources) -> BatchResult:
    """Play a batch in this process; never two at a time."""
    cpu = time.process_time()
    scratch = TemporaryDirectory(dir=where.scratch, prefix="sweep-", ignore_cleanup_errors=True)
    with scratch as folder, relaxed_timeouts(), inline(), collect_notes() as notes, LagMeter() as lag:
        found = asyncio.run(_play(batch, where, Path(folder), notes))
    found.cpu_s, found.lag_s = time.process_time() - cpu, lag.worst_s
    return found


async def _play(batch: Batch, where: CaseResources, folder: Path, notes: Notes) -> BatchResult:
    note_uncaught(notes)
    model = CorpusAdversary(batch.slot, batch.echo)
    plan = EnvironmentConfig(
        folder,
        where.redis_url,
        model,
        changes=_LIFTED,
        capabilities=_CAPABILITIES,
        timeouts=_TIMEOUTS,
        edit_limits=_EDIT_LIMITS,
        template=where.template,
        fake_provider=CorpusProvider,
        fake_provider_options={"polls": 0},
    )
    sent = [_text_request(batch, number, text) for number, text in batch.texts]
    model.texts = {one.idea: one.text for one in sent if batch.slot != "idea"}
    async with open_environment(plan) as env:
        await _play_all(env, batch, sent)
        await _wait_for_leftovers(env)
        trouble = await _count(env, sent) + await _check_ledger(env)
    found = BatchResult(played=[one.played for one in sent], leaks=len(model.leaks), trouble=trouble)
    found.attempts = model.transcript.attempts("generate_video")
    _attribute_errors(found, sent, notes)
    return found


def _text_request(batch: Batch, number: int, text: str) -> _TextRequest:
    idea = text if batch.slot == "idea" else f"a paper boat on a quiet lake, number {number}"
    return _TextRequest(PlayedText(line=number, slot=batch.slot, echo=batch.echo), idea, text)


async def _play_all(env: AppEnvironment, batch: Batch, sent: list[_TextRequest]) -> None:
    """Send all commands, `AT_ONCE` at a time, and wait until each is settled."""
    queued, open_now = list(reversed(sent)), list[_TextRequest]()
    while queued or open_now:
        while queued and len(open_now) < AT_ONCE:
            open_now.append(queued.pop())
            await _send(env, open_now[-1], batch.first_user + len(sent) - len(queued))
        await asyncio.sleep(_POLL_S)
        open_now = await _still_open(env, open_now)


async def _send(env: AppEnvironment, one: _TextRequest, user: int) -> None:
    person = env.api.user(user, "Ana")
    first = (await person.send_long(f"/create {one.idea}"))[0]
    one.update = person.last_update.id if person.last_update else 0
    one.request = f"tg:{env.app.bot.id}:-:{user}:{first.id}"
    one.began = time.monotonic()
    if one.played.slot == "provider":
        reply = provider_reply(one.played.line, one.text)
        cast("CorpusProvider", env.fake_provider).scripted_replies[provider_key(one.request)] = reply


async def _still_open(env: AppEnvironment, open_now: list[_TextRequest]) -> list[_TextRequest]:
    """Record how requests ended; return those that have not."""
    unconfirmed = set(env.api.pending_updates)  # before the ledger is read: a row comes first
    states = await _request_states(env, [one.request for one in open_now])
    left = []
    for one in open_now:
        found = states.get(one.request)
        one.played.seconds = time.monotonic() - one.began
        if found is not None and is_settled(*found):
            one.played.ended = _word(*found)
        elif found is None and one.update not in unconfirmed:
            one.played.ended = "no request"
        elif one.played.seconds > SETTLE_TIMEOUT_S:
            one.played.ended = "restless"
        else:
            left.append(one)
    return left


async def _wait_for_leftovers(env: AppEnvironment) -> None:
    """Wait until all requests are settled: a mutant creates requests that no user sent, and pays for them."""
    end = time.monotonic() + LEFTOVERS_TIMEOUT_S
    while time.monotonic() < end:
        if all(is_settled(*one) for one in (await _request_states(env)).values()):
            return
        await asyncio.sleep(_POLL_S)


async def _request_states(
    env: AppEnvironment, ids: Sequence[str] | None = None
) -> dict[str, tuple[Request, Video | None]]:
    """Return these requests with their videos by id, or all requests."""
    orders, opened = select(videos), select(requests)
    if ids is not None:
        orders = orders.where(videos.c.request_id.in_(ids))
        opened = opened.where(requests.c.request_id.in_(ids))
    async with env.app.ledger.read() as conn:
        made = {row.request_id: Video.from_row(row) for row in await conn.execute(orders)}
        rows = await conn.execute(opened)
        return {row.request_id: (Request.from_row(row), made.get(row.request_id)) for row in rows}


def _word(request: Request, video: Video | None) -> str:
    return str(video.state) if video else f"{request.state} ({request.reason})"


async def _count(env: AppEnvironment, sent: list[_TextRequest]) -> list[str]:
    """Count what was paid from the provider's own log; return charges that belong to no user's request."""
    owner = await owners(env)
    paid = Counter(owner.get(line["key"]) for line in env.fake_provider.charges())
    for one in sent:
        one.played.paid = paid.pop(one.request, 0)
    return [f"{count} charges for {name or 'no request'}" for name, count in paid.items()]


async def _check_ledger(env: AppEnvironment) -> list[str]:
    try:
        await assert_ledger_matches(env.app.ledger, env.fake_provider)
    except AssertionError as error:
        return [str(error).partition("\n")[0]]
    return []


def _attribute_errors(found: BatchResult, sent: list[_TextRequest], notes: Notes) -> None:
    """Attribute each error to the request it names; errors without one are the batch's trouble."""
    by_request = {name: one.played for one in sent for name in (one.request, short_id(one.request))}
    for line in (one for one in notes.errors if not one.startswith(_EXPECTED)):
        named = _OF_REQUEST.search(line)
        played = by_request.get(named[1]) if named else None
        (found.trouble if played is None else played.errors).append(line[:200])


@contextmanager
def inline() -> Iterator[None]:
    """Drive SQLite without threads inside the block; for one app at a time."""
    locks: WeakKeyDictionary[Ledger, asyncio.Lock] = WeakKeyDictionary()
    write, stop = Ledger.write, Connection.stop

    @asynccontextmanager
    async def in_turn(self: Ledger) -> AsyncIterator[AsyncConnection]:
        async with locks.setdefault(self, asyncio.Lock()), write(self) as conn:
            yield conn

    async def connect(self: Any) -> Connection:
        if self._connection is None:
            self._connection = self._connector()
        return self  # type: ignore[no-any-return]  # it is one

    async def execute(self: Any, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        if not self._running or self._connection is None:
            raise ValueError("Connection closed")
        return function(*args, **more)

    def close_first(self: Any) -> Any:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        return stop(self)

    with (
        patch.object(Ledger, "write", in_turn),
        patch.multiple(Connection, _connect=connect, _execute=execute, stop=close_first),
    ):
        yield
