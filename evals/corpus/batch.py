"""Plays a batch of a sweep's texts in one process: many users at once in one app."""

import asyncio
import json
import math
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast
from unittest.mock import patch
from weakref import WeakKeyDictionary

from aiosqlite.core import Connection
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from chat.context import EditLimits
from evals.corpus.slots import CorpusAdversary, CorpusProvider, ProviderReply
from evals.corpus.source import CorpusCase
from evals.environment import (
    QUICK_TIMEOUTS,
    AppEnvironment,
    EnvironmentConfig,
    is_settled,
    open_environment,
)
from evals.evidence import ChargeRecord, ChatLine, Evidence, Notes, collect_notes, note_uncaught
from evals.faults import relaxed_timeouts
from evals.mutants.registry import MUTANTS, mutant
from evals.results import Played
from evals.runner import (
    WIDENED,
    CaseResources,
    charges_of,
    fate_of,
    ledger_mismatch,
    lines_of,
    owners,
    posts_of,
    texts_of,
)
from evals.waiting import Deadline, LagMeter, comes_true, crowding
from ledger.database import Ledger
from ledger.models import Request, Video, provider_key
from ledger.schema import requests, videos
from telemetry.redaction import short_id

AT_ONCE: Final = 12
"""Users at once in one process: enough for their waits to overlap, few enough for guards to stay in time."""

SETTLE_TIMEOUT_S: Final = 120.0
LEFTOVERS_TIMEOUT_S: Final = 30.0
_MUTANT_TIMEOUT_S: Final = 20.0
"""A mutant may never settle: what it did is visible before that."""

_FIRST_USER: Final = 100_000
_POLL_S: Final = 0.25
_SWITCH_S: Final = 0.0005
"""Threads that wait for a busy event loop get their turn after this; the default is ten times as long."""

_LIFTED: Final = {"breaker": "{everyone: 100000/5m}", "budget": "{user: $15/day, everyone: $1000000/day}"}
"""Limits for everyone would stop so many users; limits of one user stay as shipped."""

_TIMEOUTS: Final = replace(QUICK_TIMEOUTS, run_s=60, sweep_s=1, refresh_s=60)
_CAPABILITIES: Final = {"submit_timeout_s": 20.0, "poll_s": 0.2, "settle_s": 5.0}
_EDIT_LIMITS: Final = EditLimits(
    private_s=0.3, group_s=0.3, quiet_s=0.1, progress_s=0.3, ping_after_s=0, retry_s=1, lease_s=30
)
_OF_REQUEST: Final = re.compile(r"\brequest=(\S+)")
_ATTEMPT: Final = {"agent": "director", "type": "function_call", "name": "generate_video", "arguments": "…",
                   "call_id": "…"}  # fmt: skip
"""What stands for one call of the model: thousands of transcripts are not kept."""

Found = tuple[Request, Video | None]


@dataclass
class _Sent:
    """One user and their one command."""

    case: CorpusCase
    user: int
    evidence: Evidence
    settle: Deadline
    request: str = ""
    idea: str | None = None
    """As the model reads it; None without a request."""
    update: int = 0
    began: float = field(default_factory=time.monotonic)


def play_batch(cases: Sequence[CorpusCase], resources: CaseResources, broken: str | None = None) -> Played:
    """Play cases with the same slot and echo in one app; never two batches at a time in one process."""
    cpu = time.process_time()
    with ExitStack() as stack:
        folder = stack.enter_context(
            TemporaryDirectory(dir=resources.scratch, prefix="sweep-", ignore_cleanup_errors=True)
        )
        stack.enter_context(_switching(_SWITCH_S))
        stack.enter_context(relaxed_timeouts())
        stack.enter_context(inline())
        notes = stack.enter_context(collect_notes())
        lag = stack.enter_context(LagMeter())
        stack.enter_context(mutant(broken))
        found = asyncio.run(_play(cases, resources, Path(folder), notes, broken))
    for one in found.evidence:
        one.crowding = lag.crowding
        one.lag_s, one.cpu_s = lag.worst_s, (time.process_time() - cpu) / len(cases)
    return found


