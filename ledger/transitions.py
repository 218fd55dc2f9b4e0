"""Every change of a video's state: compare-and-set along an allowed edge, with its money, in one transaction.

Nothing else writes a video's state. Who calls what, in the order of a video's life:

- the user: `cancel`, and `offers.approve`;
- the worker: `begin_submit` (the point of no return), `adopt_job` (a job that the provider has), `transition`
  for every other edge, and `set_progress`;
- an operator, for an order on HOLD: `find_hold`, `parse_resolution`, `resolve_hold`.

The allowed edges are `ALLOWED_TRANSITIONS` in `ledger.models`; docs/architecture.md draws them. A call
that comes twice, or too late, changes nothing and returns None.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, Final, Literal, TypedDict, Unpack, get_args

from sqlalchemy import ColumnElement, Select, String, bindparam, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.limits import BreakerRates
from guardrails.money import Money
from ledger import breaker, due_work, entries, operator_log, orders
from ledger.database import Ledger, LedgerError, transaction
from ledger.due_work import ClaimedRequest
from ledger.failures import Failure
from ledger.models import (
    ADOPTABLE_STATES,
    ALLOWED_TRANSITIONS,
    CANCELLABLE_STATES,
    CORRECTIONS,
    FENCED_TRANSITIONS,
    LATE_CHARGE,
    QUOTA_FREE_STATES,
    RequestState,
    Video,
    VideoState,
)
from ledger.operator_log import NewAction
from ledger.requests import find_ids, record_transition, recording
from ledger.schema import MAX_JOB_ID, requests, videos
from ledger.schema import transitions as transition_rows
from telemetry.clocks import boot_clock
from telemetry.metrics import VIOLATIONS
from telemetry.redaction import short_id

HoldOutcome = Literal["paid", "unpaid", "gone"]
"""It was paid and has this job; nothing was paid; it was paid and there will be no video."""

_BOOKED_STATES: Final = frozenset({VideoState.ACCEPTED, VideoState.SUCCEEDED, *QUOTA_FREE_STATES})
"""States whose transition may move money; to any other nothing is booked."""

_WHO_MAX: Final = 80
_WHY_MAX: Final = 500
_NAME_MAX: Final = 200
_HOLDS_NAMED: Final = 50


class InvalidTransition(ValueError):
    """An edge that does not exist, or that lacks what it needs: a defect in the caller."""


class JobTaken(LedgerError):
    """The provider's job belongs to another request: it cannot be booked twice."""


class HoldNotResolved(LedgerError):
    """Nothing was changed; the message says what was found and what is allowed."""


class VideoColumns(TypedDict, total=False):
    """Columns of `videos` that a state change may set; mypy refuses any other name or type."""

    job_id: str | None
    status_url: str | None
    result_url: str | None
    progress: int
    failure: Failure | None
    failure_detail: str | None
    retry_at: int
    asset_path: str
    asset_seconds: int
    asset_width: int
    asset_height: int
    file_id: str | None


class OwnColumns(VideoColumns, total=False):
    """And those that only the ledger sets: for the approval, and for the one right to send."""

    nonce: str | None
    approved_nonce: str | None
    ordered_at: int
    expires_at: int
    due_at: int
    fence: str
    deadline_at: int
    submits: int
    submitted_at: int
    sent_at: int
    credit: str
    credit_lot: str | None


@transaction
async def transition(
    ledger: Ledger,
    request_id: str,
    frm: VideoState,
    to: VideoState,
    who: str,
    why: str,
    *,
    fence: str | None = None,
    billed: Money | None = None,
    **columns: Unpack[VideoColumns],
) -> Video | None:
    """Move one video from `frm` to `to` and book its money; None if it was not in `frm`.

    Args:
        ledger: Where the video is stored.
        request_id: Whose video.
        frm: The state that it must be in.
        to: The state that it gets.
        who: The task or the person, for the transitions table.
        why: A plain reason, for the transitions table.
        fence: If given, the row must carry it: only the holder of SUBMITTING may act on its answer. Without
            one, SUBMITTING ends only as IN_DOUBT after its deadline, or with a job that was found.
        billed: The provider's own figure where a charge is booked; else the quote is.
        columns: Further columns to set, by name: see `VideoColumns`.

    Raises:
        InvalidTransition: There is no such edge, or it needs what was not given: a fence, a job id.
        JobTaken: `job_id` is another request's job.
    """
    async with ledger.write() as conn:
        return await transition_in(
            ledger, conn, request_id, frm, to, who, why, fence=fence, billed=billed, columns=columns
        )


