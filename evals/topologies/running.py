"""Ways to run the director that the house does not have: twice on a session, resumed, by every worker."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

from agents import Agent, FunctionTool, Runner, RunState, SQLiteSession

from evals.topologies.wiring import twin
from tools.agent_factory import DIRECTOR, Crew
from tools.context import Run
from tools.generate_video import NAME

_RESUMED: Final = 3
Way = Callable[..., Awaitable[Any]]


@contextmanager
def run_by(way: Way) -> Iterator[None]:
    """Let `way` carry out every run of the director, in place of `Runner.run`."""
    with patch("worker.run_agent.Runner", SimpleNamespace(run=way)):
        yield


@contextmanager
def session() -> Iterator[None]:
    """One attempt is two runs on one session."""

    async def twice(agent: "Agent[Any]", idea: str, **more: Any) -> Any:
        memory = SQLiteSession("one")
        await Runner.run(agent, idea, session=memory, **more)
        return await Runner.run(agent, "Where is it? Make it again.", session=memory, **more)

    with run_by(twice):
        yield


@contextmanager
def resumed() -> Iterator[None]:
    """The run stops before the call, is saved as a string, and that string is resumed three times."""

    async def saved(agent: "Agent[Any]", idea: str, *, context: Run, **more: Any) -> Any:
        asking = replace(agent, tools=[_asking(tool) for tool in agent.tools])
        result: Any = await Runner.run(asking, idea, context=context, **more)
        string = result.to_state().to_string(context_serializer=lambda _: {})
        for _ in range(_RESUMED):
            state = await RunState.from_string(asking, string, context_deserializer=lambda _: context)
            for item in state.get_interruptions():
                state.approve(item)
            result = await Runner.run(asking, state, context=context, **more)
        return result

    with run_by(saved):
        yield


def _asking(tool: Any) -> Any:
    return (
        replace(tool, needs_approval=True) if isinstance(tool, FunctionTool) and tool.name == NAME else tool
    )


@contextmanager
def every_worker() -> Iterator[None]:
    """The workers of all houses run the same attempt at once, each with its own guard, as if the queue and
    the count of attempts had both failed.
    """
    crews: list[Crew] = []
    build = Crew.__init__

    def built(self: Crew, *args: Any, **more: Any) -> None:
        build(self, *args, **more)
        crews.append(self)

    async def all_at_once(agent: "Agent[Any]", idea: str, *, context: Run, **more: Any) -> Any:
        runs = [Runner.run(agent, idea, context=context, **more)]
        for number, crew in enumerate(one for one in crews if one.admission is not context.admission):
            other = twin(crew.agent(DIRECTOR, context.language), f"worker{number + 2}")
            own = replace(context, ledger=crew.ledger, admission=crew.admission, queue=crew.queue)
            runs.append(Runner.run(other, idea, context=own, **more))
        return (await asyncio.gather(*runs))[0]

    with patch.object(Crew, "__init__", built), run_by(all_at_once):
        yield
