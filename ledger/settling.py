"""Settling: a person says what became of an order on HOLD. The one way for keyboard and chat alike."""

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger import entries, requests, transitions
from ledger.database import Ledger, LedgerError
from ledger.identity import short_id
from ledger.models import Video
from ledger.patience import transaction
from ledger.schema import videos
from ledger.step import JobTaken, step
from ledger.words import VideoState

Outcome = Literal["paid", "unpaid", "gone"]
"""It was paid and has this job; nothing was paid; it was paid and there will be no video."""

_WHO: Final = 80
_WHY: Final = 500
_LONGEST: Final = 200


class NotSettled(LedgerError):
    """Nothing was changed; the message says what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a person found out at the provider. `why` is in their own words, for the transitions table."""

    outcome: Outcome
    job_id: str = ""
    why: str = ""


def ruling(outcome: str, job_id: str = "", why: str = "") -> Ruling:
    """Read a ruling.

    Raises:
        NotSettled: It is none; the message says what it may be.
    """
    found = next((one for one in get_args(Outcome) if one == outcome), None)
    if found is None:
        raise NotSettled(f"the outcome is {outcome!r}; it is `paid JOB_ID`, `unpaid` or `gone JOB_ID`")
    if (found == "paid" and not job_id) or (found == "unpaid" and job_id):
        raise NotSettled("`paid` needs the provider's job id, `unpaid` takes none")
    if len(job_id) > _LONGEST or not job_id.isprintable() or " " in job_id:
        raise NotSettled(f"that is not a job id: one word of at most {_LONGEST} characters")
    return Ruling(found, job_id, why.strip()[:_WHY])


async def held(ledger: Ledger, wanted: str) -> Video:
    """Return the one order on HOLD that `wanted` names: by the request's id, or by its six letters.

    Raises:
        NotSettled: None is on HOLD under that name, or two are.
    """
    name = wanted.strip().lstrip("#")
    waiting = await _on_hold(ledger)
    found = [one for one in waiting if name == one.request_id or name.lower() == short_id(one.request_id)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotSettled(f"{len(found)} requests are called #{name}; give the whole id of one")
    both = await requests.find_both(ledger, wanted)
    if both is not None and both[1] is not None:
        raise NotSettled(f"request {wanted} is {both[1].state}; only a HOLD is settled by hand")
    names = ", ".join(f"#{short_id(one.request_id)}" for one in waiting)
    raise NotSettled(f"no request {wanted[:_LONGEST]!r} is on HOLD; on HOLD: {names or 'none'}")


@transaction
async def _on_hold(ledger: Ledger) -> list[Video]:
    query = select(videos).where(videos.c.state == VideoState.HOLD).order_by(videos.c.updated_at)
    async with ledger.read() as conn:
        return [Video.of(row) for row in await conn.execute(query)]


@transaction
async def settle(
    ledger: Ledger, request_id: str, found: Ruling, who: str, seen_at: int | None = None
) -> Video:
    """Take an order from HOLD to where `found` says it belongs, with its money, in this person's name.

    Args:
        ledger: Where it stands.
        request_id: Whose order.
        found: What the person says.
        who: That person, for the transitions table.
        seen_at: If given, the `updated_at` of the HOLD that they were shown: no other is settled.

    Raises:
        NotSettled: It is not on HOLD (any more), or its own job contradicts the ruling.
        JobTaken: The job stands in the books of another request.
    """
    async with ledger.write() as conn:
        video = await transitions.find_locked(ledger, conn, request_id)
        if video is None or video.state is not VideoState.HOLD or seen_at not in (None, video.updated_at):
            raise NotSettled(f"#{short_id(request_id)} was settled by somebody else meanwhile")
        moved = await _settle(ledger, conn, video, found, who[:_WHO])
    if moved is None:
        raise NotSettled(f"#{short_id(request_id)} could not be moved")
    return moved


async def _settle(
    ledger: Ledger, conn: AsyncConnection, video: Video, found: Ruling, who: str
) -> Video | None:
    async def take(frm: VideoState, to: VideoState, why: str, **columns: Any) -> Video | None:
        return await step(
            ledger, conn, video.request_id, frm, to, who, f"{why} ({found.why})" if found.why else why,
            columns={"failure": None, "failure_detail": None} | columns,
        )  # fmt: skip

    if found.outcome == "unpaid":
        return await take(
            VideoState.HOLD, VideoState.FAILED_UNPAID, "a person says: unpaid", failure="settled"
        )
    job_id = found.job_id or video.job_id
    await _check_job(conn, video, found.outcome, job_id)
    frm = VideoState.HOLD
    if video.job_id not in (None, job_id):
        # The job in the books was a wrong name: what was charged for it is credited before the right one.
        await take(frm, VideoState.FAILED_UNPAID, f"job {video.job_id} was not its job")
        frm = VideoState.FAILED_UNPAID
    if found.outcome == "paid":
        return await take(frm, VideoState.ACCEPTED, f"a person says: paid, job {job_id}", job_id=job_id)
    why = "a person says: paid, and there is no video"
    return await take(frm, VideoState.FAILED_PAID, why, job_id=job_id, failure="gone")


async def _check_job(conn: AsyncConnection, video: Video, outcome: Outcome, job_id: str | None) -> None:
    if job_id is None:
        return
    owner = await entries.owner_of_job(conn, video.provider, job_id)
    if owner not in (None, video.request_id):
        raise JobTaken(
            f"job {job_id!r} of {video.provider} belongs to request {owner}, not to {video.request_id}"
        )
    if video.job_id not in (None, job_id) and (video.failure != "gone" or outcome == "gone"):
        raise NotSettled(
            f"#{short_id(video.request_id)} has job {video.job_id} in the books already; give that one"
        )
