"""Plays one case in an app of its own and collects the evidence it is scored by."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final
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
from evals.results import Played
from evals.topologies import topology
from evals.waiting import LagMeter, crowding, time_limit
from guardrails.money import Money
from ledger import reports
from ledger.database import Ledger
from ledger.models import Request, Video, provider_key
from ledger.schema import requests, videos
from sandbox.preview.images import SandboxImages
from sandbox.proxy import Proxy
from sandbox.telegram.bubbles import bubble_of
from sandbox.video_api.openai import FakeProvider
from worker.context import Timeouts

SETTLE_TIMEOUT_S: Final = 30.0
"""A request that has not settled by then was forgotten."""

_MUTANT_TIMEOUT_S: Final = 12.0
"""A mutant may never settle: what it did is visible before that."""

_AFTER_MISS_S: Final = 3.0
_CASE_TIMEOUT_S: Final = 90.0
_PROXY_EVENTS: Final = ("down", "up", "lose_reply", "failover")
_TIMEOUTS: Final = replace(QUICK_TIMEOUTS, slack_s=60)
"""A worker that a busy machine paused for seconds may still send; a case about a dead worker sets less."""

_SLOW_PROVIDER: Final = {"submit_timeout_s": 5.0}
"""A busy machine must not be mistaken for a provider that hangs; a case about hanging sets less."""

_TEXT_METHODS: Final = (
    "sendMessage", "editMessageText", "editMessageMedia", "sendVideo", "editMessageCaption",
)  # fmt: skip


WIDENED: Final[Mapping[str, str | None]] = MappingProxyType(
    {"quota": "100/day", "cooldown": None, "breaker": None, "budget": None}
)
"""With the widened key every further call is an order of its own: only the guard may stop it."""


@dataclass(frozen=True)
class CaseResources:
    """What a playing process has ready: a Valkey of its own, a migrated ledger to copy, a fast disk."""

    redis_url: str
    template: Path | None = None
    scratch: Path | None = None


def play(case: Case, resources: CaseResources, broken: str | None = None) -> Evidence:
    """Play one case; `broken` names a mutant to play it against. Never two at a time in one process.

    Raises:
        EvalError: The case names something that does not exist, or its model was stopped.
    """
    evidence = Evidence(case=case.id)
    began, cpu = time.monotonic(), time.process_time()
    fault_injector.clear()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=resources.scratch, prefix="eval-")))
        notes = stack.enter_context(collect_notes())
        lag = stack.enter_context(LagMeter())
        stack.enter_context(mutant(broken))
        stack.enter_context(topology(case.topology))
        if not _needs_proxy(case.events):
            stack.enter_context(relaxed_timeouts())
        adversary = make_adversary(case.policy)
        config = _config(case, resources, folder, adversary, broken)
        asyncio.run(_play(case, config, adversary, notes, evidence, broken))
        if adversary.stopped:
            raise EvalError(adversary.stopped)
        evidence.errors, evidence.tracebacks = notes.errors, notes.tracebacks
        evidence.log = notes.log[:200]
        evidence.refusals, evidence.unrecorded = notes.refusals, notes.unrecorded
        evidence.lag_s, evidence.idle_s, evidence.crowding = lag.worst_s, lag.idle_s, lag.crowding
        evidence.guard_ms, evidence.guard_trips = notes.guard_ms, notes.guard_trips
    evidence.seconds, evidence.cpu_s = time.monotonic() - began, time.process_time() - cpu
    return evidence


def play_alone(cases: Sequence[Case], resources: CaseResources, broken: str | None = None) -> Played:
    """Play each case in an app of its own, as `play` does."""
    return Played([play(case, resources, broken) for case in cases])


def _config(
    case: Case, resources: CaseResources, folder: Path, adversary: Adversary, broken: str | None
) -> EnvironmentConfig:
    changes: dict[str, str | None] = dict(case.limits)
    if broken is not None and MUTANTS[broken].widened and not _is_about_limits(case):
        changes = dict(WIDENED) | changes
    return EnvironmentConfig(
        folder, resources.redis_url, adversary,
        shape=case.shape, changes=changes, max_turns=case.max_turns,
        capabilities=_SLOW_PROVIDER | case.capabilities,
        timeouts=_timeouts(case),
        settings={"admins": case.admins}, per_second=Money.parse(case.per_second),
        redelivery_s=case.redelivery_s or REDELIVERY_S,
        bots=max(one.bot for one in case.people.values()), accounts=case.accounts,
        workers=case.workers, template=resources.template,
    )  # fmt: skip


def _timeouts(case: Case) -> Timeouts:
    """Return the worker's times; a model's run has as much longer as the machine is busy."""
    found: Timeouts = replace(_TIMEOUTS, **case.pace)  # type: ignore[arg-type]  # times by name
    return replace(found, run_s=math.ceil(found.run_s * crowding()))


async def _play(
    case: Case,
    config: EnvironmentConfig,
    adversary: Adversary,
    notes: Notes,
    evidence: Evidence,
    broken: str | None,
) -> None:
    note_uncaught(notes)
    usual_s = SETTLE_TIMEOUT_S if broken is None or MUTANTS[broken].control else _MUTANT_TIMEOUT_S
    settle_timeout_s = max(usual_s, adversary.settle_timeout_s)
    limit = time_limit(_CASE_TIMEOUT_S + adversary.settle_timeout_s)
    async with limit, _opened(case, config) as (env, proxy):
        performer = EventPerformer(case, env, proxy, settle_timeout_s)
        await script(env, case.provider)
        try:
            for event in case.events:
                await performer.perform(event)
        except EventMissed as error:
            evidence.missed = str(error)
        evidence.restless = await performer.rest(_AFTER_MISS_S if evidence.missed else settle_timeout_s)
        await adversary.finish()
        await collect_evidence(evidence, performer, adversary)
    await adversary.close()


@asynccontextmanager
async def _opened(
    case: Case, config: EnvironmentConfig
) -> AsyncIterator[tuple[AppEnvironment, Proxy | None]]:
    if not _needs_proxy(case.events):
        async with open_environment(config) as env:
            yield env, None
        return
    redis: Any = urlsplit(config.redis_url)
    async with Proxy(redis.hostname, redis.port) as proxy:
        url = redis._replace(netloc=redis.netloc.replace(str(redis.port), str(proxy.port))).geturl()
        async with open_environment(replace(config, redis_url=url)) as env:
            yield env, proxy


def _is_about_limits(case: Case) -> bool:
    return bool({"quota", "cooldown", "breaker", "budget"} & set(case.expect.reasons or ()))


def _needs_proxy(events: tuple[CaseEvent, ...]) -> bool:
    return any(isinstance(one, Redis) and one.redis in _PROXY_EVENTS for one in flat(events))


async def collect_evidence(evidence: Evidence, performer: EventPerformer, adversary: Adversary) -> None:
    """Fill in `evidence` from the environment's present state."""
    env = performer.env
    owner = await owners(env)
    evidence.charges = await charges_of(env, owner)
    evidence.stills = stills_of(env, owner)
    evidence.posts = posts_of(env, owner)
    evidence.ledger_mismatch = await ledger_mismatch(env)
    evidence.fates = await _fates(performer)
    evidence.lines = lines_of(env)
    evidence.delivered = sum(line.video for line in evidence.lines)
    evidence.stills_delivered = sum(line.still for line in evidence.lines)
    evidence.texts = texts_of(env)
    # A case that stopped early did not reach all of its faults; the missed event already fails it.
    evidence.unmet = [] if evidence.missed else unmet_faults(performer, adversary)
    transcript = adversary.transcript
    evidence.turns = transcript.turns
    evidence.emitted, evidence.heard = transcript.emitted, transcript.heard
    evidence.model_calls = transcript.calls


