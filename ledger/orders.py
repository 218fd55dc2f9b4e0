"""Places the one order of a request and a tool, in the transaction that recounts the limits.

The order of a video stands under its request. That of another tool has a request of its own beside it, which
is opened here with the order: what users read, costs, cancels and erases goes by request.

An order with a nonce is an offer: it is recounted, so that no one is offered what they may not have, and
counts and holds nothing until its user taps (`ledger.offers`).
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Exists,
    String,
    bindparam,
    exists,
    func,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.limits import LimitExceeded, Limits
from guardrails.money import Money
from ledger import breaker, due_work, entries, limits, video_credits
from ledger.database import Ledger, transaction
from ledger.models import VIDEO_TOOL, Credit, Request, RequestState, Video, VideoState, order_id
from ledger.requests import NewRequest, insert_request, record_transitions
from ledger.schema import CONTENT_REFUSED, requests, transitions, videos

PICTURE_FORMAT: Final = "jpeg"
"""Every picture is stored and sent in this format."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the tool's body orders. The user and the picture are not in it: they are always the request's.

    Attributes:
        account: The provider account that quoted it, and to which alone it is sent.
        approval_nonce: Set when the user must tap [Make it] first; it travels in the button.
        valid_s: How long the order may wait for a tap or for a worker before it expires.
        style, style_prompt: The word of its style, and the sentence for it that ends the prompt.
        sound: Whether it has sound; None where its model has no switch for it.
        avoid: What must not be seen, for a provider that takes that.
        credit_nonce: Makes an order without `approval_nonce` an offer, where it would use a credit: none is
            used unseen. Without either, an order above the quota is refused.
        offer_valid_s: How long that offer may wait.
        tool: The paid tool that orders it; with `request_id` the order's key.
        traceparent: Of the order's own request, where the tool gives it one.
        chosen: What its user tapped for it, words with spaces between.
    """

    request_id: str
    provider: str
    model: str
    prompt: str
    seconds: int
    size: str
    quote: Money
    account: str | None = None
    approval_nonce: str | None = None
    valid_s: int = 1800
    style: str | None = None
    style_prompt: str | None = None
    sound: bool | None = None
    avoid: str | None = None
    credit_nonce: str | None = None
    offer_valid_s: int = 900
    tool: str = VIDEO_TOOL
    traceparent: str | None = None
    chosen: str | None = None

    @property
    def key(self) -> str:
        """The order's id."""
        return order_id(self.request_id, self.tool)


@dataclass(frozen=True, slots=True)
class Placed:
    """The one order of request and tool. `created` is False if it existed before this call."""

    video: Video
    created: bool

    @property
    def is_due(self) -> bool:
        """Whether a worker may submit it now; else a tap or the first status message makes it due."""
        return self.created and self.video.due_at == self.video.ordered_at


class OrderRefused(Exception):
    """Carries the answer out of a transaction that must roll back."""

    def __init__(self, denied: LimitExceeded) -> None:
        super().__init__(denied.verdict)
        self.denied = denied


@transaction
async def place(ledger: Ledger, order: Order, bounds: Limits) -> Placed | LimitExceeded:
    """Write the order once: the first call creates it, every later call gets the recorded one back.

    `LimitExceeded("closed")` means that the request is not open (cancelled, refused) or does not exist;
    `LimitExceeded("content")`, that the content policy refused an earlier call of it.
    """
    try:
        async with ledger.write() as conn:
            return await place_in(ledger, conn, order, bounds)
    except OrderRefused as refused:
        return refused.denied


async def place_in(
    ledger: Ledger, conn: AsyncConnection, order: Order, bounds: Limits
) -> Placed | LimitExceeded:
    """Do what `place` says, in the caller's transaction.

    Raises:
        OrderRefused: By a limit; the transaction must roll back.
    """
    if order.tool != VIDEO_TOOL:
        await _open_beside(ledger, conn, order)
    # First, so that a cancel and an order race on one row.
    of_order = {"request": order.key, "act": order.request_id, "by_tool": order.tool}
    opened = await conn.execute(_set_ordered(ledger.time()), of_order)
    row = opened.first()
    if row is None:
        standing = await find(conn, order.key)
        return LimitExceeded("closed") if standing is None else Placed(standing, created=False)
    user_id, now, status_message_id, picture, refused = row
    if refused:
        raise OrderRefused(LimitExceeded("content", at=now))
    if picture is not None and order.approval_nonce is None:
        raise ValueError("a picture's person must tap, so its order is an offer first")
    await breaker.lock(ledger, conn, user_id)
    denied, lot = await recount_with_credit(conn, user_id, order.quote, bounds, now, order.tool)
    if lot is not None and order.approval_nonce is None:
        order = replace(order, approval_nonce=order.credit_nonce, valid_s=order.offer_valid_s)
        denied = (
            denied if order.approval_nonce else await limits.recount(conn, user_id, order.quote, bounds, now)
        )
    if denied is not None:
        raise OrderRefused(replace(denied, at=now))
    if order.approval_nonce is not None:
        due_at = now + order.valid_s * 1000
    else:
        due_at = submit_due_at(now, has_status_message=status_message_id is not None)
    credit = Credit.NONE if lot is None else Credit.OFFERED
    return Placed(await _insert(ledger, conn, order, user_id, now, due_at, credit, picture), created=True)


