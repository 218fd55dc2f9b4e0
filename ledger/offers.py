"""Offers: orders that wait for their user's tap, count toward nothing and hold nothing until it comes.

`orders.place` writes one where it is given a nonce. Here it ends: by the tap (`approve`), or because its user
asked for another video (`withdraw_older`). `transitions.cancel` and the worker's sweep end the others.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Literal
from uuid import uuid4

from sqlalchemy import BigInteger, ColumnElement, Select, String, bindparam, exists, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.limits import LimitExceeded, Limits
from guardrails.money import Money
from ledger import breaker, entries, people
from ledger.database import Ledger, transaction
from ledger.due_work import after_lease
from ledger.failures import Failure
from ledger.models import VIDEO_TOOL, Credit, RequestState, Video, VideoState
from ledger.orders import PICTURE_FORMAT, content_refused, recount_with_credit, submit_due_at
from ledger.requests import record_transition
from ledger.schema import CANCELLABLE_ORDERS, requests, videos
from ledger.transitions import OwnColumns, transition_in

ApprovalOutcome = Literal["approved", "already", "gone", "not_yours", "refused", "changed", "ended", "rights"]
"""What became of a tap on [Make it].

`approved`: this tap ordered the video. `already`: an earlier tap on the same button did. `gone`: the offer
has expired, was withdrawn or cancelled, or is not known. `not_yours`: another person's. `refused`: a limit or
the content policy refuses, and the offer stays open. `changed`: the price, the model or the account is
another by now, or it would use a credit of which the offer did not speak, and the new offer waits for a tap
of its own. `ended`: nothing like it is on offer any more. `rights`: its person has not said yet that they may
use its picture (`allow_picture`).
"""

FIRST_FRAME: Final = "still"
"""What is chosen of a still that was ordered from an offer, and of an offer that begins with it."""

_NEVER_MADE: Final = (VideoState.CANCELLED, VideoState.EXPIRED)


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a video of an offer's length and size may be ordered now."""

    provider: str
    model: str
    account: str
    quote: Money

    def are_those_of(self, video: Video) -> bool:
        """Whether the offer was made on these terms; one of the version before may have no account yet."""
        shown = (video.provider, video.model, video.account or self.account, video.quote)
        return shown == (self.provider, self.model, self.account, self.quote)


@dataclass(frozen=True, slots=True)
class Approval:
    """The outcome of a tap.

    Attributes:
        outcome: See `ApprovalOutcome`.
        video: The order as it is now; None if the button is not known.
        denied: With `refused`: what refuses, with its figures and times.
    """

    outcome: ApprovalOutcome
    video: Video | None = None
    denied: LimitExceeded | None = None


def new_nonce() -> str:
    """Return what identifies one offer in its buttons."""
    return uuid4().hex[:20]


@transaction
async def find(ledger: Ledger, nonce: str) -> Video | None:
    """Return the order that a button belongs to, also after it was approved by it."""
    async with ledger.read() as conn:
        return await _find(conn, nonce)


async def _find(conn: AsyncConnection, nonce: str) -> Video | None:
    row = (await conn.execute(_FIND, {"nonce": nonce})).first()
    return None if row is None else Video.from_row(row)


_FIND: Final = select(videos).where(
    or_(
        videos.c.nonce == bindparam("nonce", type_=String),
        (videos.c.approved_nonce == bindparam("nonce", type_=String)) & videos.c.approved_nonce.is_not(None),
    )
)


@transaction
async def approve(  # noqa: PLR0911 - an outcome each
    ledger: Ledger,
    nonce: str,
    user_id: int,
    terms: Terms | None,
    bounds: Limits,
    *,
    valid_s: int,
    offer_valid_s: int,
) -> Approval:
    """Order what an offer offered, if everything that `orders.place` checks still allows it.

    Args:
        ledger: Where the offer is stored.
        nonce: From the button.
        user_id: Who tapped.
        terms: Those of the offer's length and size now; None: that combination is not on offer any more.
        bounds: The limits, which are recounted at the price that was shown.
        valid_s: How long the order may wait for a worker.
        offer_valid_s: How long a changed offer waits for its tap.
    """
    async with ledger.write() as conn:
        found = await _find(conn, nonce)
        if found is None:
            return Approval("gone")
        if found.user_id != user_id:
            return Approval("not_yours", found)
        # In this order everywhere: the breakers, then the order. What is read here is true until the commit.
        await breaker.lock(ledger, conn, user_id)
        row = (await conn.execute(_locked_query(ledger.time()), _named(found))).one()
        tap = _Tap(ledger, conn, Video.from_row(row), row.now, f"user:{user_id}")
        if (standing := tap.standing(nonce, row.approved_nonce)) is not None:
            return Approval(standing, tap.video)
        if terms is None:
            return await tap.end()
        if tap.video.asks_for_rights:
            return Approval("rights", tap.video)
        denied, lot = await tap.recount(terms, bounds, content_refuses=row.refused)
        if denied is not None:
            return Approval("refused", tap.video, replace(denied, at=row.now))
        # No credit is used that the offer did not speak of.
        if terms.are_those_of(tap.video) and (lot is None or tap.video.credit == Credit.OFFERED):
            return await tap.order(valid_s, lot, has_status_message=row.status_message_id is not None)
        return await tap.offer_again(terms, offer_valid_s, Credit.NONE if lot is None else Credit.OFFERED)


