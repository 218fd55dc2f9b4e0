"""Plays one case, collects its evidence, scores it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from sqlalchemy import select

from app.processes import REDELIVERY_S
from evals.actions import EventMissed, EventPerformer, script
from evals.adversaries.base import Adversary
from evals.adversaries.catalog import make_adversary
from evals.case import Case, flat
from evals.environment import (
    QUICK_TIMEOUTS,
    AppEnvironment,
    EnvironmentConfig,
    assert_ledger_matches,
    open_environment,
)
from evals.events import CaseEvent, EvalError, Redis
from evals.evidence import ChargeRecord, ChatLine, Evidence, Notes, RequestFate, collect_notes, note_uncaught
from evals.faults import fault_injector, relaxed_timeouts
from evals.mutants.registry import MUTANTS, mutant
from evals.scorer import Check
from evals.topologies import topology
from guardrails.money import Money
from ledger import reports
from ledger.database import Ledger
from ledger.models import provider_key
from ledger.schema import requests, videos
from sandbox.proxy import Proxy
from sandbox.telegram.user import bubble_of


def unmet_faults(performer: EventPerformer, policy: Adversary) -> list[str]:
    """Return what the case set up and nobody met, in words."""
    return [*_of(performer), *([policy.unmet] if policy.unmet else ())]


def _of(performer: EventPerformer) -> Iterator[str]:
    fake_provider, proxy = performer.env.fake_provider, performer.proxy
    yield from (f"nobody came to {point!r} any more" for point in fault_injector.waiting)
    yield from (f"no POST was left to meet {word!r}" for word in fake_provider.outcomes)
    yield from (f"no job was left to end in {word!r}" for word in fake_provider.fates)
    if fake_provider.content == "cut once":
        yield "no download was left to be cut"
    if proxy is not None and proxy.loses:
        yield "no command was left whose reply could be lost"
    for api in performer.env.apis:
        yield from (f"no call of {method} was left to go wrong" for method in api.world.faults.waiting)


_TEXTS = ("sendMessage", "editMessageText", "editMessageMedia", "sendVideo", "editMessageCaption")


async def collect_evidence(evidence: Evidence, performer: EventPerformer, policy: Adversary) -> None:
    """Fill `evidence` in from the stage as it stands now."""
    env = performer.env
    owner = await owners(env)
    evidence.charges = await _charges(env, owner)
    evidence.posts = [
        owner.get(one["headers"].get("idempotency-key", "")) for one in env.fake_provider.posts()
    ]
    try:
        await assert_ledger_matches(env.app.ledger, env.fake_provider)
    except AssertionError as error:
        evidence.books = str(error).partition("\n")[0]
    evidence.fates = await _fates(performer)
    evidence.lines = _lines(performer)
    evidence.delivered = sum(line.video for line in evidence.lines)
    evidence.texts = _texts(env)
    # A case that stopped early did not come to all of its faults: why it stopped is reason enough.
    evidence.unmet = [] if evidence.missed else unmet_faults(performer, policy)
    diary = policy.transcript
    evidence.turns = diary.turns
    evidence.emitted, evidence.heard, evidence.model_calls = diary.emitted, diary.heard, diary.calls


async def owners(env: AppEnvironment) -> dict[str, str]:
    """Return which request each of our keys is for. A mutant's shadow, `id~call`, is the same user's act."""
    async with env.app.ledger.read() as conn:
        ids = list(await conn.scalars(select(requests.c.request_id)))
    return {provider_key(one): one.partition("~")[0] for one in ids}


async def _charges(env: AppEnvironment, owner: dict[str, str]) -> list[ChargeRecord]:
    jobs: dict[str, str | None] = {
        line["job"]: owner.get(line["key"]) for line in env.fake_provider.charges()
    }
    lines = [*env.fake_provider.charges(), *env.fake_provider.refunds()]
    if env.plan.shape != "inworld":  # these send no key: jobs are found by what the ledger holds
        jobs |= await _by_job(env.app.ledger)
    return [
        ChargeRecord(
            job=one["job"], key=one.get("key", ""), micros=one["micros"], request=jobs.get(one["job"])
        )
        for one in lines
    ]


async def _by_job(ledger: Ledger) -> dict[str, str | None]:
    async with ledger.read() as conn:
        rows = await conn.execute(
            select(videos.c.job_id, videos.c.request_id).where(videos.c.job_id.is_not(None))
        )
        return {row.job_id: row.request_id.partition("~")[0] for row in rows}


async def _fates(performer: EventPerformer) -> list[RequestFate]:
    names = {number: name for name, number in reversed(performer.ids.items())}
    found = []
    for request, video in await performer.everything():
        if "~" in request.request_id:
            continue  # a mutant's, see `evals.mutants.guards`
        booked = await reports.net_charged(performer.env.app.ledger, request.request_id)
        found.append(
            RequestFate(
                request=request.request_id,
                who=names[request.user_id],
                state=request.state,
                video=video and video.state,
                told=request.told,
                reason=request.reason,
                quote_micros=video.quote_micros if video else 0,
                booked_micros=booked.micros,
            )
        )
    return found


def _lines(performer: EventPerformer) -> list[ChatLine]:
    """Every message that stands in a chat, by bot and chat in the order of its number."""
    found = []
    for api in performer.env.apis:
        for number in (*api.world.chats.users, *api.world.chats.groups):
            for record in api.world.messages.of(number):
                bubble = bubble_of(record, max(0, number))
                video = bubble.media is not None and bubble.media.kind == "video"
                bot = record.message["from"]["is_bot"]
                line = ChatLine(chat=str(number), bot=bot, text=bubble.text, video=video and bot)
                found.append(line.model_copy(update={"at": api.token.partition(":")[0]}))
    return found


def _texts(env: AppEnvironment) -> list[ChatLine]:
    """Every text that Telegram took from the bot, edits included, in order."""
    found = []
    for api in env.apis:
        for call in api.calls.of(*_TEXTS):
            if call.performed:
                text = str(
                    call.params.get("text") or call.params.get("caption") or call.params.get("media") or ""
                )
                found.append(ChatLine(chat=str(call.params.get("chat_id", "")), bot=True, text=text))
    return found


SETTLE_TIMEOUT_S = 30.0
"""A request that does not rest by then has been forgotten."""

_MUTANT_TIMEOUT_S = 12.0
"""A broken house may never rest: what it did is seen before."""

_AFTER_MISS_S = 3.0
_CASE_TIMEOUT_S = 90.0
_PROXY_EVENTS = ("down", "up", "lose_reply", "failover")
_TIMEOUTS = replace(QUICK_TIMEOUTS, slack_s=60)
"""A worker that a busy machine stopped for seconds may still send; a case about a dead one says less."""

_SLOW_PROVIDER = {"submit_timeout_s": 5.0}
"""A busy machine must not look like a provider that hangs; a case about hanging says less."""


@dataclass(frozen=True)
class CaseResources:
    """What the process that plays has ready: a Valkey of its own, a migrated ledger to copy, a quick disk."""

    redis_url: str
    template: Path | None = None
    scratch: Path | None = None


def play(case: Case, where: CaseResources, broken: str | None = None) -> Evidence:
    """Play one case; `broken` names a mutant to play it against. Never two at a time in one process.

    Raises:
        EvalError: The case asks for something that does not exist, or its model was stopped.
    """
    evidence = Evidence(case=case.id)
    began, cpu = time.monotonic(), time.process_time()
    fault_injector.clear()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=where.scratch, prefix="eval-")))
        notes = stack.enter_context(collect_notes())
        stack.enter_context(mutant(broken))
        stack.enter_context(topology(case.topology))
        if not _needs_proxy(case.events):
            stack.enter_context(relaxed_timeouts())
        policy = make_adversary(case.policy)
        asyncio.run(
            _play(
                case,
                where,
                folder,
                policy,
                notes,
                evidence,
                broken,
            )
        )
        if policy.stopped:
            raise EvalError(policy.stopped)
        evidence.errors, evidence.log = notes.errors, notes.log[:200]
        evidence.refusals, evidence.unrecorded = notes.refusals, notes.unrecorded
        evidence.guard_ms, evidence.guard_trips = notes.guard_ms, notes.guard_trips
    evidence.seconds, evidence.cpu_s = time.monotonic() - began, time.process_time() - cpu
    return evidence


async def _play(
    case: Case,
    where: CaseResources,
    folder: Path,
    policy: Adversary,
    notes: Notes,
    evidence: Evidence,
    broken: str | None,
) -> None:
    note_uncaught(notes)
    loose = broken is not None and MUTANTS[broken].widened and not _about_limits(case)
    patience_s = SETTLE_TIMEOUT_S if broken is None or MUTANTS[broken].control else _MUTANT_TIMEOUT_S
    patience_s = max(patience_s, policy.settle_timeout_s)
    room = asyncio.timeout(_CASE_TIMEOUT_S + policy.settle_timeout_s)
    async with room, _opened(case, where, folder, policy, loose=loose) as (env, proxy):
        performer = EventPerformer(case, env, proxy, patience_s)
        await script(env, case.provider)
        try:
            for event in case.events:
                await performer.perform(event)
        except EventMissed as error:
            evidence.missed = str(error)
        evidence.restless = await performer.rest(_AFTER_MISS_S if evidence.missed else patience_s)
        await policy.finish()
        await collect_evidence(evidence, performer, policy)
    await policy.close()


@asynccontextmanager
async def _opened(
    case: Case, where: CaseResources, folder: Path, policy: Adversary, *, loose: bool
) -> AsyncIterator[tuple[AppEnvironment, Proxy | None]]:
    changes: dict[str, str | None] = dict(case.limits)
    if loose:
        # The widened key makes every further call an order of its own: only the guard may stop it.
        changes = {"quota": "100/day", "cooldown": None, "breaker": None, "budget": None} | changes
    plan = EnvironmentConfig(
        folder, where.redis_url, policy,
        shape=case.shape, changes=changes, max_turns=case.max_turns,
        capabilities=_SLOW_PROVIDER | case.capabilities,
        timeouts=replace(_TIMEOUTS, **case.pace),  # type: ignore[arg-type]  # times by name
        settings={"admins": case.admins}, per_second=Money.parse(case.per_second),
        redelivery_s=case.redelivery_s or REDELIVERY_S,
        bots=max(one.bot for one in case.people.values()), workers=case.workers, template=where.template,
    )  # fmt: skip
    if not _needs_proxy(case.events):
        async with open_environment(plan) as env:
            yield env, None
        return
    there: Any = urlsplit(where.redis_url)
    async with Proxy(there.hostname, there.port) as proxy:
        url = there._replace(netloc=there.netloc.replace(str(there.port), str(proxy.port))).geturl()
        async with open_environment(replace(plan, redis_url=url)) as env:
            yield env, proxy


def _about_limits(case: Case) -> bool:
    return bool({"quota", "cooldown", "breaker", "budget"} & set(case.expect.reasons or ()))


def _needs_proxy(events: tuple[CaseEvent, ...]) -> bool:
    return any(isinstance(one, Redis) and one.redis in _PROXY_EVENTS for one in flat(events))


CaseVerdict = Literal["ok", "failed", "incomplete"]
OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INCOMPLETE: Final = 3


@dataclass(frozen=True)
class Result:
    """One playing of one case; `trouble` says why there is no evidence."""

    case: Case
    turn: int = 1
    checks: Sequence[Check] = ()
    evidence: Evidence | None = None
    trouble: str = ""

    @property
    def name(self) -> str:
        return self.case.id if self.turn == 1 else f"{self.case.id}#{self.turn}"

    @property
    def verdict(self) -> CaseVerdict:
        if self.evidence is None or self.trouble:
            return "incomplete"
        return "ok" if all(check.holds for check in self.checks) else "failed"

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.holds]

    @property
    def reason(self) -> str:
        """One line for people."""
        if self.verdict == "incomplete":
            return self.trouble
        return "; ".join(f"{check.name}: {check.reason}" for check in self.failures)


@dataclass(frozen=True)
class Results:
    """A whole run. `broken` is the mutant that it was run against."""

    results: Sequence[Result]
    seconds: float
    broken: str | None = None
    notes: Sequence[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """An expectation that failed outweighs a case that is incomplete."""
        verdicts = {result.verdict for result in self.results}
        if "failed" in verdicts:
            return FAILED
        return INCOMPLETE if "incomplete" in verdicts or not self.results else OK

    def of(self, verdict: CaseVerdict) -> list[Result]:
        return [result for result in self.results if result.verdict == verdict]
