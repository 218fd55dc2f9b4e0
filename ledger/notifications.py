"""Who has been notified of what: operator alerts, and the lease of each user's notification."""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, TypedDict

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Null,
    String,
    and_,
    bindparam,
    case,
    func,
    not_,
    null,
    or_,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger import operator_log
from ledger.database import Ledger, transaction
from ledger.due_work import ClaimedRequest, LeaseLost, has_lease
from ledger.history import END_STATES, RequestOutcome, claim_outcome_in
from ledger.models import RequestState, Video, VideoState
from ledger.operator_log import NewAction
from ledger.schema import BLOCKED_BY_DISK, news, operator_alerts, requests, videos

_SOME: Final = 20
LEASE_S: Final = 60
"""A process that has not sent its alert by then counts as dead, and another may send it."""


@dataclass(frozen=True, slots=True)
class Notification:
    """One operator alert. `at` (milliseconds) is when `subject` changed: a later change is new."""

    subject: str
    at: int


def _is_row_of(item: Notification, reader: int) -> ColumnElement[bool]:
    return and_(news.c.subject == item.subject, news.c.at == item.at, news.c.reader == reader)


def _is_told(ledger: Ledger, repeat_s: float | None) -> ColumnElement[bool]:
    """SQL for whether a recipient has received an alert, and need not receive it again.

    `told_at` alone says nothing: the versions before set it as well where a recipient could not be reached.
    """
    received = and_(news.c.told_at > 0, news.c.reached == 1)
    if repeat_s is None:
        return received
    return and_(received, news.c.told_at > ledger.time() - int(repeat_s * 1000))


@transaction
async def recipients_due(
    ledger: Ledger, item: Notification, readers: Collection[int], repeat_s: float | None = None
) -> list[int]:
    """Return the recipients who were not notified and whom no process is notifying; `claim` each first.

    With `repeat_s`, those who were notified longer ago are among them.
    """
    async with ledger.read() as conn:
        closed = or_(_is_told(ledger, repeat_s), news.c.free_at > ledger.time())
        query = select(news.c.reader).where(news.c.subject == item.subject, news.c.at == item.at, closed)
        return sorted(set(readers) - set((await conn.scalars(query)).all()))


@transaction
async def claim(ledger: Ledger, item: Notification, reader: int, repeat_s: float | None = None) -> int | None:
    """Claim one recipient for `LEASE_S`; return the end of the lease, in milliseconds.

    None if another process has notified them, within `repeat_s` where that is given, or is about to.
    """
    async with ledger.write() as conn:
        lease = {"free_at": ledger.time() + LEASE_S * 1000}
        claimed = await conn.execute(
            ledger.upsert(
                news,
                {"subject": item.subject, "at": item.at, "reader": reader},
                lease,
                where=and_(not_(_is_told(ledger, repeat_s)), news.c.free_at <= ledger.time()),
            ).returning(news.c.free_at)
        )
        return claimed.scalar()


@transaction
async def mark_sent(ledger: Ledger, item: Notification, reader: int) -> None:
    """Record that this recipient has it. Who could not be reached has not: `release` it for them."""
    sent = {"told_at": ledger.time(), "reached": 1}
    async with ledger.write() as conn:
        await conn.execute(update(news).where(_is_row_of(item, reader)).values(**sent))


@transaction
async def blocked_by_disk(ledger: Ledger) -> list[Video]:
    """Return some orders that wait, or whose video is not stored, because the media folder takes no file."""
    waiting = (VideoState.QUEUED, VideoState.ACCEPTED)
    blocked = text(BLOCKED_BY_DISK)  # not a parameter: it is the condition of a partial index
    query = select(videos).where(blocked, videos.c.state.in_(waiting)).order_by(videos.c.updated_at)
    async with ledger.read() as conn:
        return [Video.from_row(row) for row in await conn.execute(query.limit(_SOME))]


@transaction
async def is_received(ledger: Ledger, item: Notification, readers: Collection[int]) -> bool:
    """Return whether any of these recipients has received an alert."""
    async with ledger.read() as conn:
        query = select(news.c.reader).where(
            news.c.subject == item.subject,
            news.c.at == item.at,
            news.c.reader.in_(readers),
            news.c.reached == 1,
        )
        return (await conn.execute(query.limit(1))).first() is not None


@transaction
async def release(ledger: Ledger, item: Notification, reader: int, lease_until: int, pause_s: float) -> None:
    """Give the claim back: the recipient could not be reached, and is due again after `pause_s`.

    Nothing changes if the lease, which ends at `lease_until`, has passed to another process.
    """
    async with ledger.write() as conn:
        free_at = ledger.time() + int(pause_s * 1000)
        mine = (_is_row_of(item, reader), news.c.free_at == lease_until)
        await conn.execute(update(news).where(*mine).values(free_at=free_at))


