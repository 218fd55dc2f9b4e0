"""Payments in Telegram Stars, their refunds, and the comparison with Telegram's own list.

A payment is one row by its charge id, written before its update is acknowledged, with its lot of credits. A
refund is an intent first: it takes the credits, so that none can be used meanwhile, and one process asks
Telegram. Where the answer is unclear, the list of Stars says what happened (`finish_refund`), and where
Telegram refuses, the credits come back. Each step is a compare-and-set, so it changes nothing twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final, Literal

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger import video_credits
from ledger.database import Ledger, transaction
from ledger.schema import REFUNDS_DUE, credit_lots, requests, star_checks, star_payments
from ledger.video_credits import NewNotice, NoticeKind

REFUND_DAYS: Final = 21
_DAY_MS: Final = 86_400_000
_ASK_LEASE_MS: Final = 60_000
"""How long one process may take to ask Telegram for a refund, before another one asks how it ended."""

_MAX_DUE: Final = 20
_MAX_FINDINGS: Final = 4000

FoundBy = Literal["update", "check"]
RefundOutcome = Literal["intended", "used", "late", "already", "unknown"]
"""What became of a wish for a refund. `intended`: this call wrote the intent, and its caller asks Telegram.
`used`: one of its credits is used. `late`: it is over `REFUND_DAYS` old. `already`: it is under way or done.
"""


class RefundState(StrEnum):
    """The refund of one payment."""

    NONE = ""
    INTENDED = "intended"
    REFUNDED = "refunded"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class NewPayment:
    """A payment as Telegram tells of it. Times are milliseconds since the epoch.

    Attributes:
        invoice: The payload of the invoice, which several payments may share.
        pack: The pack's name; empty where the payload is none of ours.
        credits: What the invoice promised.
    """

    charge_id: str
    bot_id: int
    user_id: int
    pack: str
    invoice: str
    stars: int
    credits: int
    paid_at: int
    found_by: FoundBy = "update"


@dataclass(frozen=True, slots=True)
class Payment:
    """A stored payment, with what is used of its credits."""

    charge_id: str
    bot_id: int
    user_id: int
    pack: str
    stars: int
    credits: int
    paid_at: int
    refund: str
    refund_at: int | None
    refund_asks: int
    used: int

    def may_be_refunded(self, now: int) -> bool:
        """Whether a refund may be asked for now: of a whole pack, while none of its credits is used."""
        open_ = self.refund in (RefundState.NONE, RefundState.REFUSED)
        return open_ and not self.used and now - self.paid_at <= REFUND_DAYS * _DAY_MS


def lot_of(charge_id: str) -> str:
    """Return the id of the lot of a payment."""
    return f"stars:{charge_id}"


@transaction
async def record(ledger: Ledger, new: NewPayment, language: str) -> bool:
    """Write a payment once, with its credits and what its person is told; False if it was there."""
    async with ledger.write() as conn:
        return await _record(ledger, conn, new, language)


async def _record(ledger: Ledger, conn: AsyncConnection, new: NewPayment, language: str) -> bool:
    now = await ledger.now(conn)
    row = {field.name: getattr(new, field.name) for field in fields(NewPayment)}
    done = await conn.execute(ledger.insert_new(star_payments).values(**row, at=now))
    if not done.rowcount:
        return False
    await video_credits.add_lot(
        ledger, conn, lot_of(new.charge_id), new.user_id, "stars", new.credits, f"user:{new.user_id}",
        new.pack, now,
    )  # fmt: skip
    same = (star_payments.c.user_id == new.user_id, star_payments.c.invoice == new.invoice)
    paid = (await conn.execute(select(func.count()).select_from(star_payments).where(*same))).scalar_one()
    kind: NoticeKind = "unknown" if not new.credits else "paid_again" if paid > 1 else "paid"
    await _notify(ledger, conn, f"paid:{new.charge_id}", kind, new, language, now)
    return True


async def _notify(
    ledger: Ledger, conn: AsyncConnection, notice_id: str, kind: NoticeKind,
    about: Any, language: str, now: int,
) -> None:  # fmt: skip
    notice = NewNotice(notice_id, about.bot_id, about.user_id, language, kind, about.credits, about.stars)
    await video_credits.add_notice(ledger, conn, notice, now)


_COLUMNS: Final = (
    *(star_payments.c[one.name] for one in fields(Payment) if one.name != "used"),
    func.coalesce(credit_lots.c.used, 0).label("used"),
)
_WITH_LOT: Final = star_payments.outerjoin(
    credit_lots, credit_lots.c.lot_id == "stars:" + star_payments.c.charge_id
)


def _payment(row: Any) -> Payment:
    return Payment(**{one.name: getattr(row, one.name) for one in fields(Payment)})


@transaction
async def latest(ledger: Ledger, user_id: int, most: int = 5) -> tuple[int, list[Payment]]:
    """Return the store's time, and a person's latest payments, newest first."""
    query = select(*_COLUMNS).select_from(_WITH_LOT).where(star_payments.c.user_id == user_id)
    query = query.order_by(star_payments.c.paid_at.desc(), star_payments.c.charge_id).limit(most)
    async with ledger.read() as conn:
        return await ledger.now(conn), [_payment(row) for row in await conn.execute(query)]


@transaction
async def stored(ledger: Ledger, bot_id: int) -> list[Payment]:
    """Return every payment to a bot, oldest first."""
    query = select(*_COLUMNS).select_from(_WITH_LOT).where(star_payments.c.bot_id == bot_id)
    query = query.order_by(star_payments.c.paid_at, star_payments.c.charge_id)
    async with ledger.read() as conn:
        return [_payment(row) for row in await conn.execute(query)]


async def _find(conn: AsyncConnection, charge_id: str) -> Payment | None:
    query = select(*_COLUMNS).select_from(_WITH_LOT).where(star_payments.c.charge_id == charge_id)
    row = (await conn.execute(query)).first()
    return None if row is None else _payment(row)


@transaction
async def intend_refund(ledger: Ledger, charge_id: str, user_id: int, who: str) -> RefundOutcome:
    """Write that a payment is to be refunded, and take its credits; the caller then asks Telegram, once."""
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        found = await _find(conn, charge_id)
        if found is None or found.user_id != user_id:
            return "unknown"
        if found.refund not in (RefundState.NONE, RefundState.REFUSED):
            return "already"
        if now - found.paid_at > REFUND_DAYS * _DAY_MS:
            return "late"
        lot = credit_lots.c.lot_id == lot_of(charge_id)
        # First the lot, which an order locks too: the second one finds it taken.
        taken = await conn.execute(
            update(credit_lots)
            .where(lot, credit_lots.c.used == 0, credit_lots.c.refunded == 0)
            .values(refunded=credit_lots.c.credits)
        )
        if not taken.rowcount:
            current = await _find(conn, charge_id)
            return "used" if current is not None and current.used else "already"
        is_open = star_payments.c.refund.in_((RefundState.NONE, RefundState.REFUSED))
        meant = await conn.execute(
            update(star_payments)
            .where(star_payments.c.charge_id == charge_id, is_open)
            .values(
                refund=RefundState.INTENDED, refund_who=who, refund_at=now, refund_asks=0,
                refund_due_at=now + _ASK_LEASE_MS,
            )
        )  # fmt: skip
    return "intended" if meant.rowcount else "already"


@transaction
async def finish_refund(ledger: Ledger, charge_id: str, language: str) -> bool:
    """Say that Telegram has refunded a payment, by us or by itself; False if that was known.

    What is not used of its credits is taken; one that is used and comes back is taken then.
    """
    async with ledger.write() as conn:
        return await _finish(ledger, conn, charge_id, language)


async def _finish(ledger: Ledger, conn: AsyncConnection, charge_id: str, language: str) -> bool:
    now = await ledger.now(conn)
    mine = star_payments.c.charge_id == charge_id
    # The lot first, as `intend_refund` does, so that the two cannot lock each other out.
    await conn.execute(
        update(credit_lots)
        .where(credit_lots.c.lot_id == lot_of(charge_id), credit_lots.c.revoked == 0)
        .values(refunded=credit_lots.c.credits - credit_lots.c.used, revoked=1)
    )
    row = (
        await conn.execute(
            update(star_payments)
            .where(mine, star_payments.c.refund != RefundState.REFUNDED)
            .values(refund=RefundState.REFUNDED, refund_due_at=None, refunded_at=now)
            .returning(star_payments)
        )
    ).first()
    if row is None:
        return False
    await _notify(ledger, conn, f"refunded:{charge_id}", "refunded", row, language, now)
    return True


@transaction
async def record_refunded(ledger: Ledger, new: NewPayment, language: str) -> bool:
    """Say that a payment was refunded, of which we may not have known; False if all of that was known."""
    async with ledger.write() as conn:
        await _record(ledger, conn, new, language)
        return await _finish(ledger, conn, new.charge_id, language)


@transaction
async def refuse_refund(ledger: Ledger, charge_id: str, language: str) -> bool:
    """Give the credits back: Telegram refuses the refund, and its list shows none."""
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        await conn.execute(
            update(credit_lots)
            .where(
                credit_lots.c.lot_id == lot_of(charge_id), credit_lots.c.revoked == 0,
                select(star_payments.c.charge_id)
                .where(
                    star_payments.c.charge_id == charge_id, star_payments.c.refund == RefundState.INTENDED
                )
                .exists(),
            )
            .values(refunded=0)
        )  # fmt: skip
        row = (
            await conn.execute(
                update(star_payments)
                .where(star_payments.c.charge_id == charge_id, star_payments.c.refund == RefundState.INTENDED)
                .values(refund=RefundState.REFUSED, refund_due_at=None)
                .returning(star_payments)
            )
        ).first()
        if row is None:
            return False
        notice_id = f"refused:{charge_id}:{row.refund_at}"
        await _notify(ledger, conn, notice_id, "refund_refused", row, language, now)
    return True


@transaction
async def claim_refunds(ledger: Ledger, bot_id: int) -> list[Payment]:
    """Claim the refunds whose outcome is not known and whose time to ask has come, for a minute each."""
    due = (
        select(star_payments.c.charge_id, star_payments.c.refund_asks)
        .where(
            star_payments.c.bot_id == bot_id, text(REFUNDS_DUE),
            star_payments.c.refund_due_at <= ledger.time(),
        )
        .order_by(star_payments.c.refund_due_at)
        .limit(_MAX_DUE)
    )  # fmt: skip
    async with ledger.read() as conn:  # mostly nothing is due, which needs no write
        if (await conn.execute(due)).first() is None:
            return []
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        found = (await conn.execute(due.with_for_update(skip_locked=True))).all()
        for row in found:  # later and later: after one minute, four, nine … at most an hour
            asks = row.refund_asks + 1
            await conn.execute(
                update(star_payments)
                .where(star_payments.c.charge_id == row.charge_id)
                .values(refund_asks=asks, refund_due_at=now + _ASK_LEASE_MS * min(asks * asks, 60))
            )
        ids = [row.charge_id for row in found]
        query = select(*_COLUMNS).select_from(_WITH_LOT).where(star_payments.c.charge_id.in_(ids))
        return [_payment(row) for row in await conn.execute(query)]


@transaction
async def language_of(ledger: Ledger, user_id: int) -> str:
    """Return the language in which a person asked last; English for one who never did."""
    query = select(requests.c.language).where(requests.c.user_id == user_id)
    async with ledger.read() as conn:
        found = await conn.scalar(query.order_by(requests.c.created_at.desc()).limit(1))
    return str(found or "en")


@dataclass(frozen=True, slots=True)
class StarTransaction:
    """One line of Telegram's list. A payment and its refund have the same id.

    Attributes:
        at: Milliseconds since the epoch.
        stars: Whole Stars, above zero.
        comes_in: To the bot; else from it.
        user_id: The person; None: someone else, as a withdrawal or an advertisement.
        is_payment: Whether a person paid an invoice, or got such a payment back.
        invoice: The payload of that invoice.
    """

    charge_id: str
    at: int
    stars: int
    comes_in: bool
    user_id: int | None
    is_payment: bool
    invoice: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Telegram's list and our rows, to the Star.

    Attributes:
        listed: Stars of payments less refunds, as Telegram has them.
        stored: The same of our rows.
        other: Stars that came or went otherwise, by withdrawals for example.
        missing: Payments that we have no row of.
        missing_refunds: Payments that Telegram has refunded and our rows have not.
        differs: Sentences about rows that Telegram contradicts.
    """

    listed: int
    stored: int
    other: int
    missing: tuple[StarTransaction, ...]
    missing_refunds: tuple[StarTransaction, ...]
    differs: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether every Star is accounted for."""
        return not (self.missing or self.missing_refunds or self.differs) and self.listed == self.stored

    def findings(self) -> list[str]:
        """Return a sentence for each difference, without the id of a person."""
        found = [f"payment {one.charge_id} of {one.stars} Stars has no row" for one in self.missing]
        found += [f"payment {one.charge_id} is refunded and its row is not" for one in self.missing_refunds]
        found += self.differs
        if self.listed != self.stored and not found:
            found.append(f"Telegram counts {self.listed} Stars, the rows {self.stored}")
        return found


def compare(rows: Sequence[Payment], listed: Sequence[StarTransaction], settled_at: int) -> Comparison:
    """Compare our rows with Telegram's list.

    Args:
        rows: Every payment to this bot.
        listed: Every transaction of this bot, read after the rows were.
        settled_at: What is younger, milliseconds since the epoch, is not compared: its update may be on the
            way, or its line not in the list yet.
    """
    by_id = {one.charge_id: one for one in rows}
    paid = {one.charge_id: one for one in listed if one.comes_in and one.is_payment}
    back = {
        one.charge_id: one
        for one in listed
        if not one.comes_in and (one.is_payment or one.charge_id in paid or one.charge_id in by_id)
    }
    ours = (*paid.values(), *back.values())
    young = {one.charge_id for one in ours if one.at > settled_at}
    young |= {one.charge_id for one in rows if max(one.paid_at, one.refund_at or 0) > settled_at}
    old_rows = [one for one in rows if one.charge_id not in young]
    differs = []
    for row in old_rows:
        line = paid.get(row.charge_id)
        if line is None:
            differs.append(f"payment {row.charge_id} of {row.stars} Stars is not in Telegram's list")
        elif line.stars != row.stars:
            differs.append(
                f"payment {row.charge_id} is {line.stars} Stars for Telegram and {row.stars} in its row"
            )
        if row.refund == RefundState.REFUNDED and row.charge_id not in back:
            differs.append(f"payment {row.charge_id} is refunded in its row and not for Telegram")
    return Comparison(
        listed=sum(one.stars for key, one in paid.items() if key not in young)
        - sum(one.stars for key, one in back.items() if key not in young),
        stored=sum(one.stars for one in old_rows if one.refund != RefundState.REFUNDED),
        other=sum(one.stars if one.comes_in else -one.stars for one in listed if one not in ours),
        missing=tuple(one for key, one in paid.items() if key not in by_id and key not in young),
        missing_refunds=tuple(
            one
            for key, one in back.items()
            if key not in young and (key not in by_id or by_id[key].refund != RefundState.REFUNDED)
        ),
        differs=tuple(differs),
    )


@transaction
async def claim_check(ledger: Ledger, bot_id: int, lease_s: float) -> int | None:
    """Claim today's comparison of this bot; return the day, or None if it was made or is being made."""
    async with ledger.read() as conn:
        day = await ledger.now(conn) // _DAY_MS
        mine = (star_checks.c.bot_id == bot_id, star_checks.c.day == day)
        if await conn.scalar(select(star_checks.c.done_at).where(*mine)):
            return None
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        await conn.execute(ledger.insert_new(star_checks).values(bot_id=bot_id, day=day))
        done = await conn.execute(
            update(star_checks)
            .where(
                star_checks.c.bot_id == bot_id, star_checks.c.day == day, star_checks.c.done_at == 0,
                star_checks.c.free_at <= now,
            )
            .values(free_at=now + int(lease_s * 1000))
        )  # fmt: skip
    return int(day) if done.rowcount else None


@transaction
async def end_check(ledger: Ledger, bot_id: int, day: int, found: Comparison) -> None:
    """Store the outcome of a day's comparison."""
    async with ledger.write() as conn:
        await conn.execute(
            update(star_checks)
            .where(star_checks.c.bot_id == bot_id, star_checks.c.day == day)
            .values(
                done_at=ledger.time(), listed=found.listed, stored=found.stored,
                findings="\n".join(found.findings())[:_MAX_FINDINGS],
            )
        )  # fmt: skip
