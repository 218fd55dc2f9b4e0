"""The durable steps at which a process may die: each has a name, and tests stop a worker exactly there.

In production nobody listens and reaching a point is one comparison with None.
"""

from collections.abc import Awaitable, Callable
from typing import Final, Literal, get_args

Point = Literal[
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
POINTS: Final[tuple[Point, ...]] = get_args(Point)

Listener = Callable[[Point], Awaitable[None]]
_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Call `listener` at every point of this process. For tests alone."""
    _listeners.append(listener)


async def reach(point: Point) -> None:
    """Say that this process stands at `point`."""
    for listener in _listeners:
        await listener(point)
