"""Kills and injected faults; relaxed timeouts."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final
from unittest.mock import patch

from telemetry.failpoints import Failpoint, on_failpoint

FaultAction = Callable[[], Awaitable[None]]


class WorkerKilled(BaseException):
    """Not an Exception: no handler of ours may look at it, as none looks at a SIGKILL."""


class FaultInjector:
    """What waits at which point of this process. One case is played in it at a time."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Failpoint, FaultAction]] = []
        self._listens = False

    def set_at(self, point: Failpoint, act: FaultAction | None = None) -> None:
        """Let the next task that reaches `point` meet `act`; without one it dies there.

        Several at one point meet the same task, in the order in which they were set.
        """
        self._waiting.append((point, act or _die))
        if not self._listens:
            on_failpoint(self._reached)
            self._listens = True

    def clear(self) -> None:
        """Let everybody pass."""
        self._waiting.clear()

    @property
    def waiting(self) -> list[Failpoint]:
        """The points at which something waits that nobody has met yet."""
        return [at for at, _ in self._waiting]

    async def _reached(self, point: Failpoint) -> None:
        found = [act for at, act in self._waiting if at == point]
        self._waiting = [one for one in self._waiting if one[0] != point]
        for act in found:
            await act()


async def _die() -> None:
    raise WorkerKilled


async def raise_fault() -> None:
    """Fail as any code may.

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
    """Let guards wait longer inside the block, so that load does not look like a store that is away."""
    with ExitStack() as stack:
        for name in _TIMES:
            stack.enter_context(patch(name, RELAXED_S))
        yield