@contextmanager
def _switching(seconds: float) -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


async def _play(
    cases: Sequence[CorpusCase], resources: CaseResources, folder: Path, notes: Notes, broken: str | None
) -> Played:
    note_uncaught(notes)
    model = CorpusAdversary(cases[0].slot, cases[0].echo)
    model.texts = {case.idea: case.text for case in cases if case.slot != "idea"}
    limited_s = SETTLE_TIMEOUT_S if broken is None or MUTANTS[broken].control else _MUTANT_TIMEOUT_S
    sent = [
        _Sent(case, _FIRST_USER + number, Evidence(case=case.id), Deadline(limited_s))
        for number, case in enumerate(cases)
    ]
    async with open_environment(_config(resources, folder, model, broken)) as env:
        await _play_all(env, sent)
        # A mutant creates requests that no user sent, and pays for them.
        await comes_true(lambda: _all_settled(env), min(limited_s, LEFTOVERS_TIMEOUT_S), _POLL_S)
        strays = await _collect(env, sent)
        wrong = [*strays, *filter(None, [await ledger_mismatch(env)])]
    wrong += _note_errors(sent, notes)
    _note_model(sent, model)
    return Played([one.evidence for one in sent], wrong)


def _config(
    resources: CaseResources, folder: Path, model: CorpusAdversary, broken: str | None
) -> EnvironmentConfig:
    widened = broken is not None and MUTANTS[broken].widened
    return EnvironmentConfig(
        folder,
        resources.redis_url,
        model,
        changes=WIDENED if widened else _LIFTED,
        capabilities=_CAPABILITIES,
        timeouts=replace(_TIMEOUTS, run_s=math.ceil(_TIMEOUTS.run_s * crowding())),
        edit_limits=_EDIT_LIMITS,
        template=resources.template,
        fake_provider=CorpusProvider,
        fake_provider_options={"polls": 0},
    )


async def _play_all(env: AppEnvironment, sent: Sequence[_Sent]) -> None:
    """Send all commands, `AT_ONCE` at a time, and wait until each is settled."""
    queued, open_now = list(reversed(sent)), list[_Sent]()
    while queued or open_now:
        while queued and len(open_now) < AT_ONCE:
            open_now.append(queued.pop())
            await _send(env, open_now[-1])
        began = time.monotonic()
        await asyncio.sleep(_POLL_S)
        late_s = time.monotonic() - began
        open_now = await _still_open(env, open_now)
        for one in open_now:
            one.settle.count(min(_POLL_S, late_s) / crowding())


async def _send(env: AppEnvironment, one: _Sent) -> None:
    person = env.api.user(one.user, "Ana")
    first = (await person.send_long(f"/create {one.case.idea}"))[0]
    one.update = person.last_update.id if person.last_update else 0
    one.request = f"tg:{env.app.bot.id}:-:{one.user}:{first.id}"
    one.began = time.monotonic()
    if one.case.slot == "provider":
        reply = ProviderReply(one.case.provider.script[0], one.case.text)
        cast("CorpusProvider", env.fake_provider).scripted_replies[provider_key(one.request)] = reply


async def _still_open(env: AppEnvironment, open_now: list[_Sent]) -> list[_Sent]:
    """Return the requests that have not ended; those that did not in time are noted as restless."""
    unconfirmed = set(env.api.pending_updates)  # before the ledger is read: a row comes first
    rows = await _request_rows(env, [one.request for one in open_now])
    left = []
    for one in open_now:
        found = rows.get(one.request)
        one.evidence.seconds = time.monotonic() - one.began
        if is_settled(*found) if found else one.update not in unconfirmed:
            continue
        if one.settle.is_over:
            one.evidence.restless = [one.request]
        else:
            left.append(one)
    return left


