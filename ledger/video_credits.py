"""Credits: each is one video above the quota, bought with Stars or granted by an admin.

Credits come in lots (`credit_lots`), one for each payment and each grant. A video that holds a credit names
its lot (`videos.credit_lot`), counts toward cooldown and budgets and not toward the quota, and gives the
credit back by itself where the quota comes back: triggers do both (migration 0022), so no path can forget it
and no credit comes back twice. Whatever happens, bought + granted = left + used + refunded.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import BigInteger, Integer, bindparam, case, cast, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger import operator_log
from ledger.database import Ledger, transaction
from ledger.models import Video
from ledger.operator_log import NewAction
from ledger.schema import UNTOLD, credit_lots, credit_notices

NoticeKind = Literal["paid", "paid_again", "refunded", "refund_refused", "granted", "unknown"]
"""What a person is told of: a payment, a second one of the same invoice, a refund, a refund that Telegram
refuses, a grant, a payment whose invoice is not known.
"""

MAX_GRANT: Final = 1000
_LEASE_MS: Final = 30_000
_MAX_NOTICES: Final = 20
_WHY_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Balance:
    """A person's credits: bought + granted = left + used + refunded."""

    bought: int = 0
    granted: int = 0
    used: int = 0
    refunded: int = 0

    @property
    def left(self) -> int:
        """How many may be used now."""
        return self.bought + self.granted - self.used - self.refunded


@dataclass(frozen=True, slots=True)
class NewNotice:
    """What a person has to be told; `notice_id` is the same in every process, so it is told once."""

    notice_id: str
    bot_id: int
    user_id: int
    language: str
    kind: NoticeKind
    credits: int
    stars: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """Credits that an admin gives. `request_id` is that of the admin's command: one grant for each."""

    request_id: str
    bot_id: int
    user_id: int
    credits: int
    who: str
    why: str
    language: str


@transaction
async def balance(ledger: Ledger, user_id: int) -> Balance:
    """Return a person's credits."""
    async with ledger.read() as conn:
        row = (await conn.execute(_BALANCE, {"user": user_id})).one()
    return Balance(row.bought, row.granted, row.used, row.refunded)


def _sum(value: Any) -> Any:
    return cast(func.coalesce(func.sum(value), 0), BigInteger)


_BOUGHT: Final = case((credit_lots.c.kind == "stars", credit_lots.c.credits), else_=0)
_GRANTED: Final = case((credit_lots.c.kind == "grant", credit_lots.c.credits), else_=0)
_BALANCE: Final = select(
    _sum(_BOUGHT).label("bought"),
    _sum(_GRANTED).label("granted"),
    _sum(credit_lots.c.used).label("used"),
    _sum(credit_lots.c.refunded).label("refunded"),
).where(credit_lots.c.user_id == bindparam("user", type_=BigInteger))


async def left(ledger: Ledger, user_id: int) -> int:
    """Return how many credits a person may use now."""
    return (await balance(ledger, user_id)).left


_LEFT: Final = credit_lots.c.credits - credit_lots.c.used - credit_lots.c.refunded
_NEXT_LOT: Final = (
    select(credit_lots.c.lot_id)
    .where(credit_lots.c.user_id == bindparam("user", type_=BigInteger), _LEFT > 0)
    # Grants first, which cannot be refunded; then the oldest payment, which ceases to be refundable first.
    .order_by(credit_lots.c.kind, credit_lots.c.at, credit_lots.c.lot_id)
    .limit(1)
    .with_for_update()
)


async def lock_lot(conn: AsyncConnection, user_id: int) -> str | None:
    """Return the lot whose credit is used next, locked until the commit; None: the user has none left.

    The caller holds the user's breaker, as every order does, so no other order takes that credit meanwhile; a
    refund of the lot waits.
    """
    for _ in range(2):  # PostgreSQL skips a row that was emptied while this waited for it, and takes no other
        lot = await conn.scalar(_NEXT_LOT, {"user": user_id})
        if lot is not None:
            return str(lot)
    return None