async def transition_in(
    ledger: Ledger,
    conn: AsyncConnection,
    request_id: str,
    frm: VideoState,
    to: VideoState,
    who: str,
    why: str,
    *,
    columns: VideoColumns,
    fence: str | None = None,
    billed: Money | None = None,
    action_id: int | None = None,
) -> Video | None:
    """Do what `transition` says, in the caller's transaction.

    With `action_id` it is a correction by a person: edges of `CORRECTIONS` are allowed too, and its entries
    name that act.
    """
    _check_transition(frm, to, fence, corrects=action_id is not None)
    now = ledger.time()
    due = due_work.due_at(to, now, columns)
    computed = due if isinstance(due, ColumnElement) else None
    changed: dict[str, Any] = {"state": to, **columns}
    if computed is None:
        changed["due_at"] = due
    at_once = ledger.dialect == "postgresql"
    query = _move_query(
        now, computed, tuple(changed), recorded=at_once, fenced=fence is not None,
        overdue=fence is None and to is VideoState.IN_DOUBT, accepted=to is VideoState.ACCEPTED,
    )  # fmt: skip
    values = {"which": request_id, "holder": fence, "from_state": frm, "retried_at": columns.get("retry_at")}
    values |= {"line_from": frm, "line_to": to, "line_who": who, "line_why": why}
    values |= {f"new_{name}": value for name, value in changed.items()}
    try:
        row = (await conn.execute(query, values)).first()
    except IntegrityError as error:
        raise JobTaken(
            f"job {columns.get('job_id')!r} belongs to another request than {request_id}"
        ) from error
    if row is None:
        return None
    video = Video.from_row(row)
    if to is VideoState.ACCEPTED and video.job_id is None:
        raise InvalidTransition(f"a video in {frm} may move to {to} with a job id, and {request_id} has none")
    if to in _BOOKED_STATES:
        await entries.book_transition(ledger, conn, video, frm, billed, video.updated_at, action_id)
    if not at_once:
        await record_transition(conn, request_id, "video", frm, to, who, why, video.updated_at)
    return video


@lru_cache(maxsize=256)
def _move_query(
    now: ColumnElement[int],
    due: ColumnElement[int] | None,
    columns: tuple[str, ...],
    *,
    recorded: bool,
    fenced: bool,
    overdue: bool,
    accepted: bool,
) -> Any:
    """SQL that sets `columns` to its parameters `new_…`, and `due_at` to `due` where that is given."""
    query = update(videos).where(
        videos.c.request_id == bindparam("which"), videos.c.state == bindparam("from_state")
    )
    if fenced:
        query = query.where(videos.c.fence == bindparam("holder"))
    elif overdue:
        query = query.where(videos.c.deadline_at <= now)  # until then only the holder knows what it sent
    values: dict[str, Any] = {"updated_at": now, "version": videos.c.version + 1}
    values |= {"due_failures": 0, "look_at": 0}
    values |= {name: bindparam(f"new_{name}", type_=videos.c[name].type) for name in columns}
    if accepted:
        values |= {"accepted_at": now, "bad_assets": 0, "denials": 0, "denied_at": None}
    if due is not None:
        values["due_at"] = due
    query = query.values(values).returning(videos)
    return recording(query) if recorded else query


