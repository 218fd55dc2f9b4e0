"""Requests: opened once however often the update is delivered, closed by compare-and-set."""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Final, Literal

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Insert,
    Label,
    Select,
    String,
    bindparam,
    func,
    literal,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.database import Ledger, insert_new, transaction
from ledger.models import VIDEO_TOOL, Request, RequestState, Video, VideoState
from ledger.schema import CANCELLABLE_ORDERS, requests, transitions, videos
from telemetry.redaction import short_id


@dataclass(frozen=True, slots=True)
class NewRequest:
    """One command as it was received; `request_id` is stable over every redelivery of it.

    `traceparent` names the span of the delivery that opened the request; later deliveries change nothing.
    `message_thread_id` is the forum topic in which it was sent, if any; `status_message_id` a message of ours
    that becomes its status message; `parent_id` the request that it is another take of, or stands beside, if
    any; `picture` the hash of the picture that its video begins with; `tool` what it orders.
    """

    request_id: str
    bot_id: int
    chat_id: int
    message_id: int
    user_id: int
    language: str
    idea: str
    traceparent: str | None = None
    message_thread_id: int | None = None
    status_message_id: int | None = None
    parent_id: str | None = None
    picture: str | None = None
    tool: str = VIDEO_TOOL


@transaction
async def open_request(
    ledger: Ledger, new: NewRequest, most: int | None = None, quiet_s: float = 0
) -> tuple[Request, bool]:
    """Write the request unless it is stored already; return the row, and whether this call wrote it.

    That it is being read is shown after `quiet_s`; a change of its state is shown at once.
    With `most`, a new request of a user who has so many that are open or not paid yet is refused as busy. One
    that is not withdraws the user's older offers: a person who asks again does not want those.
    """
    async with ledger.write() as conn:
        row = await insert_request(ledger, conn, new, quiet_s)
        if row is None:
            found = await _find(conn, new.request_id)
        elif most is None or row.active < most:
            found = Request.from_row(row)
            if row.offers:
                from ledger import offers  # noqa: PLC0415 - it changes states, and that imports this module

                await offers.withdraw_older(ledger, conn, new.user_id, new.bot_id, new.request_id)
        else:
            found = await _close(ledger, conn, new.request_id, RequestState.REFUSED, "chat", "busy")
    if found is None:
        raise LookupError(f"request {new.request_id!r} was written and is not there")
    return found, row is not None


async def insert_request(ledger: Ledger, conn: AsyncConnection, new: NewRequest, quiet_s: float = 0) -> Any:
    """Write the request in the caller's transaction; return its row, None if it is stored already.

    The row has also how many requests of its user are `active`, and how many `offers` are open.
    """
    row_values = asdict(new) | {"short_id": short_id(new.request_id), "state": RequestState.OPEN}
    row_values["quiet_ms"] = int(quiet_s * 1000)
    whose = {"active_user": new.user_id, "active_except": new.request_id}
    return (await conn.execute(_open_query(ledger.dialect, ledger.time()), row_values | whose)).first()


@cache
def _open_query(dialect: str, now: ColumnElement[int]) -> Any:
    shown_at = now + bindparam("quiet_ms", type_=BigInteger)
    times = {"created_at": now, "updated_at": now, "notify_at": shown_at}
    return insert_new(dialect, requests).values(times).returning(requests, _count_active(), _count_offers())


def _count_active() -> Label[int]:
    """SQL for how many requests of `active_user` are open or not paid yet, other than `active_except`."""
    user_id, except_id = bindparam("active_user", type_=BigInteger), bindparam("active_except", type_=String)
    other = requests.alias("other")
    opened = select(func.count()).where(
        other.c.user_id == user_id, text("other.state = 'OPEN'"), other.c.request_id != except_id
    )
    waiting = _count_orders(VideoState.QUEUED)
    return (opened.scalar_subquery() + waiting.scalar_subquery()).label("active")


def _count_offers() -> Label[int]:
    """SQL for how many offers of `active_user` are open; they are not active."""
    return _count_orders(VideoState.AWAITING_APPROVAL).scalar_subquery().label("offers")


def _count_orders(state: VideoState) -> Select[Any]:
    # The text is the condition of a partial index, which a state that is a parameter would not prove.
    unpaid = text(f"videos.{CANCELLABLE_ORDERS}")
    mine = videos.c.user_id == bindparam("active_user", type_=BigInteger)
    return select(func.count()).where(mine, unpaid, videos.c.state == state)


