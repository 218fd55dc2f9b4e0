"""Faults injected at failpoints, kills included, and guard timeouts relaxed for busy machines."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final
from unittest.mock import patch

from telemetry.failpoints import Failpoint, on_failpoint

FaultAction = Callable[[], Awaitable[None]]


class WorkerKilled(BaseException):
    """Simulates SIGKILL: not an Exception, so that no handler of ours can catch it."""


class FaultInjector:
    """Actions that wait at failpoints of this process. It plays one case at a time."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Failpoint, FaultAction]] = []
        self._subscribed = False

    def set_at(self, point: Failpoint, act: FaultAction | None = None) -> None:
        """Run `act` in the next task that reaches `point`; without `act`, kill that task there.

        Several actions at one point run in the same task, in the order in which they were set.
        """
        self._waiting.append((point, act or _die))
        if not self._subscribed:
            on_failpoint(self._reached)
            self._subscribed = True

    def clear(self) -> None:
        """Drop all actions that have not run."""
        self._waiting.clear()

    @property
    def waiting(self) -> list[Failpoint]:
        """The points of the actions that have not run yet."""
        return [at for at, _ in self._waiting]

    async def _reached(self, point: Failpoint) -> None:
        found = [act for at, act in self._waiting if at == point]
        self._waiting = [one for one in self._waiting if one[0] != point]
        for act in found:
            await act()


async def _die() -> None:
    raise WorkerKilled


async def raise_fault() -> None:
    """Raise an ordinary exception.

    Raises:
        OSError: Always.
    """
    raise OSError("a fault of the case")


fault_injector = FaultInjector()


RELAXED_S: Final = 10.0
_TIMES: Final = (
    "guardrails.admission.DECISION_TIMEOUT_S",
    "guardrails.redis_client.COMMAND_TIMEOUT_S",
    "guardrails.guard._STORE_TIMEOUT_S",
)


@contextmanager
def relaxed_timeouts() -> Iterator[None]:
    """Let guards wait longer inside the block, so that load is not mistaken for an unavailable store."""
    with ExitStack() as stack:
        for name in _TIMES:
            stack.enter_context(patch(name, RELAXED_S))
        yield