def _check_transition(frm: VideoState, to: VideoState, fence: str | None, *, corrects: bool) -> None:
    if corrects and to in CORRECTIONS.get(frm, ()):
        return
    if to not in ALLOWED_TRANSITIONS[frm]:
        known = ", ".join(sorted(ALLOWED_TRANSITIONS[frm])) or "nothing"
        raise InvalidTransition(f"a video in {frm} may move to {known}, not to {to}")
    if (frm, to) in FENCED_TRANSITIONS and fence is None:
        raise InvalidTransition(f"only the holder of {frm} may move a video to {to}: give its fence")


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What `cancel` found.

    Attributes:
        state: CANCELLED, or the state in which it is too late; None: this user has no such request.
        video: The order as it is now, with the version of its cancel; None: there is none.
    """

    state: RequestState | VideoState | None
    video: Video | None = None


@transaction
async def cancel(ledger: Ledger, request_id: str, user_id: int) -> Cancellation:
    """Cancel what is not paid yet."""
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        mine = (requests.c.request_id == request_id, requests.c.user_id == user_id)
        done = await conn.execute(
            update(requests)
            .where(*mine, requests.c.state == RequestState.OPEN)
            .values(state=RequestState.CANCELLED, reason="cancelled", updated_at=now)
        )
        if done.rowcount:
            opened, ended = RequestState.OPEN, RequestState.CANCELLED
            await record_transition(
                conn, request_id, "request", opened, ended, f"user:{user_id}", "cancelled", now
            )
            return Cancellation(RequestState.CANCELLED)
        state = await conn.scalar(select(requests.c.state).where(*mine))
        video = await orders.find(conn, request_id, lock=True)
        if state is None or video is None:
            return Cancellation(None if state is None else RequestState(state))
        if video.state in CANCELLABLE_STATES:
            frm, to = video.state, VideoState.CANCELLED
            moved = await transition_in(
                ledger, conn, request_id, frm, to, f"user:{user_id}", "cancelled by its user", columns={}
            )
            video = moved or video  # it is locked: nothing else can have moved it
        return Cancellation(video.state, video)


PICTURE_FENCE: Final = "picture-"
"""How the fence of a worker begins that sends the order's picture along. Without it, the database refuses to
begin the submit of an order whose request has a picture (migration 0019).
"""


TOOL_FENCE: Final = "tool-"
"""The same of a worker that makes an order by its tool: a database refuses any other to begin the submit of
one that is no video's (migration 0026), because the version before would pay for a video.
"""


@transaction
async def begin_submit(
    ledger: Ledger, request_id: str, fence: str, deadline_s: float, rates: BreakerRates
) -> "BegunSubmit | None":
    """Move QUEUED to SUBMITTING: the point of no return, committed before the first byte is sent.

    None if the order is not queued, not due, expired or already charged, if its user has no status message,
    or if the breaker is open or opens by this start. The deadline counts from when the locks are held:
    waiting for them makes no submit late.
    """
    async with ledger.write() as conn:
        locked = await find_locked(ledger, conn, request_id)
        if locked is None or not _may_begin(locked):
            return None
        video, now = locked.video, locked.now
        if video.submitted_at is None and await breaker.trip(conn, video, rates, now, locked.breakers):
            return None
        columns: OwnColumns = {
            "fence": fence,
            "deadline_at": now + int(deadline_s * 1000),
            "failure": None,  # it may have waited for the media folder
            "failure_detail": None,
            "submits": video.submits + 1,
            "submitted_at": video.submitted_at or now,
            "sent_at": now,
        }
        frm, to = VideoState.QUEUED, VideoState.SUBMITTING
        begun = await transition_in(
            ledger, conn, request_id, frm, to, "shoot", "begins to send", columns=columns
        )
    return None if begun is None else BegunSubmit(begun, locked.clock)


@transaction
async def doubt_forgotten_send(
    ledger: Ledger, request_id: str, fence: str, submits: int, first_at: int, sent_at: int
) -> Video | None:
    """Move SUBMITTING to IN_DOUBT because a send is known that this ledger has lost; by its fence.

    Args:
        ledger: Where the order is stored.
        request_id: Whose order.
        fence: The holder's.
        submits: The number of the lost send.
        first_at: When the order's first send began: the provider's memory of its key counts from there.
        sent_at: When the lost send began: its job is searched for around that time.
    """
    columns: OwnColumns = {"submits": submits, "submitted_at": first_at, "sent_at": sent_at}
    why = f"send {submits} is remembered in Redis and not here: the ledger lost it, so it asks first"
    async with ledger.write() as conn:
        return await transition_in(
            ledger, conn, request_id, VideoState.SUBMITTING, VideoState.IN_DOUBT, "shoot", why,
            fence=fence, columns=columns,
        )  # fmt: skip


def _may_begin(locked: "LockedOrder") -> bool:
    video = locked.video
    if video.state is not VideoState.QUEUED or not video.retry_at <= locked.now < video.expires_at:
        return False
    if not locked.has_status_message:  # nothing is paid that its user could not be told of
        return False
    # A queued order with a charge: "not sent" was wrong, and another POST could pay twice.
    return not (locked.breakers.is_open or locked.charged)


@dataclass(frozen=True, slots=True)
class BegunSubmit:
    """The one right to send an order.

    Attributes:
        video: The order, SUBMITTING, with its fence and its deadline.
        clock: `boot_clock` when the deadline began: tells its holder that it was paused since.
    """

    video: Video
    clock: float


@dataclass(frozen=True, slots=True)
class LockedOrder:
    """An order and its breakers, locked until the end of the transaction.

    Attributes:
        video: As it is under the lock.
        breakers: Those that may stop its start.
        now: The store's time in milliseconds, read after the breakers were locked.
        clock: `boot_clock` just before that.
        charged: Any job was ever charged for its request.
        has_status_message: Its user was sent a status message. Its id may be 0, where Telegram gives none, as
            for ephemeral messages.
        job_owner: Whose job it is that was asked for; None: no request's, or none was asked for.
    """

    video: Video
    breakers: breaker.LockedBreakers
    now: int
    clock: float
    charged: bool
    has_status_message: bool
    job_owner: str | None


async def find_locked(
    ledger: Ledger, conn: AsyncConnection, request_id: str, job_id: str | None = None
) -> LockedOrder | None:
    """Lock the breaker's rows, then the video, in this order everywhere; return what is true then.

    One statement reads it all, and begins after the breakers are locked, so nothing that was committed under
    that lock is missed. With `job_id` it also reads whose job that is.
    """
    breakers = await breaker.lock_for_order(ledger, conn, request_id)
    if breakers is None:
        return None
    clock = boot_clock()
    query = _locked_query(ledger.time(), with_owner=job_id is not None)
    row = (await conn.execute(query, {"request": request_id, "job": job_id})).first()
    if row is None:
        return None
    return LockedOrder(
        Video.from_row(row),
        breakers,
        row.now,
        clock,
        bool(row.charged),
        row.status_message_id is not None,
        row.job_owner,
    )


@cache
def _locked_query(now: ColumnElement[int], *, with_owner: bool) -> Select[Any]:
    request = bindparam("request", type_=String)
    names = [videos.c.account, videos.c.provider]
    owner = entries.job_owner(names, bindparam("job", type_=String))
    query = select(
        videos,
        now.label("now"),
        entries.is_charged(request).label("charged"),
        select(requests.c.status_message_id)
        .where(requests.c.request_id == request)
        .scalar_subquery()
        .label("status_message_id"),
        (owner if with_owner else literal(None, String)).label("job_owner"),
    ).where(videos.c.request_id == request)
    # SQLite has no row locks: it holds the whole file already.
    return query.with_for_update(key_share=True, of=videos)


@transaction
async def adopt_job(
    ledger: Ledger,
    request_id: str,
    job_id: str,
    who: str,
    billed: Money | None,
    sends: int = 1,
    links: tuple[str, str] | None = None,
) -> Video | None:
    """Link a job that the provider has to its order, from any state with an unknown outcome, however late.

    A second job for one request is booked as well, never hidden, and opens the breaker for everyone. An order
    whose user has read that nothing was paid is marked `late`, so that the user is notified of the charge.
    The same is done for every send beyond the first, where a gateway admits to have sent the order `sends`
    times: each may have been charged, for a job whose id nobody knows.

    `links` are the provider's addresses of its status and its result; those that are stored are kept.

    Returns:
        The video if this call moved it to ACCEPTED.

    Raises:
        JobTaken: The job belongs to another request. Nothing was changed.
        LookupError: The request has no order.
    """
    async with ledger.write() as conn:
        locked = await find_locked(ledger, conn, request_id, job_id)
        if locked is None:
            raise LookupError(f"request {request_id!r} has no order; job {job_id!r} cannot be booked on it")
        video, owner = locked.video, locked.job_owner
        if owner not in (None, request_id):
            raise JobTaken(
                f"job {job_id!r} of {video.provider} belongs to request {owner}, not to {request_id}"
            )
        if video.state in ADOPTABLE_STATES and video.job_id in (None, job_id):
            to, why = VideoState.ACCEPTED, _found_words(job_id)
            late = LATE_CHARGE if video.state is VideoState.FAILED_UNPAID else None
            status_url, result_url = links or (video.status_url, video.result_url)
            moved = await transition_in(
                ledger, conn, request_id, video.state, to, who, why, billed=billed,
                columns={
                    "job_id": job_id, "failure": late, "failure_detail": None,
                    "status_url": status_url, "result_url": result_url,
                },
            )  # fmt: skip
            if moved is not None and sends > 1:
                await _book_further_sends(ledger, conn, moved, sends, billed)
            return moved
        if video.job_id != job_id:
            await _book_second_job(ledger, conn, video, job_id, billed)
    return None


async def _book_further_sends(
    ledger: Ledger, conn: AsyncConnection, video: Video, sends: int, billed: Money | None
) -> None:
    cost = video.quote if billed is None else billed
    for n in range(1, sends):
        await entries.add_entry(ledger, conn, video, "charge", cost, video.updated_at, n=n)
    VIOLATIONS.add(kind="second_job")
    why = f"the order of request {video.request_id} was sent {sends} times by a gateway"
    await breaker.open_for_everyone(ledger, conn, "ledger", why, video.updated_at)


async def _book_second_job(
    ledger: Ledger, conn: AsyncConnection, video: Video, job_id: str, billed: Money | None
) -> None:
    now = await ledger.now(conn)
    other = video.job_id or f"none in {video.state}"
    why = f"a job too many for request {video.request_id}: {job_id} next to {other}"
    cost = video.quote if billed is None else billed
    if await entries.add_entry(ledger, conn, video, "charge", cost, now, job_id):
        VIOLATIONS.add(kind="second_job")
        await breaker.open_for_everyone(ledger, conn, "ledger", why, now)


@transaction
async def mark_delivered(
    ledger: Ledger, claimed: ClaimedRequest, file_id: str | None, message_id: int | None, lease_s: float
) -> bool:
    """Move SUCCEEDED to DELIVERED with the message that shows the video; False if it was not SUCCEEDED.

    `claimed` then holds the new rows and a lease of `lease_s`, in which the user reads that it is ready.

    Raises:
        LeaseLost: The lease has passed to another process. DELIVERED is recorded all the same, because
            Telegram has the video; the lease and the message stay that process's, which notifies the user.
    """
    request_id = claimed.request.request_id
    async with ledger.write() as conn:
        moved = await transition_in(
            ledger, conn, request_id, VideoState.SUCCEEDED, VideoState.DELIVERED, "tell", "Telegram has it",
            columns={"file_id": file_id},
        )  # fmt: skip
        if moved is None:
            return False
        now = moved.updated_at
        until = now + int(lease_s * 1000)
        mine = await conn.execute(
            update(requests)
            .where(due_work.has_lease(claimed))
            .values(status_message_id=message_id, shown="", notify_at=now, told_after=until)
        )
    if not mine.rowcount:
        raise due_work.LeaseLost(f"another process notifies about request {request_id}")
    claimed.request = replace(claimed.request, status_message_id=message_id, shown="", notify_at=now)
    claimed.video, claimed.lease_until = moved, until
    return True


@transaction
async def claimed_jobs(ledger: Ledger, names: Collection[str], job_ids: Collection[str]) -> set[str]:
    """Return which of these jobs of one account belong to some request.

    `names` are the account and its provider: an order of the version before has no account yet.
    """
    async with ledger.read() as conn:
        return await entries.claimed_jobs(conn, names, job_ids)


@transaction
async def set_progress(ledger: Ledger, request_id: str, progress: int) -> None:
    """Store the provider's progress in whole per cent; it never goes back."""
    async with ledger.write() as conn:
        await conn.execute(
            update(videos)
            .where(
                videos.c.request_id == request_id,
                videos.c.state == VideoState.ACCEPTED,
                videos.c.progress < progress,
            )
            .values(progress=progress)
        )


