"""The record of every call that the bot made, in order."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from chat.rehearsal.clock import Bell
from chat.rehearsal.errors import RehearsalError

KEPT = 10_000


@dataclass
class Call:
    """One call of the bot.

    Attributes:
        method: The method's name as documented (`sendVideo`).
        params: The fields as they came, JSON fields unread; an upload stands as `<name, n bytes>`.
        performed: Whether it took effect, whatever the caller was told.
        status: The HTTP status that was answered; None while it runs, or when no answer was given.
        description: Telegram's words when it was refused.
    """

    number: int
    method: str
    params: dict[str, Any]
    performed: bool = False
    status: int | None = None
    description: str = ""


class CallLog:
    """Append-only; keeps the last ten thousand calls so that a chat left running does not fill memory."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque(maxlen=KEPT)
        self._served = 0
        self._bell = Bell()

    def __iter__(self) -> Iterator[Call]:
        return iter(tuple(self._calls))

    def __len__(self) -> int:
        return len(self._calls)

    def of(self, *methods: str) -> list[Call]:
        return [call for call in self._calls if call.method in methods]

    def add(self, method: str, params: dict[str, Any]) -> Call:
        self._served += 1
        call = Call(self._served, method, params)
        self._calls.append(call)
        self._bell.ring()
        return call

    def settle(self, call: Call, status: int | None, description: str = "") -> None:
        call.status, call.description = status, description
        self._bell.ring()

    async def wait_for(self, predicate: Callable[[Call], bool], timeout: float = 5) -> Call:
        """The first call for which `predicate` holds, past or to come.

        Raises:
            RehearsalError: none came within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for call in self:
                        if predicate(call):
                            return call
                    await self._bell.heard()
        except TimeoutError:
            seen = [f"{call.method} {call.status}" for call in self if call.method != "getUpdates"]
            raise RehearsalError(f"no such call within {timeout} s; calls seen: {seen}") from None
