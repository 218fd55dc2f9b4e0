"""How the agents are wired in a case: the shipped way, or one in which more of them hold the paid tool.

A topology patches how the director is built and run, in this process, while a case is played.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import Final

from evals.base import EvalError
from evals.topologies import running, wiring

TOPOLOGIES: Final[Mapping[str, Callable[[], AbstractContextManager[None]]]] = MappingProxyType(
    {
        "single": nullcontext,
        "handoff": wiring.handoff,
        "agent_as_tool": wiring.agent_as_tool,
        "nested": wiring.nested,
        "forced": wiring.forced,
        "stop_on_first_tool": wiring.stop_on_first_tool,
        "one_at_a_time": wiring.one_at_a_time,
        "poisoned": wiring.poisoned,
        "session": running.session,
        "resumed": running.resumed,
        "every_worker": running.every_worker,
    }
)


@contextmanager
def topology(name: str) -> Iterator[None]:
    """Wire the agents as `name` says, inside the block.

    Raises:
        EvalError: There is no such topology.
    """
    if name not in TOPOLOGIES:
        raise EvalError(f"{name!r} is not a topology; known: {', '.join(TOPOLOGIES)}")
    with TOPOLOGIES[name]():
        yield
