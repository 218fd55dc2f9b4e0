"""Hypothesis state machine over guard, ledger and worker; a counterexample is written as a YAML case.

Safety: a request is never charged twice. Utility: a valid call and a healthy provider make exactly one video.
"""

import asyncio
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rich.console import Console

from app.embedded_redis import embedded_valkey
from evals.environment import assert_ledger_matches
from evals.events import FAILED, OK
from evals.faults import fault_injector, relaxed_timeouts
from evals.fuzz.pipeline import (
    FAULTS,
    SETTLE_ROUNDS,
    STEP_S,
    USER,
    FuzzResources,
    next_example,
    open_fuzz_pipeline,
    request_name,
    scripted,
)
from evals.mutants.registry import mutant
from evals.pool import scratch_disk
from ledger import database
from ledger.database import Ledger
from ledger.models import VideoState
from sandbox.video_api.server import PostOutcome
from telemetry.failpoints import Failpoint
from telemetry.logs import setup_logs

_PROVOKED: Final = ("in doubt", "operator needed", "reconciliation failed", "order held")
"""What the app rightly logs as an error when a provider fails."""


class CaseWriter:
    """Writes a game as a case. The machine's own steps (`work`) become rests.

    Attributes:
        keyed: Whether the provider honors idempotency keys.
        sound: Whether every request had a valid call and no loss was final: then each video must arrive.
    """

    def __init__(self) -> None:
        self.keyed = self.sound = True
        self._turns: list[dict[str, Any]] = [{"calls": [{}]}]
        self._events: list[dict[str, Any]] = []
        self._kills: list[dict[str, Any]] = []
        self._script: list[PostOutcome] = []
        self._sent = 0

    def deliver(self) -> None:
        self._sent += 1
        self._events.append({"send": "/create a market at dawn", "named": f"message {self._sent}"})

    def redeliver(self, number: int) -> None:
        self._events.append({"redeliver": f"message {number}", "times": 1})

    def model_calls(self, turns: list[dict[str, Any]]) -> None:
        """Keep the latest turns: a case has one script for all runs."""
        self._turns = turns

    def work(self) -> None:
        if self._events and "rest" not in self._events[-1]:
            self._events.append({"rest": 1})

    def provider_fault(self, outcome: PostOutcome) -> None:
        self._script.append(outcome)

    def crash_worker(self, at: Failpoint) -> None:
        # Set before anything is sent: a case does not wait for its director, which might be past the point.
        self._kills += [{"worker": "start"}, {"worker": "kill", "at": at}]

    def redis_flush(self) -> None:
        self._events.append({"redis": "flush"})

    def advance_clock(self, seconds: int) -> None:
        self._events.append({"shift": f"{seconds}s"})

    def case(self, name: str = "J99") -> dict[str, Any]:
        """Return the case as it would be in a file."""
        faults = {"provider": {"script": self._script}} if self._script else {}
        return {
            "id": name,
            "title": "Found by the machine; write here in one sentence what must hold.",
            "policy": {"name": "script", "options": {"turns": self._turns}},
            "shape": "inworld" if self.keyed else "openai",
            **faults,
            "limits": {"cooldown": None},
            "events": [*self._kills, *self._events],
            "expect": self._expect(),
        }

    def _expect(self) -> dict[str, Any]:
        """Return what the machine checks: with no obstacle each video arrives, otherwise at most once."""
        sure = self.sound and not self._script
        counts: dict[str, Any] = {
            name: self._sent if sure else {"most": self._sent} for name in ("paid", "delivered")
        }
        errors = {"errors": list(_PROVOKED)} if self._script else {}
        return counts | {"attempts": {"least": 1}} | errors

    def yaml(self) -> str:
        """Return the case as YAML, ready for `evals/cases/`."""
        return yaml.safe_dump([self.case()], sort_keys=False, allow_unicode=True, width=120)


_MAX_REQUESTS: Final = 3
_MAX_KILLS: Final = 2
"""A request has three attempts: if all were killed, it would rightly end without a video."""

