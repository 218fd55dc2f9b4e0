"""What must be true after any run with faults; the oracles are the provider's charge log and the chat.

Every check returns breaches in place of raising, so that a run with many requests names all of them.
"""

import html
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis
from sqlalchemy import select

from chat.status_message import Facts, render
from evals.environment import RequestAndVideo, booked_by_job, is_settled
from guardrails.admission import Admission, RedisKeys
from guardrails.limits import EVERYONE, Limits
from ledger import breaker, reports
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from ledger.models import QUOTA_FREE_STATES, UNPAID_END_STATES, Request, Video, VideoState, provider_key
from ledger.schema import transitions as transition_rows
from ledger.schema import videos
from sandbox.telegram.bubbles import Bubble
from sandbox.telegram.server import BotApiServer
from sandbox.video_api.openai import FakeProvider
from tests.support.counters import held
from tests.support.factories import PAID_TOOL

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Breach:
    """One check that failed, and for which requests (ids with spaces between, or `-`)."""

    check: str
    request_id: str
    detail: str


def paid_once(providers: Sequence[FakeProvider], found: Sequence[RequestAndVideo]) -> Iterable[Breach]:
    """Each order is charged at most once, at whichever account, and each charge belongs to an order."""
    charged = Counter(_owner_of_charge(one, line) for one in providers for line in one.charges())
    orders: dict[str, list[str]] = {}
    for _, video in found:
        if video is not None:
            orders.setdefault(owner_of_video(providers[0], video), []).append(video.request_id)
    for owner, times in charged.items():
        mine = orders.get(owner, [])
        if times > len(mine):
            check = "duplicate" if mine else "unknown charge"
            yield Breach(check, " ".join(mine) or "-", f"{times} charges under {owner[:60]!r}")


def owner_of_video(provider: FakeProvider, video: Video) -> str:
    """Return what the provider knows a video by: its key, or the prompt where keys are not honoured."""
    return provider_key(video.request_id) if provider.shape == "inworld" else video.prompt.strip()


def _owner_of_charge(provider: FakeProvider, line: Mapping[str, str]) -> str:
    if provider.shape == "inworld":
        return line["key"]
    return str(provider.jobs[line["job"]].fields["prompt"]).strip()


def jobs_of(providers: Sequence[FakeProvider], video: Video) -> list[str]:
    """Return the jobs that were charged for this video."""
    owner = owner_of_video(providers[0], video)
    lines = [(one, line) for one in providers for line in one.charges()]
    return [line["job"] for one, line in lines if _owner_of_charge(one, line) == owner]


def none_lost(sent: Iterable[str], found: Sequence[RequestAndVideo]) -> Iterable[Breach]:
    """Every command is a request, which is settled and its user notified; no other request exists."""
    known = {request.request_id: (request, video) for request, video in found}
    for request_id in set(sent) - known.keys():
        yield Breach("lost", request_id, "a command that is in no ledger")
    for request_id in known.keys() - set(sent):
        yield Breach("made up", request_id, "a request that was never sent")
    for request_id, (request, video) in known.items():
        if not is_settled(request, video):
            state = request.state if video is None else video.state
            yield Breach("lost", request_id, f"{state}, notified of {request.told or 'nothing'}")


async def wrong_text(
    api: BotApiServer, ledger: Ledger, limits: Limits, request: Request, video: Video | None
) -> list[Breach]:
    """The chat shows what the ledger says: the video itself, or the text for its state."""
    history = api.user(request.user_id).history()
    mine = [one for one in history if not one.mine and f"#{request.short_id}" in one.text]
    if video is not None and video.state is VideoState.DELIVERED:
        if any(one.media is not None for one in mine):
            return []
        return [Breach("lost", request.request_id, "delivered, and no video is in the chat")]
    if video is not None and video.state is VideoState.AWAITING_APPROVAL:
        if any(one.buttons for one in mine):
            return []
        return [Breach("lost", request.request_id, "an open offer, and no button is in the chat")]
    charged = await reports.net_charged(ledger, request.request_id)
    text = render(request, video, Facts(request.updated_at, charged, limits)).text
    wanted = " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())
    if any(_same(one, wanted, timed=request.reason_until is not None) for one in mine):
        return []
    shown = [one.text for one in mine]
    return [Breach("lost", request.request_id, f"expected {wanted!r}, but the chat shows {shown}")]


