"""Updates under way: one person's in their order, different people's beside each other."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiogram.types import Update

Raw = Update | dict[str, Any]
"""What getUpdates brings: read, or as it came where this version cannot read it."""

_SETTLE_S: Final = 2.0
"""How long a batch may take before Telegram is asked for what came behind it."""


def number(update: Raw) -> int:
    """Return the update's id."""
    return update.update_id if isinstance(update, Update) else int(update["update_id"])


class Lanes:
    """Handles what was fetched, and knows what may be confirmed.

    An update that waits, because the ledger is away, holds up its own person alone: the same updates are
    fetched again without confirming it, and those behind it are handled or told that they wait.
    """

    def __init__(self, handle: Callable[[Raw], Awaitable[None]]) -> None:
        self._handle = handle
        self._last: dict[object, asyncio.Task[None]] = {}
        self._open: dict[asyncio.Task[None], int] = {}
        self._known: set[int] = set()
        self.offset: int | None = None
        """The first update that may not be confirmed yet; None before the first batch."""

    @property
    def busy(self) -> bool:
        return bool(self._open)

    async def take(self, updates: Sequence[Raw]) -> None:
        """Begin what is new, wait for all that is under way, but not for ever, and move the offset."""
        for update in [one for one in updates if number(one) not in self._known]:
            self._known.add(number(update))
            lane = _lane(update)
            task = asyncio.create_task(self._serve(update, self._last.get(lane)))
            self._last[lane] = task
            self._open[task] = number(update)
        if self._open:
            await asyncio.wait(self._open, timeout=_SETTLE_S)
        self._confirm()

    async def close(self) -> None:
        """Cancel what is under way: it was not confirmed and comes again."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, update: Raw, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        await self._handle(update)

    def _confirm(self) -> None:
        for task in [task for task in self._open if task.done()]:
            del self._open[task]
            task.result()  # handling answers for every error itself; what it lets through is a defect
        self._last = {lane: task for lane, task in self._last.items() if not task.done()}
        if self._open:
            self.offset = min(self._open.values())
        elif self._known:
            self.offset = max(self._known) + 1
        self._known = {one for one in self._known if self.offset is not None and one >= self.offset}


def _lane(update: Raw) -> object:
    event = update.message or update.callback_query if isinstance(update, Update) else None
    return event.from_user.id if event is not None and event.from_user is not None else None