@transaction
async def allow_picture(
    ledger: Ledger, nonce: str, user_id: int
) -> Literal["allowed", "already", "gone", "not_yours"]:
    """Write that an offer's person may use its picture, and have the offer shown again, with [Make it]."""
    async with ledger.write() as conn:
        found = await _find(conn, nonce)
        if found is None or found.picture is None:
            return "gone"
        if found.user_id != user_id:
            return "not_yours"
        row = (await conn.execute(_locked_query(ledger.time()), _named(found))).one()
        tap = _Tap(ledger, conn, Video.from_row(row), row.now, f"user:{user_id}")
        if tap.standing(nonce, row.approved_nonce) is not None:
            return "gone"
        if not tap.video.asks_for_rights:
            return "already"
        await tap.allow_picture()
        return "allowed"


def _named(video: Video) -> dict[str, str]:
    return {"request": video.request_id, "act": video.act_id, "by_tool": video.tool}


@cache
def _locked_query(now: ColumnElement[int]) -> Select[Any]:
    """SQL that locks an order; it begins after the breakers are locked, and misses nothing before that."""
    mine = requests.c.request_id == bindparam("request", type_=String)
    shown = select(requests.c.status_message_id).where(mine).scalar_subquery()
    query = select(
        videos, now.label("now"), shown.label("status_message_id"), content_refused().label("refused")
    )
    mine = videos.c.request_id == bindparam("request", type_=String)
    return query.where(mine).with_for_update(key_share=True, of=videos)  # SQLite holds the whole file already


@dataclass(frozen=True, slots=True)
class _Tap:
    """One tap on an offer that is locked until the end of the transaction."""

    ledger: Ledger
    conn: AsyncConnection
    video: Video
    now: int
    who: str

    def standing(self, nonce: str, approved_nonce: str | None) -> ApprovalOutcome | None:
        """Return the outcome of a tap on an offer that is not open; None: it is."""
        video = self.video
        if approved_nonce == nonce:
            return "gone" if video.state in _NEVER_MADE else "already"
        is_open = video.nonce == nonce and video.state is VideoState.AWAITING_APPROVAL
        return None if is_open and self.now < video.expires_at else "gone"

    async def recount(
        self, terms: Terms, bounds: Limits, *, content_refuses: bool
    ) -> tuple[LimitExceeded | None, str | None]:
        """Return what refuses, if anything does, and the lot whose credit the order would use."""
        if content_refuses:
            return LimitExceeded("content"), None
        video = self.video
        return await recount_with_credit(self.conn, video.user_id, terms.quote, bounds, self.now, video.tool)

    async def order(self, valid_s: int, lot: str | None, *, has_status_message: bool) -> Approval:
        """Queue the order: it counts, and holds its price and a credit of this lot, from now on."""
        columns: OwnColumns = {
            "nonce": None,
            "approved_nonce": self.video.nonce,
            "ordered_at": self.now,
            "expires_at": self.now + valid_s * 1000,
            "due_at": submit_due_at(self.now, has_status_message=has_status_message),
            "credit": Credit.NONE if lot is None else Credit.HELD,
            "credit_lot": lot,
        }
        moved = await transition_in(
            self.ledger, self.conn, self.video.request_id,
            VideoState.AWAITING_APPROVAL, VideoState.QUEUED, self.who, "tapped [Make it]", columns=columns,
        )  # fmt: skip
        if moved is None:
            return Approval("gone", self.video)
        # An offer of the version before has its hold already, which is not written twice.
        await entries.add_entry(self.ledger, self.conn, moved, "hold", moved.quote, self.now)
        if moved.tool == VIDEO_TOOL:
            await people.remember(self.ledger, self.conn, moved)
        return Approval("approved", moved)

    async def end(self) -> Approval:
        """End an offer of something that is not on offer any more."""
        columns: OwnColumns = {"nonce": None, "failure": Failure.NOT_OFFERED}
        ended = await transition_in(
            self.ledger, self.conn, self.video.request_id,
            VideoState.AWAITING_APPROVAL, VideoState.EXPIRED, self.who, "not on offer any more",
            columns=columns,
        )  # fmt: skip
        return Approval("ended", ended or self.video)

    async def offer_again(self, terms: Terms, valid_s: int, credit: Credit) -> Approval:
        """Show the offer on other terms, under a new button: the old one orders nothing any more."""
        video, nonce, until = self.video, new_nonce(), self.now + valid_s * 1000
        row = (
            await self.conn.execute(
                update(videos)
                .where(videos.c.request_id == video.request_id)
                .values(
                    provider=terms.provider, model=terms.model, account=terms.account,
                    quote_micros=terms.quote.micros, nonce=nonce,
                    offered_micros=None if terms.quote == video.quote else video.quote_micros,
                    credit=credit, expires_at=until, due_at=until, due_failures=0, updated_at=self.now,
                    version=videos.c.version + 1,
                )
                .returning(videos)
            )
        ).one()  # fmt: skip
        await record_transition(
            self.conn, video.request_id, "offer", "open", "changed", self.who,
            f"{terms.quote} with {terms.model}, was {video.quote} with {video.model}", self.now,
        )  # fmt: skip
        await show_again(self.ledger, self.conn, video.request_id)
        return Approval("changed", Video.from_row(row))

    async def allow_picture(self) -> None:
        mine = videos.c.request_id == self.video.request_id
        await self.conn.execute(update(videos).where(mine).values(picture_allowed_at=self.now))
        why = "says that they may use the picture"
        await record_transition(
            self.conn, self.video.request_id, "picture", "", "allowed", self.who, why, self.now
        )
        await show_again(self.ledger, self.conn, self.video.request_id)


