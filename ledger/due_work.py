"""What is due, claimed by lease from the rows alone: oldest first, in batches, by any number of workers.

A claim moves the row's due time to the end of its lease in the statement that finds it, so no other worker
claims it until then; the step that runs writes the next due time, or none. A worker that dies loses nothing:
the lease ends and the row is due again. On PostgreSQL rows that another transaction holds are skipped.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Label,
    Select,
    String,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
    update,
)  # fmt: skip
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.database import Ledger, clock, transaction
from ledger.failures import Failure
from ledger.models import Request, RequestState, Video, VideoState
from ledger.schema import requests, videos
from telemetry.clocks import boot_clock

CHECKED_STATES: Final = frozenset({VideoState.IN_DOUBT, VideoState.HOLD, VideoState.FAILED_UNPAID})
"""States whose step asks the provider what became of the order. Two such questions may be two POSTs.

`look_at` follows `due_at` in them: the version before reads it, and may run next to this one in an upgrade.
"""

STATUS_WAIT_S: Final = 5
"""An order whose status message is not sent yet is looked at again after this. The message makes it due at
once; only the version before, which may send it during an upgrade, does not.
"""


ACCOUNT_STATES: Final = frozenset({VideoState.QUEUED, VideoState.ACCEPTED, *CHECKED_STATES})
"""States whose step needs the order's provider account."""


_RETRIED_OR_EXPIRED: Final = case(
    (videos.c.expires_at < bindparam("retried_at", type_=BigInteger), videos.c.expires_at),
    else_=bindparam("retried_at", type_=BigInteger),
)
"""The parameter `retried_at`, or the end of the order where that comes first."""


@cache
def _if_submitted(now: ColumnElement[int]) -> ColumnElement[int]:
    return case((videos.c.submits > 0, now))


def due_at(
    state: VideoState, now: ColumnElement[int], columns: Mapping[str, Any]
) -> int | ColumnElement[int] | None:
    """Return when the worker acts next on an order that gets `state` now; None: never.

    Args:
        state: The state that it gets.
        now: SQL for the store's time in milliseconds.
        columns: What the change sets: `due_at` or `retry_at` delays a submit, `expires_at` ends an offer,
            `deadline_at` a submit.
    """
    found: int | ColumnElement[int] | None = now
    match state:
        case VideoState.AWAITING_APPROVAL:
            found = int(columns["expires_at"])
        case VideoState.QUEUED:
            if columns.get("due_at") is not None:
                found = int(columns["due_at"])
            elif columns.get("retry_at") is not None:
                # A pause may be longer than the order may wait: it then expires in time.
                found = _RETRIED_OR_EXPIRED
        case VideoState.SUBMITTING:
            found = columns.get("deadline_at", now)
        case VideoState.ACCEPTED | VideoState.IN_DOUBT:
            found = now
        case VideoState.HOLD | VideoState.FAILED_UNPAID:
            # Without a submit no charge can turn up late. The first step says when to check.
            found = _if_submitted(now)
        case _:
            found = None
    return found


_OPEN: Final = literal_column(f"'{RequestState.OPEN}'", String)
"""Not a parameter: a partial index is used only where the statement itself names its state."""


@dataclass(frozen=True, slots=True)
class ClaimedVideo:
    """An order that is due, with what its step needs to know of its request.

    Attributes:
        video: The order as it was claimed; its `due_at` is the end of the lease.
        now: The store's time of the claim in milliseconds.
        clock: `boot_clock` before the claim: tells a step that its process was paused since.
        idea: The user's text.
        traceparent: The trace that began with the user's command.
        picture: The hash of the request's picture. The order has the same, unless the version before, which
            knows no pictures, placed it.
    """

    video: Video
    now: int
    clock: float
    idea: str
    traceparent: str | None
    picture: str | None = None


@dataclass(slots=True)
class ClaimedRequest:
    """A request whose user has something new to read, with its order, as both were at the claim.

    Attributes:
        now: The store's time of the claim in milliseconds.
        lease_until: When another process may claim it. It identifies the lease: `ledger.notifications` writes
            only while the row carries it, and moves it here when it renews the lease.
    """

    now: int
    request: Request
    video: Video | None
    lease_until: int


