"""History of a request, refused tool calls, listings, final outcomes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.money import Money
from ledger import models
from ledger.database import Ledger, LedgerError, transaction
from ledger.entries import account_name, subject_of
from ledger.failures import explanation
from ledger.models import FINAL_STATES, Request, RequestState, Video, VideoState
from ledger.pending_work import current_state
from ledger.reports import snapshot, trace_id_of
from ledger.requests import find_ids
from ledger.schema import ACTIVE_ORDERS, REPLAYS, entries, operator_actions, requests, transitions, videos
from ledger.totals import DAY_MS
from telemetry.redaction import short_id

_NAME_MAX: Final = 200


class RequestNotFound(LedgerError):
    """No request has that name; the message says what was asked for."""


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One line of a history.

    Attributes:
        at: Milliseconds since the epoch.
        subject: `request`, `video`, `call` (one that made nothing) or `entry`.
        what: The transition, the call's verdict, or the entry's kind.
        who: Who made the transition, the tool, or what the entry is about: a job, or the order.
        why: In the words of its writer; of an entry, who corrected it and why.
        amount: Of an entry.
    """

    at: int
    subject: str
    what: str
    who: str
    why: str
    amount: Money | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What the ledger knows about one request. `trace_id` is hex, or empty; `failure` is its video's."""

    request_id: str
    user_id: int
    created_at: int
    trace_id: str
    events: list[HistoryEvent]
    failure: str | None = None

    @property
    def short_id(self) -> str:
        """The six letters by which people name the request."""
        return short_id(self.request_id)


@transaction
async def read_history(ledger: Ledger, wanted: str) -> History:
    """Return the history of the request that `wanted` names: by its id, or by its six letters.

    Raises:
        RequestNotFound: There is none; or there are two, and the whole id is needed.
    """
    async with snapshot(ledger) as conn:
        found = await find_ids(conn, wanted)
        if len(found) != 1:
            known = f"{len(found)} requests are called" if found else "there is no request"
            raise RequestNotFound(f"{known} {wanted[:_NAME_MAX]!r}; give its id or its six letters")
        row = (await conn.execute(select(requests).where(requests.c.request_id == found[0]))).one()
        lines = await conn.execute(
            select(transitions)
            .where(transitions.c.request_id == row.request_id)
            .order_by(transitions.c.transition_id)
        )
        booked = await conn.execute(
            select(entries, operator_actions.c.who.label("by"), operator_actions.c.why)
            .outerjoin(operator_actions, operator_actions.c.action_id == entries.c.action_id)
            .where(entries.c.request_id == row.request_id)
            .order_by(entries.c.entry_id)
        )
        events = _merge_events(
            [_transition_event(one) for one in lines], [_entry_event(one) for one in booked]
        )
        failure = await conn.scalar(select(videos.c.failure).where(videos.c.request_id == row.request_id))
    return History(row.request_id, row.user_id, row.created_at, trace_id_of(row), events, failure)


def _merge_events(moves: Sequence[HistoryEvent], booked: Sequence[HistoryEvent]) -> list[HistoryEvent]:
    # Stable: what one transaction wrote at one time stays together, the transition before its money.
    return sorted([*moves, *booked], key=lambda event: event.at)


def _transition_event(row: Any) -> HistoryEvent:
    if row.subject == "call":
        return HistoryEvent(
            row.at, "call", row.to_state, row.who, f"layer {row.from_state}; named: {row.why}"
        )
    frm = f"{row.from_state} → " if row.from_state else ""
    return HistoryEvent(row.at, row.subject, f"{frm}{row.to_state}", row.who, row.why)


def _entry_event(row: Any) -> HistoryEvent:
    subject = subject_of(row.kind, row.job_id, row.n)
    corrected = "" if row.by is None else f"{row.by}: {row.why}"
    return HistoryEvent(row.at, "entry", row.kind, subject, corrected, Money(row.micros))


@dataclass(frozen=True, slots=True)
class PreventedDuplicates:
    """How often one tool was called again without effect for one request, as one layer saw it."""

    request_id: str
    user_id: int
    tool: str
    layer: str
    calls: int
    last_at: int

    @property
    def short_id(self) -> str:
        """The six letters by which people name the request."""
        return short_id(self.request_id)


