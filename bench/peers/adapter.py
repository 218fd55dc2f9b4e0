"""What a library needs to play the trials: how a tool is armed with it, and where its stores are.

A new adapter is a subclass of `SdkAdapter` with `call`, or of `Adapter` with `run` for a library that has an
agent loop of its own. Arm the tool as the library's own author would: key = act and item, its durable
store, its verifier, honest words for each of its typed errors.
"""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from agents import Agent, Model, ModelResponse, RunConfig, RunContextWrapper, Runner, Tool, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tracing.provider import DefaultTraceProvider
from agents.tracing.setup import set_trace_provider

from bench.peers.body import Body, NotSentError
from bench.peers.place import Place, append
from bench.peers.stores import FileStore, Store

IN_PROGRESS: Final = "This charge is in progress already; nothing new was charged."
UNKNOWN: Final = "The outcome of this charge is unknown; it is not made a second time."
NOT_SENT: Final = "Nothing was sent, and nothing was charged."
AWAY: Final = "The store of the guard is unavailable; nothing new was charged."
REFUSED: Final = "Refused: the limit is used up; nothing new was charged."

ONE_RECORD: Final = "it keeps one record, and this is its loss"

Call = tuple[str, str]
"""The arguments of one call: item, note. The note is what a model words differently each time."""


@dataclass(frozen=True)
class Run:
    """One agent run for one act of a user.

    Attributes:
        act: The user's act, the same in every redelivery.
        user: The user whose limits count.
        turns: What the model calls: one list per turn, whose calls start together.
    """

    act: str
    turns: Sequence[Sequence[Call]]
    user: str = "u1"


class Adapter(ABC):
    """One library in its best set-up.

    Attributes:
        packages: The distributions that are compared; the first one names the version.
        store: What it keeps its claims in, for the table.
        outside: Trials that its documentation excludes, with what it says.
        edges: Which limits it has: "quota", "budget".
        wants: Servers it needs: "redis", "postgres".
        lease_s: After how long a claim of a dead process is doubted, as it is armed here.
        keeps_files: Whether it keeps anything in files of its place, too.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    store: ClassVar[str] = "none"
    outside: ClassVar[Mapping[str, str]] = {}
    edges: ClassVar[frozenset[str]] = frozenset()
    wants: ClassVar[frozenset[str]] = frozenset()
    lease_s: ClassVar[float] = 0
    keeps_files: ClassVar[bool] = True

    def __init__(self, place: Place) -> None:
        self.place = place

    @classmethod
    def stores(cls, place: Place, servers: Mapping[str, Store]) -> list[Store]:
        """Return its stores, the one that is most easily lost first."""
        files = [FileStore(place.folder / "store")] if cls.keeps_files else []
        return [*(servers[name] for name in sorted(cls.wants)), *files]

    async def open(self) -> None:  # noqa: B027 - many have nothing to open
        """Open the stores in this process, and create what is missing there."""

    async def close(self) -> None:  # noqa: B027 - many have nothing to close
        """Close the stores."""

    @abstractmethod
    async def run(self, run: Run, body: Body) -> None:
        """Play one agent run whose only tool is armed, and `say` what the model is answered."""

    def say(self, run: Run, item: str, text: object, since: float) -> None:
        """Record one answer that the model got; it was made between `since` and now."""
        line = {"act": run.act, "item": item, "text": str(text), "since": since, "until": time.monotonic()}
        append(self.place.sentences, line)


class SdkAdapter(Adapter):
    """A library that guards functions: its tool is played by the agents SDK with a scripted model."""

    words: ClassVar[Mapping[str, str]] = {}
    """By the name of an exception's class: what the tool's error function says about it."""

    async def call(self, run: Run, item: str, note: str, body: Body) -> str:
        """Call the armed tool once. An adapter has this, or a `tool` of its own."""
        raise TypeError(f"{type(self).__name__} has neither `call` nor a `tool` of its own")

    def tool(self, run: Run, body: Body) -> Tool:
        """Return the armed tool."""

        @function_tool(name_override="charge", failure_error_function=self.explain)
        async def charge(item: str, note: str) -> str:
            return await self.call(run, item, note, body)

        return charge

    def context(self, run: Run, body: Body) -> Any:
        """Return the context of the agent run."""
        return None

    def explain(self, _context: RunContextWrapper[Any], error: Exception) -> str:
        """Answer the model in place of an exception (`failure_error_function`)."""
        if isinstance(error, NotSentError):
            return NOT_SENT
        for kind in type(error).__mro__:
            if kind.__name__ in self.words:
                return self.words[kind.__name__]
        return UNKNOWN

    async def run(self, run: Run, body: Body) -> None:
        """Play the run with the agents SDK."""
        # Without a provider of ours the SDK opens a client for its traces, which takes longer than a run.
        set_trace_provider(DefaultTraceProvider())
        model = _Listening(self, run)
        agent = Agent(name="payer", model=model, tools=[self.tool(run, body)])
        config = RunConfig(tracing_disabled=True)
        await Runner.run(
            agent,
            "Charge it.",
            context=self.context(run, body),
            max_turns=len(run.turns) + 2,
            run_config=config,
        )


class _Listening(Model):
    """Makes the scripted calls, and notes every answer that comes back."""

    def __init__(self, adapter: Adapter, run: Run) -> None:
        number = itertools.count()
        steps: list[Any] = []
        self._items: dict[str, str] = {}
        for turn in run.turns:
            calls = []
            for item, note in turn:
                call_id = f"call-{next(number)}"
                self._items[call_id] = item
                calls.append(function_call("charge", {"item": item, "note": note}, call_id=call_id))
            steps.append(calls)
        self._script = ScriptedModel([*steps, [assistant_message("That is all.")]])
        self._adapter, self._run, self._since = adapter, run, time.monotonic()

    async def get_response(
        self, system_instructions: Any, input: Any, *more: Any, **named: Any
    ) -> ModelResponse:
        for item in input if isinstance(input, list) else []:
            if item.get("type") == "function_call_output" and item["call_id"] in self._items:
                self._adapter.say(self._run, self._items.pop(item["call_id"]), item["output"], self._since)
        self._since = time.monotonic()
        return await self._script.get_response(system_instructions, input, *more, **named)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        raise TypeError("no trial streams; this is the SDK's other entry point")
