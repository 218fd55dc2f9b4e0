"""What happens in the chats, in order, for those who watch: the page and the tests."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from chat.rehearsal.clock import Bell

KEPT = 2_000
EventKind = Literal["message", "gone", "action", "answer"]


@dataclass(frozen=True)
class Event:
    """One change of one chat; `body` depends on the kind and is Bot API JSON where it is a message."""

    number: int
    chat_id: int
    kind: EventKind
    body: dict[str, Any] = field(default_factory=dict)


class Feed:
    """The last two thousand events; whoever falls further behind reads the history again."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._bell = Bell()
        self.last = 0
        self.closed = False

    def publish(self, chat_id: int, kind: EventKind, body: dict[str, Any]) -> None:
        self.last += 1
        self._events.append(Event(self.last, chat_id, kind, body))
        self._bell.ring()

    def since(self, number: int) -> list[Event]:
        """The events after `number` that are still kept."""
        return [event for event in self._events if event.number > number]

    def missed(self, number: int) -> bool:
        """Whether events after `number` were already forgotten."""
        return bool(self._events) and self._events[0].number > number + 1

    async def beyond(self, number: int, timeout: float | None = None) -> bool:
        """Wait until there is an event after `number`; False on a timeout or when the feed closes."""
        while self.last <= number and not self.closed:
            if not await self._bell.heard(timeout):
                return False
        return self.last > number

    def close(self) -> None:
        self.closed = True
        self._bell.ring()