@transaction
async def videos_needing_attention(
    ledger: Ledger, failures: Collection[str], readers: Collection[int], within_s: float, most: int
) -> list[Video]:
    """Return videos that need an operator and that a recipient is due to be told of, oldest change first.

    A HOLD of which only the version before has notified them is among them: it is in no list of alerts yet.

    Args:
        ledger: Where they are stored.
        failures: Words of FAILED_UNPAID that only an operator can mend.
        readers: The recipients.
        within_s: How long an end is reported; a HOLD is until it is resolved.
        most: How many at most.
    """
    async with ledger.read() as conn:
        # As a value: of a time that it does not know, PostgreSQL expects a third of all rows to be later.
        since = await ledger.now(conn) - int(within_s * 1000)
        # Each is a range of the index on state and time, whatever a planner believes of their numbers.
        needed = union_all(
            select(videos.c.request_id).where(videos.c.state == VideoState.HOLD),
            *(
                select(videos.c.request_id).where(
                    videos.c.state == state, videos.c.updated_at > since, *condition
                )
                for state, condition in (
                    (VideoState.FAILED_PAID, ()),
                    (VideoState.FAILED_UNPAID, (videos.c.failure.in_(failures),)),
                )
            ),
        ).subquery()
        notified = (
            select(func.count())
            .where(
                news.c.subject == videos.c.request_id,
                news.c.at == videos.c.updated_at,
                news.c.reader.in_(readers),
                # Who cannot be reached is tried later, and keeps no other video out of `most`.
                or_(_is_told(ledger, None), news.c.free_at > ledger.time()),
            )
            .scalar_subquery()
        )
        kept = select(operator_alerts.c.alert_id).where(
            operator_alerts.c.subject == videos.c.request_id, operator_alerts.c.at == videos.c.updated_at
        )
        listed = or_(videos.c.state != VideoState.HOLD, kept.exists())
        query = (
            select(videos)
            .join(needed, needed.c.request_id == videos.c.request_id)
            .where(or_(notified < len(readers), not_(listed)))
        )
        return [
            Video.from_row(row) for row in await conn.execute(query.order_by(videos.c.updated_at).limit(most))
        ]


class ShownColumns(TypedDict, total=False):
    """Columns of `requests` that a notification sets; mypy refuses any other name or type."""

    told: str
    shown: str
    status_message_id: int | None
    chat_id: int
    message_id: int
    message_thread_id: int | None
    correction_told: int | None


@dataclass(frozen=True, slots=True)
class Notified:
    """What one notification leaves in its row.

    Attributes:
        columns: What the user was shown, and where.
        after_s: The user is notified again in so many seconds; None: with the next change.
        held: Not before, whatever changes: the user blocked the bot, or Telegram asks to wait.
        failed: It is counted as a failure; else the count begins again.
        edit_pause_s: Progress alone edits the message again no earlier than in so many seconds.
    """

    columns: ShownColumns = field(default_factory=ShownColumns)
    after_s: float | None = None
    held: bool = False
    failed: bool = False
    edit_pause_s: float | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """What follows a notification.

    Attributes:
        due: The user has something new to read, at once.
        submits: The first status message was sent, and the order that waited for it is due.
        outcome: The request's outcome, if it is to be reported now.
    """

    due: bool
    submits: bool = False
    outcome: RequestOutcome | None = None


@transaction
async def finish(ledger: Ledger, claimed: ClaimedRequest, end: Notified) -> Finished:
    """Write what was shown and end the lease, in one transaction.

    Where an end of the request was shown first, the report of its outcome is claimed as well. Where its first
    status message was sent, its order may be submitted.

    It is due again where something changed since the claim: the change has moved `notify_at`. Progress is due
    when the message may be edited. If the lease has passed to another process, its message may have been
    edited out of order: it is shown again, also where that process has not written yet what it showed.
    """
    async with ledger.write() as conn:
        query = _finish_query(
            ledger.time(), again=end.after_s is not None, paused=end.edit_pause_s is not None,
            held=end.held, failed=end.failed, shows="shown" in end.columns,
        )  # fmt: skip
        values = {
            "which": claimed.request.request_id, "lease": claimed.lease_until,
            "claimed_due": claimed.request.notify_at, "after_ms": int((end.after_s or 0) * 1000),
            "pause_ms": int((end.edit_pause_s or 0) * 1000), "claimed_shown": claimed.request.shown,
            "shows": end.columns.get("shown"),
        }  # fmt: skip
        written = {name: value for name, value in end.columns.items() if name != "shown"}
        row = (await conn.execute(query, {**values, **written})).first()
        if row is None:
            await _show_again(conn, claimed, ledger.time())
        spoken = (
            claimed.request.status_message_id is None and end.columns.get("status_message_id") is not None
        )
        # While the request is open it has no order, and one that is placed later is due at once.
        ordered = spoken and row is not None and row.state == RequestState.ORDERED
        submits = ordered and await _make_order_due(conn, claimed.request.request_id, ledger.time())
        told, outcome = end.columns.get("told", claimed.request.told), None
        if told != claimed.request.told and told in END_STATES:
            outcome = await claim_outcome_in(ledger, conn, claimed.request.request_id)
    again = row is not None and row.notify_at is not None and row.notify_at <= row.now
    return Finished(again, submits, outcome)