@transaction
async def grant(ledger: Ledger, given: Grant) -> bool:
    """Give credits once for each command; False if this one gave them before."""
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        made = await add_lot(
            ledger, conn, f"grant:{given.request_id}", given.user_id, "grant", given.credits, given.who,
            given.why[:_WHY_MAX], now,
        )  # fmt: skip
        if made:
            notice = NewNotice(
                f"granted:{given.request_id}", given.bot_id, given.user_id, given.language, "granted",
                given.credits, why=given.why[:_WHY_MAX],
            )  # fmt: skip
            await add_notice(ledger, conn, notice, now)
            new = NewAction(
                "grant", given.who, given.why[:_WHY_MAX], user_id=given.user_id,
                detail=f"{given.credits} credits", source=f"grant:{given.request_id}",
            )  # fmt: skip
            await operator_log.record(ledger, conn, new)
    return made


@transaction
async def came_back(ledger: Ledger, video: Video) -> bool:
    """Return whether the credit of an ended video is its user's again; a refunded payment's is not."""
    mine = select(credit_lots.c.revoked).where(credit_lots.c.lot_id == video.credit_lot)
    async with ledger.read() as conn:
        return await conn.scalar(mine) == 0


async def add_lot(
    ledger: Ledger, conn: AsyncConnection, lot_id: str, user_id: int, kind: Literal["grant", "stars"],
    count: int, who: str, why: str, now: int,
) -> bool:  # fmt: skip
    """Write a lot in the caller's transaction; False if it was there."""
    row = {"lot_id": lot_id, "user_id": user_id, "kind": kind, "credits": count, "who": who, "why": why}
    done = await conn.execute(ledger.insert_new(credit_lots).values(**row, at=now))
    return bool(done.rowcount)


async def add_notice(ledger: Ledger, conn: AsyncConnection, new: NewNotice, now: int) -> None:
    """Write what a person has to be told, in the transaction that makes it true."""
    row = {name: getattr(new, name) for name in NewNotice.__dataclass_fields__}
    await conn.execute(ledger.insert_new(credit_notices).values(**row, at=now))


@transaction
async def claim_notices(ledger: Ledger, bot_id: int, user_id: int | None = None) -> list[NewNotice]:
    """Claim what is due to be told, of one person or of all, for as long as a send may take."""
    due = select(credit_notices.c.notice_id).where(
        credit_notices.c.bot_id == bot_id, credit_notices.c.free_at <= ledger.time(), text(UNTOLD)
    )
    if user_id is not None:
        due = due.where(credit_notices.c.user_id == user_id)
    async with ledger.read() as conn:  # mostly nothing is due, which needs no write
        if await conn.scalar(due.limit(1)) is None:
            return []
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        due = due.order_by(credit_notices.c.free_at).limit(_MAX_NOTICES).with_for_update(skip_locked=True)
        ids = list(await conn.scalars(due))
        if not ids:
            return []
        rows = await conn.execute(
            update(credit_notices)
            .where(credit_notices.c.notice_id.in_(ids))
            .values(free_at=now + _LEASE_MS)
            .returning(credit_notices)
        )
        found = sorted(rows.all(), key=lambda row: (row.at, row.notice_id))
    return [
        NewNotice(**{name: getattr(row, name) for name in NewNotice.__dataclass_fields__}) for row in found
    ]


@transaction
async def mark_told(ledger: Ledger, notice_id: str, *, reached: bool = True) -> None:
    """Say that a person was told, or cannot be reached."""
    async with ledger.write() as conn:
        await conn.execute(
            update(credit_notices)
            .where(credit_notices.c.notice_id == notice_id)
            .values(told_at=ledger.time(), reached=bindparam("reach", type_=Integer)),
            {"reach": int(reached)},
        )


@transaction
async def postpone_notice(ledger: Ledger, notice_id: str, pause_s: float) -> None:
    """Send it again no earlier than in `pause_s`."""
    async with ledger.write() as conn:
        await conn.execute(
            update(credit_notices)
            .where(credit_notices.c.notice_id == notice_id, text(UNTOLD))
            .values(free_at=ledger.time() + int(pause_s * 1000))
        )


@transaction
async def was_reached(ledger: Ledger, notice_id: str) -> bool | None:
    """Return whether a person has read a notice; None: it was not sent yet."""
    query = select(credit_notices.c.told_at, credit_notices.c.reached)
    async with ledger.read() as conn:
        row = (await conn.execute(query.where(credit_notices.c.notice_id == notice_id))).first()
    return None if row is None or not row.told_at else bool(row.reached)
