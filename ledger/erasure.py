"""Erasure of what a request says: by [Delete] of one, by /forget of all.

What a person and the models wrote goes, and where the video is. The request, its order and its entries keep
their keys, states, amounts and times, so every report, limit and budget stays as it is. It is asked for by a
mark in the row and done as soon as the request has ended, so what is paid and under way is made and delivered
first. The files go between the mark and the end (`worker.erasure`): who dies there leaves the mark.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, and_, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.database import Ledger, transaction
from ledger.models import CANCELLABLE_STATES, FINAL_STATES, RequestState, VideoState
from ledger.pruning import PRUNED
from ledger.schema import ERASURE_ASKED, requests, transitions, videos

Erasure = Literal["asked", "done"]
Answer = Literal["asked", "done", "open", "unknown"]
"""What became of a wish to erase: it may be done now, it was done before, the request has not ended or its
money is still open, or this person has no such request.
"""

_BATCH: Final = 100
_CLOSED: Final = (RequestState.REFUSED, RequestState.NO_ORDER, RequestState.CANCELLED)
_OPERATORS: Final = "admin:%"


def _has_ended() -> ColumnElement[bool]:
    """SQL for whether nothing more comes of a request: no video, no charge that turns up late."""
    # A sent order that failed unpaid is asked about for a day: its charge may turn up, and then its video.
    settled = or_(videos.c.state != VideoState.FAILED_UNPAID, videos.c.due_at.is_(None))
    return or_(
        and_(videos.c.request_id.is_(None), requests.c.state.in_(_CLOSED)),
        and_(videos.c.state.in_(FINAL_STATES), settled),
    )


_JOINED: Final = requests.join(videos, videos.c.request_id == requests.c.request_id, isouter=True)


async def _locked(conn: AsyncConnection, request_id: str, *mine: ColumnElement[bool]) -> Any:
    query = (
        select(requests.c.erasure, requests.c.user_id, _has_ended().label("ended"))
        .select_from(_JOINED)
        .where(requests.c.request_id == request_id, *mine)
        .with_for_update(of=requests)  # SQLite has none: it holds the whole file already
    )
    return (await conn.execute(query)).first()


@transaction
async def ask(ledger: Ledger, request_id: str, user_id: int) -> Answer:
    """Mark one ended request of this person to be erased; one that has not ended is left as it is."""
    async with ledger.write() as conn:
        row = await _locked(conn, request_id, requests.c.user_id == user_id)
        if row is None:
            return "unknown"
        if row.erasure == "done":
            return "done"
        if not row.ended:
            return "open"
        await conn.execute(
            update(requests).where(requests.c.request_id == request_id).values(erasure="asked")
        )
    return "asked"


@transaction
async def ask_all(ledger: Ledger, user_id: int, bot_id: int) -> int:
    """Mark every request of this person to this bot, to be erased at its end; return how many were new."""
    mine = and_(requests.c.user_id == user_id, requests.c.bot_id == bot_id, requests.c.erasure.is_(None))
    async with ledger.write() as conn:
        done = await conn.execute(update(requests).where(mine).values(erasure="asked"))
    return int(done.rowcount)


@transaction
async def marked(ledger: Ledger, bot_id: int | None = None, user_id: int | None = None) -> Sequence[str]:
    """Return a batch of ended requests that are marked, of one bot and person or of all."""
    query = select(requests.c.request_id).select_from(_JOINED)
    query = query.where(text(f"requests.{ERASURE_ASKED}"), _has_ended())
    if bot_id is not None:
        query = query.where(requests.c.bot_id == bot_id)
    if user_id is not None:
        query = query.where(requests.c.user_id == user_id)
    async with ledger.read() as conn:
        return list(await conn.scalars(query.order_by(requests.c.updated_at).limit(_BATCH)))


@transaction
async def count_waiting(ledger: Ledger, user_id: int, bot_id: int) -> int:
    """Return how many marked requests of a person have not been erased yet."""
    mine = and_(requests.c.user_id == user_id, requests.c.bot_id == bot_id)
    query = select(func.count()).select_from(requests).where(text(f"requests.{ERASURE_ASKED}"), mine)
    async with ledger.read() as conn:
        return int(await conn.scalar(query) or 0)


@transaction
async def cancellable(ledger: Ledger, user_id: int, bot_id: int) -> Sequence[str]:
    """Return the requests of a person that can be cancelled free of charge."""
    free = or_(requests.c.state == RequestState.OPEN, videos.c.state.in_(CANCELLABLE_STATES))
    query = select(requests.c.request_id).select_from(_JOINED)
    query = query.where(requests.c.user_id == user_id, requests.c.bot_id == bot_id, free)
    async with ledger.read() as conn:
        return list(await conn.scalars(query))


@transaction
async def chats_of(ledger: Ledger, user_id: int, bot_id: int) -> Sequence[int]:
    """Return the chats in which a person has asked for something."""
    mine = and_(requests.c.user_id == user_id, requests.c.bot_id == bot_id)
    async with ledger.read() as conn:
        return list(await conn.scalars(select(requests.c.chat_id).where(mine).distinct()))


@transaction
async def finish(ledger: Ledger, request_id: str) -> bool:
    """Erase a marked request that has ended; return whether it is erased now. Safe to repeat.

    Gone are idea, prompt, caption, the words of models and of the provider, the addresses and Telegram's id
    of the video, and the reasons in the history, except those that an operator gave.
    """
    async with ledger.write() as conn:
        row = await _locked(conn, request_id)
        if row is None or row.erasure != "asked" or not row.ended:
            return False
        await conn.execute(
            update(requests)
            .where(requests.c.request_id == request_id)
            .values(idea=PRUNED, caption=None, reason_quote=None, picture=None, erasure="done")
        )
        await conn.execute(
            update(videos)
            .where(videos.c.request_id == request_id)
            .values(
                prompt=PRUNED, avoid=None, picture=None, failure_detail=None, status_url=None,
                result_url=None, asset_path=None, file_id=None,
            )
        )  # fmt: skip
        said = and_(transitions.c.subject != "call", transitions.c.who.not_like(_OPERATORS))
        await conn.execute(
            update(transitions).where(transitions.c.request_id == request_id, said).values(why=PRUNED)
        )
    return True