@dataclass(frozen=True, slots=True)
class Resolution:
    """What an operator found out at the provider. `why` is their own text, for the transitions table."""

    outcome: HoldOutcome
    job_id: str = ""
    why: str = ""


def parse_resolution(outcome: str, job_id: str = "", why: str = "") -> Resolution:
    """Check an operator's words and return the resolution.

    Raises:
        HoldNotResolved: The message says which word is wrong and what is allowed.
    """
    found = next((one for one in get_args(HoldOutcome) if one == outcome), None)
    if found is None:
        raise HoldNotResolved(f"the outcome is {outcome!r}; it is `paid JOB_ID`, `unpaid` or `gone JOB_ID`")
    if (found == "paid" and not job_id) or (found == "unpaid" and job_id):
        raise HoldNotResolved("`paid` needs the provider's job id, `unpaid` takes none")
    if len(job_id) > MAX_JOB_ID or not job_id.isprintable() or " " in job_id:
        raise HoldNotResolved(f"that is not a job id: one word of at most {MAX_JOB_ID} characters")
    return Resolution(found, job_id, why.strip()[:_WHY_MAX])


async def find_hold(ledger: Ledger, wanted: str) -> Video:
    """Return the one order on HOLD that `wanted` names: by the request's id, or by its six letters.

    Raises:
        HoldNotResolved: No order on HOLD has that name, or two have.
    """
    named = await _list_named(ledger, wanted)
    found = [one for one in named if one.state is VideoState.HOLD]
    if len(found) == 1:
        return found[0]
    if found:
        raise HoldNotResolved(f"{len(found)} requests are called {wanted}; give the whole id of one")
    if named and named[0].request_id == wanted:
        raise HoldNotResolved(f"request {wanted} is {named[0].state}; only a HOLD is resolved by hand")
    names = ", ".join(f"#{short_id(one)}" for one in await _list_holds(ledger))
    raise HoldNotResolved(f"no request {wanted[:_NAME_MAX]!r} is on HOLD; on HOLD: {names or 'none'}")


