"""One batch in one process."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch
from weakref import WeakKeyDictionary

from aiosqlite.core import Connection
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from chat.context import Manners
from evals.corpus.slots import Echo, Echoes, Echoing, Slot, said
from evals.corpus.texts import Text
from evals.environment import QUICK_PACE, Plan, Stage, books_agree, open_stage, rests
from evals.evidence import Notes, note_uncaught, noting
from evals.faults import unhurried
from evals.runner import Where, owners
from ledger.database import Ledger
from ledger.models import Request, Video, provider_key
from ledger.schema import requests, videos
from telemetry.redaction import short_id


@contextmanager
def inline() -> Iterator[None]:
    """Drive SQLite in this process's own thread inside the block; one house at a time."""
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


AT_ONCE: Final = 12
"""Users under way at once in one process: so many that their pauses overlap, so few that a guard still
decides within its second.
"""

PATIENCE_S: Final = 120.0
STRAGGLERS_S: Final = 30.0
_LOOK_S: Final = 0.25
_LIFTED: Final = {"breaker": "{everyone: 100000/5m}", "budget": "{user: $15/day, everyone: $1000000/day}"}
"""What holds for everybody would stop a crowd; what holds for one user stays as it is shipped."""

_PACE: Final = replace(QUICK_PACE, run_s=60, sweep_s=1, refresh_s=60)
_TIMES: Final = {"submit_timeout_s": 20.0, "poll_s": 0.2, "settle_s": 5.0}
_MANNERS: Final = Manners(private_s=0.3, group_s=0.3, tick_s=0.3, retry_s=1, lease_s=30)
_OF_REQUEST: Final = re.compile(r"\brequest=(\S+)")


class Batch(BaseModel):
    """What one process is given at once."""

    slot: Slot
    echo: Echo
    texts: list[tuple[int, str]]
    first_user: int


class Played(BaseModel):
    """What came of one text in one slot."""

    line: int
    slot: Slot
    echo: Echo
    paid: int = 0
    ended: str = "no request"
    """The video's state, the request's reason where there is none, or `no request`, or `restless`."""
    seconds: float = 0
    errors: list[str] = []


class Floor(BaseModel):
    """What came of a batch; `attempts` and `trouble` are the whole batch's."""

    played: list[Played]
    attempts: int = 0
    leaks: int = 0
    trouble: list[str] = []
    cpu_s: float = 0


@dataclass
class _Visit:
    """One user's one command."""

    played: Played
    idea: str
    text: str
    request: str = ""
    update: int = 0
    began: float = field(default_factory=time.monotonic)


def play_batch(batch: Batch, where: Where) -> Floor:
    """Play a batch in this process; never two at a time."""
    cpu = time.process_time()
    scratch = TemporaryDirectory(dir=where.scratch, prefix="sweep-", ignore_cleanup_errors=True)
    with scratch as folder, unhurried(), inline(), noting() as notes:
        found = asyncio.run(_play(batch, where, Path(folder), notes))
    found.cpu_s = time.process_time() - cpu
    return found


async def _play(batch: Batch, where: Where, folder: Path, notes: Notes) -> Floor:
    note_uncaught(notes)
    model = Echoes(batch.slot, batch.echo)
    plan = Plan(
        folder, where.redis_url, model, changes=_LIFTED, capabilities=_TIMES, pace=_PACE, manners=_MANNERS,
        template=where.template, peer=Echoing, peer_options={"polls": 0},
    )  # fmt: skip
    visits = [_visit(batch, number, text) for number, text in batch.texts]
    model.texts = {one.idea: one.text for one in visits if batch.slot != "idea"}
    async with open_stage(plan) as stage:
        await _crowd(stage, batch, visits)
        await _stragglers(stage)
        trouble = await _count(stage, visits) + await _books(stage)
    found = Floor(played=[one.played for one in visits], leaks=len(model.leaks), trouble=trouble)
    found.attempts = model.diary.attempts("generate_video")
    _blame(found, visits, notes)
    return found


def _visit(batch: Batch, number: int, text: str) -> _Visit:
    idea = text if batch.slot == "idea" else f"a paper boat on a quiet lake, number {number}"
    return _Visit(Played(line=number, slot=batch.slot, echo=batch.echo), idea, text)