async def _find(conn: AsyncConnection, request_id: str) -> Request | None:
    row = (await conn.execute(_FIND, {"request": request_id})).first()
    return None if row is None else Request.from_row(row)


_FIND: Final = select(requests).where(requests.c.request_id == bindparam("request"))


@transaction
async def find(ledger: Ledger, request_id: str) -> Request | None:
    async with ledger.read() as conn:
        return await _find(conn, request_id)


@transaction
async def find_with_video(ledger: Ledger, request_id: str) -> tuple[Request, Video | None] | None:
    """Return a request and its video at one moment; None if there is no such request."""
    async with ledger.read() as conn:
        request = await _find(conn, request_id)
        if request is None:
            return None
        row = (await conn.execute(select(videos).where(videos.c.request_id == request_id))).first()
        return request, None if row is None else Video.from_row(row)


_UNNAMED = text("requests.short_id IS NULL")
_NAME_BATCH = 500


async def find_ids(conn: AsyncConnection, wanted: str) -> list[str]:
    """Return the ids of the requests that `wanted` names: the whole id of one, or the six letters of some."""
    name = wanted.strip().lstrip("#")
    if await conn.scalar(select(requests.c.request_id).where(requests.c.request_id == name)):
        return [name]
    letters = name.lower()
    found = list(await conn.scalars(select(requests.c.request_id).where(requests.c.short_id == letters)))
    # Rows of the version before, which may run next to this one: `name_requests` names them within a minute.
    unnamed = await conn.scalars(select(requests.c.request_id).where(_UNNAMED))
    return found + [one for one in unnamed if short_id(one) == letters]


@transaction
async def name_requests(ledger: Ledger) -> int:
    """Write the six letters of requests that the version before wrote; return of how many."""
    query = select(requests.c.request_id).where(_UNNAMED).order_by(requests.c.created_at).limit(_NAME_BATCH)
    async with ledger.read() as conn:
        ids = list(await conn.scalars(query))
    if ids:
        named = update(requests).where(requests.c.request_id == bindparam("id"))
        async with ledger.write() as conn:
            await conn.execute(
                named.values(short_id=bindparam("name")), [{"id": one, "name": short_id(one)} for one in ids]
            )
    return len(ids)


@transaction
async def list_for_user(
    ledger: Ledger, user_id: int, limit: int = 10, *, chat_id: int | None = None, offset: int = 0
) -> list[tuple[Request, Video | None]]:
    """Return one user's latest requests with their videos, newest first, after the first `offset` of them.

    Of one chat or of all.
    """
    here = () if chat_id is None else (requests.c.chat_id == chat_id,)
    async with ledger.read() as conn:
        rows = (
            await conn.execute(
                select(requests)
                .where(requests.c.user_id == user_id, *here)
                .order_by(requests.c.created_at.desc(), requests.c.request_id.desc())
                .limit(limit)
                .offset(offset)
            )
        ).all()
        found = [Request.from_row(row) for row in rows]
        ids = [request.request_id for request in found]
        made = {
            row.request_id: Video.from_row(row)
            for row in await conn.execute(select(videos).where(videos.c.request_id.in_(ids)))
        }
    return [(request, made.get(request.request_id)) for request in found]


@transaction
async def find_named(ledger: Ledger, short_id: str, user_id: int) -> Request | None:
    """Return a user's latest request of this six-letter name."""
    named = (requests.c.short_id == short_id.lower(), requests.c.user_id == user_id)
    query = select(requests).where(*named).order_by(requests.c.created_at.desc()).limit(1)
    async with ledger.read() as conn:
        row = (await conn.execute(query)).first()
    return None if row is None else Request.from_row(row)


@transaction
async def pause_run(ledger: Ledger, request_id: str, attempt: int, seconds: float) -> None:
    """End an attempt that may be repeated: the next one begins no earlier than in `seconds`."""
    async with ledger.write() as conn:
        await conn.execute(
            update(requests)
            .where(requests.c.request_id == request_id, requests.c.attempts == attempt)
            .values(run_until=ledger.time() + int(seconds * 1000))
        )


@transaction
async def add_note(ledger: Ledger, request_id: str, note: str) -> bool:
    """Store what the model adds for its user to an order that was placed; return whether there is one."""
    mine = (requests.c.request_id == request_id, requests.c.state == RequestState.ORDERED)
    async with ledger.write() as conn:
        done = await conn.execute(update(requests).where(*mine).values(reason_quote=note))
    return bool(done.rowcount)