@transaction
async def has_beside(ledger: Ledger, request_id: str) -> bool:
    """Return whether an order of another tool than a video's stands beside a request."""
    query = exists().where(
        requests.c.parent_id == bindparam("act", type_=String),
        requests.c.parent_id.is_not(None),
        requests.c.tool != VIDEO_TOOL,
    )
    async with ledger.read() as conn:
        return bool(await conn.scalar(select(query), {"act": request_id}))


async def _open_beside(ledger: Ledger, conn: AsyncConnection, order: Order) -> None:
    """Open the order's own request beside that of its user, unless it is there or the user's has ended."""
    query = select(requests).where(
        requests.c.request_id == order.request_id,
        requests.c.state.in_((RequestState.OPEN, RequestState.ORDERED)),
        requests.c.erasure.is_(None),
    )
    if (row := (await conn.execute(query)).first()) is None:
        return
    act = Request.from_row(row)
    await insert_request(ledger, conn, NewRequest(
        order.key, act.bot_id, act.chat_id, act.message_id, act.user_id, act.language, act.idea,
        order.traceparent, act.message_thread_id, parent_id=act.request_id, tool=order.tool,
    ))  # fmt: skip


async def recount_with_credit(
    conn: AsyncConnection, user_id: int, price: Money, bounds: Limits, now: int, tool: str = VIDEO_TOOL
) -> tuple[LimitExceeded | None, str | None]:
    """Recount the limits; where the quota alone refuses and the user has a credit, count with that.

    A credit is one more video: it is worth nothing for another tool.

    Returns:
        What refuses, if anything does; and the locked lot whose credit the order would use, if it needs one.
    """
    denied = await limits.recount(conn, user_id, price, bounds, now, tool=tool)
    if denied is None or denied.verdict != "quota" or tool != VIDEO_TOOL:
        return denied, None
    lot = await video_credits.lock_lot(conn, user_id)
    if lot is None:
        return denied, None
    return await limits.recount(conn, user_id, price, bounds, now, extra=1), lot


def submit_due_at(now: int, *, has_status_message: bool) -> int:
    """Return when an order that is queued now is submitted: after its user has a status message."""
    # Without one, `notifications.finish` makes it due with the first.
    return now if has_status_message else now + due_work.STATUS_WAIT_S * 1000


@cache
def _set_ordered(now: ColumnElement[int]) -> Any:
    return (
        update(requests)
        .where(requests.c.request_id == bindparam("request"), requests.c.state == RequestState.OPEN)
        .values(state=RequestState.ORDERED, updated_at=now)
        .returning(
            requests.c.user_id,
            requests.c.updated_at,
            requests.c.status_message_id,
            requests.c.picture,
            content_refused(),
        )
    )


def content_refused() -> Exists:
    """SQL for whether the content policy refused a call of `by_tool` in the user's request `act`.

    Redis may have forgotten it.
    """
    mine = transitions.c.request_id == bindparam("act", type_=String)
    by_tool = transitions.c.who == bindparam("by_tool", type_=String)
    return exists().where(mine, by_tool, text(CONTENT_REFUSED))


_INSERT: Final = videos.insert().returning(videos)


_ALLOWED_BEFORE: Final = select(func.max(videos.c.picture_allowed_at)).where(
    videos.c.user_id == bindparam("user", type_=BigInteger),
    videos.c.picture == bindparam("picture", type_=String),
)
"""When this person said of the same picture that they may use it."""


async def _insert(
    ledger: Ledger,
    conn: AsyncConnection,
    order: Order,
    user_id: int,
    now: int,
    due_at: int,
    credit: Credit,
    picture: str | None,
) -> Video:
    state = VideoState.QUEUED if order.approval_nonce is None else VideoState.AWAITING_APPROVAL
    allowed_at = None
    if picture is not None:
        allowed_at = await conn.scalar(_ALLOWED_BEFORE, {"user": user_id, "picture": picture})
    row = (
        await conn.execute(
            _INSERT,
            {
                "request_id": order.key,
                "tool": order.tool,
                "user_id": user_id,
                "state": state,
                "provider": order.provider,
                "account": order.account,
                "model": order.model,
                "prompt": order.prompt,
                "seconds": order.seconds,
                "size": order.size,
                "picture": picture,
                "picture_format": None if picture is None else PICTURE_FORMAT,
                "picture_allowed_at": allowed_at,
                "quote_micros": order.quote.micros,
                "style": order.style,
                "style_prompt": order.style_prompt,
                "sound": None if order.sound is None else int(order.sound),
                "avoid": order.avoid,
                "nonce": order.approval_nonce,
                "chosen": order.chosen,
                "expires_at": now + order.valid_s * 1000,
                "due_at": due_at,
                "credit": credit,
                "ordered_at": now,
                "updated_at": now,
            },
        )
    ).one()
    video = Video.from_row(row)
    if state is VideoState.QUEUED:
        await entries.add_entry(ledger, conn, video, "hold", video.quote, now)
    await record_transitions(
        conn, video.request_id, "tool", "ordered", now,
        ("request", RequestState.OPEN, RequestState.ORDERED), ("video", "", state),
    )  # fmt: skip
    return video


async def find(conn: AsyncConnection, request_id: str, *, lock: bool = False) -> Video | None:
    """Return the request's video, if it was ordered; with `lock` it cannot change until the commit."""
    query = select(videos).where(videos.c.request_id == request_id)
    if lock:
        query = query.with_for_update(key_share=True)  # SQLite has none: it holds the whole file already
    row = (await conn.execute(query)).first()
    return None if row is None else Video.from_row(row)
