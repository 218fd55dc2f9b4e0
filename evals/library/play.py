"""Plays a case of a foreign agent and collects the evidence, scored as that of any other case."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agents import RunConfig, Runner
from agents.exceptions import MaxTurnsExceeded

from evals.adversaries.base import Adversary
from evals.adversaries.catalog import make_adversary
from evals.case import Case, ForeignAgent
from evals.environment import SingleModelProvider
from evals.events import EvalError, Redeliver, Restart, Send, Together
from evals.evidence import ChargeRecord, Evidence, Refusal, RequestFate, collect_notes, note_uncaught
from evals.library.agents import COST, Effect, Outside, tools_of, wire
from evals.mutants.registry import mutant
from evals.results import Played
from evals.runner import CaseResources
from evals.waiting import LagMeter, time_limit
from guardrails import Event, Guard, Money, SqlStore

_CASE_TIMEOUT_S = 60.0
_QUIET = frozenset({"admitted", "done", "settled"})
_MAX_TURNS = 30


@dataclass
class _Game:
    """One case while it is played. `acts` are the people's messages, oldest first."""

    case: Case
    spec: ForeignAgent
    folder: Path
    adversary: Adversary
    evidence: Evidence
    outside: Outside = field(default_factory=Outside)
    events: list[Event] = field(default_factory=list)
    acts: list[tuple[str, Send]] = field(default_factory=list)

    async def play(self) -> None:
        """Perform the events; a guard is closed and opened again where the case says so."""
        self.outside.outcomes.extend(self.spec.outcomes)
        events = list(self.case.events)
        while events:
            async with self._guard() as guard:
                agent = wire(self.spec, tools_of(self.spec, guard, self.outside))
                while events and not isinstance(events[0], Restart):
                    await self._perform(agent, guard, events.pop(0))
                self.evidence.doubts = len(await guard.pending())
                events = events[1:]
        if self.outside.outcomes:
            self.evidence.unmet = [f"no call was left to end in {one!r}" for one in self.outside.outcomes]

    def _guard(self) -> Guard:
        if self.spec.store == "memory":
            return Guard.in_memory(on_event=self.events.append)
        store = SqlStore(f"sqlite+aiosqlite:///{self.folder}/guard.db")
        return Guard(store=store, on_event=self.events.append)

    async def _perform(self, agent: Any, guard: Guard, event: Any) -> None:
        if isinstance(event, Together):
            await asyncio.gather(*(self._perform(agent, guard, one) for one in event.together))
        elif isinstance(event, Send):
            self.acts.append((f"act-{len(self.acts) + 1}", event))
            await self._run(agent, guard, *self.acts[-1])
        elif isinstance(event, Redeliver) and self.acts:
            await asyncio.gather(*(self._run(agent, guard, *self.acts[-1]) for _ in range(event.times)))
        else:
            raise EvalError(f"{type(event).__name__} is no event that a foreign agent knows")

    async def _run(self, agent: Any, guard: Guard, act: str, message: Send) -> None:
        config = RunConfig(model_provider=SingleModelProvider(self.adversary), tracing_disabled=True)
        request = guard.request(id=act, user=message.by, context=act)
        try:
            await Runner.run(
                agent, message.send, context=request, max_turns=self.case.max_turns or _MAX_TURNS,
                run_config=config,
            )  # fmt: skip
        except MaxTurnsExceeded:
            self.evidence.log.append("the run used up its turns")

    def collect(self) -> None:
        """Fill in the evidence: the effects are the charge log."""
        transcript, found = self.adversary.transcript, self.evidence
        found.tools = list(self.spec.tools)
        found.charges = [self._charge(one) for one in self.outside.effects]
        found.emitted, found.turns = transcript.emitted, transcript.turns
        found.heard, found.model_calls = transcript.heard, transcript.calls
        heard = "\n".join(transcript.heard)
        found.delivered = sum(one.result in heard for one in self.outside.effects)
        found.refusals = [
            Refusal(request=one.request, tool=one.tool, word=one.word, layer="library")
            for one in self.events
            if one.word not in _QUIET
        ]
        found.fates = [
            RequestFate(request=act, who=message.by, state=self._state(act)) for act, message in self.acts
        ]

    def _state(self, act: str) -> str:
        return "DONE" if any(one.act == act for one in self.outside.effects) else "NOTHING"

    def _charge(self, one: Effect) -> ChargeRecord:
        """Name what may happen once: the tool in the act, and the item where the terms have a key."""
        terms = self.spec.tools[one.tool]
        act = "" if terms.get("once") == "per_key" else one.act
        item = one.item if "key" in terms else ""
        return ChargeRecord(
            job=one.result, key=one.key, micros=Money.parse(COST).micros, request=f"{one.tool} {act} {item}"
        )


def play_foreign(cases: Sequence[Case], resources: CaseResources, broken: str | None = None) -> Played:
    """Play cases of foreign agents, one after the other."""
    return Played([_play(case, resources, broken) for case in cases])


def _play(case: Case, resources: CaseResources, broken: str | None) -> Evidence:
    evidence = Evidence(case=case.id)
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=resources.scratch, prefix="foreign-")))
        notes = stack.enter_context(collect_notes())
        lag = stack.enter_context(LagMeter())
        stack.enter_context(mutant(broken))
        game = _Game(case, case.agent or ForeignAgent(), folder, make_adversary(case.policy), evidence)
        asyncio.run(_limited(game, notes))
        game.collect()
    evidence.errors, evidence.tracebacks, evidence.log = notes.errors, notes.tracebacks, notes.log[:200]
    evidence.lag_s, evidence.idle_s, evidence.crowding = lag.worst_s, lag.idle_s, lag.crowding
    evidence.seconds = time.monotonic() - began
    return evidence


async def _limited(game: _Game, notes: Any) -> None:
    note_uncaught(notes)
    async with time_limit(_CASE_TIMEOUT_S):
        await game.play()