async def _crowd(stage: Stage, batch: Batch, visits: list[_Visit]) -> None:
    """Let everybody in, `AT_ONCE` at a time, and see them out."""
    coming, inside = list(reversed(visits)), list[_Visit]()
    while coming or inside:
        while coming and len(inside) < AT_ONCE:
            inside.append(coming.pop())
            await _send(stage, inside[-1], batch.first_user + len(visits) - len(coming))
        await asyncio.sleep(_LOOK_S)
        inside = await _remaining(stage, inside)


async def _send(stage: Stage, visit: _Visit, user: int) -> None:
    person = stage.api.user(user, "Ana")
    first = (await person.send_long(f"/create {visit.idea}"))[0]
    visit.update = person.last_update.id if person.last_update else 0
    visit.request = f"tg:{stage.house.bot.id}:-:{user}:{first.id}"
    visit.began = time.monotonic()
    if visit.played.slot == "provider":
        stage.peer.sayings[provider_key(visit.request)] = said(visit.played.line, visit.text)  # type: ignore[attr-defined]  # the plan's own peer


async def _remaining(stage: Stage, inside: list[_Visit]) -> list[_Visit]:
    """Note how visits ended; return those that go on."""
    unconfirmed = set(stage.api.pending_updates)  # before the ledger is read: a row comes first
    standing = await _standing(stage, [one.request for one in inside])
    left = []
    for visit in inside:
        found = standing.get(visit.request)
        visit.played.seconds = time.monotonic() - visit.began
        if found is not None and rests(*found):
            visit.played.ended = _word(*found)
        elif found is None and visit.update not in unconfirmed:
            visit.played.ended = "no request"
        elif visit.played.seconds > PATIENCE_S:
            visit.played.ended = "restless"
        else:
            left.append(visit)
    return left


async def _stragglers(stage: Stage) -> None:
    """Wait for what nobody sent: a broken house orders more than was asked for, and pays for it as well."""
    end = time.monotonic() + STRAGGLERS_S
    while time.monotonic() < end:
        if all(rests(*one) for one in (await _standing(stage)).values()):
            return
        await asyncio.sleep(_LOOK_S)


async def _standing(
    stage: Stage, ids: Sequence[str] | None = None
) -> dict[str, tuple[Request, Video | None]]:
    """Return how these requests stand, or all of them."""
    orders, asked = select(videos), select(requests)
    if ids is not None:
        orders, asked = (
            orders.where(videos.c.request_id.in_(ids)),
            asked.where(requests.c.request_id.in_(ids)),
        )
    async with stage.house.ledger.read() as conn:
        made = {row.request_id: Video.of(row) for row in await conn.execute(orders)}
        rows = await conn.execute(asked)
        return {row.request_id: (Request.of(row), made.get(row.request_id)) for row in rows}


def _word(request: Request, video: Video | None) -> str:
    return str(video.state) if video else f"{request.state} ({request.reason})"


async def _count(stage: Stage, visits: list[_Visit]) -> list[str]:
    """What was paid is what the provider's own log says; return what is paid for nobody."""
    owner = await owners(stage)
    paid = Counter(owner.get(line["key"]) for line in stage.peer.charges())
    for visit in visits:
        visit.played.paid = paid.pop(visit.request, 0)
    return [f"{count} charges for {name or 'nobody'}" for name, count in paid.items()]


async def _books(stage: Stage) -> list[str]:
    try:
        await books_agree(stage.house.ledger, stage.peer)
    except AssertionError as error:
        return [str(error).partition("\n")[0]]
    return []


_EXPECTED: Final = ("in doubt: it may have been charged",)
"""What a provider that charges and then fails provokes: an operator is told."""


def _blame(found: Floor, visits: list[_Visit], notes: Notes) -> None:
    """Give each error to the request that it names; what names none is the batch's trouble."""
    by_request = {name: one.played for one in visits for name in (one.request, short_id(one.request))}
    for line in (one for one in notes.errors if not one.startswith(_EXPECTED)):
        named = _OF_REQUEST.search(line)
        played = by_request.get(named[1]) if named else None
        (found.trouble if played is None else played.errors).append(line[:200])


def batch_of(slot: Slot, echo: Echo, texts: Sequence[Text], first_user: int) -> Batch:
    """Write a batch as it travels between processes."""
    return Batch(slot=slot, echo=echo, texts=[(t.number, t.text) for t in texts], first_user=first_user)