class LeaseLost(Exception):
    """The lease of a notification ended before its step did, and another process has it."""


def has_lease(claimed: ClaimedRequest) -> ColumnElement[bool]:
    """SQL for whether a request's row still carries the lease of this claim."""
    return and_(
        requests.c.request_id == claimed.request.request_id, requests.c.told_after == claimed.lease_until
    )


@transaction
async def claim_videos(
    ledger: Ledger,
    states: Collection[VideoState],
    most: int,
    lease_s: float,
    accounts: Collection[str] | None = None,
) -> list[ClaimedVideo]:
    """Claim up to `most` orders in `states` that are due, oldest due first.

    Args:
        ledger: Where they are stored.
        states: What is due is the step of these states: either all of `CHECKED_STATES`, or none.
        most: How many at most.
        lease_s: They are due again after so many seconds, unless a step says otherwise before.
        accounts: Only orders of these provider accounts; None: of all.
    """
    clock, now = boot_clock(), ledger.time()
    async with ledger.write() as conn:
        query = _claim_due_query(now, tuple(states), None if accounts is None else tuple(accounts))
        found = await _claim(conn, query, {"most": most}, clock, lease_s)
    return sorted(found, key=lambda claimed: claimed.video.updated_at)


async def claim_these(
    ledger: Ledger,
    conn: AsyncConnection,
    due: Select[Any],
    states: Collection[VideoState],
    clock: float,
    lease_s: float,
) -> list[ClaimedVideo]:
    """Claim the orders that `due` selects the ids of, in the caller's transaction."""
    ids = select(due.cte("due").c.request_id)
    query = _claim_query(ledger.time(), videos.c.request_id.in_(ids), states)
    found = await _claim(conn, query, {}, clock, lease_s)
    return sorted(found, key=lambda claimed: claimed.video.updated_at)


@lru_cache(maxsize=256)
def _claim_due_query(
    now: ColumnElement[int], states: tuple[VideoState, ...], accounts: tuple[str, ...] | None
) -> Any:
    due = (
        select(videos.c.request_id)
        .where(videos.c.state.in_(states), videos.c.due_at <= now)
        .order_by(videos.c.due_at)
        .limit(bindparam("most", type_=Integer))
        .with_for_update(skip_locked=True)
    )
    if CHECKED_STATES.issuperset(states):
        due = due.where(videos.c.look_at <= now)
    if accounts is not None:
        due = due.where(videos.c.account.in_(accounts))
    ids = select(due.cte("due").c.request_id)
    return _claim_query(now, videos.c.request_id.in_(ids), states)


@transaction
async def claim_video(
    ledger: Ledger, request_id: str, state: VideoState, lease_s: float
) -> ClaimedVideo | None:
    """Claim one order, due or not; None if it is in another state."""
    clock = boot_clock()
    async with ledger.write() as conn:
        query = _claim_one_query(ledger.time(), state)
        found = await _claim(conn, query, {"which": request_id}, clock, lease_s)
    return found[0] if found else None


@cache
def _claim_one_query(now: ColumnElement[int], state: VideoState) -> Any:
    mine = and_(videos.c.request_id == bindparam("which"), videos.c.state == state)
    return _claim_query(now, mine, (state,))


def _claim_query(now: ColumnElement[int], which: ColumnElement[bool], states: Collection[VideoState]) -> Any:
    until = now + bindparam("lease_ms", type_=BigInteger)
    checked = {"look_at": until} if CHECKED_STATES.issuperset(states) else {}
    return update(videos).where(which).values(due_at=until, **checked).returning(videos, *_OF_REQUEST)


async def _claim(
    conn: AsyncConnection, query: Any, which: Mapping[str, Any], clock: float, lease_s: float
) -> list[ClaimedVideo]:
    lease_ms = int(lease_s * 1000)
    rows = await conn.execute(query, {**which, "lease_ms": lease_ms})
    return [
        ClaimedVideo(
            Video.from_row(row),
            row.due_at - lease_ms,
            clock,
            row.idea,
            row.traceparent,
            row.request_picture,
        )
        for row in rows
    ]