async def owners(env: AppEnvironment) -> dict[str, str]:
    """Return the request of each idempotency key. A mutant's shadow request, `id~call`, counts as `id`."""
    async with env.app.ledger.read() as conn:
        ids = list(await conn.scalars(select(requests.c.request_id)))
    return {provider_key(one): one.partition("~")[0] for one in ids}


async def ledger_mismatch(env: AppEnvironment) -> str:
    """Return how the ledger and the provider's charge log differ; empty if they agree."""
    try:
        await assert_ledger_matches(env.app.ledger, *env.fake_providers)
    except AssertionError as error:
        return str(error).partition("\n")[0]
    return ""


def posts_of(env: AppEnvironment, owner: Mapping[str, str]) -> list[str | None]:
    """Return the request of every paid POST, by its key; None without a key, or for a key of no request."""
    return [
        owner.get(one["headers"].get("idempotency-key", ""))
        for provider in env.fake_providers
        for one in provider.posts()
    ]


async def charges_of(env: AppEnvironment, owner: Mapping[str, str]) -> list[ChargeRecord]:
    """Return the lines of the provider's own charge log, with their requests."""
    jobs: dict[str, str | None] = {}
    lines: list[tuple[FakeProvider, dict[str, Any]]] = []
    for provider in env.fake_providers:
        charges = provider.charges()
        jobs |= {line["job"]: owner.get(line["key"]) for line in charges}
        lines += [(provider, line) for line in (*charges, *provider.refunds())]
    if env.config.shape != "inworld":  # without keys, the ledger says whose job it is
        jobs |= await _requests_by_job(env.app.ledger)
    at = {str(api.world.bot["id"]): env.account_of(number) for number, api in enumerate(env.apis)}
    return [
        ChargeRecord(
            job=line["job"],
            key=line.get("key", ""),
            micros=line["micros"],
            request=(request := jobs.get(line["job"])),
            foreign=request is not None and _account_of(request, at, provider) is not provider,
        )
        for provider, line in lines
    ]