def _same(bubble: Bubble, wanted: str, *, timed: bool) -> bool:
    """Compare only the beginning of a text that names a time: it was right when it was sent."""
    shown = " ".join(bubble.text.split())
    return shown[:25] == wanted[:25] if timed else shown == wanted


def doubled_videos(api: BotApiServer, found: Sequence[RequestAndVideo]) -> int:
    """Count messages with a video beyond the first of a request: allowed, after a lost answer."""
    shown: Counter[str] = Counter()
    for user_id in {request.user_id for request, _ in found}:
        for one in api.user(user_id).history():
            if one.media is not None and not one.mine:
                shown.update(re.findall(r"#([0-9a-f]{6})", one.text)[-1:])
    return sum(times - 1 for times in shown.values())


async def ledger_matches(ledger: Ledger, providers: Sequence[FakeProvider]) -> list[Breach]:
    """Charged less refunded is, job by job, what the providers kept."""
    booked = await booked_by_job(ledger)
    kept = {job: micros for one in providers for job, micros in one.net().items()}
    return [
        Breach("ledger", booked.get(job, ("-", 0))[0], f"{job}: booked {mine}, provider kept {theirs}")
        for job in sorted(booked.keys() | kept.keys())
        if (mine := booked.get(job, ("-", 0))[1]) != (theirs := kept.get(job, 0))
    ]


async def counters_match(redis: Redis, ledger: Ledger, prefix: str, limits: Limits) -> list[Breach]:
    """After a refresh Redis counts what the ledger counts. Let the time of lost reservations pass first."""
    keys = RedisKeys(prefix)
    await Admission(redis, LedgerCounters(ledger), keys, limits, PAID_TOOL).refresh()
    found = []
    async with ledger.read() as conn:
        since = await ledger.now(conn) - limits.window_s * 1000
        query = select(videos).where(videos.c.ordered_at > since)
        orders = (await conn.execute(query)).all()
    users = {one.user_id for one in orders}
    for user in (*users, None):
        mine = [one for one in orders if user in (None, one.user_id)]
        takes = sum(one.state not in QUOTA_FREE_STATES for one in mine)
        micros = sum(one.quote_micros for one in mine if one.state not in UNPAID_END_STATES)
        counted = await held(redis, user, limits, keys)
        wanted = (0 if user is None else takes, micros)
        if (counted.takes, counted.micros) != wanted:
            found.append(Breach("counters", "-", f"user {user}: {counted}, the ledger has {wanted}"))
    return found


def within_quota(found: Sequence[RequestAndVideo], quota: int) -> Iterable[Breach]:
    """No user has more videos in a day than the quota."""
    times: dict[int, list[int]] = {}
    for request, video in found:
        if video is not None and video.state not in QUOTA_FREE_STATES:
            times.setdefault(request.user_id, []).append(video.ordered_at)
    for user_id, mine in times.items():
        most = max(sum(at - DAY_MS < one <= at for one in mine) for at in mine)
        if most > quota:
            yield Breach("limits", "-", f"user {user_id} has {most} videos in a day (quota {quota})")


async def breaker_closed(ledger: Ledger) -> list[Breach]:
    opened = [one for one in await breaker.open_breakers(ledger) if one.scope == EVERYONE]
    return [Breach("breaker", "-", f"open for everyone: {one.why}") for one in opened]


async def transitions_of(ledger: Ledger, request_id: str) -> list[str]:
    """Return one request's transitions as lines of text."""
    query = select(transition_rows).where(transition_rows.c.request_id == request_id)
    async with ledger.read() as conn:
        rows = (await conn.execute(query.order_by(transition_rows.c.transition_id))).all()
    return [f"{row.subject} {row.from_state or '·'} → {row.to_state}  {row.who}: {row.why}" for row in rows]