_OF_REQUEST: Final = tuple(
    select(column)
    # Spelled out: in RETURNING, SQLAlchemy 2.1 leaves the table's name away, and `request_id = request_id` is
    # true of every request.
    .where(requests.c.request_id == literal_column("videos.request_id"))
    .scalar_subquery()
    .label(name)
    for name, column in (
        ("idea", requests.c.idea),
        ("traceparent", requests.c.traceparent),
        ("request_picture", requests.c.picture),
    )
)


@transaction
async def put_back(
    ledger: Ledger,
    video: Video,
    after_s: float | None,
    *,
    failed: bool = False,
    bad_asset: bool = False,
    denied: bool = False,
    even_if_due: bool = False,
) -> Video | None:
    """Make a claimed order due again in `after_s` seconds, None: never.

    A failure is counted, a success resets the count; `bad_asset` counts a file that was not a video, `denied`
    an answer that there is no such job or file; a success ends a row of denials, another failure does not.
    Nothing is written if the order has another state since the claim, or another due time, as when a breaker
    was closed meanwhile: that one counts.

    With `even_if_due` another due time does not matter: for polls, whose answers may take longer than the
    claim's lease, and which may overlap.

    Returns:
        The order with its new due time, None if nothing was written.
    """
    async with ledger.write() as conn:
        query = _put_back_query(
            ledger.time(), due=after_s is not None, checked=video.state in CHECKED_STATES,
            even_if_due=even_if_due, denied=denied, failed=failed,
        )  # fmt: skip
        values = {
            "which": video.request_id, "claimed_state": video.state, "claimed_due": video.due_at,
            "after_ms": 0 if after_s is None else max(0, int(after_s * 1000)),
            "due_failures": video.due_failures + 1 if failed else 0,
            "bad_assets": video.bad_assets + bad_asset,
        }  # fmt: skip
        row = (await conn.execute(query, values)).first()
    return None if row is None else Video.from_row(row)


@cache
def _put_back_query(
    now: ColumnElement[int], *, due: bool, checked: bool, even_if_due: bool, denied: bool, failed: bool
) -> Any:
    due_at = now + bindparam("after_ms", type_=BigInteger) if due else None
    values: dict[str, Any] = {"due_at": due_at}
    if denied:
        values |= {"denials": videos.c.denials + 1, "denied_at": func.coalesce(videos.c.denied_at, now)}
    elif not failed:
        values |= {"denials": 0, "denied_at": None}
    if checked:
        values["look_at"] = 0 if due_at is None else due_at
    query = update(videos).where(
        videos.c.request_id == bindparam("which"), videos.c.state == bindparam("claimed_state")
    )
    if not even_if_due:
        query = query.where(videos.c.due_at.is_not_distinct_from(bindparam("claimed_due")))
    return query.values(values).returning(videos)


@transaction
async def mark_blocked(ledger: Ledger, video: Video, by: Failure | None, why: str = "") -> bool:
    """Write what keeps a claimed order from going on, for user and operators; None: nothing does any more.

    Return whether that changed. Its state stays as it is, and a reason of another kind is kept: an accepted
    order may carry `Failure.LATE`.
    """
    if video.failure == by or video.failure not in (None, Failure.DISK):
        return False
    async with ledger.write() as conn:
        done = await conn.execute(
            update(videos)
            .where(
                videos.c.request_id == video.request_id,
                videos.c.state == video.state,
                or_(videos.c.failure.is_(None), videos.c.failure == Failure.DISK),
                videos.c.failure.is_distinct_from(by),
            )
            .values(failure=by, failure_detail=why or None)
        )
    return bool(done.rowcount)


@transaction
async def make_due(ledger: Ledger, state: VideoState) -> int:
    """Make every order in `state` due now; return how many there are."""
    async with ledger.write() as conn:
        done = await conn.execute(
            update(videos)
            .where(videos.c.state == state, videos.c.due_at.is_not(None))
            .values(due_at=ledger.time(), due_failures=0)
        )
    return int(done.rowcount)


