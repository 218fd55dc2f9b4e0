"""The queue of updates: what the bot has not confirmed yet comes again, with the same id."""

import asyncio
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from chat.rehearsal.archive import Archive, Counters
from chat.rehearsal.clock import Bell, Clock
from chat.rehearsal.errors import ApiError, RehearsalError, conflict

MESSAGE_LIFETIME = 86_400.0
LONGEST_POLL = 50
LARGEST_BATCH = 100
# What a bot that never said what it wants does not get.
NOT_BY_DEFAULT = {"chat_member", "message_reaction", "message_reaction_count"}
KEPT_FOR_REDELIVERY = 1_000


@dataclass(frozen=True)
class Update:
    """One update.

    Attributes:
        lane: Updates of one lane are delivered one after another; a chat is one lane, and the taps of
            one person are another.
        ends: When Telegram gives it up, as a time of day.
    """

    id: int
    kind: str
    body: dict[str, Any]
    lane: str
    ends: float

    def json(self) -> dict[str, Any]:
        return {"update_id": self.id, self.kind: self.body}


class UpdateQueue:
    def __init__(self, archive: Archive, counters: Counters, clock: Clock, first_id: int) -> None:
        self._archive = archive
        self._counters = counters
        self._clock = clock
        self._first_id = first_id
        self._waiting = {row["id"]: Update(**row) for row in archive.load("update").values()}
        self._past: deque[Update] = deque(self._waiting.values(), maxlen=KEPT_FOR_REDELIVERY)
        self._again: list[Update] = []
        self._poller: asyncio.Future[None] | None = None
        self.allowed: list[str] = archive.load("setting").get("allowed_updates", [])
        self.arrived = Bell()

    def push(self, kind: str, body: dict[str, Any], lane: str, lifetime: float) -> Update | None:
        """Queue an update, unless the bot did not ask for this kind; it lives `lifetime` seconds here."""
        if kind not in self.allowed if self.allowed else kind in NOT_BY_DEFAULT:
            return None
        number = self._counters.next("update", self._first_id)
        update = Update(number, kind, body, lane, self._clock.now() + lifetime)
        self._waiting[number] = update
        self._past.append(update)
        self._archive.put("update", number, asdict(update))
        self.arrived.ring()
        return update

    def waiting(self) -> list[Update]:
        """Everything unconfirmed, oldest first; what became too old is given up."""
        for update in [u for u in self._waiting.values() if u.ends < self._clock.now()]:
            self.forget(update)
        return list(self._waiting.values())

    def forget(self, update: Update) -> None:
        """The bot has it, or it is given up: it never comes again by itself."""
        if self._waiting.pop(update.id, None) is not None:
            self._archive.drop("update", update.id)

    def clear(self) -> None:
        for update in self.waiting():
            self.forget(update)

    def past(self, update_id: int) -> Update:
        """An update of the past, confirmed or not.

        Raises:
            RehearsalError: no such update among the last thousand.
        """
        for update in self._past:
            if update.id == update_id:
                return update
        known = [update.id for update in self._past]
        raise RehearsalError(f"there was no update {update_id}; known: {known[-10:]}")

    def repeat(self, update: Update, times: int) -> None:
        """Put copies into the next answer to getUpdates, whatever was confirmed."""
        self._again += [update] * times
        self.arrived.ring()

    def ask_for(self, kinds: list[str] | None) -> None:
        """Remember which kinds the bot wants; None leaves it as it was, as in Telegram."""
        if kinds is not None:
            self.allowed = kinds
            self._archive.put("setting", "allowed_updates", kinds)

    async def poll(self, offset: int, limit: int, timeout: int) -> list[Update]:
        """Serve getUpdates: confirm what lies before `offset`, then wait up to `timeout` s for the rest.

        Raises:
            ApiError: 409 when another poller or a webhook takes over meanwhile.
        """
        self.interrupt(
            conflict(
                "terminated by other getUpdates request; make sure that only one bot instance is running"
            )
        )
        mine = self._poller = asyncio.get_running_loop().create_future()
        try:
            self._confirm(offset)
            async with asyncio.timeout(min(max(timeout, 0), LONGEST_POLL)):
                while not (batch := self._batch(limit)):
                    await _first(self.arrived.next(), mine)
                    if mine.done():
                        mine.result()
                        return []
        except TimeoutError:
            return self._batch(limit)
        finally:
            if self._poller is mine:
                self._poller = None
            if mine.done():
                mine.exception()  # seen: asyncio shall not report it as lost
        return batch

    def interrupt(self, error: ApiError | None = None) -> None:
        """End the poll that waits now: with an error, or with nothing when the server stops."""
        if self._poller is not None and not self._poller.done():
            if error is None:
                self._poller.set_result(None)
            else:
                self._poller.set_exception(error)

    def _confirm(self, offset: int) -> None:
        waiting = self.waiting()
        below = waiting[:offset] if offset < 0 else [update for update in waiting if update.id < offset]
        for update in below:
            self.forget(update)

    def _batch(self, limit: int) -> list[Update]:
        again, self._again = self._again, []
        size = limit if 1 <= limit <= LARGEST_BATCH else LARGEST_BATCH
        return [*again, *self.waiting()[:size]]


async def _first(ring: asyncio.Event, end: asyncio.Future[None]) -> None:
    """Wait for either, and leave nothing behind when the caller goes."""
    rung = asyncio.ensure_future(ring.wait())
    either: set[asyncio.Future[Any]] = {rung, end}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        rung.cancel()
