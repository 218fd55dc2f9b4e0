"""The context of an agent run: what guards read (`CallContext`) and what tools need in addition."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from agents import Agent, RunConfig

from guardrails.admission import Admission
from guardrails.guard import CallContext
from guardrails.limits import Limits
from guardrails.money import Money
from guardrails.policy import GuardPolicy
from ledger import people, video_credits
from ledger.database import Ledger
from ledger.models import Video
from ledger.people import Person
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from tools.metered_models import Meter
from tools.offer import Offer, PaidOffer
from tools.preferences import Preferences, settle
from tools.registry import GENERATE_VIDEO
from tools.wishes import Wish

log = get_logger(__name__)

Enqueue = Callable[[Literal["submit"], str], Awaitable[bool]]
"""Wakes a task of the worker, by its name, for a request id; False if the queue cannot be reached now. The
wake-up may be lost: a worker finds the work in SQL.
"""

_READ_TIMEOUT_S: Final = 1.0

AFTER_ORDER_S: Final = 60.0
"""Time that is left to a run whose order is stored: for its caption. The video is made whatever follows."""


@dataclass(kw_only=True)
class RunContext(CallContext):
    """One attempt at the director's run for one request.

    Attributes:
        ledger: Where tools read and write.
        language: The user's language: `en`, `es` or `pt`.
        has_picture: The request's video begins with a picture of its user.
        offer: What may be ordered.
        policy: The policy of `generate_video` in the declaration.
        limits: The limits of that policy.
        others: What every other paid tool may order, with its policy and limits.
        beside: Orders of other paid tools that a call of this run has placed or found.
        admission: Releases a reservation that the ledger does not confirm.
        enqueue: Wakes a worker for an order.
        caption_writer: The agent that `generate_caption` runs.
        caption_turns: Its `max_turns`.
        caption_lock: Held while a caption is written, so that parallel calls read it and write none.
        run_config: Configuration of nested runs.
        caption: The request's caption, once a call of this run has written it.
        order: The request's order, once a call of this run has placed or found it; see `keep_order`.
        time_limit: The time limit of this run.
        wish: What the request's own words ask for.
        person: Reads what its user has set; None: not read yet. See `asks` and `preferences`.
        meter: What its models have used.
    """

    ledger: Ledger
    language: str
    offer: Offer
    policy: GuardPolicy
    limits: Limits
    admission: Admission
    enqueue: Enqueue
    caption_writer: "Agent[RunContext]"
    run_config: RunConfig
    caption_turns: int
    caption_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    caption: str | None = None
    order: Video | None = None
    time_limit: asyncio.Timeout | None = None
    wish: Wish = Wish()  # noqa: RUF009 - frozen
    has_picture: bool = False
    person: "asyncio.Task[Person] | None" = None
    others: Mapping[str, PaidOffer] = field(default_factory=dict)
    beside: list[Video] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)

    def offer_of(self, tool: str) -> Offer:
        """Return what a paid tool may order.

        Raises:
            ValueError: Nothing, as its orders have no provider here.
        """
        if tool == GENERATE_VIDEO:
            return self.offer
        if tool not in self.others:
            raise ValueError(f"{tool} is not on offer here")
        return self.others[tool].offer

    def limits_of(self, tool: str) -> Limits:
        """Return the limits of a paid tool that is on offer."""
        return self.limits if tool == GENERATE_VIDEO else self.others[tool].limits

    async def asks(self, price: Money, tool: str = GENERATE_VIDEO) -> bool:
        """Return whether an order at `price` is offered first: its user must tap.

        The declaration says so, and its user has set no amount that is above the price. That is read once:
        the guard and the tool's body act on the same answer. With a picture it always is: its user must say
        that they may use it.
        """
        if self.has_picture and tool == GENERATE_VIDEO:
            return True
        policy = self.policy if tool == GENERATE_VIDEO else self.others[tool].policy
        if not policy.needs_approval(price):
            return False
        limit = (await self._read_person_once()).ask_below
        return limit is None or price >= limit

    async def preferences(self, seconds: int, size: str) -> Preferences:
        """Return what an order is made with for which the model wrote this; its user is read once, too."""
        return settle(self.offer, self.wish, await self._read_person_once(), seconds, size)

    async def _read_person_once(self) -> Person:
        if self.person is None:
            self.person = asyncio.create_task(self._read_person())
        return await asyncio.shield(self.person)

    async def _read_person(self) -> Person:
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                return await people.find(self.ledger, self.user_id)
        except Exception as error:  # noqa: BLE001 - whatever it was, asking costs no one anything
            log.warning("settings not read, so it asks", request=self.request_id, error=type(error).__name__)
            return Person(self.user_id)

    def keep_order(self, video: Video) -> None:
        """Remember the order; that of a video leaves the run the time for its caption."""
        if video.tool != GENERATE_VIDEO:
            self.beside.append(video)
            return
        self.order = video
        limit = self.time_limit
        if limit is not None and (ends := limit.when()) is not None:
            with suppress(RuntimeError):  # it has expired meanwhile
                limit.reschedule(min(ends, asyncio.get_running_loop().time() + AFTER_ORDER_S))

    async def extra(self) -> int:
        """Return how many credits the user has: videos above the quota."""
        return await video_credits.left(self.ledger, self.user_id)

    async def on_admitted(self) -> None:
        """Reach the failpoint between reservation and order, where tests stop a process."""
        await failpoint("admitted")