@transaction
async def claim_runs(
    ledger: Ledger, most: int, lease_s: float, only: str | None = None, bot_id: int | None = None
) -> list[Request]:
    """Claim up to `most` open requests whose agent may run: each claim is one attempt, counted here.

    Args:
        ledger: Where they are stored.
        most: How many at most; those that have waited longest come first.
        lease_s: How long this attempt may take; until then no other begins.
        only: No other request than this one.
        bot_id: Only requests to this bot: its declarations, prices and account hold for no other.
    """
    values = {"most": most, "lease_ms": int(lease_s * 1000), "only": only, "bot": bot_id}
    async with ledger.write() as conn:
        query = _claim_runs_query(ledger.time(), one=only is not None, own=bot_id is not None)
        rows = await conn.execute(query, values)
        return [Request.from_row(row) for row in rows]


@cache
def _claim_runs_query(now: ColumnElement[int], *, one: bool, own: bool) -> Any:
    due = (
        select(requests.c.request_id)
        .where(requests.c.state == _OPEN, requests.c.run_until <= now)
        .order_by(requests.c.run_until)
        .limit(bindparam("most", type_=Integer))
        .with_for_update(skip_locked=True)
    )
    if one:
        due = due.where(requests.c.request_id == bindparam("only"))
    if own:
        due = due.where(requests.c.bot_id == bindparam("bot"))
    return (
        update(requests)
        .where(requests.c.request_id.in_(select(due.cte("due").c.request_id)))
        .values(
            attempts=requests.c.attempts + 1,
            run_until=now + bindparam("lease_ms", type_=BigInteger),
            updated_at=now,
            # The user reads that it is tried again.
            notify_at=case((requests.c.attempts > 0, after_lease(now)), else_=requests.c.notify_at),
        )
        .returning(requests)
    )


@transaction
async def make_notification_due(ledger: Ledger, request_id: str) -> None:
    """Say that the user has something new to read that is no change of a state."""
    async with ledger.write() as conn:
        mine = requests.c.request_id == request_id
        await conn.execute(update(requests).where(mine).values(notify_at=after_lease(ledger.time())))


def after_lease(now: ColumnElement[int]) -> ColumnElement[int]:
    """SQL for now, or the end of the lease or of the postponement of a request's notification."""
    return case((requests.c.told_after > now, requests.c.told_after), else_=now)


@transaction
async def claim_notifications(
    ledger: Ledger,
    bot_id: int,
    most: int,
    lease_s: float,
    *,
    delivery: bool,
    request_id: str | None = None,
    overdue_s: float = 0,
) -> list[ClaimedRequest]:
    """Claim up to `most` requests of one bot whose user has something new to read, oldest due first.

    The lease is a column of its own (`told_after`): a change that comes meanwhile sets `notify_at` again, to
    the end of the lease, and must not end the lease, or two processes would write to one message.

    Args:
        ledger: Where they are stored.
        bot_id: Each bot notifies about its own requests: no other has its chats.
        most: How many at most.
        lease_s: No other process notifies about them for so long.
        delivery: Those whose video is ready to be delivered; else all others.
        request_id: Only this one.
        overdue_s: Only what has been due for so long.
    """
    lease_ms = int(lease_s * 1000)
    query = _claim_notifications_query(ledger.time(), delivery=delivery, one=request_id is not None)
    values = {
        "bot": bot_id, "most": most, "lease_ms": lease_ms, "only": request_id,
        "overdue_ms": int(overdue_s * 1000),
    }  # fmt: skip
    async with ledger.write() as conn:
        rows = await conn.execute(query, values)
        claimed = sorted((Request.from_row(row) for row in rows), key=lambda one: one.notify_at or 0)
        # No other request has an order, and none gets one before this transaction ends.
        ids = [one.request_id for one in claimed if one.state is RequestState.ORDERED]
        found = await conn.execute(_ORDERS_OF, {"ids": ids}) if ids else ()
        orders = {row.request_id: Video.from_row(row) for row in found}
    return [
        ClaimedRequest(one.told_after - lease_ms, one, orders.get(one.request_id), one.told_after)
        for one in claimed
    ]


