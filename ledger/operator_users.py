"""What operators see of users: what they cost, what is left to them, bans; and the figures of Stars."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Integer, case, cast, distinct, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.limits import Limits
from guardrails.money import ZERO
from ledger import limits, totals
from ledger.database import Ledger, transaction
from ledger.schema import cost_totals, credit_lots, members, star_checks, star_payments
from ledger.totals import CostSummary

_T: Final = cost_totals.c


@dataclass(frozen=True, slots=True)
class UserLine:
    """One user.

    Attributes:
        ever: Everything that their commands cost and counted.
        month: Of the last 30 days.
        quota_left: Videos that they may still order within their quota's window; None: there is no quota.
        credits_left: Videos above the quota.
        banned_at: In milliseconds since the epoch; None: not banned.
        banned_by: Who banned them.
        ban_reason: Why.
    """

    user_id: int
    ever: CostSummary
    month: CostSummary
    quota_left: int | None
    credits_left: int
    banned_at: int | None = None
    banned_by: str | None = None
    ban_reason: str | None = None


@dataclass(frozen=True, slots=True)
class StarFigures:
    """Credits and Stars of all time; credits: bought + granted = left + used + refunded.

    Attributes:
        payments: How many payments there were, `stars` in all, of which `stars_refunded` went back.
        checked_day: The UTC day (since the epoch) of the latest comparison with Telegram; None: none yet.
        findings: What differed then; empty if all agreed.
    """

    bought: int = 0
    granted: int = 0
    used: int = 0
    refunded: int = 0
    payments: int = 0
    stars: int = 0
    stars_refunded: int = 0
    checked_day: int | None = None
    findings: str = ""

    @property
    def left(self) -> int:
        """Credits that may be used now."""
        return self.bought + self.granted - self.used - self.refunded


@transaction
async def list_users(
    ledger: Ledger, declared: Limits, user_id: int | None = None, skip: int = 0, most: int = 25
) -> tuple[int, list[UserLine]]:
    """Return how many users there are, and a page of them, the most expensive first.

    With `user_id` it is that one alone, also where nothing is known of them yet.
    """
    await totals.roll_off(ledger)
    async with ledger.read() as conn:
        if user_id is not None:
            return 1, await _lines(ledger, conn, declared, [user_id])
        users = totals.is_row(await totals.tools_of(conn), "ever", [0], "user")
        count = await conn.scalar(select(func.count(distinct(_T.key))).where(*users))
        page = select(_T.key).where(*users).group_by(_T.key)
        page = page.order_by(func.sum(_T.net).desc(), _T.key.desc()).limit(most).offset(skip)
        ids = [int(key) for key in await conn.scalars(page)]
        return int(count or 0), await _lines(ledger, conn, declared, ids)


async def _lines(ledger: Ledger, conn: AsyncConnection, declared: Limits, ids: list[int]) -> list[UserLine]:
    now = await ledger.now(conn)
    costs = await _costs(conn, ids)
    left = {
        row.user_id: row.left for row in await conn.execute(_CREDITS.where(credit_lots.c.user_id.in_(ids)))
    }
    known = {
        row.user_id: row
        for row in await conn.execute(select(members).where(members.c.user_id.in_(ids)))
    }  # fmt: skip
    lines = []
    for user_id in ids:
        usage = await limits.current_usage(conn, user_id, ZERO, declared, now)
        quota = None if declared.quota is None else max(0, declared.quota - usage.used)
        row: Any = known.get(user_id)
        ban = (row.banned_at, row.banned_by, row.ban_reason) if row is not None else (None, None, None)
        ever, month = (costs.get((period, str(user_id)), CostSummary()) for period in ("ever", "30d"))
        lines.append(UserLine(user_id, ever, month, quota, left.get(user_id, 0), *ban))
    return lines


async def _costs(conn: AsyncConnection, ids: list[int]) -> dict[tuple[str, str], CostSummary]:
    query = select(_T.period, _T.key, *totals.summed()).where(
        _T.tool.in_(await totals.tools_of(conn)), _T.period.in_(("ever", "30d")), _T.start == 0,
        _T.dimension == "user", _T.key.in_(list(map(str, ids))),
    )  # fmt: skip
    query = query.group_by(_T.period, _T.key)
    return {(row.period, row.key): CostSummary.from_row(row) for row in await conn.execute(query)}


def _sum(value: Any) -> Any:
    return cast(func.coalesce(func.sum(value), 0), Integer)


_CREDITS: Final = select(
    credit_lots.c.user_id,
    _sum(credit_lots.c.credits - credit_lots.c.used - credit_lots.c.refunded).label("left"),
).group_by(credit_lots.c.user_id)
_LOTS: Final = select(
    _sum(case((credit_lots.c.kind == "stars", credit_lots.c.credits), else_=0)).label("bought"),
    _sum(case((credit_lots.c.kind == "grant", credit_lots.c.credits), else_=0)).label("granted"),
    _sum(credit_lots.c.used).label("used"),
    _sum(credit_lots.c.refunded).label("refunded"),
)
_PAYMENTS: Final = select(
    func.count().label("payments"),
    _sum(star_payments.c.stars).label("stars"),
    _sum(case((star_payments.c.refunded_at.is_not(None), star_payments.c.stars), else_=0)).label("back"),
)
_LAST_CHECK: Final = (
    select(star_checks.c.day, star_checks.c.findings)
    .where(star_checks.c.done_at > 0)
    .order_by(star_checks.c.day.desc())
    .limit(1)
)


@transaction
async def star_figures(ledger: Ledger) -> StarFigures:
    """Return the figures of credits and of payments in Stars, of everyone and of all time."""
    async with ledger.read() as conn:
        lots, paid = (await conn.execute(_LOTS)).one(), (await conn.execute(_PAYMENTS)).one()
        check = (await conn.execute(_LAST_CHECK)).first()
    return StarFigures(
        lots.bought, lots.granted, lots.used, lots.refunded, paid.payments, paid.stars, paid.back,
        None if check is None else check.day, "" if check is None else check.findings,
    )  # fmt: skip
