"""Another take of a delivered video: a request of its own with its own offer, opened by a tap.

Prompt, length and caption are those of its parent, so no model is asked. Request and offer are written in one
transaction: there is no moment in which a worker could run the agent for it, and a refusal leaves nothing.
"""

from typing import Final, Literal
from uuid import uuid5

from sqlalchemy import String, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.limits import LimitExceeded, Limits
from ledger import breaker, offers, orders, requests
from ledger.database import Ledger, transaction
from ledger.models import VIDEO_TOOL, Request, Video
from ledger.orders import Order, OrderRefused, Placed
from ledger.requests import NewRequest
from ledger.schema import requests as request_rows
from telemetry.redaction import NAMESPACE

TakeKind = Literal["again", "upright", "wide"]
"""What a take changes: nothing, or the shape."""

_NONCE_CHARACTERS: Final = 20


class _TooMany(Exception):
    """Its user has as many requests waiting as they may have."""


def take_id(parent_id: str, kind: TakeKind, number: int) -> str:
    """Return the request id of a take: the nonce of its button, which is the same at every tap on it.

    `number` is the one that the button was drawn with (`next_number`).
    """
    nonce = uuid5(NAMESPACE, f"{kind}:{number}:{parent_id}").hex[:_NONCE_CHARACTERS]
    return f"{parent_id.rpartition(':')[0]}:{kind}-{nonce}"


@transaction
async def next_number(ledger: Ledger, parent_id: str) -> int:
    """Return the number for a button that is drawn now: no take of this parent has it yet."""
    async with ledger.read() as conn:
        return int(await conn.scalar(_COUNT, {"parent": parent_id}) or 0) + 1


_COUNT: Final = (
    select(func.count())
    .select_from(request_rows)
    .where(
        request_rows.c.parent_id == bindparam("parent", type_=String),
        request_rows.c.parent_id.is_not(None),
        request_rows.c.tool == VIDEO_TOOL,  # a still beside it is no take
    )
)


async def open_take(
    ledger: Ledger, new: NewRequest, order: Order, bounds: Limits, most: int
) -> tuple[Request, Video] | LimitExceeded | Literal["busy"]:
    """Open the request of a take with its offer, once; a later tap gets both back as they are.

    Args:
        ledger: Where they are written.
        new: The request; it names its parent.
        order: What is offered; it has an `approval_nonce`.
        bounds: The limits, at which the offer is recounted. What they refuse leaves no request.
        most: So many requests of its user may wait at once; beyond that it is `busy`.
    """
    try:
        opened = await _open(ledger, new, order, bounds, most)
    except OrderRefused as refused:
        return refused.denied
    except _TooMany:
        return "busy"
    if opened:  # a newer command may have come meanwhile
        await offers.withdraw_superseded(ledger, new.request_id)
    found = await requests.find_with_video(ledger, new.request_id)
    if found is None or found[1] is None:
        raise LookupError(f"request {new.request_id!r} was written with its offer and is not there")
    return found[0], found[1]


@transaction
async def _open(ledger: Ledger, new: NewRequest, order: Order, bounds: Limits, most: int) -> bool:
    async with ledger.write() as conn:
        row = await requests.insert_request(ledger, conn, new)
        if row is None:
            return False
        if row.active >= most:
            raise _TooMany
        # In this order everywhere: the breakers, then the orders.
        await breaker.lock(ledger, conn, new.user_id)
        if row.offers:
            await offers.withdraw_older(ledger, conn, new.user_id, new.bot_id, new.request_id)
        await _copy_caption(conn, new)
        placed = await orders.place_in(ledger, conn, order, bounds)
        if not isinstance(placed, Placed):  # it was opened in this transaction
            raise OrderRefused(placed)
    return True


async def _copy_caption(conn: AsyncConnection, new: NewRequest) -> None:
    parent = request_rows.alias("parent")
    caption = select(parent.c.caption).where(parent.c.request_id == new.parent_id).scalar_subquery()
    mine = update(request_rows).where(request_rows.c.request_id == new.request_id)
    await conn.execute(mine.values(caption=caption))
