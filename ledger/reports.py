"""Sums for people: what was charged, credited and is held, from the entries alone."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, func, select

from ledger.money import Money
from ledger.patience import transaction
from ledger.schema import entries, videos
from ledger.store import Ledger
from ledger.words import QUOTA_BACK


@dataclass(frozen=True, slots=True)
class Costs:
    """Sums over a span of time: charged less credited, and what is held for orders that are not settled."""

    charged: Money
    credited: Money
    held: Money
    videos: int

    @property
    def paid(self) -> Money:
        """What has left the purse."""
        return self.charged - self.credited


async def charged(ledger: Ledger, request_id: str) -> Money:
    """Return what stands charged for one request, less what was credited."""
    found = await _sums(ledger, entries.c.request_id == request_id)
    return Money(found.get("charge", 0) - found.get("credit", 0))


@transaction
async def costs(ledger: Ledger, since: int = 0, user_id: int | None = None) -> Costs:
    """Sum all entries from `since` (milliseconds since the epoch), of one user or of everyone."""
    wanted = entries.c.at >= since
    counted = select(func.count()).where(videos.c.ordered_at >= since, videos.c.state.not_in(QUOTA_BACK))
    if user_id is not None:
        wanted = wanted & (entries.c.user_id == user_id)
        counted = counted.where(videos.c.user_id == user_id)
    found = await _sums(ledger, wanted)
    async with ledger.read() as conn:
        made = int(await conn.scalar(counted) or 0)
        still = await conn.scalar(
            select(func.sum(entries.c.micros)).where(
                wanted, entries.c.kind == "hold", entries.c.request_id.not_in(_ended())
            )
        )
    charge, credit = found.get("charge", 0), found.get("credit", 0)
    return Costs(Money(charge), Money(credit), Money(int(still or 0)), made)


def _ended() -> Select[tuple[str]]:
    """Requests whose hold has ended: used up by a charge, or released."""
    return select(entries.c.request_id).where(entries.c.kind.in_(("charge", "release")))


@transaction
async def _sums(ledger: Ledger, wanted: ColumnElement[bool]) -> dict[str, int]:
    query = select(entries.c.kind, func.sum(entries.c.micros)).where(wanted).group_by(entries.c.kind)
    async with ledger.read() as conn:
        return {row[0]: int(row[1]) for row in await conn.execute(query)}
