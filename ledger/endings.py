"""How requests ended: the figures that a trace carries about one, and which ends no trace has yet.

An end is written into its trace once: whoever takes it (a compare-and-set on `reported`) writes it. So an end
that nobody could report, because its worker died, is found and reported by another.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.database import Ledger
from ledger.models import Request, Video
from ledger.money import Money
from ledger.patience import transaction
from ledger.pending_work import shown
from ledger.schema import entries, requests, transitions, videos
from ledger.words import SETTLED, RequestState, VideoState

ENDS: Final = frozenset(
    {*SETTLED, VideoState.HOLD, RequestState.REFUSED, RequestState.NO_ORDER, RequestState.CANCELLED}
)
"""Words for an end. HOLD is one for now: a person may be long in coming."""

_MOST: Final = 200


@dataclass(frozen=True, slots=True)
class Move:
    """One line of the transitions of a video."""

    frm: str
    to: str
    who: str
    at: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What one request came to.

    Attributes:
        outcome: A state in lower case: `delivered`, `hold`, `refused`, …; `open` and the like before an end.
        jobs: Provider's jobs that stand charged.
        prevented: Calls of tools that were answered in place of being made.
        cost: Charged less credited.
        reason: Why there is no order, as a word.
        seconds: From the request's opening to now.
        now: The store's time, milliseconds since the epoch.
        moves: What became of the video, oldest first.
    """

    request: Request
    video: Video | None
    outcome: str
    jobs: int
    prevented: int
    cost: Money
    reason: str
    seconds: float
    now: int
    moves: tuple[Move, ...]


@transaction
async def figures(ledger: Ledger, request_id: str) -> Figures | None:
    """Read what one request came to so far; None if there is none."""
    async with ledger.read() as conn:
        found = (await conn.execute(select(requests).where(requests.c.request_id == request_id))).first()
        if found is None:
            return None
        request = Request.of(found)
        row = (await conn.execute(select(videos).where(videos.c.request_id == request_id))).first()
        video = None if row is None else Video.of(row)
        now = await ledger.now(conn)
        costs = await _costs(conn, request_id)
        moves, prevented = await _log(conn, request_id)
    return Figures(
        request, video, str(request.state if video is None else video.state).lower(),
        sum(cost > 0 for cost in costs.values()), prevented, Money(sum(costs.values())),
        request.reason or "", max(0, now - request.created_at) / 1000, now, moves,
    )  # fmt: skip


async def _costs(conn: AsyncConnection, request_id: str) -> dict[str, int]:
    """Return what each job of the request stands at, in micro-dollars."""
    query = select(entries.c.kind, entries.c.cause, entries.c.micros).where(
        entries.c.request_id == request_id, entries.c.kind.in_(("charge", "credit"))
    )
    costs: dict[str, int] = {}
    for kind, cause, micros in await conn.execute(query):
        job = str(cause).partition(" (")[0]  # in brackets stands the how-manieth booking of it
        costs[job] = costs.get(job, 0) + (int(micros) if kind == "charge" else -int(micros))
    return costs


async def _log(conn: AsyncConnection, request_id: str) -> tuple[tuple[Move, ...], int]:
    query = (
        select(transitions)
        .where(transitions.c.request_id == request_id)
        .order_by(transitions.c.transition_id)
    )
    lines = (await conn.execute(query)).all()
    moves = tuple(
        Move(line.from_state, line.to_state, line.who.partition(":")[0], line.at)
        for line in lines
        if line.subject == "video"
    )
    return moves, sum(line.subject == "call" and line.to_state == "replay" for line in lines)


@transaction
async def unreported(ledger: Ledger) -> list[str]:
    """Requests that ended in a way that their trace does not say."""
    async with ledger.read() as conn:
        query = (
            select(requests.c.request_id)
            .join(videos, videos.c.request_id == requests.c.request_id, isouter=True)
            .where(shown().in_(ENDS), requests.c.reported != shown())
            .limit(_MOST)
        )
        return list((await conn.scalars(query)).all())


@transaction
async def take(ledger: Ledger, request_id: str, before: str, end: str) -> bool:
    """Take it upon this process to report `end`; False if another has. `before` is what was reported last."""
    async with ledger.write() as conn:
        done = await conn.execute(
            update(requests)
            .where(requests.c.request_id == request_id, requests.c.reported == before)
            .values(reported=end)
        )
    return bool(done.rowcount)
