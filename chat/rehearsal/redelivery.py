"""Telegram's redelivery law: an update that the webhook did not accept comes again, and again.

At once, then after 2, 4, 8 … s, capped at a random 60 to 120 s, until the update is a day old. The
bot's `Retry-After` is honoured. One lane is one serial queue; lanes run beside each other, at most
`max_connections` of them. The law is the Bot API server's own (`WebhookActor.cpp`).
"""

import asyncio
import json
import random
from collections import deque
from dataclasses import dataclass

from aiohttp import ClientError, ClientSession, ClientTimeout

from chat.rehearsal.clock import Clock
from chat.rehearsal.updates import Update, UpdateQueue

ANSWER_WITHIN = 60.0
SHORTEST_CAP, LONGEST_CAP = 60.0, 120.0
LONGEST_RETRY_AFTER = 3_600.0
SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"  # noqa: S105  # the header's name, not a secret


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
    """How long one update waits after each failure, in Telegram seconds."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._failed = False
        self._delay = 1.0

    def after_failure(self, retry_after: float = 0) -> float:
        first, self._failed = not self._failed, True
        if retry_after > 0:
            return min(retry_after, LONGEST_RETRY_AFTER)
        if first:
            return 0
        self._delay = min(self._chance.uniform(SHORTEST_CAP, LONGEST_CAP), self._delay * 2)
        return self._delay


class Courier:
    """Carries updates to the webhook while one is set."""

    def __init__(self, updates: UpdateQueue, clock: Clock, chance: random.Random) -> None:
        self._updates = updates
        self._clock = clock
        self._chance = chance
        self._session: ClientSession | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(1)
        self.webhook: Webhook | None = None
        self.deliveries: deque[Delivery] = deque(maxlen=10_000)
        self.last_error: tuple[float, str] | None = None

    async def open(self, webhook: Webhook) -> None:
        """Deliver to `webhook` from now on, the unconfirmed first."""
        await self.close()
        self.webhook = webhook
        self._places = asyncio.Semaphore(webhook.max_connections)
        self._session = ClientSession(timeout=ClientTimeout(total=self._clock.patience(ANSWER_WITHIN)))
        self._tasks[""] = asyncio.create_task(self._watch(), name="rehearsal-webhook")

    async def close(self) -> None:
        """Stop delivering; what was not accepted stays in the queue."""
        tasks, self._tasks, self.webhook = list(self._tasks.values()), {}, None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def again(self, update: Update, times: int) -> list[Delivery]:
        """POST one update `times` times at once, past every queue: the worst that a network can do."""
        return await asyncio.gather(*(self._post(update) for _ in range(times)))

    async def _watch(self) -> None:
        while True:
            for update in self._updates.waiting():
                lane = self._tasks.get(update.lane)
                if lane is None or lane.done():
                    self._tasks[update.lane] = asyncio.create_task(self._serve(update.lane))
            await self._updates.arrived.heard()

    async def _serve(self, lane: str) -> None:
        while update := next((u for u in self._updates.waiting() if u.lane == lane), None):
            await self._insist(update)
            self._updates.forget(update)

    async def _insist(self, update: Update) -> None:
        """Deliver until it is accepted or too old."""
        backoff = Backoff(self._chance)
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
