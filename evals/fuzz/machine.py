"""The state machine: deliveries, calls, faults, deaths, an emptied Redis and a moving clock, in any order.

*Safety*: never two charges for a request, whatever happened. *Utility*: a valid call and a healthy provider
make exactly one video. *Order*: everything comes to rest, and the books are the provider's.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from evals.fuzz.bench import Bench, Ground
from evals.fuzz.provider import FAULTS
from evals.fuzz.story import Story
from evals.killing import doomed
from ledger.words import VideoState
from sandbox.video_api.server import Outcome
from telemetry.failpoints import Point

_MOST_REQUESTS: Final = 3
_MOST_DEATHS: Final = 2
"""An attempt may die twice; the third of a request must be let live, else it rightly ends without a video."""

_MOST_SHIFT_S: Final = 600
"""In all: less than an order waits for a worker."""

_DEADLY: Final[tuple[Point, ...]] = (
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
    """One game. `ground` is set by whoever plays."""

    ground: Ground

    def __init__(self) -> None:
        super().__init__()
        doomed.clear()
        self.loop = asyncio.Runner()
        self.story = Story()
        self.names: list[str] = []
        self.deaths = self.shifted = 0
        self.faulty = False
        self.healthy = self.lives = True
        self.valid = True
        self.hopeless: set[str] = set()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run(work)

    @initialize(keyed=st.booleans(), faulty=st.booleans(), turns=_TURNS)
    def open(self, *, keyed: bool, faulty: bool, turns: list[dict[str, Any]]) -> None:
        self.story.keyed, self.faulty = keyed, faulty
        self.bench = Bench(self.ground, keyed)
        self.do(self.bench.__aenter__())
        self._say(turns)
        self.deliver()

    @precondition(lambda self: len(self.names) < _MOST_REQUESTS)
    @rule()
    def deliver(self) -> None:
        self.story.deliver()
        self.names.append(self.do(self.bench.deliver(len(self.names) + 1)))
        if not self.valid:
            self.hopeless.add(self.names[-1])

    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, len(self.names)), "number")
        self.story.redeliver(number)
        self.do(self.bench.deliver(number))

    @rule(turns=_TURNS)
    def model_calls(self, turns: list[dict[str, Any]]) -> None:
        self._say(turns)
        self.do(self.bench.run(self.names))

    def _say(self, turns: list[dict[str, Any]]) -> None:
        self.story.model_calls(turns)
        self.valid = any(call in _VALID for turn in turns for call in turn["calls"])
        if not self.valid:
            self.hopeless |= set(self.names)
        self.bench.play(turns)

    @rule()
    def work(self) -> None:
        self.story.work()
        self.do(self.bench.work())

    @precondition(lambda self: self.faulty)
    @rule(outcome=st.sampled_from(FAULTS))
    def provider_fault(self, outcome: Outcome) -> None:
        self.story.provider_fault(outcome)
        self.healthy = False
        self.bench.provider.outcomes.append(outcome)

    @precondition(lambda self: self.deaths < _MOST_DEATHS)
    @rule(at=st.sampled_from(_DEADLY))
    def crash_worker(self, at: Point) -> None:
        self.story.crash_worker(at)
        self.deaths += 1
        # Dead before the POST, and nobody can be asked by a key: absent from the list is the truth.
        self.lives &= at != "submitting" or self.bench.keyed
        doomed.set_at(at)

    @rule()
    def redis_flush(self) -> None:
        self.story.redis_flush()
        self.do(self.bench.redis.flushall())

    @precondition(lambda self: self.shifted < _MOST_SHIFT_S)
    @rule(seconds=st.sampled_from((5, 30, 130)))
    def advance_clock(self, seconds: int) -> None:
        self.story.advance_clock(seconds)
        self.shifted += seconds
        self.bench.ledger.shift += seconds

    @invariant()
    def paid_at_most_once(self) -> None:
        if not self.names:
            return
        twice = {name: times for name, times in self.bench.provider.paid().items() if times > 1}
        assert not twice, f"paid more than once: {twice}"

    def teardown(self) -> None:
        try:
            if self.names:
                self._judge()
        finally:
            doomed.clear()
            if self.names:
                self.do(self.bench.__aexit__())
            self.loop.close()
            self.story.sound = self.lives and not self.hopeless
            note(f"as a case:\n{self.story.yaml()}")

    def _judge(self) -> None:
        doomed.clear()
        self.bench.provider.outcomes.clear()
        left = self.do(self.bench.calm())
        assert not left, f"forgotten: {left}"
        self.paid_at_most_once()
        self.do(self.bench.books_agree())
        if not (self.healthy and self.lives):
            return
        paid = self.bench.provider.paid()
        for request, video in self.do(self.bench.everything()):
            name = request.request_id
            if "~" in name or name in self.hopeless:
                continue
            assert paid[name] == 1, (
                f"a valid call and a healthy provider, and {paid[name]} charges for {name}"
            )
            ended = video.state if video is not None else request.state
            assert ended is VideoState.SUCCEEDED, f"{name} ended as {ended}"