@transaction
async def _list_named(ledger: Ledger, wanted: str) -> list[Video]:
    async with ledger.read() as conn:
        query = select(videos).where(videos.c.request_id.in_(await find_ids(conn, wanted)))
        return [Video.from_row(row) for row in await conn.execute(query)]


@transaction
async def _list_holds(ledger: Ledger) -> list[str]:
    """Return the requests that wait longest for a person."""
    query = select(videos.c.request_id).where(videos.c.state == VideoState.HOLD)
    async with ledger.read() as conn:
        return list(await conn.scalars(query.order_by(videos.c.updated_at).limit(_HOLDS_NAMED)))


@transaction
async def resolve_hold(
    ledger: Ledger, request_id: str, found: Resolution, who: str, seen_at: int | None = None
) -> Video:
    """Move an order out of HOLD as `found` says, with its money, in an operator's name.

    Args:
        ledger: Where the order is stored.
        request_id: Whose order.
        found: What the operator found out.
        who: The operator, for the transitions table.
        seen_at: If given, the `updated_at` of the HOLD that the operator saw: no later one is resolved.

    Raises:
        HoldNotResolved: It is no longer on HOLD, or its own job contradicts `found`.
        JobTaken: The job belongs to another request.
    """
    async with ledger.write() as conn:
        locked = await find_locked(ledger, conn, request_id)
        video = None if locked is None else locked.video
        if video is None or video.state is not VideoState.HOLD or seen_at not in (None, video.updated_at):
            raise HoldNotResolved(f"#{short_id(request_id)} was resolved by somebody else meanwhile")
        moved = await _resolve(ledger, conn, video, found, who[:_WHO_MAX])
        if moved is not None:
            detail = f"HOLD → {moved.state} ({found.outcome})"
            new = NewAction("resolve", who, found.why, request_id, video.user_id, moved.job_id, detail=detail)
            await operator_log.record(ledger, conn, new)
    if moved is None:
        raise HoldNotResolved(f"#{short_id(request_id)} could not be moved")
    return moved