async def _make_order_due(conn: AsyncConnection, request_id: str, now: ColumnElement[int]) -> bool:
    waits = (videos.c.request_id == request_id, videos.c.state == VideoState.QUEUED, videos.c.due_at > now)
    values = {"due_at": case((videos.c.retry_at > now, videos.c.retry_at), else_=now), "due_failures": 0}
    return bool((await conn.execute(update(videos).where(*waits).values(values))).rowcount)


@cache
def _finish_query(
    now: ColumnElement[int], *, again: bool, paused: bool, held: bool, failed: bool, shows: bool
) -> Any:
    """SQL for what `finish` writes, with further columns that its execution names."""
    shown: dict[str, Any] = {}
    if shows:
        # Else a process without the lease has edited the message, and no one knows what it shows.
        same = requests.c.shown == bindparam("claimed_shown", type_=String)
        shown = {"shown": case((same, bindparam("shows", type_=String)), else_="")}
    after: ColumnElement[int] | Null = now + bindparam("after_ms", type_=BigInteger) if again else null()
    lease, claimed_due = bindparam("lease", type_=BigInteger), bindparam("claimed_due", type_=BigInteger)
    pause = {"edit_after": now + bindparam("pause_ms", type_=BigInteger)} if paused else {}
    unchanged = requests.c.notify_at.is_not_distinct_from(claimed_due)
    may_wait = requests.c.notify_at > lease  # so the triggers write it for progress
    due = case((unchanged, after), (may_wait, pause.get("edit_after", requests.c.edit_after)), else_=now)
    return (
        update(requests)
        .where(requests.c.request_id == bindparam("which"), requests.c.told_after == lease)
        .values(
            **pause,
            **shown,
            told_after=after if held else 0,
            notify_at=after if held else due,
            notify_failures=requests.c.notify_failures + 1 if failed else 0,
        )
        .returning(requests.c.notify_at, requests.c.state, now.label("now"))
    )


async def _show_again(conn: AsyncConnection, claimed: ClaimedRequest, now: ColumnElement[int]) -> None:
    later = case((requests.c.told_after > now, requests.c.told_after), else_=now)
    mine = requests.c.request_id == claimed.request.request_id
    # No digest, and not what any other lease found or leaves: see `finish`.
    unknown = f"?{claimed.lease_until:x}"
    await conn.execute(update(requests).where(mine).values(shown=unknown, notify_at=later))


@transaction
async def renew(ledger: Ledger, claimed: ClaimedRequest, lease_s: float) -> None:
    """Extend the lease to `lease_s` from now.

    Raises:
        LeaseLost: It has passed to another process.
    """
    async with ledger.write() as conn:
        query = update(requests).where(has_lease(claimed))
        until: int | None = await conn.scalar(
            query.values(told_after=ledger.time() + int(lease_s * 1000)).returning(requests.c.told_after)
        )
    if until is None:
        raise LeaseLost(f"another process notifies about request {claimed.request.request_id}")
    claimed.lease_until = until


@transaction
async def release_lease(ledger: Ledger, claimed: ClaimedRequest) -> None:
    """End the lease of a notification that was cancelled: it is due now, for any process."""
    async with ledger.write() as conn:
        values = {"told_after": 0, "notify_at": await ledger.now(conn)}
        await conn.execute(update(requests).where(has_lease(claimed)).values(values))


@transaction
async def deliver_again(ledger: Ledger, request_id: str, who: str, source: str, longer_than_s: float) -> bool:
    """Make a delivery that failed due now, in an operator's name; False unless a video waits to be delivered.

    One that another process is sending just now is left to it: see `resume`.
    """
    waits = (videos.c.request_id == request_id, videos.c.state == VideoState.SUCCEEDED)
    async with ledger.write() as conn:
        user_id = await conn.scalar(select(videos.c.user_id).where(*waits))
        if user_id is None:
            return False
        new = NewAction("redeliver", who, "", request_id, user_id, source=source)
        if await operator_log.record(ledger, conn, new) is not None:
            await resume_in(ledger, conn, [request_id], longer_than_s)
    return True


@transaction
async def resume(ledger: Ledger, request_ids: Collection[str], longer_than_s: float) -> None:
    """Make notifications that are postponed for longer due now: their user is back.

    Those that another process has resumed meanwhile have its lease, which is shorter.
    """
    async with ledger.write() as conn:
        await resume_in(ledger, conn, request_ids, longer_than_s)


async def resume_in(
    ledger: Ledger, conn: AsyncConnection, request_ids: Collection[str], longer_than_s: float
) -> None:
    """Do what `resume` says, in the caller's transaction."""
    now = await ledger.now(conn)
    later = now + int(longer_than_s * 1000)
    # Held until then, or waiting until then without a lease.
    waits = and_(requests.c.told_after <= now, requests.c.notify_at > later)
    theirs = (requests.c.request_id.in_(request_ids), or_(requests.c.told_after > later, waits))
    await conn.execute(update(requests).where(*theirs).values(told_after=0, notify_at=now))
