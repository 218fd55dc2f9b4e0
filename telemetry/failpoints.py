"""Named points between durable steps, at which tests stop or kill a process.

In production there is no listener, and reaching a point does nothing.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, get_args

Failpoint = Literal[
    "opened",  # the request is durable, no task is queued
    "woken",  # the agent run is queued, the update is not acknowledged
    "in_run",  # an agent run has begun
    "admitted",  # reserved in Redis, no order
    "ordered",  # the order is durable, its submit is not queued
    "confirmed",  # a tap is reserved in Redis, its order is not committed
    "approved",  # the order of a tap is durable, its submit is not queued
    "before_submitting",  # about to commit SUBMITTING
    "submitting",  # SUBMITTING is durable, nothing is sent
    "answered",  # the provider answered, the answer is not recorded
    "accepted",  # ACCEPTED is durable, no poll is queued
    "polling",  # the provider was asked about the job
    "fetched",  # the file is on disk, SUCCEEDED is not committed
    "video_sent",  # Telegram has the video, DELIVERED is not committed
    "delivered",  # DELIVERED is durable, the final notification is not sent
]
PaymentPoint = Literal[
    "paid",  # Telegram told of a payment, no row is written
    "payment_stored",  # the payment and its credits are durable, its person is not told
    "notice_sent",  # a person was told of their credits, which is not recorded
    "refund_intended",  # the intent is durable, Telegram was not asked
    "refund_answered",  # Telegram answered, which is not recorded
    "refund_written",  # how the refund ended is durable, its person is not told
    "refund_told",  # Telegram told of a refund, nothing is written
    "refund_stored",  # that refund is durable, its person is not told
    "payment_missing",  # the daily comparison found a payment without a row
    "granted",  # a grant is durable, its person is not told
]
PAYMENT_POINTS: Final[tuple[PaymentPoint, ...]] = get_args(PaymentPoint)
"""Those of payments in Stars, which no video reaches."""

FAILPOINTS: Final[tuple[Failpoint, ...]] = get_args(Failpoint)
TAP_POINTS: Final[tuple[Failpoint, ...]] = ("confirmed", "approved")
"""Those that are reached only where an order waits for its user's tap."""

FailpointListener = Callable[[Any], Awaitable[None]]
"""Gets the name of the point: of a `Failpoint` or a `PaymentPoint`."""

_failpoint_listeners: list[FailpointListener] = []


def on_failpoint(listener: FailpointListener) -> None:
    """Call `listener` at every point of this process. Only for tests."""
    _failpoint_listeners.append(listener)


async def failpoint(point: Failpoint | PaymentPoint) -> None:
    """Call the listeners: this process has reached `point`."""
    for listener in _failpoint_listeners:
        await listener(point)