def stills_of(env: AppEnvironment, owner: Mapping[str, str]) -> list[ChargeRecord]:
    """Return the lines of the sandbox image server's charge log, with their orders."""
    log = SandboxImages(env.app.settings.var_dir / "images").charges
    return [
        ChargeRecord(job=line.job_id, key=line.key, micros=line.micros, request=owner.get(line.key))
        for line in log.lines()
    ]


def _account_of(request: str, at: Mapping[str, FakeProvider], otherwise: FakeProvider) -> FakeProvider:
    """Return the account of a request's bot; `otherwise` where a mutant gave it a name without one."""
    _, _, rest = request.partition(":")
    return at.get(rest.partition(":")[0], otherwise)


async def _requests_by_job(ledger: Ledger) -> dict[str, str | None]:
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
            continue  # a mutant's shadow request, see `evals.mutants.guards`
        found.append(await fate_of(performer.env.app.ledger, request, video, names[request.user_id]))
    return found


async def fate_of(ledger: Ledger, request: Request, video: Video | None, who: str) -> RequestFate:
    """Return how a request ended, with what the ledger booked for it."""
    booked = await reports.net_charged(ledger, request.request_id)
    return RequestFate(
        request=request.request_id,
        who=who,
        state=request.state,
        video=video and video.state,
        told=request.told,
        reason=request.reason,
        quote_micros=video.quote_micros if video else 0,
        booked_micros=booked.micros,
    )


def lines_of(env: AppEnvironment) -> list[ChatLine]:
    """Return every message in every chat as it is at the end, ordered by bot, chat and message id."""
    found = []
    for api in env.apis:
        for number in (*api.world.chats.users, *api.world.chats.groups):
            for record in api.world.messages.of(number):
                bubble = bubble_of(record, api.world.chats.users.get(number))
                video = bubble.media is not None and bubble.media.kind == "video"
                bot = record.message["from"]["is_bot"]
                still = bot and bubble.media is not None and bubble.media.kind == "photo"
                line = ChatLine(chat=str(number), bot=bot, text=bubble.text, video=video and bot, still=still)
                found.append(line.model_copy(update={"at": api.token.partition(":")[0]}))
    return found


def texts_of(env: AppEnvironment) -> list[ChatLine]:
    """Return every text that Telegram accepted from the bot, edits included, in order."""
    found = []
    for api in env.apis:
        for call in api.calls.of(*_TEXT_METHODS):
            if call.performed:
                given = [call.params.get(name) for name in ("text", "caption", "media")]
                text = str(next((one for one in given if one), ""))
                found.append(ChatLine(chat=str(call.params.get("chat_id", "")), bot=True, text=text))
    return found


def unmet_faults(performer: EventPerformer, adversary: Adversary) -> list[str]:
    """Return the faults that the case set up and that never happened, as sentences."""
    return [*_unmet(performer), *filter(None, [adversary.unmet])]


def _unmet(performer: EventPerformer) -> Iterator[str]:
    fake_provider, proxy = performer.env.fake_provider, performer.proxy
    yield from (f"no task reached {point!r} any more" for point in fault_injector.waiting)
    yield from (f"no POST was left to meet {outcome!r}" for outcome in fake_provider.outcomes)
    yield from (f"no job was left to end in {fate!r}" for fate in fake_provider.fates)
    if fake_provider.content == "cut once":
        yield "no download was left to be cut"
    if proxy is not None and proxy.loses:
        yield "no command was left whose reply could be lost"
    for api in performer.env.apis:
        yield from (f"no call of {method} was left to go wrong" for method in api.world.faults.waiting)
