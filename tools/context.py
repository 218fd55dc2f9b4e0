"""What a run carries: the part that guards read (`Visit`), and what the tools' bodies need beside it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from agents import Agent, RunConfig

from guardrails.admission import Admission
from guardrails.guard import CallContext
from guardrails.limits import Limits
from guardrails.policy import GuardPolicy
from ledger.database import Ledger
from telemetry.failpoints import failpoint
from tools.offer import Offer

Enqueue = Callable[[Literal["submit"], str], Awaitable[bool]]
"""Wakes a task of the worker, by its name, for a request id; False if the queue cannot be reached now. The
wake-up may be lost: the sweeper finds the work in SQL.
"""


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
