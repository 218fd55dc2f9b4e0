"""Options of an open offer: a choice of its user changes its row, price and nonce in one transaction.

So a [Make it] that shows another price than the row orders nothing. Nothing here counts or holds anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sqlalchemy import BigInteger, ColumnElement, Select, String, bindparam, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.limits import LimitExceeded, Limits
from ledger import limits
from ledger.database import Ledger, transaction
from ledger.models import Credit, Video, VideoState
from ledger.offers import Terms, new_nonce, show_again
from ledger.requests import record_transition
from ledger.schema import CANCELLABLE_ORDERS, requests, videos

Option = Literal["seconds", "shape", "sound", "style"]
ChoiceOutcome = Literal["chosen", "same", "gone", "not_yours", "not_offered"]
"""What became of a tap on an option.

`chosen`: the offer has changed, and a new [Make it] shows its price. `same`: it was so before. `gone`: the
offer has ended. `not_yours`: another person's. `not_offered`: that is not on offer, or not any more.
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an offer is changed to, and on which terms that may be ordered now."""

    seconds: int
    size: str
    sound: bool | None
    style: str | None
    style_prompt: str | None
    prompt: str
    terms: Terms


@dataclass(frozen=True, slots=True)
class Choice:
    """The outcome of a tap on an option.

    Attributes:
        outcome: See `ChoiceOutcome`.
        video: The offer as it is now; None if it is not known.
        denied: With `chosen`: what would refuse a tap on [Make it] now.
    """

    outcome: ChoiceOutcome
    video: Video | None = None
    denied: LimitExceeded | None = None


@transaction
async def choose(
    ledger: Ledger,
    request_id: str,
    user_id: int,
    option: Option,
    wanted: Callable[[Video], Wanted | None],
    bounds: Limits,
    *,
    valid_s: int,
) -> Choice:
    """Change an open offer to what its user wants.

    Args:
        ledger: Where the offer is stored.
        request_id: Whose offer.
        user_id: Who tapped.
        option: What is chosen; it is kept as their choice.
        wanted: Returns what the offer becomes, from what it is; None: that is not on offer. It may be called
            again, where the transaction is.
        bounds: The limits, which are looked at and not reserved.
        valid_s: How long the changed offer waits for its tap.
    """
    async with ledger.write() as conn:
        video, now, ended = await _locked(ledger, conn, request_id, user_id)
        if video is None or ended is not None:
            return Choice(ended or "gone", video)
        new = wanted(video)
        if new is None:
            return Choice("not_offered", video)
        if _is(video, new):
            return Choice("same", video)
        above = int(video.credit == Credit.OFFERED)  # the credit that its [Make it] would use
        denied = await limits.recount(conn, user_id, new.terms.quote, bounds, now, extra=above)
        changed = await _change(ledger, conn, video, option, new, now + valid_s * 1000, now)
        return Choice("chosen", changed, denied)


async def _locked(
    ledger: Ledger, conn: AsyncConnection, request_id: str, user_id: int
) -> tuple[Video | None, int, ChoiceOutcome | None]:
    """Return an offer that cannot change until the commit, the time, and why it may not be changed."""
    row = (await conn.execute(_locked_query(ledger.time()), {"request": request_id})).first()
    if row is None:
        return None, 0, "gone"
    video, now = Video.from_row(row), int(row.now)
    if video.user_id != user_id:
        return video, now, "not_yours"
    is_open = video.state is VideoState.AWAITING_APPROVAL and video.nonce and now < video.expires_at
    return video, now, None if is_open else "gone"


@cache
def _locked_query(now: ColumnElement[int]) -> Select[Any]:
    mine = videos.c.request_id == bindparam("request", type_=String)
    return select(videos, now.label("now")).where(mine).with_for_update(key_share=True, of=videos)


def _is(video: Video, new: Wanted) -> bool:
    same = (video.seconds, video.size, video.with_sound, video.style)
    return same == (new.seconds, new.size, new.sound is not False, new.style)


async def _change(
    ledger: Ledger, conn: AsyncConnection, video: Video, option: Option, new: Wanted, until: int, now: int
) -> Video:
    chosen = sorted({*(video.chosen or "").split(), option})
    row = (
        await conn.execute(
            update(videos)
            .where(videos.c.request_id == video.request_id)
            .values(
                provider=new.terms.provider, model=new.terms.model, account=new.terms.account,
                quote_micros=new.terms.quote.micros, nonce=new_nonce(), offered_micros=None,
                seconds=new.seconds, size=new.size, sound=None if new.sound is None else int(new.sound),
                style=new.style, style_prompt=new.style_prompt, prompt=new.prompt, chosen=" ".join(chosen),
                expires_at=until, due_at=until, due_failures=0, updated_at=now,
                version=videos.c.version + 1,
            )
            .returning(videos)
        )
    ).one()  # fmt: skip
    await record_transition(
        conn, video.request_id, "offer", "open", "chosen", f"user:{video.user_id}",
        f"{option}: {new.terms.quote}, was {video.quote}", now,
    )  # fmt: skip
    await show_again(ledger, conn, video.request_id)
    return Video.from_row(row)


@transaction
async def show(ledger: Ledger, request_id: str, user_id: int, *, shown: bool) -> Choice:
    """Show or hide the buttons of an open offer; its price and [Make it] stay as they are."""
    async with ledger.write() as conn:
        video, _, ended = await _locked(ledger, conn, request_id, user_id)
        if video is None or ended is not None:
            return Choice(ended or "gone", video)
        if bool(video.options_open) is shown:
            return Choice("same", video)
        mine = videos.c.request_id == request_id
        await conn.execute(update(videos).where(mine).values(options_open=int(shown)))
        await show_again(ledger, conn, request_id)
        return Choice("chosen", video)


@transaction
async def find_open(ledger: Ledger, user_id: int, chat_id: int, message_id: int) -> Video | None:
    """Return the open offer that this message of a user shows, whatever its buttons were when they tapped."""
    where = {"user": user_id, "chat": chat_id, "message": message_id}
    async with ledger.read() as conn:
        row = (await conn.execute(_shown_query(ledger.time()), where)).first()
    return None if row is None else Video.from_row(row)


@cache
def _shown_query(now: ColumnElement[int]) -> Select[Any]:
    return (
        select(videos)
        .join(requests, requests.c.request_id == videos.c.request_id)
        .where(
            videos.c.user_id == bindparam("user", type_=BigInteger),
            text(f"videos.{CANCELLABLE_ORDERS}"),  # not a parameter: it is the condition of a partial index
            videos.c.state == VideoState.AWAITING_APPROVAL,
            videos.c.expires_at > now,
            requests.c.chat_id == bindparam("chat", type_=BigInteger),
            requests.c.status_message_id == bindparam("message", type_=BigInteger),
        )
        .limit(1)
    )