async def _resolve(
    ledger: Ledger, conn: AsyncConnection, video: Video, found: Resolution, who: str
) -> Video | None:
    async def move(
        frm: VideoState, to: VideoState, why: str, **columns: Unpack[VideoColumns]
    ) -> Video | None:
        return await transition_in(
            ledger, conn, video.request_id, frm, to, who, f"{why} ({found.why})" if found.why else why,
            columns={"failure": None, "failure_detail": None, **columns},
        )  # fmt: skip

    if found.outcome == "unpaid":
        return await move(
            VideoState.HOLD, VideoState.FAILED_UNPAID, "a person says: unpaid", failure=Failure.SETTLED
        )
    job_id = found.job_id or video.job_id
    await check_own_job(conn, video, found.outcome, job_id)
    frm = VideoState.HOLD
    if video.job_id not in (None, job_id):
        # The stored job was a wrong id: refund what was charged for it before the right one is charged.
        await move(frm, VideoState.FAILED_UNPAID, f"job {video.job_id} was not its job")
        frm = VideoState.FAILED_UNPAID
    if found.outcome == "paid":
        links = (video.status_url, video.result_url) if video.job_id == job_id else (None, None)
        return await move(
            frm, VideoState.ACCEPTED, _paid_words(job_id or ""), job_id=job_id, status_url=links[0],
            result_url=links[1],
        )  # fmt: skip
    why = "a person says: paid, and there is no video"
    return await move(frm, VideoState.FAILED_PAID, why, job_id=job_id, failure=Failure.GONE)


