"""What a run carries: the part that guards read (`Visit`), and what the tools' bodies need beside it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

from agents import Agent, RunConfig

from guardrails.admission import Admission
from guardrails.guard import CallContext
from guardrails.limits import Limits
from guardrails.money import Money
from guardrails.policy import GuardPolicy
from ledger.database import Ledger
from providers.base import Capabilities
from telemetry.failpoints import failpoint

Enqueue = Callable[[Literal["submit"], str], Awaitable[bool]]
"""Wakes a task of the worker, by its name, for a request id; False if the queue cannot be reached now. The
wake-up may be lost: the sweeper finds the work in SQL.
"""


@dataclass(frozen=True, slots=True)
class Offer:
    """What may be ordered now, and for how much: the provider's own words, never typed by hand."""

    provider: str
    model: str
    capabilities: Capabilities
    quote: Callable[[str, int, str], Money]

    def price(self, seconds: int, size: str) -> Money:
        """Return the price of one video.

        Raises:
            ValueError: It is not on offer; the message names what is.
        """
        return self.quote(self.model, seconds, size)

    def cheapest(self) -> Money:
        """Return the lowest price of what this model makes; other models' lengths and sizes are no offers.

        Raises:
            ValueError: The model makes nothing that is on offer.
        """
        prices = []
        for seconds, size in product(self.capabilities.seconds, self.capabilities.sizes):
            with suppress(ValueError):
                prices.append(self.price(seconds, size))
        if not prices:
            raise ValueError(f"{self.provider} offers nothing of the model {self.model!r}")
        return min(prices)

    def price_list(self) -> str:
        """Return every length with its price, for instructions and help texts.

        Where the price depends on the size, each price stands with its sizes: `4 s: $0.40 (720x1280), …`.
        """
        lines = (f"{seconds} s: {self._prices(seconds)}" for seconds in self.capabilities.seconds)
        return ", ".join(line for line in lines if not line.endswith(": "))

    def _prices(self, seconds: int) -> str:
        sizes: dict[Money, list[str]] = {}
        for size in self.capabilities.sizes:
            with suppress(ValueError):  # this model does not make that length in that size
                sizes.setdefault(self.price(seconds, size), []).append(size)
        if len(sizes) == 1:
            return str(next(iter(sizes)))
        return " or ".join(f"{price} ({', '.join(those)})" for price, those in sizes.items())


@dataclass(kw_only=True)
class RunContext(CallContext):
    """One attempt at the director's run for one request.

    Attributes:
        ledger: Where the tools' bodies read and write.
        language: `en`, `es` or `pt`: the user's.
        offer: What may be ordered.
        policy: What the declaration says of `generate_video`.
        limits: The same, as figures.
        admission: Where a reservation is given back that the ledger would not confirm.
        enqueue: Wakes a worker for an order.
        caption_writer: The agent behind `generate_caption`.
        caption_turns: Its `max_turns`.
        caption_lock: Held while a caption is written, so that calls beside it read it and write none.
        run_config: How nested runs are run.
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

    async def on_admitted(self) -> None:
        """Let tests stop a process between the reservation and the order."""
        await failpoint("admitted")


def storable(text: str, most: int) -> str:
    """Return at most `most` characters of a stranger's text, without what no column can hold: a lone
    surrogate, a NUL.
    """
    return text[:most].encode("utf-8", "replace").decode().replace("\0", "")


def trimmed(text: str, most: int) -> str:
    """Return `text` on one line, at most `most` characters, cut at a word where there is one."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    return line[: most - 1].rsplit(" ", 1)[0].rstrip(",;:.") + "…"
