"""What people report about videos: stored before it is answered, decided once by an admin."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import (
    BigInteger,
    String,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.database import Ledger, transaction
from ledger.models import Request, Video
from ledger.schema import news, requests, user_reports, videos

ReportState = Literal["open", "joined", "unknown", "dismissed", "banned"]
Decision = Literal["dismissed", "banned"]

MOST_REPORTS: Final = 5
REPORTS_WITHIN_S: Final = 3600
"""So many reports of one person are taken within this time."""

SUBJECT: Final = "report:"
"""Begins the subject of the alert about a report; its number follows."""

_SOME: Final = 20
_OPEN: Final = text("user_reports.state = 'open'")


@dataclass(frozen=True, slots=True)
class NewReport:
    """A report as it was received.

    Attributes:
        source: Of the message; the same at every redelivery.
        short_id: The six letters of the request that it names.
        chat_id: The group in which it was sent; None in private.
        words: Why; may be empty.
    """

    source: str
    bot_id: int
    reporter_id: int
    short_id: str
    chat_id: int | None
    words: str


@dataclass(frozen=True, slots=True)
class UserReport:
    """One report, and the request that it is about; `author_id` is whose request that is."""

    report_id: int
    request: Request
    video: Video | None
    reporter_id: int
    words: str
    state: str
    at: int

    @property
    def author_id(self) -> int:
        """Whose request is reported."""
        return self.request.user_id


@transaction
async def add(ledger: Ledger, new: NewReport) -> int | None:
    """Store a report once; if it is one too many, return from when on one is taken (milliseconds).

    Whether its request is known changes nothing that its reporter can notice.
    """
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        if await conn.scalar(select(user_reports.c.report_id).where(user_reports.c.source == new.source)):
            return None
        until = await _next_at(conn, new.reporter_id, now)
        if until is not None:
            return until
        request_id = await _find_request(conn, new)
        state: ReportState = "unknown" if request_id is None else "open"
        if request_id is not None and await _is_reported(conn, request_id):
            state = "joined"
        row = {
            "source": new.source, "bot_id": new.bot_id, "request_id": request_id,
            "reporter_id": new.reporter_id, "words": new.words, "state": state, "at": now,
        }  # fmt: skip
        await conn.execute(ledger.insert_new(user_reports).values(row))
    return None


async def _next_at(conn: AsyncConnection, reporter_id: int, now: int) -> int | None:
    lately = user_reports.c.at > now - REPORTS_WITHIN_S * 1000
    query = (
        select(user_reports.c.at)
        .where(user_reports.c.reporter_id == reporter_id, lately)
        .order_by(user_reports.c.at.desc())
        .limit(MOST_REPORTS)
    )
    times = list(await conn.scalars(query))
    return times[-1] + REPORTS_WITHIN_S * 1000 if len(times) == MOST_REPORTS else None


async def _find_request(conn: AsyncConnection, new: NewReport) -> str | None:
    """Return the request of this name: in a group one of its own, in private the reporter's before others."""
    named = [requests.c.short_id == new.short_id.lower(), requests.c.bot_id == new.bot_id]
    if new.chat_id is not None:
        named.append(requests.c.chat_id == new.chat_id)
    own = case((requests.c.user_id == new.reporter_id, 0), else_=1)
    query = select(requests.c.request_id).where(*named).order_by(own, requests.c.created_at.desc()).limit(1)
    found: str | None = await conn.scalar(query)
    return found


async def _is_reported(conn: AsyncConnection, request_id: str) -> bool:
    query = select(user_reports.c.report_id).where(_OPEN, user_reports.c.request_id == request_id)
    return (await conn.execute(query.limit(1))).first() is not None


@transaction
async def open_reports(ledger: Ledger, bot_id: int, readers: int) -> list[UserReport]:
    """Return some open reports to this bot of which fewer than `readers` recipients were alerted."""
    alerted = (
        select(func.count())
        .where(
            news.c.subject == literal(SUBJECT) + cast(user_reports.c.report_id, String),
            news.c.at == user_reports.c.at,
            # Who cannot be reached is tried later, and keeps no other report out of `_SOME`.
            or_(news.c.reached == 1, news.c.free_at > ledger.time()),
        )
        .scalar_subquery()
    )
    due = (_OPEN, user_reports.c.bot_id == bot_id, alerted < readers)
    async with ledger.read() as conn:
        ids = await conn.scalars(
            select(user_reports.c.report_id).where(*due).order_by(user_reports.c.at).limit(_SOME)
        )
        found = [await _read(conn, one) for one in ids.all()]
    return [one for one in found if one is not None]


@transaction
async def count_open(ledger: Ledger, bot_id: int) -> int:
    """Return how many reports to this bot wait for an admin's decision."""
    async with ledger.read() as conn:
        count = select(func.count()).select_from(user_reports).where(_OPEN, user_reports.c.bot_id == bot_id)
        return int(await conn.scalar(count) or 0)


@transaction
async def find(ledger: Ledger, report_id: int) -> UserReport | None:
    """Return a report about a known request."""
    async with ledger.read() as conn:
        return await _read(conn, report_id)


async def _read(conn: AsyncConnection, report_id: int) -> UserReport | None:
    row = (await conn.execute(_FIND, {"report": report_id})).first()
    if row is None:
        return None
    request_row = (await conn.execute(select(requests).where(_REQUEST), {"request": row.request_id})).first()
    if request_row is None:
        return None
    query = select(videos).where(videos.c.request_id == bindparam("request", type_=String))
    video: Any = (await conn.execute(query, {"request": row.request_id})).first()
    return UserReport(
        row.report_id, Request.from_row(request_row), None if video is None else Video.from_row(video),
        row.reporter_id, row.words, row.state, row.at,
    )  # fmt: skip


_FIND: Final = select(user_reports).where(
    user_reports.c.report_id == bindparam("report", type_=BigInteger), user_reports.c.request_id.is_not(None)
)
_REQUEST: Final = requests.c.request_id == bindparam("request", type_=String)


@transaction
async def decide(ledger: Ledger, report_id: int, decision: Decision, who: str) -> bool:
    """Close a report and those that joined it; False if it is not open any more."""
    async with ledger.write() as conn:
        mine = (user_reports.c.report_id == report_id, _OPEN)
        decided = {"state": decision, "decided_by": who, "decided_at": ledger.time()}
        closed = update(user_reports).where(*mine).values(decided)
        request_id = await conn.scalar(closed.returning(user_reports.c.request_id))
        if request_id is None:
            return False
        joined = (user_reports.c.request_id == request_id, user_reports.c.state == "joined")
        await conn.execute(update(user_reports).where(*joined).values(decided))
    return True


@transaction
async def prune(ledger: Ledger, before: int) -> int:
    """Delete reports of before that time (milliseconds since the epoch) that wait for no one."""
    over = (user_reports.c.at < before, user_reports.c.state != "open")
    async with ledger.write() as conn:
        return int((await conn.execute(delete(user_reports).where(*over))).rowcount)
