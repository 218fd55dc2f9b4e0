"""What is known of unknown outcomes: the first "not found", and orders that look the same.

The first "not found" answer is stored in SQL (`videos.absent_at`), so a restart does not lose it. When an
order is asked about again is `videos.due_at`: see `ledger.due_work`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    bindparam,
    case,
    func,
    literal,
    select,
    text,
    union_all,
    update,
)

from ledger.database import Ledger, transaction
from ledger.entries import account_name
from ledger.models import Video, VideoState
from ledger.schema import PROMPT_START, UNKNOWN_JOBS, requests, videos


def current_state() -> ColumnElement[str]:
    """SQL for the state that a user should have been notified of: the video's, else the request's."""
    return case((videos.c.state.is_(None), requests.c.state), else_=videos.c.state)


@transaction
async def postponed(ledger: Ledger, user_id: int, longer_than_s: float) -> list[str]:
    """Requests of one user whose notification is postponed for longer: they could not be reached."""
    query = select(requests.c.request_id).where(*_postponed(ledger.time()))
    values = {"user": user_id, "longer_ms": int(longer_than_s * 1000)}
    async with ledger.read() as conn:
        return list((await conn.scalars(query, values)).all())


def _postponed(now: ColumnElement[int]) -> tuple[ColumnElement[bool], ...]:
    then = now + bindparam("longer_ms", type_=BigInteger)
    mine = requests.c.user_id == bindparam("user")
    return (mine, requests.c.notify_at.is_not(None), requests.c.notify_at > then)


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known when a command arrives.

    Attributes:
        traceparent: The span in which it arrived first; None: this is the first time, or it was not traced.
        postponed: What `postponed` returns for its user.
    """

    traceparent: str | None
    postponed: list[str]


@transaction
async def arrival(ledger: Ledger, request_id: str, user_id: int, longer_than_s: float) -> Arrival:
    """Return in one statement what is known when a command of a user arrives."""
    values = {"request": request_id, "user": user_id, "longer_ms": int(longer_than_s * 1000)}
    async with ledger.read() as conn:
        rows = (await conn.execute(_arrival_query(ledger.time()), values)).all()
    first = next((row.traceparent for row in rows if row.same), None)
    return Arrival(first, [row.request_id for row in rows if not row.same])


@cache
def _arrival_query(now: ColumnElement[int]) -> CompoundSelect[Any]:
    columns = (requests.c.request_id, requests.c.traceparent)
    same = select(*columns, literal(1).label("same")).where(requests.c.request_id == bindparam("request"))
    return union_all(same, select(*columns, literal(0)).where(*_postponed(now)))


@transaction
async def record_absent(ledger: Ledger, request_id: str, asked_at: int, gap_s: float) -> bool:
    """Record that a list requested at `asked_at` does not show the job of an order in doubt.

    Returns:
        Whether this is the second such list, asked for at least `gap_s` after the first was read.
    """
    mine = (videos.c.request_id == request_id, videos.c.state == VideoState.IN_DOUBT)
    async with ledger.write() as conn:
        now = ledger.time()
        absent = videos.c.absent_at
        first = await conn.scalar(
            update(videos).where(*mine).values(absent_at=func.coalesce(absent, now)).returning(absent)
        )
    return first is not None and asked_at > first and asked_at - first >= gap_s * 1000


@transaction
async def clear_absent(ledger: Ledger, request_id: str) -> None:
    """Forget the first "not found": a later answer was no proof, so two new lists are needed."""
    async with ledger.write() as conn:
        await conn.execute(
            update(videos)
            .where(videos.c.request_id == request_id, videos.c.absent_at.is_not(None))
            .values(absent_at=None)
        )


@transaction
async def similar_orders(ledger: Ledger, video: Video, states: Collection[VideoState]) -> int:
    """Count the other orders in `states` to which a job that matches this order could belong."""
    async with ledger.read() as conn:
        columns = ("request_id", "state", "model", "prompt", "seconds", "size")
        rival = (
            select(account_name().label("account"), *(videos.c[name] for name in columns))
            .where(text(f"{UNKNOWN_JOBS} AND {PROMPT_START} = substr(:prompt, 1, 100)"))
            .cte("rival")
            .prefix_with("MATERIALIZED")  # else SQLite would read every order of a state
        )
        query = select(func.count()).where(
            rival.c.request_id != video.request_id,
            rival.c.account.in_(video.account_names),
            rival.c.state.in_(states),
            rival.c.model == video.model,
            rival.c.prompt == video.prompt,
            rival.c.seconds == video.seconds,
            rival.c.size == video.size,
        )
        return int(await conn.scalar(query, {"prompt": video.prompt}) or 0)
