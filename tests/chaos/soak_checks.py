"""What must be true when the storm is over. The oracle is the provider's own charge log, and the chat.

`judge` reads; it changes nothing but the counters in Redis, which it asks to be refreshed.
"""

import html
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select

from chat.status_message import Facts, render
from evals.environment import is_settled
from guardrails.admission import RESERVATION_GRACE_S, Admission, RedisKeys
from guardrails.limits import EVERYONE, Limits
from guardrails.money import Money
from ledger import breaker, limits, reports, transitions
from ledger.guard_stores import LedgerCounters
from ledger.models import QUOTA_FREE_STATES, Request, Video, VideoState, provider_key
from ledger.schema import entries
from ledger.schema import transitions as transition_rows
from sandbox.telegram.user import Bubble
from tests.chaos.soak_env import LIMITS, PREFIX, QUOTA, Stage
from tests.chaos.soak_traffic import FIRST_USER, Storm
from tests.support.factories import PAID_TOOL

DAY_MS = 86_400_000
_BOUNDS = Limits(quota=QUOTA, user_budget=Money.parse("$10"), everyone_budget=Money.parse("$1000000"))


@dataclass(frozen=True)
class Breach:
    """One law that did not hold, and where."""

    law: str
    request_id: str
    detail: str


async def judge(storm: Storm) -> list[Breach]:
    """Return every law that was broken. Workers have stopped; `storm.standing` is fresh."""
    env, standing = storm.env, storm.rows
    return [
        *_paid_once(env, standing),
        *_none_lost(storm),
        *[one for request, video in standing for one in await in_words(env, request, video)],
        *await _books(env),
        *await _counters(env),
        *_limits(standing),
        *[Breach("unconfirmed", "-", f"update {number}") for number in env.api.pending_updates],
        *[
            Breach("breaker", "-", f"open for everyone: {one.why}")
            for one in await breaker.open_breakers(env.ledger)
            if one.scope == EVERYONE
        ],
    ]


def _paid_once(env: Stage, standing: list[tuple[Request, Video | None]]) -> Iterable[Breach]:
    """No order is charged twice: by its key, or where keys are unknown by the prompt of the job."""
    charged: Counter[str] = Counter(fingerprint(env, line) for line in env.fake_provider.charges())
    orders: dict[str, list[str]] = {}
    for _, video in standing:
        if video is not None:
            mark = provider_key(video.request_id) if env.kind == "keyed" else video.prompt.strip()
            orders.setdefault(mark, []).append(video.request_id)
    for mark, times in charged.items():
        mine = orders.get(mark, [])
        if times > len(mine):
            law = "duplicate" if mine else "nobody's charge"
            yield Breach(law, " ".join(mine) or "-", f"{times} charges under {mark[:60]!r}")


def fingerprint(env: Stage, line: dict[str, str]) -> str:
    """Return what a charge shows of whose it is."""
    if env.kind == "keyed":
        return line["key"]
    return str(env.fake_provider.jobs[line["job"]].fields["prompt"]).strip()


def _none_lost(storm: Storm) -> Iterable[Breach]:
    """Every command is a request, which rests and was told; nothing else made one."""
    there = {request.request_id: (request, video) for request, video in storm.rows}
    for request_id in storm.sent.keys() - there.keys():
        yield Breach("lost", request_id, "a command that is in no ledger")
    for request_id in there.keys() - storm.sent.keys():
        yield Breach("made up", request_id, "a request that nobody sent")
    for request_id, (request, video) in there.items():
        if not is_settled(request, video):
            state = request.state if video is None else video.state
            yield Breach("lost", request_id, f"{state}, told {request.told or 'nothing'}")


async def in_words(env: Stage, request: Request, video: Video | None) -> list[Breach]:
    """What stands in the chat is what the ledger says: the video itself, or the words for its end."""
    chat = env.api.user(request.user_id)
    mine = [b for b in chat.history() if not b.mine and f"#{request.short_id}" in b.text]
    if video is not None and video.state is VideoState.DELIVERED:
        if not any(bubble.media is not None for bubble in mine):
            return [Breach("lost", request.request_id, "delivered, and no video is in the chat")]
        return []
    charged = await reports.net_charged(env.ledger, request.request_id)
    wanted = _plain(render(request, video, Facts(request.updated_at, charged, _BOUNDS)).text)
    if not any(_same(bubble, wanted, timed=request.reason_until is not None) for bubble in mine):
        shown = [bubble.text for bubble in mine]
        return [Breach("lost", request.request_id, f"told {wanted!r}, but the chat shows {shown}")]
    return []


def _same(bubble: Bubble, wanted: str, *, timed: bool) -> bool:
    """Words that name a time were right when they were said: their beginning is compared."""
    shown = " ".join(bubble.text.split())
    return shown[:25] == wanted[:25] if timed else shown == wanted


