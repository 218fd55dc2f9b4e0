"""Retention: texts and histories of requests that ended long ago.

Nothing of the accounts is deleted: requests, orders and entries keep their keys, states, figures and times,
so every report stays as it is. What users and models wrote is replaced by `PRUNED`, and rows of the history
go. Each function does one batch in one transaction, oldest first, so that a run can be interrupted and
repeated, and two may run at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    and_,
    case,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
    update,
)

from ledger.database import Ledger, transaction
from ledger.models import FINAL_STATES, RequestState, VideoState
from ledger.schema import requests, transitions, videos

PRUNED: Final = "[pruned]"
"""Stands where a text was. A user who sends exactly this loses nothing."""

BATCH_SIZE: Final = 500
_DAY_MS: Final = 86_400_000

ArchiveRows = Callable[[Sequence[dict[str, Any]]], None]
"""Keeps rows before they go; it returns once they are on disk, and raises if they are not."""

Position = tuple[int, str | int]
"""Time and key of the last row of a batch: the next batch begins after it."""

START: Final[Position] = (-1, "")
TRANSITIONS_START: Final[Position] = (-1, 0)


@dataclass(frozen=True, slots=True)
class Batch:
    """How many rows were pruned, and where the next batch begins; None at the end."""

    rows: int
    next: Position | None


@transaction
async def cutoff(ledger: Ledger, days: int) -> int:
    """Return the store's time so many days ago, in milliseconds since the epoch."""
    async with ledger.read() as conn:
        return await ledger.now(conn) - days * _DAY_MS


def _ended(before: int) -> ColumnElement[bool]:
    """Requests that have reached their end, and were not changed since `before`."""
    closed = requests.c.state.in_((RequestState.REFUSED, RequestState.NO_ORDER, RequestState.CANCELLED))
    return and_(
        requests.c.updated_at < before,
        or_(
            and_(videos.c.request_id.is_(None), closed),
            and_(videos.c.state.in_(FINAL_STATES), videos.c.updated_at < before),
        ),
    )


def _texts(before: int, *columns: Any) -> Select[Any]:
    return (
        select(*columns)
        .select_from(requests.join(videos, videos.c.request_id == requests.c.request_id, isouter=True))
        .where(
            requests.c.created_at < before,
            _ended(before),
            or_(requests.c.idea != PRUNED, and_(videos.c.prompt.is_not(None), videos.c.prompt != PRUNED)),
        )
    )


def _history(before: int, *columns: Any) -> Select[Any]:
    # Prevented duplicates too: the totals have counted them as they came, and deleting takes nothing off.
    return (
        select(*columns)
        .select_from(
            transitions.join(requests, requests.c.request_id == transitions.c.request_id).join(
                videos, videos.c.request_id == requests.c.request_id, isouter=True
            )
        )
        .where(transitions.c.at < before, _ended(before))
    )


@dataclass(frozen=True, slots=True)
class Prunable:
    """What a run would prune: requests with texts, and rows of the history."""

    texts: int
    transitions: int


@transaction
async def count_prunable(ledger: Ledger, before: int) -> Prunable:
    """Count what is older than `before` (milliseconds since the epoch)."""
    async with ledger.read() as conn:
        texts = await conn.scalar(_texts(before, func.count()))
        rows = await conn.scalar(_history(before, func.count()))
        return Prunable(int(texts or 0), int(rows or 0))


@transaction
async def prune_texts(
    ledger: Ledger, before: int, after: Position = START, archive: ArchiveRows | None = None
) -> Batch:
    """Replace ideas, prompts, captions, models' words and providers' errors of one batch of requests."""
    order = (requests.c.created_at, requests.c.request_id)
    query = (
        _texts(
            before,
            *order, requests.c.idea, requests.c.caption, requests.c.reason_quote,
            videos.c.prompt, videos.c.avoid, videos.c.failure_detail,
        )
        .where(tuple_(*order) > _place(after))
        .order_by(*order)
        .limit(BATCH_SIZE)
        .with_for_update(of=requests, skip_locked=True)  # SQLite has none: it holds the whole file already
    )  # fmt: skip
    async with ledger.write() as conn:
        rows = (await conn.execute(query)).all()
        if not rows:
            return Batch(0, None)
        if archive is not None:
            archive([{"table": "texts"} | dict(row._mapping) for row in rows])  # noqa: SLF001 - public name
        ids = [row.request_id for row in rows]
        await conn.execute(
            update(requests)
            .where(requests.c.request_id.in_(ids))
            .values(idea=PRUNED, caption=None, reason_quote=_marked(requests.c.reason_quote))
        )
        await conn.execute(
            update(videos)
            .where(videos.c.request_id.in_(ids))
            .values(
                prompt=PRUNED, avoid=_marked(videos.c.avoid), failure_detail=_marked(videos.c.failure_detail)
            )
        )
    return Batch(len(rows), (rows[-1].created_at, rows[-1].request_id))


def _place(position: Position) -> ColumnElement[Any]:
    at, key = position
    return tuple_(literal(at, BigInteger), literal(key))


def _marked(cell: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((cell.is_(None), None), else_=PRUNED)


@transaction
async def prune_transitions(
    ledger: Ledger, before: int, after: Position = TRANSITIONS_START, archive: ArchiveRows | None = None
) -> Batch:
    """Delete one batch of state changes and refused calls of requests that have ended."""
    order = (transitions.c.at, transitions.c.transition_id)
    query = (
        _history(before, *transitions.c)
        .where(tuple_(*order) > _place(after))
        .order_by(*order)
        .limit(BATCH_SIZE)
        .with_for_update(of=transitions, skip_locked=True)
    )
    async with ledger.write() as conn:
        rows = (await conn.execute(query)).all()
        if not rows:
            return Batch(0, None)
        if archive is not None:
            archive([{"table": "transitions"} | dict(row._mapping) for row in rows])  # noqa: SLF001 - public name
        ids = [row.transition_id for row in rows]
        await conn.execute(delete(transitions).where(transitions.c.transition_id.in_(ids)))
    return Batch(len(rows), (rows[-1].at, rows[-1].transition_id))


@transaction
async def delivered_before(
    ledger: Ledger, before: int, until: Position | None = None, most: int = 2000
) -> list[tuple[int, str]]:
    """Return time and request of videos that were delivered before `before`, latest first.

    Args:
        ledger: Where they are stored.
        before: Milliseconds since the epoch.
        until: The last one of the previous answer, to continue after it.
        most: How many at most.
    """
    order = (videos.c.updated_at, videos.c.request_id)
    query = select(*order).where(videos.c.state == VideoState.DELIVERED, videos.c.updated_at < before)
    if until is not None:
        query = query.where(videos.c.updated_at <= until[0], tuple_(*order) < _place(until))
    async with ledger.read() as conn:
        rows = await conn.execute(query.order_by(*(cell.desc() for cell in order)).limit(most))
        return [(row.updated_at, row.request_id) for row in rows]


@transaction
async def database_bytes(ledger: Ledger) -> tuple[int, int]:
    """Return the size of the database, and how much of it is free inside the file (SQLite; else 0)."""
    async with ledger.read() as conn:
        if ledger.dialect == "postgresql":
            return int(await conn.scalar(text("SELECT pg_database_size(current_database())")) or 0), 0
        page, pages, free = [
            int(await conn.scalar(text(f"PRAGMA {name}")) or 0)
            for name in ("page_size", "page_count", "freelist_count")
        ]
        return page * pages, page * free
