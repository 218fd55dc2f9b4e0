"""An operator corrects what is booked: a refund, a charge by invoice, an end that was wrong.

Nothing is rewritten. A correction adds entries, each with the operator's name and reason through
`operator_actions`, and every sum follows by the triggers that follow any entry. An end is corrected along
`CORRECTIONS` of `ledger.models`, however long ago it was.

A person decides on figures that they saw: `plan` says what would change, and `correct` refuses where the
order has changed since. The same `source` corrects once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from sqlalchemy import case, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.money import ZERO, Money
from ledger import breaker, entries, operator_log, transitions
from ledger.database import Ledger, LedgerError, transaction
from ledger.failures import Failure
from ledger.models import CORRECTIONS, LATE_CHARGE, UNPAID_END_STATES, Video, VideoState
from ledger.operator_log import NewAction
from ledger.requests import find_ids
from ledger.schema import entries as entry_rows
from ledger.schema import operator_actions, requests, videos
from ledger.transitions import HoldOutcome, LockedOrder, VideoColumns, check_own_job, parse_resolution
from telemetry.metrics import VIOLATIONS
from telemetry.redaction import short_id

CorrectionKind = Literal["refund", "charge", "end"]
"""Money that a provider gave back; money that its invoice shows; an end that was wrong."""

_V = VideoState
_PAID_ENDS: Final = frozenset({_V.SUCCEEDED, _V.DELIVERED, _V.FAILED_PAID})
_TARGETS: Final[Mapping[HoldOutcome, VideoState]] = {
    "paid": _V.ACCEPTED, "unpaid": _V.FAILED_UNPAID, "gone": _V.FAILED_PAID,
}  # fmt: skip
_NAME_MAX: Final = 200
NO_JOB: Final = "-"
"""Stands for a charge whose job is not known."""


class NotCorrected(LedgerError):
    """Nothing was changed; the message says what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What an operator wants corrected.

    Attributes:
        kind: A refund, a charge, or an end.
        amount: Of a refund (None: all that is left of the job's charge), of a charge, or of a corrected end
            (None: the quote).
        job_id: The provider's job; empty: the order's own; `NO_JOB`: it is not known.
        end: What is true, of a corrected end.
        why: The operator's reason.
    """

    kind: CorrectionKind
    amount: Money | None = None
    job_id: str = ""
    end: HoldOutcome | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a correction would change.

    Attributes:
        video: The order as it is.
        wanted: The correction.
        job_id: The job whose entries change; None: not known.
        amount: What is booked on that job.
        before: What the request costs now, less refunds.
        after: What it would cost.
        to: The state that the order would get; None: it keeps its own.
        second_job: The request would have another paid job: it counts as paid twice, and paid work stops.
        seen: Names this state of the order: `correct` refuses at any other.
    """

    video: Video
    wanted: Correction
    job_id: str | None
    amount: Money
    before: Money
    after: Money
    to: VideoState | None
    second_job: bool
    seen: str

    @property
    def sentence(self) -> str:
        """What it would change, in one or two sentences for an operator."""
        moves = f"{self.video.state} → {self.to}" if self.to else f"stays {self.video.state}"
        text = f"#{self.video.short_id}: {self.before} → {self.after} charged, {moves}"
        if self.job_id:
            text += f", job {self.job_id}"
        if self.second_job:
            text += ". It counts as paid twice, and the breaker opens for everyone"
        return f"{text}."


@dataclass(frozen=True, slots=True)
class Corrected:
    """What was done: the plan, and the order after it. `new` is False where the same source did it before."""

    plan: Plan
    video: Video
    new: bool = True


def parse_correction(
    kind: str, amount: str = "", job_id: str = "", end: str = "", why: str = ""
) -> Correction:
    """Check an operator's words and return the correction.

    Raises:
        NotCorrected: The message says which word is wrong and what is allowed.
    """
    found = next((one for one in get_args(CorrectionKind) if one == kind), None)
    if found is None:
        raise NotCorrected(f"{kind[:40]!r} is no correction; use {', '.join(get_args(CorrectionKind))}")
    if not why.strip():
        raise NotCorrected("say why: the reason is stored with the entry")
    money = _parse_amount(amount)
    if found == "charge" and money is None:
        raise NotCorrected("a charge needs its amount, as the invoice says it: $3 or $0.375")
    word: HoldOutcome | None = None
    if found == "end":
        word = _parse_end(end, job_id)
        if money is not None and word == "unpaid":
            raise NotCorrected("an end that is `unpaid` takes no amount: all of it is refunded")
    return Correction(found, money, job_id, word, why.strip())


def _parse_amount(amount: str) -> Money | None:
    if not amount.strip():
        return None
    try:
        money = Money.parse(amount)
    except ValueError as error:
        raise NotCorrected(str(error)) from None
    if money <= ZERO:
        raise NotCorrected("the amount is more than $0; a kind says its direction")
    return money


def _parse_end(end: str, job_id: str) -> HoldOutcome:
    try:
        return parse_resolution(end, "" if job_id == NO_JOB else job_id).outcome
    except transitions.HoldNotResolved as error:
        raise NotCorrected(str(error)) from None


@transaction
async def find_order(ledger: Ledger, wanted: str) -> Video:
    """Return the one order that `wanted` names: by the request's id, or by its six letters.

    Raises:
        NotCorrected: There is none, or there are two.
    """
    async with ledger.read() as conn:
        ids = await find_ids(conn, wanted)
        rows = (await conn.execute(select(videos).where(videos.c.request_id.in_(ids)))).all()
    if len(rows) == 1:
        return Video.from_row(rows[0])
    if rows:
        raise NotCorrected(f"{len(rows)} requests are called {wanted[:_NAME_MAX]}; give the whole id of one")
    known = "has no order, so nothing was booked" if ids else "is not known"
    raise NotCorrected(f"request {wanted[:_NAME_MAX]!r} {known}")


@transaction
async def plan(ledger: Ledger, request_id: str, wanted: Correction) -> Plan:
    """Return what a correction would change; it changes nothing.

    Raises:
        NotCorrected: It cannot be made; the message says why.
        JobTaken: The job belongs to another request.
    """
    async with ledger.read() as conn:
        row = (await conn.execute(select(videos).where(videos.c.request_id == request_id))).one()
        return await _plan(conn, Video.from_row(row), wanted)


@transaction
async def correct(ledger: Ledger, planned: Plan, who: str, source: str) -> Corrected:
    """Make a correction that was planned, in an operator's name.

    Args:
        ledger: Where the order is stored.
        planned: What the operator saw and wants.
        who: The operator.
        source: What asks for it, as a form or a message: the same one corrects once.

    Raises:
        NotCorrected: The order has changed since the plan, or it cannot be made.
        JobTaken: The job belongs to another request.
    """
    request_id, wanted = planned.video.request_id, planned.wanted
    async with ledger.write() as conn:
        locked = await transitions.find_locked(ledger, conn, request_id)
        if locked is None:
            raise NotCorrected(f"#{short_id(request_id)} has no order")
        if await _has_source(conn, source):
            return Corrected(planned, locked.video, new=False)
        found = await _plan(conn, locked.video, wanted)
        if found.seen != planned.seen:
            raise NotCorrected(f"#{short_id(request_id)} has changed meanwhile: look at it again")
        new = NewAction(
            wanted.kind, who, wanted.why, request_id, locked.video.user_id, found.job_id, found.amount,
            found.sentence, source,
        )  # fmt: skip
        action_id = await operator_log.record(ledger, conn, new)
        if action_id is None:
            raise NotCorrected("another process makes this correction now")
        video = await _book(ledger, conn, locked, found, who, action_id)
        await _notify_user(conn, found, locked.now)
    return Corrected(found, video)


@transaction
async def is_done(ledger: Ledger, source: str) -> bool:
    """Return whether this form or message has corrected something already."""
    async with ledger.read() as conn:
        return await _has_source(conn, source)


async def _has_source(conn: AsyncConnection, source: str) -> bool:
    query = select(operator_actions.c.action_id).where(operator_actions.c.source == source)
    return await conn.scalar(query) is not None


async def _book(
    ledger: Ledger, conn: AsyncConnection, locked: LockedOrder, found: Plan, who: str, action_id: int
) -> Video:
    if found.to is not None:
        return await _move(ledger, conn, found, who, action_id)
    video, kind = locked.video, "charge" if found.wanted.kind == "charge" else "credit"
    booked = (await _job_totals(conn, video.request_id)).get(found.job_id, _NONE)
    n = (booked.charges if kind == "charge" else booked.credits) + 1
    word = cast("Literal['charge', 'credit']", kind)
    await entries.add_entry(
        ledger, conn, video, word, found.amount, locked.now, found.job_id, n, action_id=action_id
    )
    if found.second_job:
        VIOLATIONS.add(kind="second_job")
        why = f"an invoice shows a job too many for request {video.request_id}: {found.job_id}"
        await breaker.open_for_everyone(ledger, conn, "ledger", why, locked.now)
    return video


async def _move(ledger: Ledger, conn: AsyncConnection, found: Plan, who: str, action_id: int) -> Video:
    video, to, why = found.video, found.to, f"a person corrects: {found.wanted.why}"
    frm = video.state
    if to is _V.ACCEPTED and frm is _V.FAILED_PAID and video.job_id not in (None, found.job_id):
        # The stored job was a wrong id: refund what was charged for it before the right one is charged.
        wrong = f"job {video.job_id} was not its job"
        columns: VideoColumns = {"failure": Failure.SETTLED, "failure_detail": None}
        await transitions.transition_in(
            ledger, conn, video.request_id, frm, _V.FAILED_UNPAID, who, wrong, columns=columns,
            action_id=action_id,
        )  # fmt: skip
        frm = _V.FAILED_UNPAID
    moved = await transitions.transition_in(
        ledger, conn, video.request_id, frm, cast("VideoState", to), who, why,
        billed=None if to is _V.FAILED_UNPAID else found.amount,
        columns=_columns_of(found), action_id=action_id,
    )  # fmt: skip
    if moved is None:  # it is locked: nothing else can have moved it
        raise NotCorrected(f"#{video.short_id} could not be moved")
    return moved


def _columns_of(found: Plan) -> VideoColumns:
    video = found.video
    if found.to is _V.FAILED_UNPAID:
        return {"failure": Failure.SETTLED, "failure_detail": None}
    if found.to is _V.FAILED_PAID:
        return {"failure": Failure.GONE, "failure_detail": None, "job_id": found.job_id}
    same = video.job_id == found.job_id
    return {
        "failure": LATE_CHARGE if video.state in UNPAID_END_STATES else None,
        "failure_detail": None,
        "job_id": found.job_id,
        "status_url": video.status_url if same else None,
        "result_url": video.result_url if same else None,
    }


async def _notify_user(conn: AsyncConnection, found: Plan, now: int) -> None:
    """Let the user be told in a message of its own, unless the texts that follow say it anyway."""
    if found.after == found.before or found.to is _V.ACCEPTED:
        return
    later = case((requests.c.told_after > now, requests.c.told_after), else_=now)
    mine = (requests.c.request_id == found.video.request_id, requests.c.erasure.is_(None))
    await conn.execute(update(requests).where(*mine).values(corrected_at=now, notify_at=later))


@dataclass(frozen=True, slots=True)
class _JobTotals:
    charges: int
    credits: int
    net: Money


_NONE: Final = _JobTotals(0, 0, ZERO)


async def _job_totals(conn: AsyncConnection, request_id: str) -> dict[str | None, _JobTotals]:
    """Return what is booked for each job of a request: from the entries, which are there before any sum."""
    charge, credit = entry_rows.c.kind == "charge", entry_rows.c.kind == "credit"
    micros = entry_rows.c.micros
    query = (
        select(
            entry_rows.c.job_id,
            func.sum(case((charge, 1), else_=0)).label("charges"),
            func.sum(case((credit, 1), else_=0)).label("credits"),
            func.sum(case((charge, micros), else_=-micros)).label("net"),
        )
        .where(entry_rows.c.request_id == request_id, charge | credit)
        .group_by(entry_rows.c.job_id)
    )
    rows: Any = await conn.execute(query)
    return {row.job_id: _JobTotals(int(row.charges), int(row.credits), Money(int(row.net))) for row in rows}


async def _plan(conn: AsyncConnection, video: Video, wanted: Correction) -> Plan:
    jobs = await _job_totals(conn, video.request_id)
    before = sum((one.net for one in jobs.values()), ZERO)
    steps = sum(one.charges + one.credits for one in jobs.values())
    seen = f"{video.state}:{before.micros}:{steps}"
    make = {"refund": _plan_refund, "charge": _plan_charge, "end": _plan_end}[wanted.kind]
    job_id, amount, change, to = await make(conn, video, wanted, jobs)
    second = wanted.kind == "charge" and _is_another(video, job_id) and jobs.get(job_id, _NONE).net <= ZERO
    return Plan(video, wanted, job_id, amount, before, before + change, to, second, seen)


_Found = tuple[str | None, Money, Money, VideoState | None]
"""The job, what is booked on it, what that changes of the request's cost, and the new state."""

_Jobs = dict[str | None, _JobTotals]


def _is_another(video: Video, job_id: str | None) -> bool:
    return video.job_id is not None and job_id != video.job_id


def _job_of(video: Video, wanted: Correction) -> str | None:
    return None if wanted.job_id == NO_JOB else wanted.job_id or video.job_id


async def _plan_refund(_: AsyncConnection, video: Video, wanted: Correction, jobs: _Jobs) -> _Found:
    job_id = _job_of(video, wanted)
    left = jobs.get(job_id, _NONE).net
    if left <= ZERO:
        charged = ", ".join(f"{job or NO_JOB} {one.net}" for job, one in jobs.items() if one.net > ZERO)
        raise NotCorrected(
            f"nothing is charged for job {job_id or NO_JOB} of #{video.short_id};"
            f" charged: {charged or 'none'}"
        )
    amount = wanted.amount or left
    if amount > left:
        raise NotCorrected(f"{left} is charged for job {job_id or NO_JOB}, less than {amount}")
    if not _is_another(video, job_id) and video.state not in _PAID_ENDS:
        raise NotCorrected(_not_ended(video))
    whole = amount == left and all(one.net == ZERO for job, one in jobs.items() if job != job_id)
    to = _V.FAILED_UNPAID if whole and video.state is _V.FAILED_PAID and job_id == video.job_id else None
    return job_id, amount, ZERO - amount, to


async def _plan_charge(conn: AsyncConnection, video: Video, wanted: Correction, jobs: _Jobs) -> _Found:
    job_id, amount = _job_of(video, wanted), wanted.amount
    if amount is None:
        raise NotCorrected("a charge needs its amount")
    if video.state in UNPAID_END_STATES and not _is_another(video, job_id):
        raise NotCorrected(
            f"#{video.short_id} is {video.state}; say that its end was wrong: end gone JOB_ID (charged, and"
            " no video), or end paid JOB_ID"
        )
    if video.state not in _PAID_ENDS and not _is_another(video, job_id):
        raise NotCorrected(_not_ended(video))
    if job_id is not None and video.job_id is None and None in jobs:
        raise NotCorrected(f"the charge of #{video.short_id} has no job id; use {NO_JOB} for the job")
    if job_id is None and video.job_id is not None:
        raise NotCorrected(f"the job of #{video.short_id} is known: {video.job_id}")
    if job_id is not None:
        await _check_owner(conn, video, job_id)
    return job_id, amount, amount, None


async def _plan_end(conn: AsyncConnection, video: Video, wanted: Correction, jobs: _Jobs) -> _Found:
    word = cast("HoldOutcome", wanted.end)
    to, job_id = _TARGETS[word], _job_of(video, wanted)
    if to not in CORRECTIONS.get(video.state, ()):
        raise NotCorrected(_no_such_end(video, word))
    own = jobs.get(video.job_id, _NONE).net
    if word == "unpaid":
        if others := [job or NO_JOB for job, one in jobs.items() if job != video.job_id and one.net > ZERO]:
            raise NotCorrected(
                f"other jobs of #{video.short_id} are charged: refund {', '.join(others)} first"
            )
        return video.job_id, own, ZERO - own, to
    if word == "paid" and await _is_erased(conn, video.request_id):
        raise NotCorrected(f"#{video.short_id} was erased for its user, who gets no video: use end gone")
    try:
        await check_own_job(conn, video, word, job_id)
    except transitions.HoldNotResolved as error:
        raise NotCorrected(str(error)) from None
    # A charge that was never taken back stays as it is.
    stays = job_id == video.job_id and own > ZERO and video.state not in UNPAID_END_STATES
    cost = wanted.amount or (own if stays else video.quote)
    return job_id, cost, cost - own, to


def _not_ended(video: Video) -> str:
    if video.state is _V.HOLD:
        return f"#{video.short_id} is on HOLD: resolve it as paid, unpaid or gone"
    return f"#{video.short_id} is {video.state}: its figure is corrected when it has ended"


def _no_such_end(video: Video, word: HoldOutcome) -> str:
    if video.state is _V.HOLD:
        return _not_ended(video)
    if video.state is _V.DELIVERED:
        return f"#{video.short_id} is DELIVERED, which stays true; correct its money with refund or charge"
    words = [one for one, state in _TARGETS.items() if state in CORRECTIONS.get(video.state, ())]
    if not words:
        return _not_ended(video)
    may_be = " or ".join(words)
    return f"#{video.short_id} is {video.state}, which is not corrected to {word}; it may be {may_be}"


async def _check_owner(conn: AsyncConnection, video: Video, job_id: str) -> None:
    owner = await entries.owner_of_job(conn, video.account_names, job_id)
    if owner not in (None, video.request_id):
        raise transitions.JobTaken(f"job {job_id!r} belongs to request {owner}, not to {video.request_id}")


async def _is_erased(conn: AsyncConnection, request_id: str) -> bool:
    query = select(requests.c.erasure).where(requests.c.request_id == request_id)
    return (await conn.scalar(query)) is not None
