"""Figures of a few days for admins, in the chat: money from the totals, refusals and holds by count."""

from dataclasses import dataclass

from sqlalchemy import func, select, text

from ledger import totals
from ledger.database import Ledger, transaction
from ledger.models import RequestState, VideoState
from ledger.reports import period_starts, snapshot
from ledger.schema import ACTIVE_ORDERS, requests, videos
from ledger.totals import DAY_MS, CostSummary


@dataclass(frozen=True, slots=True)
class Stats:
    """The figures of some UTC days.

    Attributes:
        costs: Videos, charges, refunds, and what is reserved for orders under way.
        refused: Requests that the rules or the limits refused.
        on_hold: Orders that wait for a person now, whenever they were made.
    """

    costs: CostSummary
    refused: int
    on_hold: int


@transaction
async def read(ledger: Ledger, days: int) -> Stats:
    """Return the figures of today and the `days - 1` UTC days before it."""
    async with snapshot(ledger) as conn:
        today = period_starts(await ledger.now(conn))["today"]
        first = today - (days - 1) * DAY_MS
        refused = (requests.c.created_at >= first, requests.c.state == RequestState.REFUSED)
        held = (text(f"videos.{ACTIVE_ORDERS}"), videos.c.state == VideoState.HOLD)
        return Stats(
            await totals.sum_days(conn, first, today),
            int(await conn.scalar(select(func.count()).select_from(requests).where(*refused)) or 0),
            int(await conn.scalar(select(func.count()).select_from(videos).where(*held)) or 0),
        )