@transaction
async def begin_with_still(ledger: Ledger, request_id: str, sha256: str) -> bool:
    """Have an open offer's video begin with a still of it, under a new button; False if it is not open.

    The still is ours, so no one has to say that they may use it.
    """
    async with ledger.write() as conn:
        named = {"request": request_id, "act": request_id, "by_tool": VIDEO_TOOL}
        row = (await conn.execute(_locked_query(ledger.time()), named)).first()
        video = None if row is None else Video.from_row(row)
        if row is None or video is None or video.picture is not None:
            return False
        if video.state is not VideoState.AWAITING_APPROVAL or row.now >= video.expires_at:
            return False
        chosen = " ".join(sorted({*(video.chosen or "").split(), FIRST_FRAME}))
        mine = videos.c.request_id == request_id
        await conn.execute(
            update(videos)
            .where(mine)
            .values(
                picture=sha256, picture_format=PICTURE_FORMAT, picture_allowed_at=row.now, nonce=new_nonce(),
                chosen=chosen, updated_at=row.now, version=videos.c.version + 1,
            )
        )  # fmt: skip
        await conn.execute(update(requests).where(requests.c.request_id == request_id).values(picture=sha256))
        why = "begins with its still"
        await record_transition(conn, request_id, "picture", "", "still", "studio", why, row.now)
        await show_again(ledger, conn, request_id)
    return True


async def show_again(ledger: Ledger, conn: AsyncConnection, request_id: str) -> None:
    """Have an offer shown again, in the caller's transaction."""
    # No digest: where only the account changed the text is the same, and its buttons are not.
    unknown, mine = f"?{new_nonce()[:14]}", requests.c.request_id == request_id
    later = after_lease(ledger.time())
    shown = update(requests).where(mine).values(shown=unknown, notify_failures=0, notify_at=later)
    await conn.execute(shown)


async def withdraw_older(
    ledger: Ledger, conn: AsyncConnection, user_id: int, bot_id: int, request_id: str
) -> None:
    """Withdraw the open offers of a user's earlier requests to this bot, in the caller's transaction."""
    whose = {"user": user_id, "bot": bot_id, "newer": request_id}
    for older in (await conn.scalars(_OLDER, whose)).all():
        await transition_in(
            ledger, conn, older, VideoState.AWAITING_APPROVAL, VideoState.CANCELLED, f"user:{user_id}",
            "asked for another video", columns={"failure": Failure.WITHDRAWN},
        )  # fmt: skip


@transaction
async def withdraw_superseded(ledger: Ledger, request_id: str) -> Video | None:
    """Withdraw an offer whose user has asked for another video since its request; None if they have not."""
    async with ledger.write() as conn:
        if not await conn.scalar(_NEWER, {"request": request_id}):
            return None
        return await transition_in(
            ledger, conn, request_id, VideoState.AWAITING_APPROVAL, VideoState.CANCELLED, "tool",
            "its user has asked for another video", columns={"failure": Failure.WITHDRAWN},
        )  # fmt: skip


_MINE: Final = requests.alias("mine")
_NEWER: Final = select(
    exists().where(
        _MINE.c.request_id == bindparam("request", type_=String),
        requests.c.user_id == _MINE.c.user_id,
        requests.c.bot_id == _MINE.c.bot_id,
        requests.c.created_at > _MINE.c.created_at,
        requests.c.state != RequestState.REFUSED,
        requests.c.tool == VIDEO_TOOL,  # what stands beside a request is no newer one
    )
)

_OLDER: Final = (
    select(videos.c.request_id)
    .join(requests, requests.c.request_id == videos.c.request_id)
    .where(
        videos.c.user_id == bindparam("user", type_=BigInteger),
        text(f"videos.{CANCELLABLE_ORDERS}"),  # not a parameter: it is the condition of a partial index
        videos.c.state == VideoState.AWAITING_APPROVAL,
        requests.c.bot_id == bindparam("bot", type_=BigInteger),
        videos.c.request_id != bindparam("newer", type_=String),
    )
    .order_by(videos.c.request_id)
)
