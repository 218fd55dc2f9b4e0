"""The durable steps at which a process may die: each has a name, and tests stop a worker exactly there.

In production nobody listens and reaching a point is one comparison with None.
"""

from collections.abc import Awaitable, Callable
from typing import Final, Literal, get_args

Failpoint = Literal[
    "opened",  # the request is durable, nobody is woken
    "woken",  # the director is woken, the update is not acknowledged
    "in_run",  # an attempt has begun
    "admitted",  # reserved in Redis, no order
    "ordered",  # the order is durable, the studio is not woken
    "before_submitting",  # about to commit SUBMITTING
    "submitting",  # SUBMITTING is durable, nothing is sent
    "answered",  # the provider answered, nobody wrote it down
    "accepted",  # ACCEPTED is durable, nobody watches
    "polling",  # the job was asked about
    "fetched",  # the asset is on disk, SUCCEEDED is not
    "video_sent",  # Telegram has the video, DELIVERED is not written
    "delivered",  # DELIVERED is durable, the ping is not sent
]
FAILPOINTS: Final[tuple[Failpoint, ...]] = get_args(Failpoint)

FailpointListener = Callable[[Failpoint], Awaitable[None]]
_failpoint_listeners: list[FailpointListener] = []


def on_failpoint(listener: FailpointListener) -> None:
    """Call `listener` at every point of this process. For tests alone."""
    _failpoint_listeners.append(listener)


async def failpoint(point: Failpoint) -> None:
    """Say that this process stands at `point`."""
    for listener in _failpoint_listeners:
        await listener(point)
