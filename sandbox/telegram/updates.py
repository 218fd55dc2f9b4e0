"""The queue of updates: getUpdates, webhook delivery with backoff, and redelivery."""

import asyncio
import json
import random
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

from sandbox.telegram.base import ApiError, Bell, Clock, SandboxError, conflict
from sandbox.telegram.storage import Archive, Counters

MESSAGE_LIFETIME = 86_400.0
LONGEST_POLL = 50
LARGEST_BATCH = 100
# Not delivered to a bot that never set allowed_updates.
NOT_BY_DEFAULT = {"chat_member", "message_reaction", "message_reaction_count"}
KEPT_FOR_REDELIVERY = 1_000
ANSWER_WITHIN = 60.0
SHORTEST_CAP, LONGEST_CAP = 60.0, 120.0
LONGEST_RETRY_AFTER = 3_600.0
SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"  # noqa: S105  # the header's name, not a secret


@dataclass(frozen=True)
class Update:
    """One update.

    Attributes:
        lane: Updates of one lane are delivered in order; a chat is one lane, and the taps of one person are
            another.
        ends: Unix time at which Telegram gives up delivery.
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
        """Queue an update for `lifetime` seconds, unless the bot did not ask for its kind."""
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
        """Return all unconfirmed updates, oldest first; expired ones are dropped."""
        for update in [u for u in self._waiting.values() if u.ends < self._clock.now()]:
            self.forget(update)
        return list(self._waiting.values())

    def forget(self, update: Update) -> None:
        """Drop an update that was confirmed or has expired."""
        if self._waiting.pop(update.id, None) is not None:
            self._archive.drop("update", update.id)

    def clear(self) -> None:
        for update in self.waiting():
            self.forget(update)

    def past(self, update_id: int) -> Update:
        """Return a past update, confirmed or not.

        Raises:
            SandboxError: No such update among the last thousand.
        """
        for update in self._past:
            if update.id == update_id:
                return update
        known = [update.id for update in self._past]
        raise SandboxError(f"there was no update {update_id}; known: {known[-10:]}")

    def repeat(self, update: Update, times: int) -> None:
        """Add copies to the next answer to getUpdates, whatever was confirmed."""
        self._again += [update] * times
        self.arrived.ring()

    def ask_for(self, kinds: list[str] | None) -> None:
        """Set which kinds the bot wants; None changes nothing, as in Telegram."""
        if kinds is not None:
            self.allowed = kinds
            self._archive.put("setting", "allowed_updates", kinds)

    async def poll(self, offset: int, limit: int, timeout: int) -> list[Update]:
        """Serve getUpdates: confirm updates before `offset`, then wait up to `timeout` seconds for others.

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
                mine.exception()  # retrieved, so that asyncio does not report it
        return batch

    def interrupt(self, error: ApiError | None = None) -> None:
        """End the waiting poll: with an error, or with an empty answer when the server stops."""
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
    """Wait for either, and clean up when the caller is cancelled."""
    rung = asyncio.ensure_future(ring.wait())
    either: set[asyncio.Future[Any]] = {rung, end}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        rung.cancel()


@dataclass(frozen=True)
class Webhook:
    url: str
    secret: str = ""
    max_connections: int = 40


@dataclass(frozen=True)
class Delivery:
    """One POST to the webhook; `status` is None when no answer came, `error` is for those not accepted."""

    update_id: int
    status: int | None
    error: str = ""
    retry_after: float = 0

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status <= 299


class Backoff:
    """Delay of one update after each failed delivery, in Telegram seconds."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failed = False
        self._delay = 1.0

    def after_failure(self, retry_after: float = 0) -> float:
        first, self._failed = not self._failed, True
        if retry_after > 0:
            return min(retry_after, LONGEST_RETRY_AFTER)
        if first:
            return 0
        self._delay = min(self._rng.uniform(SHORTEST_CAP, LONGEST_CAP), self._delay * 2)
        return self._delay


class WebhookSender:
    """POSTs updates to the webhook while one is set."""

    def __init__(self, updates: UpdateQueue, clock: Clock, rng: random.Random) -> None:
        self._updates = updates
        self._clock = clock
        self._rng = rng
        self._session: ClientSession | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(1)
        self.webhook: Webhook | None = None
        self.deliveries: deque[Delivery] = deque(maxlen=10_000)
        self.last_error: tuple[float, str] | None = None

    async def open(self, webhook: Webhook) -> None:
        """Deliver to `webhook` from now on, starting with unconfirmed updates."""
        await self.close()
        self.webhook = webhook
        self._places = asyncio.Semaphore(webhook.max_connections)
        self._session = ClientSession(timeout=ClientTimeout(total=self._clock.time_limit(ANSWER_WITHIN)))
        self._tasks[""] = asyncio.create_task(self._dispatch(), name="sandbox-webhook")

    async def close(self) -> None:
        """Stop delivering; what was not accepted stays in the queue."""
        tasks, self._tasks, self.webhook = list(self._tasks.values()), {}, None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post_copies(self, update: Update, times: int) -> list[Delivery]:
        """POST one update `times` times at once, past the queue: the worst that a network can do."""
        return await asyncio.gather(*(self._post(update) for _ in range(times)))

    async def _dispatch(self) -> None:
        while True:
            for update in self._updates.waiting():
                lane = self._tasks.get(update.lane)
                if lane is None or lane.done():
                    self._tasks[update.lane] = asyncio.create_task(self._serve(update.lane))
            await self._updates.arrived.heard()

    async def _serve(self, lane: str) -> None:
        while update := next((u for u in self._updates.waiting() if u.lane == lane), None):
            await self._deliver_until_accepted(update)
            self._updates.forget(update)

    async def _deliver_until_accepted(self, update: Update) -> None:
        """Deliver an update until it is accepted or has expired."""
        backoff = Backoff(self._rng)
        while True:
            async with self._places:
                delivery = await self._post(update)
            if delivery.accepted:
                return
            self.last_error = (self._clock.now(), delivery.error)
            wait = self._clock.wait(backoff.after_failure(delivery.retry_after))
            if self._clock.now() + wait > update.ends:
                return
            await asyncio.sleep(wait)

    async def _post(self, update: Update) -> Delivery:
        delivery = await self._attempt(update)
        self.deliveries.append(delivery)
        return delivery

    async def _attempt(self, update: Update) -> Delivery:
        if self.webhook is None or self._session is None:
            return Delivery(update.id, None, "no webhook is set")
        headers = {"Content-Type": "application/json"}
        if self.webhook.secret:
            headers[SECRET_HEADER] = self.webhook.secret
        body = json.dumps(update.json())
        try:
            async with self._session.post(
                self.webhook.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                await answer.read()
        except TimeoutError:
            return Delivery(update.id, None, "Read timeout expired")
        except ClientError as error:
            refused = (
                "Connection refused" if "Connect" in type(error).__name__ else "Webhook connection closed"
            )
            return Delivery(update.id, None, refused)
        after = answer.headers.get("Retry-After", "")
        wrong = f"Wrong response from the webhook: {answer.status} {answer.reason}"
        return Delivery(update.id, answer.status, wrong, float(after) if after.isdigit() else 0)