@transaction
async def close_request(
    ledger: Ledger,
    request_id: str,
    to: RequestState,
    who: str,
    reason: str,
    *,
    until: int | None = None,
    quote: str | None = None,
) -> bool:
    """Move OPEN to an end without an order; False if the request was not open any more."""
    async with ledger.write() as conn:
        return await _close(ledger, conn, request_id, to, who, reason, until=until, quote=quote) is not None


async def _close(
    ledger: Ledger,
    conn: AsyncConnection,
    request_id: str,
    to: RequestState,
    who: str,
    reason: str,
    *,
    until: int | None = None,
    quote: str | None = None,
) -> Request | None:
    """Do what `close_request` says, in the caller's transaction."""
    done = await conn.execute(
        update(requests)
        .where(requests.c.request_id == request_id, requests.c.state == RequestState.OPEN)
        .values(
            state=to, reason=reason, reason_until=until, reason_quote=quote, updated_at=ledger.time()
        )
        .returning(requests)
    )  # fmt: skip
    row = done.first()
    if row is None:
        return None
    closed = Request.from_row(row)
    await record_transition(
        conn, request_id, "request", RequestState.OPEN, to, who, reason, closed.updated_at
    )
    return closed


def recording(change: Any) -> Any:
    """Return SQL that makes a change of `videos` and adds its transition, in one statement (PostgreSQL).

    `change` returns the new row. Its execution names `line_from`, `line_to`, `line_who` and `line_why`, and
    gets that row, or none, as of `change` alone. SQLite has no such statement: there `record_transition`
    follows.
    """
    made = change.cte("made")
    given = (bindparam(f"line_{name}", type_=String) for name in ("from", "to", "who", "why"))
    names = ["request_id", "subject", "from_state", "to_state", "who", "why", "at"]
    line = select(made.c.request_id, literal("video", String), *given, made.c.updated_at)
    return select(made).add_cte(transitions.insert().from_select(names, line).cte("line"))


async def record_transition(
    conn: AsyncConnection, request_id: str, subject: str, frm: str, to: str, who: str, why: str, now: int
) -> None:
    """Add one row to the transitions: who changed what, and why."""
    await record_transitions(conn, request_id, who, why, now, (subject, frm, to))


async def record_transitions(
    conn: AsyncConnection, request_id: str, who: str, why: str, now: int, *moves: tuple[str, str, str]
) -> None:
    """Add a row to the transitions for each (subject, from, to) of one change."""
    common = {"request_id": request_id, "who": who, "why": why, "at": now}
    for number, (subject, frm, to) in enumerate(moves):
        common |= {f"subject_{number}": subject, f"from_state_{number}": frm, f"to_state_{number}": to}
    await conn.execute(_insert_transitions(len(moves)), common)


@cache
def _insert_transitions(count: int) -> Insert:
    """Return an INSERT of `count` rows. Not of a list of rows: SQLAlchemy compiles that again each time."""
    once, each = ("request_id", "who", "why", "at"), ("subject", "from_state", "to_state")
    names = [*once, *each]

    def row(number: int) -> Any:
        keys = [*once, *(f"{name}_{number}" for name in each)]
        columns = (transitions.c[name] for name in names)
        return select(*(bindparam(key, type_=one.type) for key, one in zip(keys, columns, strict=True)))

    return transitions.insert().from_select(names, union_all(*map(row, range(count))))


@cache
def _set_once(column: str) -> Any:
    cell = requests.c[column]
    mine = update(requests).where(requests.c.request_id == bindparam("request"), cell.is_(None))
    return mine.returning(cell)


@transaction
async def set_once(ledger: Ledger, request_id: str, column: Literal["caption"], value: str) -> str:
    """Write `column` once and return the stored value, which is another's if that came first.

    Raises:
        LookupError: There is no such request.
    """
    cell = requests.c[column]
    async with ledger.write() as conn:
        written = await conn.execute(_set_once(column), {"request": request_id, column: value})
        stored: str | None = written.scalar()
        if stored is None:
            stored = await conn.scalar(select(cell).where(requests.c.request_id == request_id))
    if stored is None:
        raise LookupError(f"request {request_id!r} does not exist; its {column} cannot be written")
    return stored