_ORDERS_OF: Final = select(videos).where(videos.c.request_id.in_(bindparam("ids", expanding=True)))


@cache
def _claim_notifications_query(now: ColumnElement[int], *, delivery: bool, one: bool) -> Any:
    ready = select(videos.c.request_id).where(
        videos.c.request_id == requests.c.request_id, videos.c.state == VideoState.SUCCEEDED
    )
    due = (
        select(requests.c.request_id)
        .where(
            requests.c.bot_id == bindparam("bot"),
            requests.c.notify_at <= now - bindparam("overdue_ms", type_=BigInteger),
            requests.c.told_after <= now,
            ready.exists() if delivery else ~ready.exists(),
        )
        .order_by(requests.c.notify_at)
        .limit(bindparam("most", type_=Integer))
        .with_for_update(skip_locked=True)
    )
    if one:
        due = due.where(requests.c.request_id == bindparam("only"))
    return (
        update(requests)
        .where(requests.c.request_id.in_(select(due.cte("due").c.request_id)))
        .values(told_after=now + bindparam("lease_ms", type_=BigInteger))
        .returning(requests)
    )


@transaction
async def next_due(ledger: Ledger, bot_id: int) -> Mapping[str, float]:
    """Return in how many seconds something is due: `run`, `notify`, `deliver`, and each state of an order.

    A negative number is overdue; a name without anything due is absent. One statement, a look-up in a partial
    index for each name.
    """
    query = _next_due_query(ledger.dialect, ledger.shift)
    async with ledger.read() as conn:
        row = (await conn.execute(query, {"bot_id": bot_id})).one()
    due = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for a row's columns
    now = due.pop("now")
    return {name: (at - now) / 1000 for name, at in due.items() if at is not None}


@transaction
async def overdue(ledger: Ledger, bot_id: int) -> Mapping[str, float]:
    """Return for how many seconds the oldest of each kind has been due, by the names of `next_due`.

    A request that no worker has taken has no time at which its run became due: it waits since it was made.
    """
    due = await next_due(ledger, bot_id)
    late = {name: -seconds for name, seconds in due.items() if seconds < 0}
    if "run" in late:
        mine = (requests.c.state == _OPEN, requests.c.bot_id == bot_id)
        async with ledger.read() as conn:
            now = await ledger.now(conn)
            oldest = await conn.scalar(select(func.min(requests.c.created_at)).where(*mine))
        late["run"] = min(late["run"], max(0.0, (now - (oldest or now)) / 1000))
    return late


_DUE_STATES: Final = (
    VideoState.AWAITING_APPROVAL, VideoState.QUEUED, VideoState.SUBMITTING, VideoState.ACCEPTED,
    VideoState.IN_DOUBT, VideoState.HOLD, VideoState.FAILED_UNPAID,
)  # fmt: skip


def _first_due(state: VideoState) -> Label[int]:
    due = select(func.min(videos.c.due_at)).where(videos.c.state == state, videos.c.due_at.is_not(None))
    return due.scalar_subquery().label(str(state))


@cache
def _next_due_query(dialect: str, shift: int) -> Select[Any]:
    now = clock(dialect, shift)
    # A request whose user is being notified now is due, and no claim would get it before its lease ends.
    free = or_(requests.c.told_after <= requests.c.notify_at, requests.c.told_after <= now)
    mine = requests.c.bot_id == bindparam("bot_id")
    notified = select(func.min(requests.c.notify_at)).where(mine, free)
    waiting = select(func.min(requests.c.run_until)).where(requests.c.state == _OPEN, mine)
    # Few are in this state at once, and it is indexed.
    delivered = notified.join_from(videos, requests, videos.c.request_id == requests.c.request_id).where(
        videos.c.state == VideoState.SUCCEEDED
    )
    columns: list[ColumnElement[Any]] = [
        *map(_first_due, _DUE_STATES),
        waiting.scalar_subquery().label("run"),
        notified.where(requests.c.notify_at.is_not(None)).scalar_subquery().label("notify"),
        delivered.scalar_subquery().label("deliver"),
        now.label("now"),
    ]
    return select(*columns)