async def _all_settled(env: AppEnvironment) -> bool:
    return all(is_settled(*one) for one in (await _request_rows(env)).values())


async def _request_rows(env: AppEnvironment, ids: Sequence[str] | None = None) -> dict[str, Found]:
    """Return these requests with their videos by id, or all requests."""
    orders, opened = select(videos), select(requests)
    if ids is not None:
        orders = orders.where(videos.c.request_id.in_(ids))
        opened = opened.where(requests.c.request_id.in_(ids))
    async with env.app.ledger.read() as conn:
        made = {row.request_id: Video.from_row(row) for row in await conn.execute(orders)}
        rows = await conn.execute(opened)
        return {row.request_id: (Request.from_row(row), made.get(row.request_id)) for row in rows}


async def _collect(env: AppEnvironment, sent: Sequence[_Sent]) -> list[str]:
    """Give each user what was charged, sent and said for them; return what belongs to none, as sentences."""
    owner, rows = await owners(env), await _request_rows(env)
    charges, posts = await charges_of(env, owner), posts_of(env, owner)
    lines, texts = lines_of(env), texts_of(env)
    for one in sent:
        mine = [found for name, found in rows.items() if found[0].user_id == one.user and "~" not in name]
        names = {found[0].request_id for found in mine}
        one.idea = mine[0][0].idea.encode("utf-8", "replace").decode() if mine else None
        one.evidence.fates = [await fate_of(env.app.ledger, *found, "ana") for found in mine]
        one.evidence.charges = [charge for charge in charges if charge.request in names]
        one.evidence.posts = [name for name in posts if name in names]
        _give_messages(one, lines, texts)
    return list(_strays(charges, posts, {name for name in rows if "~" not in name}))


def _give_messages(one: _Sent, lines: Sequence[ChatLine], texts: Sequence[ChatLine]) -> None:
    """Give a user the bot's messages; their own is the text of the file, which reports do not repeat."""
    chat = str(one.user)
    one.evidence.lines = [line for line in lines if line.chat == chat and line.bot]
    one.evidence.texts = [line for line in texts if line.chat == chat]
    one.evidence.delivered = sum(line.video for line in one.evidence.lines)


def _strays(charges: Sequence[ChargeRecord], posts: Sequence[str | None], known: set[str]) -> Iterator[str]:
    lost = sum(charge.request not in known for charge in charges)
    if lost:
        yield f"{lost} charges belong to no request"
    if keyless := sum(name not in known for name in posts):
        yield f"{keyless} paid POSTs carry the key of no request"


def _note_errors(sent: Sequence[_Sent], notes: Notes) -> list[str]:
    """Give each error and refusal to the request that it names; return errors that name none."""
    by_request = {name: one for one in sent for name in (one.request, short_id(one.request))}
    other: list[str] = []
    for line in notes.errors:
        named = _OF_REQUEST.search(line)
        one = by_request.get(named[1]) if named else None
        (one.evidence.errors if one else other).append(line[:200])
    for refusal in notes.refusals:
        if refusal.request in by_request:
            by_request[refusal.request].evidence.refusals.append(refusal)
    first = sent[0].evidence  # times of guards and tracebacks name no request
    first.guard_ms, first.guard_trips, first.unrecorded = notes.guard_ms, notes.guard_trips, notes.unrecorded
    return [*other, *(f"raised at {trace}" for trace in notes.tracebacks)] if other else other


def _note_model(sent: Sequence[_Sent], model: CorpusAdversary) -> None:
    """Give each user what the model did for their idea; those with the same idea share its calls."""
    same = Counter(one.idea for one in sent)
    for one in sent:
        seen = model.seen.get(one.idea) if one.idea is not None else None
        if seen is not None:
            one.evidence.emitted = [dict(_ATTEMPT)] * (seen.attempts // same[one.idea])
            one.evidence.model_calls = {name: n // same[one.idea] for name, n in seen.calls.items()}
            one.evidence.heard = [json.dumps(text, ensure_ascii=False) for text in seen.heard]


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
