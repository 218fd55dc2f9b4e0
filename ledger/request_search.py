"""Finds requests for operators: by words, days, user and outcome, page by page; and counts their outcomes.

A question reads the requests of its days, not of all time. Requests that were paid twice come first and are
never cut off (`twice_paid`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, case, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.database import Ledger, transaction
from ledger.models import RequestState, VideoState
from ledger.reports import RequestLine, read_lines, snapshot
from ledger.requests import find_ids
from ledger.schema import requests, videos

Outcome = Literal["delivered", "failed", "refused", "no_order", "cancelled", "hold", "open"]
"""What became of a request. `cancelled` has the expired ones too; `open`: no end yet."""

_V, _R = VideoState, RequestState
OUTCOMES: Final[Mapping[Outcome, tuple[str, ...]]] = {
    "delivered": (_V.DELIVERED,),
    "failed": (_V.FAILED_PAID, _V.FAILED_UNPAID),
    "refused": (_R.REFUSED,),
    "no_order": (_R.NO_ORDER,),
    "cancelled": (_V.CANCELLED, _V.EXPIRED),
    "hold": (_V.HOLD,),
    "open": (
        _R.OPEN, _V.AWAITING_APPROVAL, _V.QUEUED, _V.SUBMITTING, _V.ACCEPTED, _V.IN_DOUBT, _V.SUCCEEDED,
    ),
}  # fmt: skip
_OUTCOME_OF: Final = {state: word for word, states in OUTCOMES.items() for state in states}
_TWICE: Final = text("videos.paid_jobs > 1")
_STATE: Final = func.coalesce(videos.c.state, requests.c.state)
_JOINED: Final = requests.outerjoin(videos, videos.c.request_id == requests.c.request_id)
_MOST_DELIVERIES: Final = 5000
_SHORT_ID: Final = 6


@dataclass(frozen=True, slots=True)
class Search:
    """Which requests. Times are milliseconds since the epoch; `until` is not included.

    `words` may be the six letters or the id of a request, a user's id, or a part of an idea. A request that
    is named is found whatever its day.
    """

    since: int
    until: int
    user_id: int | None = None
    outcome: Outcome | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A page of requests, and how many there are in all; those that were paid twice come first."""

    count: int
    lines: list[RequestLine]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How the requests of some days ended.

    Attributes:
        counts: By outcome.
        p50_s: Half of the deliveries took no longer, from the order to Telegram; None without any.
        p95_s: 95 % of them took no longer.
        deliveries: How many these two are of: the latest 5,000.
    """

    counts: Mapping[Outcome, int]
    p50_s: int | None
    p95_s: int | None
    deliveries: int


@transaction
async def find(ledger: Ledger, search: Search, skip: int = 0, most: int = 50) -> Found:
    """Return a page of the requests that a search names, newest first."""
    async with snapshot(ledger) as conn:
        where = await _conditions(conn, search)
        count = await conn.scalar(select(func.count()).select_from(_JOINED).where(*where))
        twice = case((func.coalesce(videos.c.paid_jobs, 0) > 1, 0), else_=1)
        query = (
            select(requests.c.request_id)
            .select_from(_JOINED)
            .where(*where)
            .order_by(twice, requests.c.created_at.desc(), requests.c.request_id)
            .limit(most)
            .offset(skip)
        )
        return Found(int(count or 0), await read_lines(conn, list(await conn.scalars(query))))


async def _conditions(conn: AsyncConnection, search: Search) -> list[ColumnElement[bool]]:
    words = search.words.strip()
    if words and (named := await _named(conn, words)):
        return [requests.c.request_id.in_(named)]
    where = [requests.c.created_at >= search.since, requests.c.created_at < search.until]
    if search.user_id is not None:
        where.append(requests.c.user_id == search.user_id)
    if search.outcome is not None:
        where.append(_STATE.in_(OUTCOMES[search.outcome]))
    if words:
        found = requests.c.idea.icontains(words, autoescape=True)
        is_user = words.isascii() and words.isdecimal() and len(words) < 16
        where.append(or_(found, requests.c.user_id == int(words)) if is_user else found)
    return where


async def _named(conn: AsyncConnection, words: str) -> Sequence[str]:
    name = words.lstrip("#")
    may_be_id = len(name) == _SHORT_ID or ":" in name
    return await find_ids(conn, name) if may_be_id and " " not in name else ()


@transaction
async def twice_paid(ledger: Ledger, user_id: int | None = None) -> list[RequestLine]:
    """Return every request with more than one paid job, of all time: none of them is ever left out."""
    query = select(videos.c.request_id).where(_TWICE).order_by(videos.c.last_charged_at.desc())
    if user_id is not None:
        query = query.where(videos.c.user_id == user_id)
    async with snapshot(ledger) as conn:
        return await read_lines(conn, list(await conn.scalars(query)))


@transaction
async def outcomes(ledger: Ledger, search: Search) -> Outcomes:
    """Count how the requests of a search ended, and how long deliveries took."""
    async with snapshot(ledger) as conn:
        where = await _conditions(conn, search)
        query = select(_STATE.label("state"), func.count().label("n")).select_from(_JOINED).where(*where)
        counts: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        for row in await conn.execute(query.group_by(_STATE)):
            if (word := _OUTCOME_OF.get(row.state)) is not None:
                counts[word] += row.n
        took = await _delivery_times(conn, search)
    return Outcomes(counts, _percentile(took, 50), _percentile(took, 95), len(took))


async def _delivery_times(conn: AsyncConnection, search: Search) -> list[int]:
    """Return in milliseconds how long deliveries took, shortest first."""
    query: Any = select(videos.c.updated_at - videos.c.ordered_at).where(
        videos.c.state == _V.DELIVERED,
        videos.c.updated_at >= search.since,
        videos.c.updated_at < search.until,
    )
    if search.user_id is not None:
        query = query.where(videos.c.user_id == search.user_id)
    query = query.order_by(videos.c.updated_at.desc()).limit(_MOST_DELIVERIES)
    return sorted(await conn.scalars(query))


def _percentile(sorted_ms: Sequence[int], part: int) -> int | None:
    """Return the value that `part` % do not exceed, in whole seconds, rounded against us."""
    if not sorted_ms:
        return None
    return ceil(sorted_ms[ceil(len(sorted_ms) * part / 100) - 1] / 1000)