_MAX_SHIFT_S: Final = 600
"""In total: less than an order waits for a worker before it expires."""

_KILL_POINTS: Final[tuple[Failpoint, ...]] = (
    "admitted", "answered", "ordered", "submitting", "in_run", "accepted",
)  # fmt: skip
_MALFORMED: Final[tuple[dict[str, Any], ...]] = (
    {"raw": '{"prompt": "A market'}, {"leave_out": ["prompt"]}, {"args": {"seconds": 7}},
)  # fmt: skip
_VALID: Final[tuple[dict[str, Any], ...]] = (
    {}, {"times": 2}, {"id": "call_7"}, {"args": {"prompt": "Another take of {idea}"}},
    {"args": {"prompt": "  A  MARKET  "}}, {"args": {"seconds": 4}},
    {"raw": '{"size":"720x1280","seconds":8,"prompt":"a market"}'},
)  # fmt: skip
_CALLS: Final = st.sampled_from((*_VALID, *_MALFORMED))
_TURNS: Final = st.lists(
    st.lists(_CALLS, min_size=1, max_size=3).map(lambda calls: {"calls": calls}), min_size=1, max_size=3
)


class Machine(RuleBasedStateMachine):
    """One game. The caller sets `resources`."""

    resources: FuzzResources

    def __init__(self) -> None:
        super().__init__()
        fault_injector.clear()
        self.loop = asyncio.Runner()
        self.writer = CaseWriter()
        self.names: list[str] = []
        self.kills = self.shifted = 0
        self.faulty = False
        self.healthy = self.recoverable = True
        self.valid = True
        self.hopeless: set[str] = set()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run(work)

    @initialize(keyed=st.booleans(), faulty=st.booleans(), turns=_TURNS)
    def open(self, *, keyed: bool, faulty: bool, turns: list[dict[str, Any]]) -> None:
        self.writer.keyed, self.faulty = keyed, faulty
        self.example, self.stack = next_example(), AsyncExitStack()
        opening = open_fuzz_pipeline(self.resources, keyed=keyed)
        self.pipeline = self.do(self.stack.enter_async_context(opening))
        self._script(turns)
        self.deliver()

    @precondition(lambda self: len(self.names) < _MAX_REQUESTS)
    @rule()
    def deliver(self) -> None:
        self.writer.deliver()
        self.names.append(self._open_request(len(self.names) + 1))
        if not self.valid:
            self.hopeless.add(self.names[-1])

    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, len(self.names)), "number")
        self.writer.redeliver(number)
        self._open_request(number)

    def _open_request(self, number: int) -> str:
        """Persist one command and wake the director, as the chat does for each delivery of its update."""
        name = request_name(self.example, number)
        self.do(self.pipeline.open_request(USER, request_id=name))
        self.do(self.pipeline.queue.wake("run_agent", name))
        return name

    @rule(turns=_TURNS)
    def model_calls(self, turns: list[dict[str, Any]]) -> None:
        self._script(turns)
        self.do(self.pipeline.run_agents(self.names))

    def _script(self, turns: list[dict[str, Any]]) -> None:
        self.writer.model_calls(turns)
        self.valid = any(call in _VALID for turn in turns for call in turn["calls"])
        if not self.valid:
            self.hopeless |= set(self.names)
        self.pipeline.models.model = scripted(turns)

    @rule()
    def work(self) -> None:
        self.writer.work()
        self.do(self.pipeline.work())

    @precondition(lambda self: self.faulty)
    @rule(outcome=st.sampled_from(FAULTS))
    def provider_fault(self, outcome: PostOutcome) -> None:
        self.writer.provider_fault(outcome)
        self.healthy = False
        self.pipeline.fake_provider.outcomes.append(outcome)

    @precondition(lambda self: self.kills < _MAX_KILLS)
    @rule(at=st.sampled_from(_KILL_POINTS))
    def crash_worker(self, at: Failpoint) -> None:
        self.writer.crash_worker(at)
        self.kills += 1
        # Killed before the POST, without a key to replay: absence from the list proves that it was not sent.
        self.recoverable &= at != "submitting" or self.writer.keyed
        fault_injector.set_at(at)

    @rule()
    def redis_flush(self) -> None:
        self.writer.redis_flush()
        self.do(self.pipeline.redis.flushall())

    @precondition(lambda self: self.shifted < _MAX_SHIFT_S)
    @rule(seconds=st.sampled_from((5, 30, 130)))
    def advance_clock(self, seconds: int) -> None:
        self.writer.advance_clock(seconds)
        self.shifted += seconds
        self.pipeline.ledger.shift += seconds

    @invariant()
    def paid_at_most_once(self) -> None:
        if not self.names:
            return
        twice = {name: times for name, times in self.pipeline.fake_provider.paid().items() if times > 1}
        assert not twice, f"paid more than once: {twice}"

    def teardown(self) -> None:
        try:
            if self.names:
                self._check_end_state()
        finally:
            fault_injector.clear()
            if self.names:
                self.do(self.stack.aclose())
            self.loop.close()
            self.writer.sound = self.recoverable and not self.hopeless
            note(f"as a case:\n{self.writer.yaml()}")

    def _check_end_state(self) -> None:
        fault_injector.clear()
        self.pipeline.fake_provider.outcomes.clear()
        left = self.do(self.pipeline.settle(USER, STEP_S, SETTLE_ROUNDS))
        assert not left, f"not settled: {left}"
        self.paid_at_most_once()
        self.do(assert_ledger_matches(self.pipeline.ledger, self.pipeline.fake_provider))
        if not (self.healthy and self.recoverable):
            return
        paid = self.pipeline.fake_provider.paid()
        for request, video in self.do(self.pipeline.all_requests(USER)):
            name = request.request_id
            if "~" in name or name in self.hopeless:
                continue
            assert paid[name] == 1, (
                f"a valid call and a healthy provider, and {paid[name]} charges for {name}"
            )
            ended = video.state if video is not None else request.state
            assert ended is VideoState.SUCCEEDED, f"{name} ended as {ended}"


