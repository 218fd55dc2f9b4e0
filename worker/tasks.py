"""Registers the tasks with docket. Each only wakes this process's dispatcher: what is due, SQL says."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from docket import Docket

_NAMES: Final[Sequence[Sequence[str]]] = (
    ("run_agent", "direct"), ("submit", "shoot"), ("poll", "watch"), ("notify", "tell"), ("deliver",),
)  # fmt: skip
"""Each name with the one of release 0.1, whose tasks may wait in Redis during an upgrade."""


def register(docket: Docket, kick: Callable[[str], None]) -> None:
    """Register the tasks. A process that only queues them registers them too; it never runs them.

    Args:
        docket: The queue.
        kick: Claims the work of a step at once: `Dispatcher.kick`.
    """
    for names in _NAMES:
        docket.register(_task(names[0], kick), names=list(names))


def _task(name: str, kick: Callable[[str], None]) -> Callable[[str], Coroutine[Any, Any, None]]:
    async def wake(request_id: str) -> None:
        del request_id  # the key of the message: docket keeps one of a key
        kick(name)

    wake.__name__ = f"wake_{name}"
    return wake