def _plain(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


def doubled(env: Stage, standing: list[tuple[Request, Video | None]]) -> int:
    """Count the messages with a video beyond the first of a request: allowed, after a lost answer."""
    shown: Counter[str] = Counter()
    for user_id in {request.user_id for request, _ in standing}:
        for bubble in env.api.user(user_id).history():
            if bubble.media is not None and not bubble.mine:
                shown.update(re.findall(r"#([0-9a-f]{6})", bubble.text)[-1:])
    return sum(times - 1 for times in shown.values())


async def _books(env: Stage) -> Iterable[Breach]:
    """Charged less credited is, job by job, what the provider kept."""
    booked: Counter[str] = Counter()
    owner: dict[str, str] = {}
    async with env.ledger.read() as conn:
        for row in await conn.execute(select(entries).where(entries.c.kind.in_(("charge", "credit")))):
            job = row.job_id or "unknown"
            booked[job] += row.micros if row.kind == "charge" else -row.micros
            owner[job] = row.request_id
    kept = env.fake_provider.net()
    return [
        Breach("books", owner.get(job, "-"), f"{job}: booked {booked[job]}, provider kept {kept.get(job, 0)}")
        for job in sorted(booked.keys() | kept.keys())
        if booked[job] != kept.get(job, 0)
    ]


async def _counters(env: Stage) -> list[Breach]:
    """After a refresh Redis counts what the ledger counts. Time passes first: a reservation whose
    release was lost is dropped when it is older than any run.
    """
    env.set_clock(env.clock_file.shift + RESERVATION_GRACE_S + 60)
    await Admission(env.redis, LedgerCounters(env.ledger), RedisKeys(PREFIX), _BOUNDS, PAID_TOOL).refresh()
    members = await limits.counter_members(env.ledger, _BOUNDS)
    keys, found = RedisKeys(PREFIX), []
    for user in {one.user_id for one in members} | await limits.recent_users(env.ledger, 86_400):
        mine = [one for one in members if one.user_id == user]
        for name, key, wanted in (
            ("takes", keys.takes(PAID_TOOL, user), {one.request_id for one in mine if one.counts}),
            ("starts", keys.starts(PAID_TOOL, user), {one.request_id for one in mine if one.cools}),
        ):
            held = set(await env.redis.zrange(key, 0, -1))
            if held != wanted:
                odd = " ".join(sorted(held ^ wanted))
                found.append(Breach("counters", odd, f"{name} of {user}: {len(held)}, not {len(wanted)}"))
    wanted_money = {one.request_id: str(one.micros) for one in members if one.cools}
    if (held_money := await env.redis.hgetall(keys.all_money(PAID_TOOL))) != wanted_money:
        odd = " ".join(sorted(held_money.keys() ^ wanted_money.keys()))
        found.append(Breach("counters", odd, "the money of everyone"))
    return found


def _limits(standing: list[tuple[Request, Video | None]]) -> Iterable[Breach]:
    """Nobody has more videos of a day than the quota, unless a charge turned up after it was given back."""
    assert LIMITS["quota"] == f"{QUOTA}/day"
    times: dict[int, list[int]] = {}
    for request, video in standing:
        if video is not None and video.state not in QUOTA_FREE_STATES:
            times.setdefault(request.user_id, []).append(video.ordered_at)
    for user_id, mine in times.items():
        mine.sort()
        most = max(sum(at - DAY_MS < one <= at for one in mine) for at in mine)
        if most > QUOTA:
            yield Breach("limits", "-", f"user {user_id} has {most} videos in a day (quota {QUOTA})")


async def settle_holds(storm: Storm) -> int:
    """Do an operator's work: settle each HOLD by the provider's own log. Return how many there were."""
    env, settled = storm.env, 0
    for request, video in storm.rows:
        if video is None or video.state is not VideoState.HOLD:
            continue
        settled += 1
        job = video.job_id or await _unclaimed(env, video)
        if job is not None:
            await transitions.adopt_job(env.ledger, request.request_id, job, "operator:soak", None)
            continue
        await transitions.transition(
            env.ledger, request.request_id, VideoState.HOLD, VideoState.FAILED_UNPAID,
            "operator:soak", "not in the provider's log", failure="absent",
        )  # fmt: skip
    return settled


async def _unclaimed(env: Stage, video: Video) -> str | None:
    claimed = await transitions.claimed_jobs(env.ledger, video.provider)
    mark = provider_key(video.request_id) if env.kind == "keyed" else video.prompt.strip()
    mine = (
        line["job"]
        for line in env.fake_provider.charges()
        if fingerprint(env, line) == mark and line["job"] not in claimed
    )
    return next(mine, None)


async def history(env: Stage, request_id: str) -> list[str]:
    """Return one request's transitions as lines to read."""
    query = select(transition_rows).where(transition_rows.c.request_id == request_id)
    async with env.ledger.read() as conn:
        rows = (await conn.execute(query.order_by(transition_rows.c.transition_id))).all()
    return [f"{row.subject} {row.from_state or '·'} → {row.to_state}  {row.who}: {row.why}" for row in rows]


__all__ = ["FIRST_USER", "Breach", "doubled", "history", "in_words", "judge", "settle_holds"]