def run_fuzz(console: Console, examples: int, *, number: int | None, broken: str | None) -> int:
    """Play games; print a counterexample with its case; return the exit code."""
    began = time.monotonic()
    with open_fuzz_resources() as resources:
        setup_logs("CRITICAL", "json", resources.folder / "log.jsonl")
        try:
            fuzz(resources, examples, number=number, broken=broken)
        except Exception as error:  # noqa: BLE001 - an assertion, or several that hypothesis found
            console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
            for line in getattr(error, "__notes__", ()):
                console.print(line, markup=False, highlight=False)
            return FAILED
    took = time.monotonic() - began
    console.print(f"{examples} games in {took:.0f} s: paid at most once, and every request settled")
    return OK


@contextmanager
def open_fuzz_resources() -> Iterator[FuzzResources]:
    """Start a Valkey and migrate an empty ledger, in a folder that is deleted after the block."""
    with tempfile.TemporaryDirectory(dir=scratch_disk(), prefix="fuzz-") as name:
        folder = Path(name)
        asyncio.run(_migrate(folder / "empty.db"))
        with embedded_valkey(folder / "valkey") as url:
            yield FuzzResources(url, folder / "empty.db", folder)


async def _migrate(path: Path) -> None:
    store = Ledger(f"sqlite:///{path}")
    await database.migrate(store)
    await store.close()


def fuzz(
    resources: FuzzResources,
    examples: int,
    *,
    number: int | None = None,
    broken: str | None = None,
    shrink: bool = True,
    steps: int = 7,
) -> None:
    """Play `examples` games of at most `steps` steps; without `number`, always the same ones.

    Raises:
        AssertionError: An invariant was broken; the notes hold the game as a YAML case.
    """
    machine = type("BoundMachine", (Machine,), {"resources": resources})
    chosen = machine if number is None else seed(number)(machine)
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    config = settings(
        max_examples=examples, stateful_step_count=steps, derandomize=number is None, database=None,
        deadline=None, phases=phases, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
    with mutant(broken), relaxed_timeouts():
        run_state_machine_as_test(chosen, settings=config)
