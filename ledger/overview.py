"""What the page of costs and the API show next to a report: paid twice, outcomes, how much was left out."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import distinct, func, select

from ledger import model_usage, operator_alerts, operator_users, request_search, totals
from ledger.database import Ledger, transaction
from ledger.model_usage import ModelCosts
from ledger.operator_alerts import KeptAlert
from ledger.operator_users import StarFigures
from ledger.reports import ReportPeriod, RequestLine, period_starts
from ledger.request_search import Outcomes, Search
from ledger.schema import cost_totals, videos
from ledger.totals import DAY_MS

_T: Final = cost_totals.c


@dataclass(frozen=True, slots=True)
class Overview:
    """What stands next to a report of the same span and user.

    Attributes:
        twice_paid: All requests with more than one paid job, of all time.
        outcomes: Of the span.
        stars: Of everyone and of all time.
        models: What each language model used in the span.
        alerts: The oldest alerts whose cause lasts now, and how many there are.
        lines: How many lines each table of the report would have: `users`, `models`, `requests`. Of the last
            hour and of one user they are not counted: the tables have all.
    """

    twice_paid: list[RequestLine]
    outcomes: Outcomes
    stars: StarFigures
    models: list[ModelCosts]
    alerts: tuple[list[KeptAlert], int]
    lines: dict[str, int]


async def read_overview(ledger: Ledger, span: ReportPeriod, user_id: int | None = None) -> Overview:
    """Read it."""
    now = await _now(ledger)
    since = period_starts(now)[span]
    search = Search(since, now + DAY_MS, user_id)
    counted = {} if span == "hour" or user_id is not None else await _count_lines(ledger, span, since)
    return Overview(
        await request_search.twice_paid(ledger, user_id),
        await request_search.outcomes(ledger, search),
        await operator_users.star_figures(ledger),
        await model_usage.model_costs(ledger, since, user_id),
        await operator_alerts.open_alerts(ledger),
        counted,
    )


@transaction
async def _now(ledger: Ledger) -> int:
    async with ledger.read() as conn:
        return await ledger.now(conn)


@transaction
async def _count_lines(ledger: Ledger, span: ReportPeriod, since: int) -> dict[str, int]:
    period, start = ("30d", 0) if span == "30d" else ("day", since)
    where = (_T.period == period, _T.start == start, _T.dimension.in_(("user", "model")))
    keys = select(_T.dimension, func.count(distinct(_T.key))).where(*where)
    charged = select(func.count()).select_from(videos).where(videos.c.charged_day >= since // DAY_MS)
    async with ledger.read() as conn:
        keys = keys.where(_T.tool.in_(await totals.tools_of(conn)))
        found = {f"{row[0]}s": row[1] for row in await conn.execute(keys.group_by(_T.dimension))}
        return {"users": 0, "models": 0} | found | {"requests": int(await conn.scalar(charged) or 0)}