async def check_own_job(
    conn: AsyncConnection, video: Video, outcome: HoldOutcome, job_id: str | None
) -> None:
    """Refuse a job of another request, and one that contradicts the order's own job.

    Raises:
        JobTaken: The job belongs to another request.
        HoldNotResolved: The order has another job, which the provider itself named.
    """
    if job_id is None:
        return
    owner = await entries.owner_of_job(conn, video.account_names, job_id)
    if owner not in (None, video.request_id):
        raise JobTaken(
            f"job {job_id!r} of {video.provider} belongs to request {owner}, not to {video.request_id}"
        )
    if video.job_id in (None, job_id):
        return
    # Its own job stays, unless the provider does not know it, or a person gave it and may have been wrong.
    if outcome == "gone" or not (video.failure == Failure.GONE or await _is_from_a_person(conn, video)):
        raise HoldNotResolved(
            f"#{short_id(video.request_id)} has job {video.job_id} in the ledger already; give that one"
        )


def _paid_words(job_id: str) -> str:
    return f"a person says: paid, job {job_id}"


async def _is_from_a_person(conn: AsyncConnection, video: Video) -> bool:
    """Return whether the order's job was given by a person, and the provider itself never named it."""
    query = select(transition_rows.c.why).where(
        transition_rows.c.request_id == video.request_id,
        transition_rows.c.subject == "video",
        transition_rows.c.to_state == VideoState.ACCEPTED,
    )
    said, given = set(await conn.scalars(query)), _paid_words(video.job_id or "")
    from_person = any(why == given or why.startswith(f"{given} (") for why in said)
    return from_person and _found_words(video.job_id or "") not in said


def _found_words(job_id: str) -> str:
    return f"the provider has job {job_id}"
