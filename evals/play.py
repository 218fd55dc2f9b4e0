"""Plays one case in this process, on a house of its own, and returns the evidence."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from app.serve import REDELIVERY_S
from evals.acts import Actors, Missed, script
from evals.base import EvalError
from evals.case import Case, flat
from evals.events import Event, Redis
from evals.evidence import Evidence
from evals.gather import gather
from evals.killing import doomed
from evals.mutants.registry import MUTANTS, mutant
from evals.patience import unhurried
from evals.policies.policy import Policy
from evals.policies.registry import make
from evals.stage import QUICK_PACE, Plan, Stage, open_stage
from evals.topologies import topology
from evals.watching import Notes, note_uncaught, noting
from ledger.money import Money
from sandbox.proxy import Proxy

PATIENCE_S = 30.0
"""A request that does not rest by then has been forgotten."""

_BROKEN_S = 12.0
"""A broken house may never rest: what it did is seen before."""

_LEFT_S = 3.0
_ROOM_S = 90.0
_ON_THE_WIRE = ("down", "up", "lose_reply", "failover")
_PACE = replace(QUICK_PACE, slack_s=60)
"""A worker that a busy machine stopped for seconds may still send; a case about a dead one says less."""

_PATIENT = {"submit_timeout_s": 5.0}
"""A busy machine must not look like a provider that hangs; a case about hanging says less."""


@dataclass(frozen=True)
class Where:
    """What the process that plays has ready: a Valkey of its own, a migrated ledger to copy, a quick disk."""

    redis_url: str
    template: Path | None = None
    scratch: Path | None = None


def play(case: Case, where: Where, broken: str | None = None) -> Evidence:
    """Play one case; `broken` names a mutant to play it against. Never two at a time in one process.

    Raises:
        EvalError: The case asks for something that does not exist, or its model was stopped.
    """
    evidence = Evidence(case=case.id)
    began, cpu = time.monotonic(), time.process_time()
    doomed.clear()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=where.scratch, prefix="eval-")))
        notes = stack.enter_context(noting())
        stack.enter_context(mutant(broken))
        stack.enter_context(topology(case.topology))
        if not _needs_proxy(case.events):
            stack.enter_context(unhurried())
        policy = make(case.policy)
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
    where: Where,
    folder: Path,
    policy: Policy,
    notes: Notes,
    evidence: Evidence,
    broken: str | None,
) -> None:
    note_uncaught(notes)
    loose = broken is not None and MUTANTS[broken].widened and not _about_limits(case)
    patience_s = PATIENCE_S if broken is None or MUTANTS[broken].control else _BROKEN_S
    patience_s = max(patience_s, policy.patience_s)
    room = asyncio.timeout(_ROOM_S + policy.patience_s)
    async with room, _opened(case, where, folder, policy, loose=loose) as (stage, proxy):
        actors = Actors(case, stage, proxy, patience_s)
        await script(stage, case.provider)
        try:
            for event in case.events:
                await actors.perform(event)
        except Missed as error:
            evidence.missed = str(error)
        evidence.restless = await actors.rest(_LEFT_S if evidence.missed else patience_s)
        await policy.finish()
        await gather(evidence, actors, policy)
    await policy.close()


@asynccontextmanager
async def _opened(
    case: Case, where: Where, folder: Path, policy: Policy, *, loose: bool
) -> AsyncIterator[tuple[Stage, Proxy | None]]:
    changes: dict[str, str | None] = dict(case.limits)
    if loose:
        # The widened key makes every further call an order of its own: only the guard may stop it.
        changes = {"quota": "100/day", "cooldown": None, "breaker": None, "budget": None} | changes
    plan = Plan(
        folder, where.redis_url, policy,
        shape=case.shape, changes=changes, max_turns=case.max_turns,
        capabilities=_PATIENT | case.capabilities,
        pace=replace(_PACE, **case.pace),  # type: ignore[arg-type]  # times by name
        settings={"admins": case.admins}, per_second=Money.parse(case.per_second),
        redelivery_s=case.redelivery_s or REDELIVERY_S,
        bots=max(one.bot for one in case.people.values()), workers=case.workers, template=where.template,
    )  # fmt: skip
    if not _needs_proxy(case.events):
        async with open_stage(plan) as stage:
            yield stage, None
        return
    there: Any = urlsplit(where.redis_url)
    async with Proxy(there.hostname, there.port) as proxy:
        url = there._replace(netloc=there.netloc.replace(str(there.port), str(proxy.port))).geturl()
        async with open_stage(replace(plan, redis_url=url)) as stage:
            yield stage, proxy


def _about_limits(case: Case) -> bool:
    return bool({"quota", "cooldown", "breaker", "budget"} & set(case.expect.reasons or ()))


def _needs_proxy(events: tuple[Event, ...]) -> bool:
    return any(isinstance(one, Redis) and one.redis in _ON_THE_WIRE for one in flat(events))