@transaction
async def prevented_duplicates(ledger: Ledger, days: int = 1, most: int = 50) -> list[PreventedDuplicates]:
    """Return the duplicates prevented in so many UTC days, by request, tool and layer; newest first."""
    last = func.max(transitions.c.at)
    group = (
        transitions.c.request_id, requests.c.user_id, transitions.c.who, transitions.c.from_state,
    )  # fmt: skip
    query = (
        select(*group, func.count(), last)
        .join(requests, requests.c.request_id == transitions.c.request_id)
        .where(text(REPLAYS))
        .group_by(*group)
        .order_by(last.desc())
        .limit(most)
    )
    async with ledger.read() as conn:
        since = (await ledger.now(conn) // DAY_MS - days + 1) * DAY_MS
        query = query.where(transitions.c.at >= since)
        return [PreventedDuplicates(*row) for row in await conn.execute(query)]


END_STATES: Final = frozenset(
    {*FINAL_STATES, VideoState.HOLD, RequestState.REFUSED, RequestState.NO_ORDER, RequestState.CANCELLED}
)
"""States that are reported as an outcome. HOLD is one too: manual review may take days."""

_MAX_UNREPORTED: Final = 200


@dataclass(frozen=True, slots=True)
class TransitionRecord:
    """One transition of a video."""

    frm: str
    to: str
    who: str
    at: int


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """The outcome of one request.

    Attributes:
        outcome: A state in lower case: `delivered`, `hold`, `refused`, …; `open` and the like before an end.
        jobs: Provider's jobs that are charged and not refunded in full.
        prevented: Repeated tool calls that were answered without paying.
        refused_calls: Other tool calls that were refused.
        refused_by: The layer that refused the request, as a word; empty if none did.
        cost: Charged less refunded.
        reason: Why there is no order, as a word.
        seconds: From the request's opening to now.
        now: The store's time, milliseconds since the epoch.
        moves: The transitions of the video, oldest first.
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
    moves: tuple[TransitionRecord, ...]
    refused_calls: int = 0
    refused_by: str = ""


@transaction
async def request_outcome(ledger: Ledger, request_id: str) -> RequestOutcome | None:
    """Return the outcome of one request so far; None if there is no such request."""
    async with ledger.read() as conn:
        return await _read_outcome(ledger, conn, request_id)


async def _read_outcome(ledger: Ledger, conn: AsyncConnection, request_id: str) -> RequestOutcome | None:
    key = {"request": request_id}
    found = (await conn.execute(_request_query(ledger.time()), key)).first()
    if found is None:
        return None
    request, now = Request.from_row(found), found.now
    row = None
    if request.state is RequestState.ORDERED:
        row = (await conn.execute(_VIDEO, key)).first()
    video = None if row is None else Video.from_row(row)
    moves, prevented, refused, layer = await _read_transitions(conn, request_id)
    if request.state is RequestState.REFUSED:
        layer = layer or _LAYER_OF.get((request.reason or "").partition(":")[0], "redis")
    return RequestOutcome(
        request, video, str(request.state if video is None else video.state).lower(),
        0 if row is None else row.paid_jobs, prevented, Money(0 if row is None else row.cost_micros),
        request.reason or "", max(0, now - request.created_at) / 1000, now, moves, refused, layer,
    )  # fmt: skip


@cache
def _request_query(now: ColumnElement[int]) -> Select[Any]:
    return select(requests, now.label("now")).where(requests.c.request_id == bindparam("request"))


_VIDEO: Final = select(videos).where(videos.c.request_id == bindparam("request"))
_TRANSITIONS: Final = (
    select(transitions)
    .where(transitions.c.request_id == bindparam("request"))
    .order_by(transitions.c.transition_id)
)


_LAYER_OF: Final = {
    "busy": "chat", "content": "content", "model_budget": "ledger", "model_budget_user": "ledger",
}  # fmt: skip
"""Layer of a refusal before any tool call, by its reason; the others are of the first admission check."""


async def _read_transitions(
    conn: AsyncConnection, request_id: str
) -> tuple[tuple[TransitionRecord, ...], int, int, str]:
    """Return the order's transitions, how many calls were duplicates, how many were refused otherwise, and
    the layer of the last of these.
    """
    lines = (await conn.execute(_TRANSITIONS, {"request": request_id})).all()
    moves = tuple(
        TransitionRecord(line.from_state, line.to_state, line.who.partition(":")[0], line.at)
        for line in lines
        if line.subject == "video"
    )
    calls = [line for line in lines if line.subject == _CALL_SUBJECT]
    refused = [line.from_state for line in calls if line.to_state != "replay"]
    return moves, len(calls) - len(refused), len(refused), refused[-1] if refused else ""


@transaction
async def unreported(ledger: Ledger) -> list[str]:
    """Return requests whose outcome is not in their trace yet, the first to end first."""
    async with ledger.read() as conn:
        query = (
            select(requests.c.request_id)
            .join(videos, videos.c.request_id == requests.c.request_id, isouter=True)
            .where(text("requests.report_at IS NOT NULL"))
            .where(current_state().in_(END_STATES), requests.c.reported != current_state())
            .order_by(requests.c.report_at)
            .limit(_MAX_UNREPORTED)
        )
        return list((await conn.scalars(query)).all())


@transaction
async def claim_outcome(ledger: Ledger, request_id: str) -> RequestOutcome | None:
    """Claim the report of a request's outcome and return it as `request_outcome` does.

    None if it has no end yet, or none that is not reported. `request.reported` is what was reported before.
    """
    async with ledger.write() as conn:
        return await claim_outcome_in(ledger, conn, request_id)


async def claim_outcome_in(ledger: Ledger, conn: AsyncConnection, request_id: str) -> RequestOutcome | None:
    """Do what `claim_outcome` says, in the caller's transaction."""
    found = await _read_outcome(ledger, conn, request_id)
    if found is None or (end := found.outcome.upper()) not in END_STATES:
        return None
    before = found.request.reported
    if before == end:
        return None
    done = await conn.execute(_SET_REPORTED, {"which": request_id, "before": before, "reported": end})
    return found if done.rowcount else None


_SET_REPORTED: Final = update(requests).where(
    requests.c.request_id == bindparam("which"), requests.c.reported == bindparam("before")
)
_MAX_PENDING = 200
_V = VideoState


@dataclass(frozen=True, slots=True)
class OrderSummary:
    """One video with the command that it is for. Times are milliseconds since the epoch.

    Attributes:
        updated_at: When it got its state; it names a HOLD, so that no later one is resolved in its place.
        trace_id: Hex, or empty.
    """

    request_id: str
    user_id: int
    idea: str
    state: VideoState
    provider: str
    model: str
    quote: Money
    progress: int
    job_id: str | None
    failure: str | None
    ordered_at: int
    updated_at: int
    trace_id: str

    @property
    def short_id(self) -> str:
        """The six letters by which people name the request."""
        return short_id(self.request_id)

    @property
    def why(self) -> str:
        """What operators read about its reason; empty without one."""
        return explanation(self.failure)

    @property
    def key(self) -> str:
        """The idempotency key under which it was sent, if its provider takes one."""
        return models.provider_key(self.request_id)

    @property
    def seed(self) -> int:
        """The seed that it was sent with: its mark in a provider's list."""
        return models.seed(self.request_id)


@dataclass(frozen=True, slots=True)
class PendingOrders:
    """Orders without an end at `at`: those on their way and those on HOLD, oldest first.

    The lists may be cut; the two counts are of all.
    """

    at: int
    in_flight: list[OrderSummary]
    holds: list[OrderSummary]
    in_flight_count: int
    hold_count: int


@transaction
async def pending_orders(ledger: Ledger, most: int = _MAX_PENDING) -> PendingOrders:
    """Return the orders that have no end yet."""
    async with snapshot(ledger) as conn:
        now = await ledger.now(conn)
        active = text(f"videos.{ACTIVE_ORDERS}")
        rest = and_(active, videos.c.state != _V.HOLD)
        in_flight, holds = [
            [
                _order_summary(row)
                for row in await conn.execute(_ORDERS_QUERY.where(which).order_by(order).limit(most))
            ]
            for which, order in (
                (rest, videos.c.ordered_at),
                (and_(active, videos.c.state == _V.HOLD), videos.c.updated_at),
            )
        ]
        counts = select(videos.c.state, func.count()).where(active).group_by(videos.c.state)
        found = {row[0]: int(row[1]) for row in await conn.execute(counts)}
        held = found.pop(_V.HOLD, 0)
    return PendingOrders(now, in_flight, holds, sum(found.values()), held)


@transaction
async def find_order(ledger: Ledger, request_id: str) -> OrderSummary | None:
    """Return the order of a request."""
    async with ledger.read() as conn:
        row = (await conn.execute(_ORDERS_QUERY.where(videos.c.request_id == request_id))).first()
    return None if row is None else _order_summary(row)


@transaction
async def paid_jobs(ledger: Ledger, request_id: str) -> int:
    """Return how many jobs of a request are charged and not refunded in full."""
    async with ledger.read() as conn:
        return int(
            await conn.scalar(select(videos.c.paid_jobs).where(videos.c.request_id == request_id)) or 0
        )


@transaction
async def latest_orders(ledger: Ledger, user_id: int | None = None, most: int = 20) -> list[OrderSummary]:
    """Return the latest orders in any state, newest first."""
    query = _ORDERS_QUERY.order_by(videos.c.ordered_at.desc(), videos.c.request_id).limit(most)
    if user_id is not None:
        query = query.where(videos.c.user_id == user_id)
    async with ledger.read() as conn:
        return [_order_summary(row) for row in await conn.execute(query)]


@transaction
async def count_in_flight(ledger: Ledger) -> dict[str, int]:
    """Count by account the videos that still need theirs: ordered, and neither here nor ended.

    Orders of the version before, which have no account, count under their provider's name.
    """
    async with ledger.read() as conn:
        active = text(f"videos.{ACTIVE_ORDERS}")
        account = account_name()
        query = select(account, func.count()).where(active, videos.c.state != VideoState.SUCCEEDED)
        return {row[0]: row[1] for row in await conn.execute(query.group_by(account))}


_ORDERS_QUERY = select(
    *requests.c,
    *(
        videos.c[name].label(f"video_{name}")
        for name in (
            "state", "provider", "model", "quote_micros", "progress", "job_id", "failure",
            "ordered_at", "updated_at",
        )
    ),
).join(videos, videos.c.request_id == requests.c.request_id)  # fmt: skip


def _order_summary(row: Any) -> OrderSummary:
    return OrderSummary(
        row.request_id, row.user_id, row.idea, VideoState(row.video_state),
        row.video_provider, row.video_model, Money(row.video_quote_micros), row.video_progress,
        row.video_job_id, row.video_failure, row.video_ordered_at, row.video_updated_at, trace_id_of(row),
    )  # fmt: skip


_CALL_SUBJECT = "call"


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """One refused call: the tool, the verdict, the layer that refused it, and the names of its arguments."""

    request_id: str
    tool: str
    word: str
    layer: str
    arguments: str
    at: int


@transaction
async def record_refused_call(
    ledger: Ledger, request_id: str, tool: str, word: str, layer: str, arguments: Sequence[str]
) -> None:
    """Record one refused call. `arguments` are names only, because values may hold ideas and prompts."""
    async with ledger.write() as conn:
        await conn.execute(
            transitions.insert().values(
                request_id=request_id,
                subject=_CALL_SUBJECT,
                from_state=layer,
                to_state=word,
                who=tool,
                why=", ".join(arguments),
                at=await ledger.now(conn),
            )
        )


@transaction
async def refused_calls(ledger: Ledger, request_id: str) -> list[RefusedCall]:
    """Return the refused calls of one request, oldest first."""
    query = (
        select(transitions)
        .where(transitions.c.request_id == request_id, transitions.c.subject == _CALL_SUBJECT)
        .order_by(transitions.c.transition_id)
    )
    async with ledger.read() as conn:
        return [
            RefusedCall(row.request_id, row.who, row.to_state, row.from_state, row.why, row.at)
            for row in await conn.execute(query)
        ]
